"""What a tracker is told: a run per method of a job, a row per condition."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

from steersweep.core import typed
from steersweep.people.reviews import results_in
from steersweep.run.cell import Cell
from steersweep.run.edit_settings import EditSettings
from steersweep.run.paths import RunPaths
from steersweep.run.result import Result
from steersweep.run.result_files import (
    read_result_file,
    result_files,
    verification_file,
)
from steersweep.study.phases.registry import step_of_file
from steersweep.study.plan import Plan
from steersweep.study.sweeps import Step
from steersweep.verification.outcome import read_verification

if TYPE_CHECKING:
    from steersweep.study.listeners import Ended

SWEEPS = "steersweep-sweeps"  # the project of sweeps outside a study
_SHOWN_OUTPUTS = 3


@dataclass(frozen=True)
class TrackedRow:
    """A condition, as trackers have it (docs/tracking.md); what a control has not is None.

    `kind` is steered, unsteered or random direction; `sample_outputs` are its first answers.
    """

    kind: str
    model_id: str
    method: str
    layer_idx: int | None
    layer_pct: float | None
    multiplier: float | None
    relative_strength: float | None
    quantization: str
    refusal_rate: float
    coherent_refusal_rate: float
    garbled_refusal_rate: float
    direction_norm: float | None
    n_samples: int
    n_unique: int
    sample_outputs: str
    output_quality: str


@dataclass(frozen=True)
class TrackedSample:
    """A response, as a line of a table: of which condition, what was asked, said and judged."""

    condition: str
    kind: str
    method: str
    layer_idx: int | None
    multiplier: float | None
    prompt: str
    response: str
    quality: str
    refusal: bool
    finish_reason: str


@dataclass(frozen=True)
class TrackedConfig:
    """What was run, and with what; of the first result where a run has several."""

    model_id: str
    family: str
    quantization: str
    n_layers: int
    d_model: int
    methods: tuple[str, ...]
    edit: EditSettings
    provenance: Mapping[str, Any]


SAMPLE_COLUMNS = tuple(field.name for field in fields(TrackedSample))


@dataclass(frozen=True)
class TrackedRun:
    """One run of a tracker.

    Attributes:
        project: the phase's.
        name: as the plan calls it, such as `qwen-3b-dim`.
        group: the study, or the folder of a sweep.
        tags: family and phase.
        config: what was run, and with what.
        rows: of every condition.
        samples: every response.
        summary: verdict per method.
        files: directions and condition files, relative to the run folder, by kind.
        results: without responses, which lie in the condition files; to be kept as a file.
    """

    project: str
    name: str
    group: str
    tags: tuple[str, ...]
    config: TrackedConfig
    rows: list[TrackedRow]
    samples: list[TrackedSample]
    summary: dict[str, str | bool | float]
    files: dict[str, list[str]]
    results: list[Result]

    @property
    def key(self) -> str:
        """What it is called among all runs of the folder."""
        return f"{self.project}/{self.name}"

    @property
    def digest(self) -> str:
        """Of what it holds: a run that says the same need not be told again."""
        text = json.dumps([typed.plain(self.rows), self.table, self.summary], sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:16]

    @property
    def table(self) -> list[list[Any]]:
        """The responses as lines of `SAMPLE_COLUMNS`."""
        return [[getattr(line, name) for name in SAMPLE_COLUMNS] for line in self.samples]

    @property
    def result(self) -> list[Any]:
        """What result files hold of it, but for the responses."""
        return [_without_samples(typed.plain(result)) for result in self.results]

    def run_id(self, begun: str) -> str:
        """The same each time the same run is told again; `begun`: when the study began."""
        return hashlib.sha256(f"{begun} {self.key}".encode()).hexdigest()[:12]


def runs_of_job(plan: Plan, ended: Ended) -> list[TrackedRun]:
    """What a study knows of a model when a job of it is done."""
    return runs_of_step(plan, ended.sweep.step, ended.results, ended.folder)


def runs_of_study(plan: Plan, run_folder: Path, *, if_any: bool = False) -> list[TrackedRun]:
    """Every result file of a study, its verification's, and jobs of a phase that has not ended.

    Raises:
        InputError: there is none, and `if_any` is not set.
    """
    paths, found = RunPaths(run_folder), dict[str, TrackedRun]()

    def add(file: Path, results: Iterable[Result], folder: str = "") -> None:
        if (step := step_of_file(file.name)) is not None:
            found.update((run.key, run) for run in runs_of_step(plan, step, results, folder))

    verified = verification_file(run_folder)
    asked = None if verified is None else read_verification(verified).reproduction
    if verified is not None and asked:
        file = paths.named(asked.results_file)
        add(verified, read_result_file(file), paths.name_of(file.parent.parent))
    for file in sorted(paths.finished_jobs.glob("*.json")):
        add(file, read_result_file(file))
    if result_files(run_folder) or not (found or if_any):
        for file, held in results_in(run_folder):
            add(file, held)
    return [*found.values()]


def runs_of_step(
    plan: Plan, step: Step, results: Iterable[Result], folder: str = ""
) -> list[TrackedRun]:
    """Results under the plan's project and run names; `folder`: see `Ended`."""
    names = {model.model: model.name for model in plan.models.values()}
    together: dict[str, list[Result]] = {}
    for result in results:
        model = names.get(result.model_id) or result.model
        name = step.run_name(model, result.quantization, result.method)
        together.setdefault(name, []).append(result)
    return [
        tracked(
            held,
            plan.project(step.phase),
            name,
            plan.name,
            (held[0].family, f"phase-{step.number}"),
            folder,
        )
        for name, held in together.items()
    ]


def runs_of_sweep(results: Iterable[Result], folder: Path) -> list[TrackedRun]:
    """A sweep's results, a run per model and method."""
    together: dict[str, list[Result]] = {}
    for result in results:
        model = result.model.removeprefix("lab:").replace("/", "-")
        name = f"{model}-{result.label.method}-layer-sweep"
        together.setdefault(name, []).append(result)
    return [
        tracked(held, SWEEPS, name, folder.resolve().name, (held[0].family, "sweep"))
        for name, held in together.items()
    ]


def tracked(
    results: Sequence[Result],
    project: str,
    name: str,
    group: str,
    tags: tuple[str, ...],
    folder: str = "",
) -> TrackedRun:
    """One run of results that belong together; controls that they share come once.

    `folder`: of the files that they name, relative to the run folder.
    """
    cells: dict[str, tuple[str, Cell, Result]] = {}
    for result in results:
        controls = result.controls
        kinds: tuple[tuple[str, Sequence[Cell | None]], ...] = (
            ("unsteered", [controls.unsteered]),
            ("steered", result.conditions),
            ("random direction", controls.random_directions),
        )
        for kind, held in kinds:
            for cell in filter(None, held):
                cells.setdefault(cell.key, (kind, cell, result))
    first = results[0]
    steerings = [cell.steering for _, cell, _ in cells.values()]
    directions = {steering.direction_file for steering in steerings if steering is not None}
    paths, inside = RunPaths(Path()), PurePosixPath(folder)
    return TrackedRun(
        project,
        name,
        group,
        tags,
        TrackedConfig(
            model_id=first.model_id,
            family=first.family,
            quantization=first.quantization,
            n_layers=first.n_layers,
            d_model=first.d_model,
            methods=tuple(result.method for result in results),
            edit=first.conditions[0].edit,
            provenance=first.provenance,
        ),
        [_row(*held) for held in cells.values()],
        [line for kind, cell, _ in cells.values() for line in _samples(kind, cell)],
        _summary(results),
        {
            "direction": [str(inside / name) for name in sorted(directions)],
            "condition": [str(inside / paths.name_of(paths.condition(key))) for key in cells],
        },
        [result.without_samples() for result in results],
    )


def _row(kind: str, cell: Cell, result: Result) -> TrackedRow:
    at, rates = cell.steering, cell.rates
    outputs = [sample.response for sample in cell.samples[:_SHOWN_OUTPUTS]]
    return TrackedRow(
        kind=kind,
        model_id=result.model_id,
        method=cell.method,
        layer_idx=None if at is None else at.layer_idx,
        layer_pct=cell.layer_pct,
        multiplier=None if at is None else at.multiplier,
        relative_strength=None if at is None else at.relative_strength,
        quantization=result.quantization,
        refusal_rate=rates.refusal_rate,
        coherent_refusal_rate=rates.coherent_refusal_rate,
        garbled_refusal_rate=rates.garbled_refusal_rate,
        direction_norm=None if at is None else at.direction_norm,
        n_samples=rates.n_samples,
        n_unique=rates.n_unique,
        sample_outputs="\n---\n".join(outputs),
        output_quality=rates.output_quality,
    )


def _samples(kind: str, cell: Cell) -> list[TrackedSample]:
    at = cell.steering
    return [
        TrackedSample(
            condition=cell.key,
            kind=kind,
            method=cell.method,
            layer_idx=None if at is None else at.layer_idx,
            multiplier=None if at is None else at.multiplier,
            prompt=sample.prompt,
            response=sample.response,
            quality=sample.judgement.quality,
            refusal=sample.judgement.refusal,
            finish_reason=sample.finish_reason,
        )
        for sample in cell.samples
    ]


def _summary(results: Sequence[Result]) -> dict[str, str | bool | float]:
    found: dict[str, str | bool | float] = {}
    for result in results:
        verdict, best = result.verdict, result.verdict.best
        low, high = verdict.interval
        found |= {
            f"{result.method}/{name}": value
            for name, value in (
                ("verdict", verdict.outcome),
                ("provisional", verdict.provisional),
                ("best_layer_idx", best.layer_idx),
                ("best_multiplier", best.multiplier),
                ("coherent_refusal_rate", best.coherent_refusal_rate),
                ("coherent_refusal_low", low),
                ("coherent_refusal_high", high),
            )
        }
    return found


def _without_samples(held: Any) -> Any:
    """What a result file holds, but for samples, which lie in the condition files."""
    if isinstance(held, dict):
        return {key: _without_samples(v) for key, v in held.items() if key != "samples"}
    return [_without_samples(part) for part in held] if isinstance(held, list) else held
