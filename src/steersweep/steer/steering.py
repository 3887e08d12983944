"""Steered generation: rows of different edits decode together in one batch.

A row is a prompt with an edit or none. Each row has its own vectors at each layer, so a whole layer
x strength map shares every matrix product; finished rows leave the batch. Knows nothing of prompts
as text, methods, or judging.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from steersweep.core.errors import InputError, NumericalError, setting
from steersweep.core.precision_labels import runs_as
from steersweep.model.chat_model import ChatModel
from steersweep.steer.decoding import decoder
from steersweep.steer.edit import Edit, clean_layers
from steersweep.steer.prefill import prefill
from steersweep.steer.regime import Regime, regime_of
from steersweep.steer.row_edits import RowEdits

FinishReason = Literal["eos", "length"]


@dataclass(frozen=True, eq=False)
class Row:
    """One sequence to generate: prompt token ids and what is done to the residual stream."""

    prompt_ids: Sequence[int]
    edit: Edit | None = None


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
) -> list[Generation]:
    """Greedy answers to every row, in order; rows of different edits share batches.

    Decoding takes the plain argmax of the logits: no setting of the model's generation config
    (repetition penalty, temperature) has any effect. Padding is never edited; which other tokens
    are is said in `Edit.positions`.

    Args:
        chat: the model.
        rows: what to generate.
        max_new_tokens: an answer that has not ended by then has finish reason `length`.
        max_rows: rows per batch. Later rows wait until earlier batches are done.
        on_step: called after each decoding step.

    Raises:
        InputError: a row's layers or vector do not fit the model, or its edit is one of
            `Edit.everywhere`; its prompt is too long; or rows of this architecture cannot be run
            right.
        NumericalError: logits became NaN (with fp16 usually an overflow).
    """
    _check_rows(chat, rows, max_new_tokens)
    regime = regime_of(chat)
    answers: dict[int, Generation] = {}
    for some in regime.groups([len(row.prompt_ids) for row in rows], max_rows):
        batch = [rows[index] for index in some]
        found = _generate_batch(chat, regime, batch, max_new_tokens, on_step)
        answers |= zip(some, found, strict=True)
    return [answers[index] for index in range(len(rows))]


@torch.inference_mode()
def _generate_batch(
    chat: ChatModel,
    regime: Regime,
    rows: Sequence[Row],
    max_new_tokens: int,
    on_step: Callable[[StepInfo], None] | None,
) -> list[Generation]:
    # Rows that begin to be edited at the same layer lie together, for the prompts' pass.
    order = sorted(
        range(len(rows)), key=lambda index: clean_layers(rows[index].edit, chat.n_layers)
    )
    rows = [rows[index] for index in order]
    prompts = {tuple(row.prompt_ids): None for row in rows}
    numbers = {ids: number for number, ids in enumerate(prompts)}
    of_row = [numbers[tuple(row.prompt_ids)] for row in rows]
    batch = chat.pad([*prompts])
    device = batch.input_ids.device
    eos = torch.tensor(sorted(chat.eos_ids), device=device)
    # On a GPU, asking whether rows have ended waits for it; asking now and then keeps it busy.
    check_every = 1 if device.type == "cpu" else 8

    tokens = torch.full((len(rows), max_new_tokens), -1, dtype=torch.long, device=device)
    alive = torch.tensor(order, device=device)  # batch row -> row asked for
    ended = torch.zeros(len(rows), dtype=torch.bool, device=device)
    width = batch.input_ids.shape[1]
    cache = regime.cache(chat, width + max_new_tokens)
    edits = RowEdits(chat, [row.edit for row in rows])

    clean = [clean_layers(row.edit, chat.n_layers) for row in rows]
    logits = prefill(chat, batch, of_row, clean, edits, cache, resumes=regime.resumes)
    decoding = decoder(chat, batch.rows(of_row), cache, edits, max_new_tokens)
    with edits.applied():
        for step in range(max_new_tokens):
            token = logits.max(-1).indices  # the first of equals, as argmax; on CPUs faster
            tokens[alive, step] = token
            ended |= torch.isin(token, eos)
            last = step == max_new_tokens - 1
            if step % check_every == 0 or last:
                _check_finite(chat, logits)
                if not last and bool(ended.any()):
                    kept = (~ended).nonzero()[:, 0]
                    if len(kept) == 0:
                        break
                    if regime.leaves and decoding.is_worth_keeping(len(kept), len(alive)):
                        decoding.keep(kept)
                        alive, ended, token = alive[kept], ended[kept], token[kept]
            if on_step is not None:
                on_step(StepInfo(step + 1, max_new_tokens, len(alive)))
            if last:
                break
            logits = decoding.step(token)
    return [_finish(chat, row) for row in tokens.tolist()]


def _finish(chat: ChatModel, tokens: Sequence[int]) -> Generation:
    """Cut a row at its first ending token; -1 marks steps after the row left the batch."""
    for index, token in enumerate(tokens):
        if token in chat.eos_ids:
            ids = tuple(tokens[:index])
            return Generation(ids, chat.decode(ids), "eos")
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
