"""Who is told what happens in a study."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from steersweep.run.result import Result
from steersweep.study.sweeps import Sweep
from steersweep.work.job import OnProgress


@dataclass(frozen=True)
class Ended:
    """A job that is done.

    Attributes:
        phase: it belongs to.
        sweep: what it ran.
        results: what the phase knows of its model in its precision by now, one per method.
        earlier: whether an earlier run had finished it.
        folder: of files that results name, relative to the run folder; empty: the run folder.
    """

    phase: str
    sweep: Sweep
    results: list[Result]
    earlier: bool
    folder: str = ""


def _nobody(_told: object) -> None:
    """Hears it."""


@dataclass(frozen=True)
class Listeners:
    """What is called when something happens; by default nothing.

    Attributes:
        on_progress: told of progress within a job.
        on_job: told of each job that is done, those of earlier runs included.
        on_line: told what a person should read.
    """

    on_progress: OnProgress = _nobody
    on_job: Callable[[Ended], None] = _nobody
    on_line: Callable[[str], None] = _nobody
