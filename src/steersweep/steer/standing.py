"""Batches that take long are kept as they stand, so that a run that was killed goes on there.

Arithmetic on a batch differs in the last bit with its rows, so answers that were begun in one batch
can only be ended in it. What is kept is all that a next step reads: keys and values, tokens, and
which rows are left.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Protocol

import torch
from torch import Tensor

State = Mapping[str, Tensor]  # on a CPU


class Standing(Protocol):
    """Where the batches of a call of `generate` are kept."""

    def held(self) -> State | None:
        """What was kept last."""

    def is_due(self) -> bool:
        """Whether it is time to keep something."""

    def keep(self, state: State, *, ended: bool = False) -> None:
        """Keep this in place of what was there; `ended`: all rows have answered."""


class KeptBatches:
    """What is kept of the batches of one call, if anything.

    Args:
        standing: where; None: nowhere.
        tokens: of all rows, `[row, step]`; what was kept of them is put in.
        max_rows: rows per batch; with another number, batches are not those that were kept.

    Attributes:
        group: the batch that is being answered, or that is to be answered next.
    """

    def __init__(self, standing: Standing | None, tokens: Tensor, max_rows: int) -> None:
        self._standing, self._tokens = standing, tokens
        self._most = torch.tensor(max_rows)
        self._held: State = {}
        self.group = 0
        held = standing.held() if standing is not None else None
        if held and held["tokens"].shape == tokens.shape and held["most"] == self._most:
            tokens.copy_(held["tokens"])
            self._held, self.group = held, int(held["group"])

    def begun(self, group: int) -> State | None:
        """A batch begins, or goes on from how it stood."""
        self.group = group
        held, self._held = self._held, {}
        return held if "step" in held else None

    def keep(self, state: Callable[[], State]) -> None:
        """Keep how the batch stands that is being answered, if it is time to."""
        if self._standing is not None and self._standing.is_due():
            self._standing.keep({**self._facts, **state()})

    def end(self, groups: int) -> None:
        """All batches have answered."""
        if self._standing is not None and self.group < groups:
            self.group = groups
            self._standing.keep(self._facts, ended=True)

    @property
    def _facts(self) -> dict[str, Tensor]:
        return {"tokens": self._tokens, "most": self._most, "group": torch.tensor(self.group)}
