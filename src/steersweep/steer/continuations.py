"""How a model continues given texts under many edits at once; no decoding.

A continuation is a prompt and the tokens after it, which are given. One pass runs over both, and
edits are at work exactly as in generation: the given tokens are new tokens. Edits are rows of a
batch. Below its first edited layer a row is as it is without an edit, so the streams there are
computed once and passes resume from them. Of a large vocabulary's logits only a few positions'
exist at a time.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from itertools import groupby

import torch
from torch import Tensor

from steersweep.core.errors import InputError, NumericalError
from steersweep.model.chat_model import ChatModel
from steersweep.model.memory import free_bytes
from steersweep.steer.edit import Edit
from steersweep.steer.packing import Layout, layouts
from steersweep.steer.regime_search import regime_of
from steersweep.steer.row_edits import RowEdits

_AT_ONCE = 64  # continuations in a batch, each under every edit
# Of a few copies of the logits together.
_LOGITS_BYTES = {"cpu": 1 << 28, "cuda": 1 << 31}
_COPIES = 4

OnShare = Callable[[float], None]
_ByToken = list[list[Tensor]]  # [edit][continuation], each `[token]`


@dataclass(frozen=True, eq=False)
class Continuation:
    """Tokens that follow a prompt; at least one of each."""

    prompt_ids: Sequence[int]
    token_ids: Sequence[int]


def log_likelihoods(
    chat: ChatModel,
    continuations: Sequence[Continuation],
    edits: Sequence[Edit | None],
    *,
    max_rows: int = 256,
    on_share: OnShare = lambda _share: None,
) -> _ByToken:
    """Log-probability of every token of each continuation under each edit, in nats.

    Args:
        chat: the model; nothing may be hooked into it.
        continuations: prompts with what follows them.
        edits: what to do to the residual stream; None: nothing.
        max_rows: continuations x edits per forward pass.
        on_share: told of the share of continuations that is done, 0 to 1.

    Returns:
        By edit and continuation, `[token]`, float64, on the CPU.

    Raises:
        InputError: an edit does not fit the model, or is one of `Edit.everywhere`; a continuation
            is longer than the model or cannot be run right; a prompt or what follows is empty.
        NumericalError: a number is NaN or infinite.
    """
    return _measured(chat, continuations, edits, _log_likelihoods, max_rows, on_share)


def divergences(
    chat: ChatModel,
    continuations: Sequence[Continuation],
    edits: Sequence[Edit | None],
    *,
    max_rows: int = 256,
    on_share: OnShare = lambda _share: None,
) -> _ByToken:
    """KL divergence of the next-token distribution at every token, from unsteered to steered.

    `sum over t of p(t) (log p(t) - log q(t))` with `p` unsteered and `q` under the edit, in nats:
    of the distributions that each given token would be drawn from.

    Args, result and errors are as of `log_likelihoods`.
    """
    return _measured(chat, continuations, edits, _divergences, max_rows, on_share)


@dataclass(frozen=True, eq=False)
class _Along:
    """A batch of continuations after its passes.

    Attributes:
        states: after the final norm, at positions from which tokens are predicted, by edit:
            `[position, d_model]`; the same tensor as `clean` where an edit changes nothing.
        clean: the same without an edit.
        position: which of these positions predicts a token, `[token]`, of all continuations.
        target: these tokens' ids, `[token]`.
    """

    states: Sequence[Tensor]
    clean: Tensor
    position: Tensor
    target: Tensor


@torch.inference_mode()
def _measured(
    chat: ChatModel,
    continuations: Sequence[Continuation],
    edits: Sequence[Edit | None],
    measure: Callable[[ChatModel, _Along], Tensor],
    max_rows: int,
    on_share: OnShare,
) -> _ByToken:
    """A number per token of every continuation, under every edit."""
    _check(chat, continuations, edits)
    found: dict[int, Tensor] = {}
    sequences = [[*c.prompt_ids, *c.token_ids[:-1]] for c in continuations]
    asked = [len(c.prompt_ids) for c in continuations]
    for layout in layouts(chat, sequences, min(max_rows, _AT_ONCE), asked=asked):
        some = [continuations[index] for index in layout.prompts]
        along = _Passes(chat, layout, some, max_rows).along(edits)
        numbers = measure(chat, along).double().cpu()  # [edit, token]
        if not bool(torch.isfinite(numbers).all()):
            raise NumericalError(
                f"{chat.source.model_id}: likelihoods are NaN or infinite in {chat.precision}"
            )
        parts = torch.split(numbers, [len(c.token_ids) for c in some], dim=1)
        found |= zip(layout.prompts, parts, strict=True)
        on_share(len(found) / len(continuations))
    return [
        [found[index][edit] for index in range(len(continuations))] for edit in range(len(edits))
    ]


class _Passes:
    """The passes of one batch of continuations."""

    def __init__(
        self, chat: ChatModel, layout: Layout, some: Sequence[Continuation], max_rows: int
    ) -> None:
        self._chat = chat
        self._layout = layout
        regime = regime_of(chat)
        self._resumes = regime.resumes
        self._edits_in_pass = max(1, max_rows // len(some)) if regime.shares else 1
        self._after: dict[int, Tensor] = {}
        texts = torch.zeros(layout.batch.input_ids.shape, dtype=torch.long)
        places: dict[tuple[int, int], int] = {}  # row and place that predict a token, in order
        position = []
        for row, path, c in zip(layout.row.tolist(), layout.paths, some, strict=True):
            asked = len(c.prompt_ids)
            texts[row, path[asked - 1]] = 1
            texts[row, [*path[asked:]]] = 2
            for place in path[asked - 1 :]:
                position.append(places.setdefault((row, place), len(places)))
        self._texts = texts.to(chat.device)
        self._rows, self._places = torch.tensor([*places], device=chat.device).T
        self._position = torch.tensor(position, device=chat.device)
        tokens = [token for c in some for token in c.token_ids]
        self._target = torch.tensor(tokens, device=chat.device)

    def along(self, edits: Sequence[Edit | None]) -> _Along:
        """Run the batch without an edit, and under each."""
        changing = [
            (self._clean_layers(edit), index, edit)
            for index, edit in enumerate(edits)
            if edit is not None and not edit.changes_nothing
        ]
        changing.sort(key=lambda entry: entry[:2])
        clean = self._clean({count for count, _, _ in changing})
        states = [clean] * len(edits)
        for count, group in groupby(changing, key=lambda entry: entry[0]):
            members = list(group)
            for first in range(0, len(members), self._edits_in_pass):
                some = members[first : first + self._edits_in_pass]
                ran = self._edited([edit for _, _, edit in some], count)
                for (_, index, _), found in zip(some, ran, strict=True):
                    states[index] = found
        return _Along(states, clean, self._position, self._target)

    def _clean_layers(self, edit: Edit) -> int:
        """How many layers run as they do without an edit, over prompt and new tokens."""
        if not self._resumes:
            return 0
        return edit.start if edit.site == "resid_pre" else edit.start + 1

    def _clean(self, counts: set[int]) -> Tensor:
        def keep(layer: int, hidden: Tensor) -> None:
            self._after[layer + 1] = hidden

        with self._chat.layer_hooks(keep, {count - 1 for count in counts if count}):
            return self._states(1)[0]

    def _edited(self, edits: Sequence[Edit], count: int) -> Tensor:
        """States under edits of which the first layers, `count` of them, know nothing."""
        chat, rows = self._chat, RowEdits(self._chat, edits)
        with ExitStack() as stack:
            stack.enter_context(rows.to_texts(self._texts))
            first = 0
            if count:
                clean = self._after[count].repeat(len(edits), 1, 1)
                first = count - 1  # its output may be edited, although it does not run
                stack.enter_context(chat.only_layers(count, chat.n_layers))
                stack.enter_context(chat.layer_hooks(lambda _layer, _hidden: clean, [first]))
            stack.enter_context(rows.applied(first))
            return self._states(len(edits))

    def _states(self, copies: int) -> Tensor:
        """`[copy, position that predicts, d_model]` of a pass."""
        n_rows, width = self._layout.batch.input_ids.shape
        found: list[Tensor] = []

        def at_end(final: Tensor) -> Tensor:
            by_copy = final.view(copies, n_rows, width, -1)
            found.append(by_copy[:, self._rows, self._places])
            return final[:1, :1]  # nobody asks for logits yet

        batch = self._layout.copies(copies)
        with self._chat.head_input(at_end):
            self._chat.logits(batch.input_ids, batch.attention_mask, batch.position_ids, keep=width)
        return found[0]


def _log_likelihoods(chat: ChatModel, along: _Along) -> Tensor:
    """`[edit, token]`."""
    n_edits, n = len(along.states), _positions_at_once(chat)
    states = torch.cat([*along.states])
    edit = torch.arange(n_edits, device=chat.device)[:, None]
    position = (edit * len(along.clean) + along.position).flatten()
    target = along.target.repeat(n_edits)
    found = torch.empty(len(target), device=chat.device)
    for first in range(0, len(states), n):
        here = (position >= first) & (position < first + n)
        logs = _log_probabilities(chat, states[first : first + n])
        found[here] = logs[position[here] - first, target[here]]
    return found.view(n_edits, -1)


def _divergences(chat: ChatModel, along: _Along) -> Tensor:
    """`[edit, token]`; exactly 0 where an edit changes nothing."""
    n = _positions_at_once(chat)
    found = torch.zeros((len(along.states), len(along.clean)), device=chat.device)
    changing = [i for i, states in enumerate(along.states) if states is not along.clean]
    for first in range(0, len(along.clean), n):
        some = slice(first, first + n)
        clean = _log_probabilities(chat, along.clean[some])
        shares = clean.exp()
        at_once = max(1, n // len(clean))
        for start in range(0, len(changing), at_once):
            edits = changing[start : start + at_once]
            steered = _log_probabilities(chat, torch.cat([along.states[i][some] for i in edits]))
            apart = steered.view(len(edits), *clean.shape).sub_(clean).mul_(shares)
            found[edits, some] = -apart.sum(-1)
    return found.clamp_(min=0)[:, along.position]  # what rounding takes below


def _log_probabilities(chat: ChatModel, states: Tensor) -> Tensor:
    """Of the next token after states `[position, d_model]`: `[position, vocabulary]`, float32.

    By the model's own head, with what it does to logits besides, such as to cap them.
    """
    token = torch.zeros((1, 1), dtype=torch.long, device=chat.device)
    with ExitStack() as stack:
        if regime_of(chat).resumes:
            stack.enter_context(chat.only_layers(0, 0))
        stack.enter_context(chat.head_input(lambda _final: states[None]))
        logits = chat.logits(token, torch.ones_like(token), token, keep=len(states))[0].float()
    return logits.sub_(logits.logsumexp(-1, keepdim=True))


def _positions_at_once(chat: ChatModel) -> int:
    budget = _LOGITS_BYTES.get(chat.device.type, 1 << 28)
    free = free_bytes(str(chat.device))
    if free is not None:
        budget = min(budget, free // 4)
    return max(1, budget // (_COPIES * 4 * chat.vocab_size))


def _check(
    chat: ChatModel, continuations: Sequence[Continuation], edits: Sequence[Edit | None]
) -> None:
    for edit in edits:
        if edit is not None:
            edit.check_fits(chat.source.model_id, chat.n_layers, chat.d_model)
            if edit.all_writes:
                raise InputError(
                    "an edit of all that layers write is for passes of prompts; to remove a "
                    "direction while answering use Edit.remove from layer 0 on"
                )
    limit = chat.max_positions
    for c in continuations:
        if not c.prompt_ids or not c.token_ids:
            raise InputError("a prompt, or what follows it, has no tokens")
        if limit is not None and len(c.prompt_ids) + len(c.token_ids) > limit:
            raise InputError(
                f"a prompt and what follows it have {len(c.prompt_ids) + len(c.token_ids)} tokens, "
                f"and {chat.source.model_id} was made for at most {limit}"
            )
