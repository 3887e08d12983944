"""Steered generation: rows of different edits decode together in one batch.

A row is a prompt with an edit or none. Each row has its own vectors at each layer, so a whole layer
x strength map shares every matrix product; finished rows leave the batch. Knows nothing of prompts
as text, methods, or judging.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Literal

import torch
from torch import Tensor

from steersweep.core.errors import InputError, NumericalError, setting
from steersweep.core.precision_labels import runs_as
from steersweep.model.chat_model import ChatModel
from steersweep.model.kv_cache import can_be_filled, make_cache
from steersweep.steer.decoding import Decoder, decoder
from steersweep.steer.edit import Edit, clean_layers
from steersweep.steer.greedy import most_likely
from steersweep.steer.prefill import prefill
from steersweep.steer.regime import Regime
from steersweep.steer.regime_search import regime_of
from steersweep.steer.repeats import LOOK_EVERY, repeating
from steersweep.steer.row_edits import RowEdits
from steersweep.steer.sampling import Sampler, Sampling
from steersweep.steer.standing import KeptBatches, Standing

_STUCK = -2  # in place of a token: the row ended before it, as it is stuck

FinishReason = Literal["eos", "length", "loop"]


@dataclass(frozen=True, eq=False)
class Row:
    """One sequence to generate: prompt token ids and what is done to the residual stream.

    Attributes:
        prompt_ids: of the prompt.
        edit: what is done, or None.
        stream: key of the random numbers that its tokens are drawn with, where they are drawn; see
            `stream_key`.
    """

    prompt_ids: Sequence[int]
    edit: Edit | None = None
    stream: int = 0


@dataclass(frozen=True)
class Generation:
    """What a row answered; `token_ids` excludes the prompt and the ending token."""

    token_ids: tuple[int, ...]
    text: str
    finish_reason: FinishReason


@dataclass(frozen=True)
class StepInfo:
    """Progress of a batch: `step` of at most `max_steps`, with `rows` still answering."""

    step: int
    max_steps: int
    rows: int


def generate(
    chat: ChatModel,
    rows: Sequence[Row],
    *,
    max_new_tokens: int = 100,
    max_rows: int = 256,
    on_step: Callable[[StepInfo], None] | None = None,
    standing: Standing | None = None,
    is_stuck: Callable[[str], bool] | None = None,
    sampling: Sampling | None = None,
) -> list[Generation]:
    """Answers to every row, in order; rows of different edits share batches.

    Decoding takes the plain argmax of the logits, or draws as `sampling` says: no setting of the
    model's generation config (repetition penalty, temperature) has any effect. Padding is never
    edited; which other tokens are is said in `Edit.positions`.

    Args:
        chat: the model.
        rows: what to generate.
        max_new_tokens: an answer that has not ended by then has finish reason `length`.
        max_rows: rows per batch. Later rows wait until earlier batches are done.
        on_step: called after each decoding step.
        standing: where batches that take long are kept as they stand, and gone on with from there;
            see `can_stand`.
        is_stuck: whether a text is stuck in a loop; asked of answers that repeat themselves. Where
            it is, the answer ends with finish reason `loop`.
        sampling: how tokens are drawn; None: greedily.

    Raises:
        InputError: a row's layers or vector do not fit the model, or its edit is one of
            `Edit.everywhere`; its prompt is too long; or rows of this architecture cannot be run
            right.
        NumericalError: logits became NaN (with fp16 usually an overflow).
    """
    _check_rows(chat, rows, max_new_tokens)
    regime = regime_of(chat)
    groups = [*regime.groups([len(row.prompt_ids) for row in rows], max_rows)]
    tokens = torch.full((len(rows), max_new_tokens), -1, dtype=torch.long, device=chat.device)
    sampler = None
    if sampling is not None:
        keys = [row.stream for row in rows]
        sampler = Sampler(sampling, keys, max_new_tokens, chat.device)
    kept = KeptBatches(standing if can_stand(chat) else None, tokens, max_rows)
    for number, some in enumerate(groups):
        if number >= kept.group:
            running = _Running(chat, regime, rows, some, tokens, is_stuck, sampler)
            running.run(kept.begun(number), on_step, kept.keep)
    kept.end(len(groups))
    return [_finish(chat, row) for row in tokens.tolist()]


def can_stand(chat: ChatModel) -> bool:
    """Whether a batch of a model can be kept as it stands.

    On a GPU batches take seconds, and steps are recorded. Of layers with a state of their own kind
    nothing is known.
    """
    if chat.device.type != "cpu":
        return False
    config = chat.model.config.get_text_config()
    return can_be_filled(make_cache(config, 1, buffered=regime_of(chat).buffered))


class _Running:
    """A batch of rows that answer together.

    Args:
        chat: the model.
        regime: how its rows may share a batch.
        rows: all there are.
        some: which of them are in the batch.
        tokens: of all rows, `[row, step]`, to be filled in.
        is_stuck: see `generate`.
        sampler: what draws tokens of all rows; None: the likeliest are taken.
    """

    def __init__(
        self,
        chat: ChatModel,
        regime: Regime,
        rows: Sequence[Row],
        some: Sequence[int],
        tokens: Tensor,
        is_stuck: Callable[[str], bool] | None = None,
        sampler: Sampler | None = None,
    ) -> None:
        # Rows that begin to be edited at the same layer lie together, for the prompts' pass.
        self._clean = {index: clean_layers(rows[index].edit, chat.n_layers) for index in some}
        self._order = sorted(some, key=self._clean.__getitem__)
        self._chat, self._regime, self._tokens = chat, regime, tokens
        self._is_stuck, self._sampler = is_stuck, sampler
        asked = [tuple(rows[index].prompt_ids) for index in self._order]
        numbers = {ids: number for number, ids in enumerate(dict.fromkeys(asked))}
        self._of_row = [numbers[ids] for ids in asked]
        self._prompts = chat.pad([*numbers])
        self._edits = RowEdits(chat, [rows[index].edit for index in self._order])
        width, self._steps = self._prompts.input_ids.shape[1], tokens.shape[1]
        self._cache = regime.cache(chat, width + self._steps)
        device = chat.device
        self._alive = torch.tensor(self._order, device=device)  # batch row -> row asked for
        self._ended = torch.zeros(len(self._order), dtype=torch.bool, device=device)

    @torch.inference_mode()
    def run(
        self,
        held: Mapping[str, Tensor] | None,
        on_step: Callable[[StepInfo], None] | None,
        keep: Callable[[Callable[[], dict[str, Tensor]]], None],
    ) -> None:
        """Answer, from the prompts on or from where a batch stood.

        Args:
            held: how it stood.
            on_step: called after each step.
            keep: offered how it stands, now and then.
        """
        chat, first = self._chat, 0
        eos = torch.tensor(sorted(chat.eos_ids), device=chat.device)
        # On a GPU, asking whether rows have ended waits for it; asking now and then keeps it busy.
        check_every = 1 if chat.device.type == "cpu" else 8
        look_every = max(LOOK_EVERY, check_every)
        if held is None:
            logits = self._prefill()
        decoding = decoder(
            chat, self._prompts.rows(self._of_row), self._cache, self._edits, self._steps
        )
        with self._edits.applied():
            if held is not None:
                logits = decoding.step(self._take_up(decoding, held))
                first = int(held["step"]) + 1
            for step in range(first, self._steps):
                token = self._next(logits, step)
                # Rows that have ended may still be there.
                before = self._tokens[self._alive, step]
                self._tokens[self._alive, step] = torch.where(self._ended, before, token)
                self._ended |= torch.isin(token, eos)
                last = step == self._steps - 1
                if self._is_stuck is not None and not last and (step + 1) % look_every == 0:
                    self._end_stuck(step + 1)
                if step % check_every == 0 or last:
                    _check_finite(chat, logits)
                    if not last and bool(self._ended.any()):
                        kept = (~self._ended).nonzero()[:, 0]
                        if len(kept) == 0:
                            break
                        worth = decoding.is_worth_keeping(len(kept), len(self._alive))
                        if self._regime.leaves and worth:
                            decoding.keep(kept)
                            self._alive, self._ended = self._alive[kept], self._ended[kept]
                            token = token[kept]
                if on_step is not None:
                    on_step(StepInfo(step + 1, self._steps, len(self._alive)))
                if last:
                    break
                keep(partial(self._state, decoding, step, token))
                logits = decoding.step(token)

    def _next(self, logits: Tensor, step: int) -> Tensor:
        """The tokens that follow, `[row in batch]`."""
        if self._sampler is not None:
            return self._sampler.tokens(logits, self._alive, step)
        return most_likely(logits)

    def _prefill(self) -> Tensor:
        return prefill(
            self._chat,
            self._prompts,
            self._of_row,
            [self._clean[index] for index in self._order],
            self._edits,
            self._cache,
            resumes=self._regime.resumes,
            continues=self._regime.continues,
        )

    def _end_stuck(self, steps: int) -> None:
        """End the rows whose text is stuck after so many steps."""
        assert self._is_stuck is not None
        said = self._tokens[self._alive, :steps]
        for row in (repeating(said) & ~self._ended).nonzero()[:, 0].tolist():
            if self._is_stuck(self._chat.decode(said[row].tolist())):
                self._ended[row] = True
                self._tokens[self._alive[row], steps] = _STUCK

    def _state(self, decoding: Decoder, step: int, token: Tensor) -> dict[str, Tensor]:
        """How the batch stands before the tokens of a step are put in."""
        own = {"step": torch.tensor(step), "alive": self._alive, "ended": self._ended}
        return own | {"next": token} | decoding.state()

    def _take_up(self, decoding: Decoder, held: Mapping[str, Tensor]) -> Tensor:
        """Stand as then; returns the tokens to put in."""
        self._alive, self._ended = held["alive"], held["ended"]
        place = {index: row for row, index in enumerate(self._order)}
        decoding.take_up(held, torch.tensor([place[index] for index in self._alive.tolist()]))
        return held["next"]


def _finish(chat: ChatModel, tokens: Sequence[int]) -> Generation:
    """Cut a row at its first ending token; what is below zero marks steps after the row ended."""
    for index, token in enumerate(tokens):
        if token in chat.eos_ids or token == _STUCK:
            ids = tuple(tokens[:index])
            return Generation(ids, chat.decode(ids), "loop" if token == _STUCK else "eos")
    return Generation(tuple(tokens), chat.decode(tokens), "length")


def _check_rows(chat: ChatModel, rows: Sequence[Row], max_new_tokens: int) -> None:
    if max_new_tokens < 1:
        raise InputError(f"max new tokens {max_new_tokens}: must be at least 1")
    limit = chat.max_positions
    for row in rows:
        if not row.prompt_ids:
            raise InputError("a prompt has no tokens")
        if limit is not None and len(row.prompt_ids) + max_new_tokens > limit:
            raise InputError(
                f"a prompt of {len(row.prompt_ids)} tokens plus {max_new_tokens} new ones exceeds "
                f"the {limit} positions of {chat.source.model_id}; lower "
                f"{setting('max_new_tokens')}"
            )
        if row.edit is not None:
            row.edit.check_fits(chat.source.model_id, chat.n_layers, chat.d_model)
            if row.edit.all_writes:
                raise InputError(
                    "an edit of all that layers write is for passes of prompts; to remove a "
                    "direction while answering use Edit.remove from layer 0 on"
                )


def _check_finite(chat: ChatModel, logits: Tensor) -> None:
    # A sum is finite only where all logits are, and twenty times as fast as to look at each.
    if not bool(torch.isfinite(logits.sum(-1, dtype=torch.float32)).all()):
        hint = (
            "; float16 overflows on this model, use bf16"
            if runs_as(chat.precision) == "fp16"
            else ""
        )
        raise NumericalError(
            f"{chat.source.model_id}: logits became NaN or infinite in {chat.precision}{hint}"
        )
