"""A study that runs, as its phases see it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from steersweep.core.errors import SteersweepError
from steersweep.core.precision_labels import runs_as
from steersweep.core.printing import safe_name
from steersweep.run.folder import RunFolder
from steersweep.run.result import Result
from steersweep.run.result_files import write_result_file
from steersweep.study import decisions
from steersweep.study.decisions import NotRun, Outcome
from steersweep.study.plan import Plan, PlannedModel
from steersweep.study.sweeps import Cuts, Step, Sweep
from steersweep.work.overflow import FROM, TO

if TYPE_CHECKING:
    from steersweep.study.jobs import Jobs


class GateStop(SteersweepError):
    """A person must decide before the study goes on; `phase` holds the evidence."""

    exit_code = 3

    def __init__(self, message: str, phase: str) -> None:
        super().__init__(message)
        self.phase = phase


@dataclass(frozen=True)
class Running:
    """What a phase works with.

    Attributes:
        plan: the plan.
        store: the run folder.
        jobs: runs sweeps.
        cuts: cuts that apply.
        say: tells people a line.
    """

    plan: Plan
    store: RunFolder
    jobs: Jobs
    cuts: Cuts
    say: Callable[[str], None]

    def decided(self, phase: str) -> dict[str, Any] | None:
        """What a phase decided, None where it has not yet."""
        held = self.store.read_json(self.store.paths.decision(phase))
        return None if held is None else dict(held)

    def decision(self, phase: str) -> dict[str, Any]:
        """What a phase decided.

        Raises:
            SteersweepError: it has not yet.
        """
        held = self.decided(phase)
        if held is None:
            raise SteersweepError(f"{phase} has not been decided in {self.store.root}")
        return held

    def outcomes(self, results: Iterable[Result]) -> list[Outcome]:
        """The best condition of each model and method, by the plan's names."""
        found = decisions.outcomes_of(results, self.names)
        return [replace(o, family=self.plan.models[o.model].family) for o in found]

    def not_run(
        self, phase: str, sweeps: Iterable[Sweep], results: Iterable[Result]
    ) -> list[NotRun]:
        """Sweeps of a phase that could not run, or not to their end, and why."""
        failures = self.store.read_json(self.store.paths.failures(phase)) or {}
        ran = {(result.model_id, runs_as(result.quantization)) for result in results}
        ran |= {(model, FROM) for model, precision in ran if precision == TO}  # it overflowed
        return [
            NotRun(
                sweep.model.name,
                sweep.model.family,
                sweep.precision,
                sweep.step.name,
                failures[str(sweep)],
                (sweep.model.model, sweep.precision) in ran,
            )
            for sweep in sweeps
            if str(sweep) in failures
        ]

    @property
    def models(self) -> dict[str, PlannedModel]:
        """The plan's models by id."""
        return {model.model: model for model in self.plan.models.values()}

    @property
    def names(self) -> dict[str, str]:
        """The plan's names of models by id."""
        return {model.model: model.name for model in self.plan.models.values()}

    def family_of(self, result: Result) -> str:
        """The family of a result's model, as the plan says."""
        return self.plan.models[self.names[result.model_id]].family

    def write_results(self, step: Step, results: Sequence[Result], *, family: str = "") -> None:
        """Write a step's result file, of one family where its name says one."""
        kind = step.results.format(family=safe_name(family))
        write_result_file(self.store.root, kind, results)

    def write_by_family(self, step: Step, results: Iterable[Result]) -> None:
        """Write a step's result files, one per family."""
        for family, members in grouped(results, self.family_of).items():
            self.write_results(step, members, family=family)


def by_model(results: Iterable[Result]) -> dict[str, list[Result]]:
    """Results of each model, by its id."""
    return grouped(results, lambda result: result.model_id)


def grouped(results: Iterable[Result], key: Callable[[Result], str]) -> dict[str, list[Result]]:
    """Results by a key, in their order."""
    found: dict[str, list[Result]] = {}
    for result in results:
        found.setdefault(key(result), []).append(result)
    return found
