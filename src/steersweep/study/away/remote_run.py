"""A study's other side: what is asked of whoever leads it elsewhere."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from steersweep.study.plan import Plan


@dataclass(frozen=True)
class End:
    """How a study ended where it ran.

    Attributes:
        exit_code: as here.
        message: the last that it said.
        phase: whose gate waits; None: none does.
    """

    exit_code: int
    message: str
    phase: str | None


@dataclass(frozen=True)
class ToldTracker:
    """Who is told of a study when it comes home: arguments of `open_tracker`."""

    name: str
    online: bool
    entity: str | None


@dataclass(frozen=True)
class RemoteFile:
    """A file of a run on the other side: size in bytes, and when it was written."""

    size: int
    mtime: float


class RemoteRun(Protocol):
    """A run's folder and leading call on the other side."""

    def begin(self, plan: Plan, options: Mapping[str, Any]) -> str:
        """Deploy what the plan needs and begin to lead the study; returns the call's id."""

    def outcome(self, call: str) -> End | None:
        """Of a call that has ended; None while it runs."""

    def files(self) -> dict[str, RemoteFile]:
        """All files of the run by name."""

    def read(self, name: str) -> bytes:
        """A file's content."""

    def write(self, files: Mapping[str, bytes]) -> None:
        """Put files there, over what was there."""

    def billed(self, since: str) -> float | None:
        """USD the provider has billed for the plan's apps since a UTC time, if it says so."""
