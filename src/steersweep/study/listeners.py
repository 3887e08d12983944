"""Who is told what happens in a study."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from steersweep.work.job import OnProgress

if TYPE_CHECKING:
    from steersweep.study.jobs import Ended


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
