"""Prompts that begin alike share a row: what they begin with is computed once.

A packed row holds the tree of its prompts' tokens. Every token attends to the tokens it follows in
its own prompt and to no other, and its position is its place there, so its activations are those
that it has alone. Chat templates make this worth while: all prompts begin with the same tokens.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy
import torch
from torch import Tensor

from steersweep.model.batch import Batch
from steersweep.model.chat_model import ChatModel
from steersweep.model.network import ROW_PER_WIDTH
from steersweep.steer.pair_masks import takes_pair_masks
from steersweep.steer.regime_search import regime_of

_TOKENS = 64  # of a packed row, at least

Prompts = Sequence[Sequence[int]]
_Token = tuple[int, int]  # its id, and how it stands to a prompt's end: before, there, or after it


@dataclass(frozen=True, eq=False)
class Layout:
    """Prompts laid out in a batch for one forward pass.

    Attributes:
        prompts: indices of the prompts.
        batch: what the model is given; the attention mask of packed rows is `[row, 1, position,
            position]`, 0 or the lowest number.
        row: of the batch that a prompt is in, `[prompt]`.
        paths: where its tokens are there, in order.
    """

    prompts: list[int]
    batch: Batch
    row: Tensor
    paths: Sequence[Sequence[int]]

    def places(self, positions: Sequence[int]) -> Tensor:
        """Where tokens counted from the ends of prompts are, `[prompt, position]`."""
        found = [[path[position] for position in positions] for path in self.paths]
        return torch.tensor(found, device=self.row.device)

    @cached_property
    def end(self) -> Tensor:
        """Where the prompts' last tokens are, `[prompt]`."""
        return self.places((-1,))[:, 0]

    @cached_property
    def ends(self) -> Tensor:
        """Where prompts end in each row, `[row, prompts of the fullest row]`.

        Rows of fewer prompts name their first one's end again. All positions, if that is no more.
        """
        n_rows, width = self.batch.input_ids.shape
        by_row: list[list[int]] = [[] for _ in range(n_rows)]
        for row, path in zip(self.row.tolist(), self.paths, strict=True):
            by_row[row].append(path[-1])
        most = max(map(len, by_row))
        if most >= width:
            by_row = [list(range(width))] * n_rows
        filled = [ends + ends[:1] * (most - len(ends)) for ends in by_row]
        return torch.tensor(filled, device=self.row.device)

    @cached_property
    def _slot(self) -> Tensor:
        """Which of its row's ends is a prompt's, `[prompt]`."""
        return (self.ends[self.row] == self.end[:, None]).int().argmax(1)

    def copies(self, count: int) -> Batch:
        """The batch `count` times, one after the other."""
        batch = self.batch
        return Batch(
            *(
                part.repeat(count, *[1] * (part.ndim - 1))
                for part in (batch.input_ids, batch.attention_mask, batch.position_ids)
            )
        )

    def at_ends(self, hidden: Tensor) -> Tensor:
        """Last tokens of the prompts, `[copy x row, position, ...]` to `[copy, prompt, ...]`.

        The positions may be all, or only `ends`.
        """
        n_rows, width = self.batch.input_ids.shape
        by_copy = hidden.view(-1, n_rows, *hidden.shape[1:])
        if hidden.shape[1] == width:
            return by_copy[:, self.row, self.end]
        return by_copy[:, self.row, self._slot]


def layouts(
    chat: ChatModel, prompts: Prompts, size: int, *, asked: Sequence[int] | None = None
) -> Iterator[Layout]:
    """Lay out all prompts, about `size` in a batch: packed, or padded where a model cannot.

    Args:
        chat: the model.
        prompts: token ids of each.
        size: prompts in a batch.
        asked: where texts follow the prompts: how many tokens each prompt itself has. Its tokens,
            its last one and those of the text are edited at different times, so none of them
            stands for one of another kind.

    Models that do not take a mask for every pair of positions (those that bend attention by
    distance, say) get one prompt a row, of like length together; of equal length where the model
    may not see padding.
    """
    regime = regime_of(chat)
    if regime.pads and takes_pair_masks(chat) and max(map(len, prompts)) <= chat.attention_window:
        lengths = asked or [0] * len(prompts)
        marked = [_marked(ids, length) for ids, length in zip(prompts, lengths, strict=True)]
        rows = _rows(marked, max(_TOKENS, int(ROW_PER_WIDTH * chat.d_model)))
        rows.sort(key=lambda row: len(row.tokens))
        while rows:
            together = [rows.pop(0)]
            while rows and sum(len(row.paths) for row in (*together, rows[0])) <= size:
                together.append(rows.pop(0))
            yield _packed(chat, together)
        return
    by_length = sorted(range(len(prompts)), key=lambda index: len(prompts[index]))
    for group in regime.groups([len(prompts[index]) for index in by_length], size):
        chosen = [by_length[number] for number in group]
        batch = chat.pad([prompts[index] for index in chosen])
        width = batch.input_ids.shape[1]
        paths = [range(width - len(prompts[index]), width) for index in chosen]
        yield Layout(chosen, batch, torch.arange(len(chosen), device=chat.device), paths)


def _marked(ids: Sequence[int], asked: int) -> list[_Token]:
    """Tokens, each with how it stands to the last one of the first `asked`."""
    return [(token, (place >= asked - 1) + (place >= asked)) for place, token in enumerate(ids)]


class _Row:
    """A tree of prompts: tokens in an order in which each follows its parent somewhere before."""

    def __init__(self) -> None:
        self.tokens: list[_Token] = []
        self.positions: list[int] = []
        self.parents: list[int] = []
        self.paths: dict[int, list[int]] = {}  # prompt -> indices of its tokens
        self._path: list[int] = []  # of the prompt added last

    def missing(self, ids: Sequence[_Token]) -> int:
        """How many tokens a prompt would add."""
        return len(ids) - self._shared(ids)

    def add(self, prompt: int, ids: Sequence[_Token]) -> None:
        """Add a prompt; prompts come in the order of their tokens."""
        path = self._path[: self._shared(ids)]
        for token in ids[len(path) :]:
            self.parents.append(path[-1] if path else -1)
            self.positions.append(len(path))
            path.append(len(self.tokens))
            self.tokens.append(token)
        self.paths[prompt] = self._path = path

    def _shared(self, ids: Sequence[_Token]) -> int:
        pairs = zip(self._path, ids, strict=False)
        return next(
            (n for n, (index, token) in enumerate(pairs) if self.tokens[index] != token),
            min(len(self._path), len(ids)),
        )


def _rows(prompts: Sequence[list[_Token]], most: int) -> list[_Row]:
    """Neighbours in the order of their tokens share a row, as long as it has `most` tokens."""
    rows: list[_Row] = []
    for prompt in sorted(range(len(prompts)), key=prompts.__getitem__):
        ids = prompts[prompt]
        if not rows or len(rows[-1].tokens) + rows[-1].missing(ids) > most:
            rows.append(_Row())
        rows[-1].add(prompt, ids)
    return rows


def _packed(chat: ChatModel, rows: Sequence[_Row]) -> Layout:
    n, width = len(rows), max(len(row.tokens) for row in rows)
    input_ids = numpy.full((n, width), chat.pad_id)
    positions = numpy.zeros((n, width), dtype=numpy.int64)
    # Padding attends to itself, so that no position attends to nothing.
    unseen = numpy.repeat(~numpy.eye(width, dtype=bool)[None], n, axis=0)
    for index, row in enumerate(rows):
        length = len(row.tokens)
        input_ids[index, :length] = [token for token, _ in row.tokens]
        positions[index, :length] = row.positions
        for token, parent in enumerate(row.parents):
            if parent >= 0:
                unseen[index, token] &= unseen[index, parent]
    hidden = torch.from_numpy(unseen)[:, None].to(chat.device)
    mask = torch.zeros(hidden.shape, dtype=chat.dtype, device=chat.device)
    mask.masked_fill_(hidden, torch.finfo(chat.dtype).min)
    tokens, places = (torch.from_numpy(part).to(chat.device) for part in (input_ids, positions))
    batch = Batch(tokens, mask, places)
    return Layout(
        [prompt for row in rows for prompt in row.paths],
        batch,
        torch.tensor([i for i, row in enumerate(rows) for _ in row.paths], device=chat.device),
        [path for row in rows for path in row.paths.values()],
    )
