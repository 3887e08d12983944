"""What a steered batch adds to the residual stream: a vector per row, layer by layer.

Rows of different layer ranges, vectors and lengths share every matrix product; a row's vector is
zero at layers that its intervention does not cover.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor

from steersweep.model.chat_model import ChatModel


class Additions:
    """Vectors added after each layer, for the rows that are in the batch.

    Args:
        chat: the model.
        vectors: `[row, d_model]`, what is added; float32, rounded once to the model's type.
        spans: first and one past the last layer whose output is changed, by row; an empty span for
            rows that nothing is added to.
    """

    def __init__(self, chat: ChatModel, vectors: Tensor, spans: Sequence[tuple[int, int]]) -> None:
        self.layers = range(min(start for start, _ in spans), max(stop for _, stop in spans))
        self._edges = {edge for span in spans for edge in span}
        self._start = torch.tensor([start for start, _ in spans], device=chat.device)
        self._stop = torch.tensor([stop for _, stop in spans], device=chat.device)
        self._vectors = vectors[:, None].to(chat.device, chat.dtype)  # [row, 1, d_model]
        self._rows = slice(None)
        self._mask: Tensor | None = None
        self._at_layer: dict[int, Tensor] = {}
        self._build()

    @contextmanager
    def applied(self, chat: ChatModel) -> Iterator[None]:
        """Steer `chat` while open."""
        with chat.layer_hooks(self._add, self.layers):
            yield

    @contextmanager
    def to_prompts(self, rows: slice, attention_mask: Tensor) -> Iterator[None]:
        """While open, passes are of the prompts of these rows, and padding is not steered.

        Args:
            rows: of the batch.
            attention_mask: `[row, position]` of those rows.
        """
        self._rows, self._mask = rows, attention_mask[:, :, None].to(self._vectors.dtype)
        try:
            yield
        finally:
            self._rows, self._mask = slice(None), None

    def keep_rows(self, rows: Tensor) -> None:
        """Follow the batch when finished rows leave it."""
        self._start, self._stop = self._start[rows], self._stop[rows]
        self._vectors = self._vectors[rows]
        self._build()

    def _build(self) -> None:
        """Vectors per layer; layers between two edges of the rows' spans share one tensor."""
        self._at_layer = {}
        for layer in self.layers:
            if layer not in self._edges and layer - 1 in self._at_layer:
                self._at_layer[layer] = self._at_layer[layer - 1]
                continue
            covered = (self._start <= layer) & (layer < self._stop)
            self._at_layer[layer] = self._vectors * covered[:, None, None]

    def _add(self, layer: int, hidden: Tensor) -> Tensor:
        push = self._at_layer[layer][self._rows].to(hidden.dtype)
        if self._mask is not None:
            push = push * self._mask
        return hidden + push
