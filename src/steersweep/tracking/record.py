"""What a tracker is told: a run per method of a job, a row per condition."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

from steersweep.core import typed
from steersweep.people.reviews import results_in
from steersweep.run.paths import RunPaths
from steersweep.run.result import Cell, Result
from steersweep.run.result_files import (
    read_result_file,
    read_verification,
    result_files,
    verification_file,
)
from steersweep.study.phases.registry import step_of_file
from steersweep.study.plan import Plan
from steersweep.study.sweeps import Step

if TYPE_CHECKING:
    from steersweep.study.jobs import Ended

# What a row of a run has, see docs/tracking.md.
FIELDS = (
    "model_id",
    "method",
    "layer_idx",
    "layer_pct",
    "multiplier",
    "relative_strength",
    "quantization",
    "refusal_rate",
    "coherent_refusal_rate",
    "garbled_refusal_rate",
    "direction_norm",
    "n_samples",
    "n_unique",
    "sample_outputs",
    "output_quality",
)
SAMPLE_COLUMNS = (
    "condition",
    "kind",
    "method",
    "layer_idx",
    "multiplier",
    "prompt",
    "response",
    "quality",
    "refusal",
    "finish_reason",
)
SWEEPS = "steersweep-sweeps"  # the project of sweeps outside a study
_SHOWN_OUTPUTS = 3


@dataclass(frozen=True)
class TrackedRun:
    """One run of a tracker.

    Attributes:
        project: the phase's.
        name: as the plan calls it, such as `qwen-3b-dim`.
        group: the study, or the folder of a sweep.
        tags: family and phase.
        config: what was run, and with what.
        rows: a dict per condition: `FIELDS`, and `kind`: steered, unsteered or random direction.
        samples: a line per response, of `SAMPLE_COLUMNS`.
        summary: verdict per method.
        files: directions and condition files, relative to the run folder, by kind.
        result: the results as plain data, to be kept as a file.
    """

    project: str
    name: str
    group: str
    tags: tuple[str, ...]
    config: dict[str, Any]
    rows: list[dict[str, Any]]
    samples: list[list[Any]]
    summary: dict[str, Any]
    files: dict[str, list[str]]
    result: list[Mapping[str, Any]]

    @property
    def key(self) -> str:
        """What it is called among all runs of the folder."""
        return f"{self.project}/{self.name}"

    @property
    def digest(self) -> str:
        """Of what it holds: a run that says the same need not be told again."""
        text = json.dumps([self.rows, self.samples, self.summary], sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:16]

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
    asked = None if verified is None else read_verification(verified)["reproduction"]
    if verified is not None and asked:
        file = paths.named(asked["results_file"])
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
        {
            "model_id": first.model_id,
            "family": first.family,
            "quantization": first.quantization,
            "n_layers": first.n_layers,
            "d_model": first.d_model,
            "methods": [result.method for result in results],
            "edit": first.conditions[0].edit.as_json(),
            "provenance": dict(first.provenance),
        },
        [_row(*held) for held in cells.values()],
        [line for kind, cell, _ in cells.values() for line in _samples(kind, cell)],
        _summary(results),
        {
            "direction": [str(inside / name) for name in sorted(directions)],
            "condition": [str(inside / paths.name_of(paths.condition(key))) for key in cells],
        },
        [_without_samples(typed.plain(result.without_samples())) for result in results],
    )


def _row(kind: str, cell: Cell, result: Result) -> dict[str, Any]:
    outputs = [sample.response for sample in cell.samples[:_SHOWN_OUTPUTS]]
    held = {
        **replace(cell, samples=()).as_json(),
        "model_id": result.model_id,
        "quantization": result.quantization,
        "sample_outputs": "\n---\n".join(outputs),
    }
    return {"kind": kind, **{field: held[field] for field in FIELDS}}


def _samples(kind: str, cell: Cell) -> list[list[Any]]:
    at = cell.steering
    layer, multiplier = (None, None) if at is None else (at.layer_idx, at.multiplier)
    place = [cell.key, kind, cell.method, layer, multiplier]
    return [
        [
            *place,
            sample.prompt,
            sample.response,
            sample.judgement.quality,
            sample.judgement.refusal,
            sample.finish_reason,
        ]
        for sample in cell.samples
    ]


def _summary(results: Sequence[Result]) -> dict[str, Any]:
    found: dict[str, Any] = {}
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
