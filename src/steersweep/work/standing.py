"""Batches of a job that take long, kept in the run folder as they stand."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch
from numpy.typing import NDArray
from torch import Tensor

from steersweep.core.atomic import Unwritable
from steersweep.run.folder import RunFolder
from steersweep.steer.standing import State

EVERY = 40.0  # seconds between what is kept: what a kill can cost
_BYTES = "bf16 "  # before the name of what numpy has no type for


class StandingFile:
    """One file for the batches of one call.

    Args:
        store: the run folder.
        path: of the file.
        now: a clock, in seconds.
    """

    def __init__(
        self, store: RunFolder, path: Path, now: Callable[[], float] = time.monotonic
    ) -> None:
        self._store, self._path, self._now = store, path, now
        self._kept_at = now()

    def held(self) -> State | None:
        """See `Standing.held`."""
        held = self._store.tensors(self._path)
        return None if held is None else dict(_unpacked(*item) for item in held.items())

    def is_due(self) -> bool:
        """See `Standing.is_due`."""
        return self._now() - self._kept_at >= EVERY

    def keep(self, state: State, *, ended: bool = False) -> None:
        """See `Standing.keep`; where the disk is full, what was kept before stays."""
        if ended and not self._path.exists():
            return  # quick enough to be done again
        with suppress(Unwritable):
            self._store.write_tensors(self._path, dict(_packed(*item) for item in state.items()))
        self._kept_at = self._now()

    def forget(self) -> None:
        """What was answered is saved elsewhere."""
        self._path.unlink(missing_ok=True)


def _packed(name: str, tensor: Tensor) -> tuple[str, NDArray[Any]]:
    if tensor.dtype == torch.bfloat16:
        return _BYTES + name, tensor.contiguous().view(torch.int16).numpy()
    return name, tensor.contiguous().numpy()


def _unpacked(name: str, array: NDArray[Any]) -> tuple[str, Tensor]:
    tensor = torch.from_numpy(array.copy())
    if name.startswith(_BYTES):
        return name.removeprefix(_BYTES), tensor.view(torch.bfloat16)
    return name, tensor
