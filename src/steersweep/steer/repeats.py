"""Rows that say the same tokens again and again, found while they answer."""

from __future__ import annotations

import torch
from torch import Tensor

LOOK_EVERY = 4  # steps
_LONGEST = 32  # tokens of a unit
_FEWEST = 20  # tokens of a stretch that repeats


def repeating(tokens: Tensor) -> Tensor:
    """Which rows end in a unit of tokens that came at least once before, `[row]`.

    A unit has at most 32 tokens; the stretch that repeats it has at least twenty, and is a little
    longer than two units. It says where to look closer, not that a text is a loop.

    Args:
        tokens: of all steps so far, `[row, step]`.
    """
    found = torch.zeros(len(tokens), dtype=torch.bool, device=tokens.device)
    n_steps = tokens.shape[1]
    for size in range(1, _LONGEST + 1):
        stretch = max(_FEWEST, 2 * size + 4)
        if stretch > n_steps:
            break
        end = tokens[:, -stretch:]
        found |= (end[:, size:] == end[:, :-size]).all(dim=1)
    return found
