"""What a report shows of a run folder, read once; samples are handed on, not kept."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, TypeVar

from steersweep.budget.ledger import Ledger, PaidJob
from steersweep.core.journal import Entry
from steersweep.people import gates
from steersweep.people.corrected import apply_reviews
from steersweep.people.problems import problems
from steersweep.people.reviews import read_reviews
from steersweep.run.folder import RunFolder
from steersweep.run.result import Result
from steersweep.run.result_files import read_result_file, result_files
from steersweep.run.searched import Searched, read_searched
from steersweep.study.phases.registry import all_phases
from steersweep.study.rows import rows_of
from steersweep.study.status import Standing, decided, status

T = TypeVar("T")


@dataclass(frozen=True)
class Listed:
    """A result of a run folder.

    Attributes:
        result: what was found.
        file: where it stands, in the run folder.
        phase: name of the study's phase.
    """

    result: Result
    file: str
    phase: str


@dataclass
class Run:
    """A run folder.

    Attributes:
        folder: where it is.
        plan: its frozen settings.
        listed: its results, without samples.
        status: of a study, see `status`; None for a sweep.
        decisions: of a study, by phase.
        jobs: what the ledger holds, one row per job.
        signatures: of gates, as signed.
        n_reviews: labels that people gave.
        problems: what is damaged that cannot be made again.
        searched: of a search for the best cell, what it went through.
    """

    folder: Path
    plan: Mapping[str, Any]
    listed: list[Listed] = field(default_factory=list)
    status: Standing | None = None
    decisions: dict[str, Any] = field(default_factory=dict)
    jobs: list[PaidJob] = field(default_factory=list)
    signatures: list[Entry] = field(default_factory=list)
    n_reviews: int = 0
    problems: list[str] = field(default_factory=list)
    searched: Searched | None = None

    @property
    def name(self) -> str:
        """The study's name, or the folder's."""
        return str(self.plan.get("name") or self.folder.resolve().name)

    @property
    def results(self) -> list[Result]:
        """Its results alone."""
        return [one.result for one in self.listed]

    def of_phase(self, name: str) -> list[Result]:
        """Results of a phase."""
        return [one.result for one in self.listed if one.phase == name]

    def decision_rows(self, kind: type[T], phase: str, name: str) -> list[T]:
        """Rows under a name of a phase's decision; see `rows_of`."""
        return rows_of(kind, self.decisions.get(phase, {}), name)


def read_run(folder: Path, on_result: Callable[[Listed], None] = lambda _listed: None) -> Run:
    """Everything but samples and directions.

    Args:
        folder: a run folder of a sweep or a study.
        on_result: given each result whole, with its samples, before they are dropped.

    Raises:
        InputError: no run there, or a result file that cannot be read.
    """
    store = RunFolder.existing(folder)
    run = Run(folder, store.plan)
    reviews = read_reviews(folder)
    run.n_reviews = len(reviews)
    names = {phase.number: phase.name for phase in all_phases()}
    for path in result_files(folder):
        for result in read_result_file(path):
            whole = Listed(
                apply_reviews(result, reviews), store.paths.name_of(path), names[result.phase]
            )
            on_result(whole)
            run.listed.append(replace(whole, result=whole.result.without_samples()))
    if run.plan.get("kind") == "study":
        run.status, run.decisions = status(folder), decided(folder)
        run.jobs = Ledger(folder).jobs()
    if run.plan.get("kind") == "find":
        run.searched = read_searched(store.paths.search)
    run.signatures = gates.signatures(folder)
    run.problems = problems(folder)
    return run
