"""Prompts of different lengths as rows of one batch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True)
class Batch:
    """Left-padded prompts, each tensor `[row, position]`.

    Attributes:
        input_ids: token ids; padding repeats the pad token.
        attention_mask: 1 for real tokens, 0 for padding.
        position_ids: 0, 1, 2, ... over the real tokens of each row, so padding changes nothing.
    """

    input_ids: Tensor
    attention_mask: Tensor
    position_ids: Tensor

    def rows(self, chosen: Sequence[int] | Tensor) -> Batch:
        """A batch of some of its rows, which may repeat."""
        return Batch(self.input_ids[chosen], self.attention_mask[chosen], self.position_ids[chosen])


def at_positions(hidden: Tensor, positions: Tensor) -> Tensor:
    """`[copy x row, position, size]` at some positions of each row, `[row, chosen position]`."""
    return hidden.gather(1, index_of(hidden, positions))


def index_of(hidden: Tensor, positions: Tensor) -> Tensor:
    """What `gather` and `scatter` take for these positions, of the shape of what lies there."""
    copies = len(hidden) // len(positions)
    return positions.repeat(copies, 1)[..., None].expand(-1, -1, hidden.shape[-1])
