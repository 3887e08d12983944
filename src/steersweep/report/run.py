"""What a report shows of a run folder, read once; samples are handed on, not kept."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from steersweep.budget.ledger import Ledger
from steersweep.people import gates
from steersweep.people.corrected import apply_reviews
from steersweep.people.problems import problems
from steersweep.people.reviews import read_reviews
from steersweep.run.folder import RunFolder
from steersweep.run.result_files import read_result_file, result_files
from steersweep.study.phases.registry import all_phases
from steersweep.study.status import decided, status

Result = dict[str, Any]


@dataclass
class Run:
    """A run folder.

    Attributes:
        folder: where it is.
        plan: its frozen settings.
        results: result objects without samples, each with its `file` and `phase_name`.
        status: of a study, see `status`; None for a sweep.
        decisions: of a study, by phase.
        jobs: what the ledger holds, one row per job.
        signatures: of gates, as signed.
        n_reviews: labels that people gave.
        problems: what is damaged that cannot be made again.
    """

    folder: Path
    plan: Mapping[str, Any]
    results: list[Result] = field(default_factory=list)
    status: Mapping[str, Any] | None = None
    decisions: dict[str, Any] = field(default_factory=dict)
    jobs: list[dict[str, Any]] = field(default_factory=list)
    signatures: list[dict[str, Any]] = field(default_factory=list)
    n_reviews: int = 0
    problems: list[str] = field(default_factory=list)

    @property
    def name(self) -> str:
        """The study's name, or the folder's."""
        return str(self.plan.get("name") or self.folder.resolve().name)

    def of_phase(self, name: str) -> list[Result]:
        """Results of a phase."""
        return [result for result in self.results if result["phase_name"] == name]


def read_run(folder: Path, on_result: Callable[[Result], None] = lambda _result: None) -> Run:
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
            entry = apply_reviews(result, reviews) | {
                "file": store.paths.name_of(path),
                "phase_name": names[str(result["phase"])],
            }
            on_result(entry)
            run.results.append(_without_samples(entry))
    if run.plan.get("kind") == "study":
        run.status, run.decisions = status(folder), decided(folder)
        run.jobs = Ledger(folder).jobs()
    run.signatures = gates.signatures(folder)
    run.problems = problems(folder)
    return run


def _without_samples(result: Result) -> Result:
    def bare(entry: Result | None) -> Result | None:
        return entry and {name: value for name, value in entry.items() if name != "samples"}

    controls = result["controls"]
    return result | {
        "conditions": [bare(entry) for entry in result["conditions"]],
        "controls": {
            "unsteered": bare(controls["unsteered"]),
            "random_direction": bare(controls["random_direction"]),
            "random_directions": [bare(entry) for entry in controls["random_directions"]],
        },
    }
