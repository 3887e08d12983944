"""Edits spread over the rows of a batch, layer by layer.

Rows of different operations, sites, layers and positions share every matrix product: an edit's
vectors are zero where it does nothing. Where no row removes a direction there is one addition.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Literal, get_args

import torch
from torch import Tensor

from steersweep.model.chat_model import ChatModel
from steersweep.run.edit_settings import Site
from steersweep.steer.edit import Edit

# `writes`: what attention, MLPs and the like add to the stream; for `Edit.everywhere`.
Place = Literal["resid_pre", "resid_post", "writes"]
_Tokens = Literal["prompt", "new", "both"]


@dataclass(frozen=True, eq=False)
class _Plan:
    """Which edits are at work at a place, for one kind of tokens.

    Attributes:
        spans: first and one past the last layer by edit; both past the last layer of all for edits
            that are not at work.
        removing: layers where an edit removes something.
        adding: layers where an edit adds something.
    """

    spans: list[tuple[int, int]]
    removing: set[int]
    adding: set[int]

    @property
    def layers(self) -> list[int]:
        """Where some edit does something."""
        return sorted(self.removing | self.adding)


@dataclass(frozen=True, eq=False)
class _Change:
    """`unit` is removed, `[edit, d_model, 1]`, then `added` added, `[edit, 1, d_model]`.

    Zero for edits that are not at work; None where that is so for all.
    """

    unit: Tensor | None
    added: Tensor | None


class RowEdits:
    """Edits of the rows that are in a batch: the rows of an edit follow one another.

    All edits have equally many rows. Their vectors are rounded once to the model's type.

    Args:
        chat: the model.
        edits: None for rows that nothing is done to.
    """

    def __init__(self, chat: ChatModel, edits: Sequence[Edit | None]) -> None:
        self._chat = chat
        self._edits = [None if edit is None or edit.changes_nothing else edit for edit in edits]
        units = _stacked(chat, [edit.removed if edit else None for edit in self._edits])
        added = _stacked(chat, [edit.added if edit else None for edit in self._edits])
        self._units = None if units is None else units[:, :, None]
        self._added = None if added is None else added[:, None]
        found = [edit for edit in self._edits if edit is not None]
        self._places = [place for place in get_args(Place) if any(_is_at(e, place) for e in found)]
        self._positions = {edit.positions for edit in found}
        self._plans: dict[_Tokens, dict[Place, _Plan]] = {}
        self._kept: Tensor | None = None  # edits whose rows are in the batch; None: all
        self._changes: dict[_Tokens, dict[tuple[Place, int], _Change]] = {}
        self._tokens: _Tokens = "new"
        self._rows: slice | Tensor = slice(None)
        self._mask: Tensor | None = None

    @property
    def all_writes(self) -> bool:
        """Whether some edit is of all that layers write too; the caller hooks those."""
        return "writes" in self._places

    @property
    def of_last_token(self) -> bool:
        """Whether some edit is of a prompt's last token only."""
        return "last" in self._positions

    def each_once(self, rows: slice) -> tuple[Tensor, Tensor]:
        """The first row of each different edit, `[edit]`, and which of these a row has, `[row]`."""
        firsts: dict[int, int] = {}
        numbers = []
        for row in range(*rows.indices(len(self._edits))):
            first = firsts.setdefault(id(self._edits[row]), row)
            numbers.append(first)
        places = {row: number for number, row in enumerate(firsts.values())}
        device = self._chat.device
        of_row = torch.tensor([places[row] for row in numbers], device=device)
        return torch.tensor([*places], device=device), of_row

    @contextmanager
    def applied(self, first: int = 0, *, sites: Sequence[Site] = get_args(Site)) -> Iterator[None]:
        """Edit the model while open, from layer `first` on, at some sites."""
        with ExitStack() as stack:
            for site in sites:
                if (plan := self._planned().get(site)) is None:
                    continue
                at = [layer for layer in plan.layers if layer >= first]
                stack.enter_context(self._chat.layer_hooks(partial(self.edited, site), at, site))
            yield

    @contextmanager
    def to_prompts(
        self, rows: slice | Tensor = slice(None), mask: Tensor | None = None
    ) -> Iterator[None]:
        """While open, passes are of prompts; else of one new token in each row.

        Args:
            rows: of the batch whose prompts these are.
            mask: `[row, position]` of those rows, 0 for padding, which is not edited; the last
                position is a prompt's last token. None: every position is edited.
        """
        before = self._tokens, self._rows, self._mask
        self._tokens, self._rows = "prompt", rows
        self._mask = None if mask is None else self._edited_positions(mask)[:, :, None]
        try:
            yield
        finally:
            self._tokens, self._rows, self._mask = before

    @contextmanager
    def to_texts(self, texts: Tensor) -> Iterator[None]:
        """While open, passes are of prompts and what follows them, in the same rows.

        Args:
            texts: what every edit has in its rows, `[row, position]`: 0 for a token of a prompt, 1
                for its last one, 2 for a new token after it. Padding counts as any of them: what
                happens to it reaches no token.
        """
        before = self._tokens, self._mask
        self._tokens = "both"
        if self._positions - {"all"}:
            masks = {
                "all": torch.ones_like(texts),
                "prompt": texts < 2,
                "last": texts == 1,
                "new": texts == 2,
            }
            chosen = [masks["all" if edit is None else edit.positions] for edit in self._edits]
            mask = torch.stack([part.flatten() for part in chosen])
            self._mask = mask.to(self._chat.dtype)[:, :, None]
        try:
            yield
        finally:
            self._tokens, self._mask = before

    def keep_rows(self, rows: Tensor) -> None:
        """Follow the batch when finished rows leave it, where each edit has one row."""
        self._kept = rows if self._kept is None else self._kept[rows]
        self._units = None if self._units is None else self._units[rows]
        self._added = None if self._added is None else self._added[rows]
        self._changes = {}

    def edited(self, place: Place, layer: int, hidden: Tensor) -> Tensor:
        """What the edits make of the states at a place, `[row, position, d_model]`."""
        change = self._built().get((place, layer))
        if change is None:
            return hidden
        rows, mask, kind = self._rows, self._mask, hidden.dtype
        if mask is not None and self._tokens == "prompt":
            # Some networks leave out early positions, which get no logits.
            mask = mask[:, -hidden.shape[1] :]
        added = change.added
        if change.unit is not None:
            unit = change.unit[rows].to(kind)
            flat = hidden.reshape(len(unit), -1, hidden.shape[-1])  # [edit, row token, d_model]
            along = flat @ unit
            if mask is not None:
                along = along * mask
            hidden = torch.baddbmm(flat, along, unit.transpose(1, 2), alpha=-1).view_as(hidden)
        if added is not None:
            push = added[rows].to(kind)
            if mask is not None:
                push = push * mask  # [edit, row token, d_model]
            if len(push) == len(hidden):
                return hidden + push
            flat = hidden.reshape(len(push), -1, hidden.shape[-1])
            hidden = (flat + push).view_as(hidden)
        return hidden

    def _edited_positions(self, mask: Tensor) -> Tensor:
        mask = mask.to(self._chat.dtype)
        if "last" in self._positions:
            last = torch.zeros_like(mask)
            last[:, -1] = 1
            only = [edit is not None and edit.positions == "last" for edit in self._edits]
            rows = torch.tensor(only, device=mask.device)[self._rows]
            mask = torch.where(rows[:, None], mask * last, mask)
        return mask

    def _planned(self) -> dict[Place, _Plan]:
        """Which edits are at work on the tokens that passes are of now."""
        if self._tokens not in self._plans:
            plans = {place: self._plan(place, self._tokens) for place in self._places}
            self._plans |= dict.fromkeys(self._alike, plans)
        return self._plans[self._tokens]

    @property
    def _alike(self) -> Sequence[_Tokens]:
        """The tokens that get what those get that passes are of now."""
        return get_args(_Tokens) if self._positions <= {"all"} else (self._tokens,)

    def _plan(self, place: Place, tokens: _Tokens) -> _Plan:
        n_layers = self._chat.n_layers
        spans = []
        removing: set[int] = set()
        adding: set[int] = set()
        for edit in self._edits:
            start = stop = n_layers
            if edit is not None and _is_at(edit, place) and _touches(edit, tokens):
                start, stop = edit.span(n_layers)
                removing |= {*range(start, stop)} if edit.removed is not None else set()
                adding |= {*range(start, stop)} if edit.added is not None else set()
            spans.append((start, stop))
        return _Plan(spans, removing, adding)

    def _built(self) -> dict[tuple[Place, int], _Change]:
        """What happens to the tokens that passes are of now, by place and layer."""
        if self._tokens not in self._changes:
            built: dict[tuple[Place, int], _Change] = {}
            for place, plan in self._planned().items():
                built |= {(place, layer): c for layer, c in self._of_layers(plan).items()}
            self._changes |= dict.fromkeys(self._alike, built)
        return self._changes[self._tokens]

    def _of_layers(self, plan: _Plan) -> dict[int, _Change]:
        """Layers between two edges of the edits' spans share one change."""
        if len({*plan.spans}) == 1:  # all edits are at work at the same layers
            removed = self._units if plan.removing else None
            change = _Change(removed, self._added if plan.adding else None)
            return dict.fromkeys(plan.layers, change)
        start, stop = torch.tensor(plan.spans, device=self._chat.device).T
        if self._kept is not None:
            start, stop = start[self._kept], stop[self._kept]
        edges = {edge for span in plan.spans for edge in span}
        found: dict[int, _Change] = {}
        for layer in plan.layers:
            if layer not in edges and layer - 1 in found:
                found[layer] = found[layer - 1]
                continue
            at_work = ((start <= layer) & (layer < stop))[:, None, None]
            units = self._units if layer in plan.removing else None
            added = self._added if layer in plan.adding else None
            found[layer] = _Change(
                None if units is None else units * at_work,
                None if added is None else added * at_work,
            )
        return found


def _is_at(edit: Edit, place: Place) -> bool:
    return edit.all_writes if place == "writes" else edit.site == place


def _touches(edit: Edit, tokens: _Tokens) -> bool:
    if tokens == "both":
        return True
    return edit.edits_prompts if tokens == "prompt" else edit.edits_new_tokens


def _stacked(chat: ChatModel, vectors: Sequence[Tensor | None]) -> Tensor | None:
    """`[edit, d_model]` in the model's type, zero for None; None if all are."""
    if all(vector is None for vector in vectors):
        return None
    stacked = torch.zeros((len(vectors), chat.d_model), dtype=torch.float64)
    for index, vector in enumerate(vectors):
        if vector is not None:
            stacked[index] = vector
    return stacked.to(chat.device, chat.dtype)
