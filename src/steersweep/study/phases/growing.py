"""Sweeps of a phase to which more are added as results come."""

from __future__ import annotations

from collections.abc import Iterable

from steersweep.run.result import Result
from steersweep.study.decisions import NotRun, Outcome
from steersweep.study.running import Running
from steersweep.study.sweeps import Sweep


class Growing:
    """Sweeps of a phase so far, and what they found together.

    Args:
        study: that runs.
        phase: whose sweeps these are.

    Attributes:
        results: of all sweeps so far, one per model and method.
    """

    def __init__(self, study: Running, phase: str) -> None:
        self.results: list[Result] = []
        self._study = study
        self._phase = phase
        self._tried: list[Sweep] = []

    def run(self, sweeps: Iterable[Sweep], *, all_may_fail: bool = False) -> None:
        """Run more sweeps. Those before that could not run at all are not tried again.

        Raises:
            SteersweepError: none of all sweeps could run, and `all_may_fail` is not set.
        """
        lost = {(gone.model, gone.step) for gone in self.not_run() if not gone.finished_some}
        again = [s for s in self._tried if (s.model.name, s.step.name) not in lost]
        added = list(sweeps)
        self._tried += added
        self.results = self._study.jobs.run(
            self._phase, [*again, *added], all_may_fail=all_may_fail
        )

    def outcomes(self) -> list[Outcome]:
        """The best condition of each model and method so far."""
        return self._study.outcomes(self.results)

    def not_run(self, step: str | None = None) -> list[NotRun]:
        """Sweeps, of a step or of all, that could not run, or not to their end."""
        gone = self._study.not_run(self._phase, self._tried, self.results)
        return [found for found in gone if step in (None, found.step)]
