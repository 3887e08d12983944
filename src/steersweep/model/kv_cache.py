"""A key-value cache for batches whose rows finish at different times.

transformers' own dynamic cache concatenates, copying every key and value at every step. This one
writes into buffers of their final length, and drops finished rows with one copy.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from transformers.cache_utils import (
    Cache,
    DynamicCache,
    DynamicLayer,
    DynamicSlidingWindowLayer,
    LinearAttentionCacheLayerMixin,
)


class _BufferedLayer(DynamicLayer):
    """Keys and values of one attention layer, `[row, head, position, d_head]`.

    Sliding-window layers keep every position too: the attention mask hides what lies outside.
    """

    def __init__(self, capacity: int) -> None:
        DynamicLayer.__init__(self)
        self.capacity = capacity
        self.length = 0
        self.place: Tensor | None = None

    def lazy_initialization(self, key_states: Tensor, value_states: Tensor) -> None:
        self.dtype, self.device = key_states.dtype, key_states.device
        self._keys = self._buffer_like(key_states, len(key_states))
        self._values = self._buffer_like(value_states, len(value_states))
        self.is_initialized = True

    def update(
        self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any
    ) -> tuple[Tensor, Tensor]:
        """Append new positions; return all positions so far, or all there can be.

        The latter after `write_at`.
        """
        if self.place is not None:
            self._keys.index_copy_(2, self.place, key_states)
            self._values.index_copy_(2, self.place, value_states)
            return self._keys, self._values
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
        end = self.length + key_states.shape[-2]
        self._keys[:, :, self.length : end] = key_states
        self._values[:, :, self.length : end] = value_states
        self.length = end
        self.keys, self.values = self._keys[:, :, :end], self._values[:, :, :end]
        return self.keys, self.values

    def put(self, rows: slice, n_rows: int, keys: Tensor, values: Tensor) -> None:
        """Hold these first positions of some rows; the others are put in by other calls."""
        if not self.is_initialized:
            self.dtype, self.device = keys.dtype, keys.device
            self._keys, self._values = (self._buffer_like(t, n_rows) for t in (keys, values))
            self.is_initialized = True
        self.length = keys.shape[-2]
        self._keys[rows, :, : self.length], self._values[rows, :, : self.length] = keys, values
        self.keys, self.values = self._keys[:, :, : self.length], self._values[:, :, : self.length]

    def get_seq_length(self) -> int:
        """Positions held so far."""
        return self.length

    def batch_select_indices(self, indices: Tensor) -> None:
        """Keep the given rows."""
        kept = slice(len(indices))
        length = self.length if self.place is None else self.capacity
        # Into the front of the same buffer: later rows only ever move forward, so no second
        # buffer of full capacity is needed; the selection itself is a copy.
        for buffer in (self._keys, self._values):
            buffer[kept, :, :length] = buffer[:, :, :length].index_select(0, indices)
        self._keys, self._values = self._keys[kept], self._values[kept]
        self.keys, self.values = self._keys[:, :, : self.length], self._values[:, :, : self.length]

    def _buffer_like(self, states: Tensor, rows: int) -> Tensor:
        _, heads, _, width = states.shape
        return states.new_empty((rows, heads, self.capacity, width))


def make_cache(config: Any, capacity: int, *, buffered: bool = True) -> Cache:
    """A cache for `capacity` positions per row.

    Args:
        config: of the text part.
        capacity: positions per row, at most.
        buffered: attention layers get buffers; else every layer gets transformers' own kind, as
            layers with a state (linear attention, convolution, state space) always do.
    """
    native = DynamicCache(config=config)
    if not buffered:
        return native
    plain = (DynamicLayer, DynamicSlidingWindowLayer)
    return Cache(
        layers=[_BufferedLayer(capacity) if type(kind) in plain else kind for kind in native.layers]
    )


def keeps_states(config: Any) -> bool:
    """Whether some layer carries a state from token to token, which padding would change.

    By the config's kinds of layers: linear attention, state spaces, short convolutions.
    """
    return any(
        isinstance(kind, LinearAttentionCacheLayerMixin)
        for kind in DynamicCache(config=config).layers
    )


Source = tuple[Cache, Tensor | slice]  # a cache, and which of its rows


def can_be_filled(cache: Cache) -> bool:
    """Whether `fill` works with a cache: every layer is an attention layer of our own kind."""
    return all(isinstance(layer, _BufferedLayer) for layer in cache.layers)


def fill(cache: Cache, rows: slice, n_rows: int, sources: Sequence[Source]) -> None:
    """Put the prompts of some rows into an empty cache of `n_rows`: a source for each layer."""
    for index, (source, chosen) in enumerate(sources):
        layer: Any = cache.layers[index]
        held: Any = source.layers[index]
        layer.put(rows, n_rows, held.keys[chosen], held.values[chosen])


def fill_beginning(cache: Cache, sources: Sequence[Source], padding: Tensor) -> None:
    """Put what all rows begin with into an empty cache: a source for each layer, a row for each.

    Args:
        cache: can be filled.
        sources: caches of the beginning and which of their rows; layers that hold nothing there
            hold nothing here.
        padding: tokens that each row has before its beginning, `[row]`. What is moved past the
            beginning's width by them is left out.
    """
    for index, (source, chosen) in enumerate(sources):
        layer: Any = cache.layers[index]
        held: Any = source.layers[index]
        if held.is_initialized:
            keys, values = (_moved(tensor[chosen], padding) for tensor in (held.keys, held.values))
            layer.put(slice(0, len(keys)), len(keys), keys, values)


def _moved(states: Tensor, by: Tensor) -> Tensor:
    """`[row, head, position, d_head]`, each row's positions so many places further on, after 0."""
    if not bool(by.any()):
        return states
    n_rows, _, width, _ = states.shape
    place = torch.arange(width, device=by.device) - by[:, None]  # [row, position]
    rows = torch.arange(n_rows, device=by.device)[:, None]
    moved = states.transpose(1, 2)[rows, place.clamp(min=0)]  # [row, position, head, d_head]
    return moved.masked_fill((place < 0)[:, :, None, None], 0).transpose(1, 2)


def write_at(cache: Cache, place: Tensor) -> int:
    """From now on new keys and values go where `place` `[1]` says, and all of the cache is seen.

    Nothing of it moves then until rows leave. Returns how many positions it has.
    """
    layers: list[Any] = cache.layers
    for layer in layers:
        layer.place = place
        for buffer in (layer._keys, layer._values):
            buffer[:, :, layer.length :] = 0  # hidden, but no number that hiding cannot undo
    return int(layers[0].capacity)


def keep_rows(cache: Cache, rows: Tensor) -> None:
    """Keep only the given rows, `[kept row]` indices in rising order, in every layer."""
    layers: list[Any] = cache.layers
    for layer in layers:
        if isinstance(layer, _BufferedLayer):
            layer.batch_select_indices(rows)
        else:
            # Every kind has it, for beam search; selection of rows only attention has.
            layer.reorder_cache(rows)


def held_by(cache: Cache) -> dict[str, Tensor]:
    """Keys and values of a cache that `can_be_filled`, by name: what `put_back` takes."""
    layers: list[Any] = cache.layers
    return {
        name: tensor
        for number, layer in enumerate(layers)
        for name, tensor in ((f"keys {number}", layer.keys), (f"values {number}", layer.values))
    }


def put_back(cache: Cache, held: Mapping[str, Tensor]) -> None:
    """Fill an empty cache with what another one held."""
    layers: list[Any] = cache.layers
    for number, layer in enumerate(layers):
        keys, values = held[f"keys {number}"], held[f"values {number}"]
        layer.put(slice(0, len(keys)), len(keys), keys, values)
