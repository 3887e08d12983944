"""Runs a sweep from settings to result files; the same call again continues it."""

from __future__ import annotations

import gc
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from steersweep.core import provenance
from steersweep.core.errors import SteersweepError
from steersweep.people.problems import problems
from steersweep.run.folder import RunFolder
from steersweep.run.lock import run_lock
from steersweep.run.result import Result
from steersweep.run.result_files import write_result_file
from steersweep.run.verdict import Thresholds
from steersweep.sweeps import unchanged
from steersweep.sweeps.fastest import with_precision
from steersweep.sweeps.results import sweep_results
from steersweep.sweeps.settings import SweepSettings, make_job
from steersweep.work.asked_effects import note_asked
from steersweep.work.job import Job, OnProgress
from steersweep.work.overflow import as_it_runs
from steersweep.work.worker import run_job

RunJob = Callable[[Job, RunFolder, OnProgress], None]


@dataclass(frozen=True)
class SweepOutcome:
    """What a sweep left behind.

    Attributes:
        folder: the run folder.
        results: one per model and method.
        results_file: where they are written.
        stood: whether they were there, of an earlier run, and rest on the same.
    """

    folder: Path
    results: list[Result]
    results_file: Path
    stood: bool = False


def run_sweep(
    settings: SweepSettings,
    out: Path,
    *,
    device: str = "auto",
    on_progress: OnProgress = lambda _progress: None,
    on_model: Callable[[int, int], None] = lambda _index, _count: None,
    on_note: Callable[[str], None] = lambda _note: None,
    run: RunJob | None = None,
) -> SweepOutcome:
    """Run every condition that `out` lacks, then write the results.

    Each finished batch is on disk before the next begins; a kill loses at most the running one.

    Args:
        settings: what to run.
        out: the run folder, new or of the same settings.
        device: `auto` or a torch device.
        on_progress: receives progress within a model.
        on_model: called with the index of the model about to run, and the number of models.
        on_note: told, once each, what a user should know of how prompts are rendered, and what
            is damaged.
        run: runs a job into the run folder on another machine, whose device `device` is then;
            None: here.

    Raises:
        InputError: bad settings, a folder of another run, or one where another process runs.
            Raised before any model is loaded where possible.
    """
    from steersweep.model.device import resolve_device

    target = device if run else resolve_device(device)
    settings = with_precision(settings, out, target, on_note, is_here=run is None)

    def made(date: str) -> list[Job]:
        return [make_job(settings, model, target, date) for model in settings.models]

    created = begun(out)
    jobs = made(created[:10])  # before the lock: bad settings leave no folder behind
    plan = settings.plan() | {
        "model_fingerprints": [j.conditions[0].model_fingerprint for j in jobs]
    }
    with run_lock(out):
        if (earlier := begun(out))[:10] != created[:10]:  # another run began here meanwhile
            created, jobs = earlier, made(earlier[:10])
        same = ("model_fingerprints", *only_names(out, plan))
        store = RunFolder.open(out, plan, may_differ=same, on_note=on_note)
        freeze(store, settings, created)
        if settings.effects:
            judge = jobs[0].conditions[0].judge
            note_asked(store, settings.effects, judge, settings.special_tokens)
        notes = [*problems(out), *(note for job in jobs for note in job.notes)]
        for note in dict.fromkeys(notes):
            on_note(note)
        for index, job in enumerate(jobs):
            if index:
                gc.collect()  # the model before
            on_model(index, len(jobs))
            (run or run_job)(job, store, on_progress)
        ran = [as_it_runs(job, store) for job in jobs]
        key = unchanged.rests_on(store, ran, Thresholds(), settings.results_name)
        if (held := unchanged.standing(store, key)) is not None:
            return SweepOutcome(out, *held, stood=True)
        results = sweep_results(store, ran, Thresholds())
        if not results:
            raise SteersweepError(f"{out}: no condition finished")
        file = write_result_file(out, settings.results_name, results)
        unchanged.note(store, key, file)
        return SweepOutcome(out, results, file)


def begun(out: Path) -> str:
    """When the run in a folder began, in UTC; now, where there is none."""
    return RunFolder(out, repairs=False).begun() or provenance.utc_now()


def only_names(out: Path, asked: Mapping[str, Any]) -> list[str]:
    """Settings of the run in a folder that call by other names what is the same by content."""
    held = RunFolder(out, repairs=False).get_plan()
    if held is None:
        return []
    same = []
    if held.get("model_fingerprints") == asked["model_fingerprints"]:
        same.append("models")
    for field in ("test_prompts", "extraction_prompts"):
        if _hashes(held.get(field)) == _hashes(asked[field]):
            same.append(field)
    return same


def _hashes(ids: Any) -> Any:
    """What follows the name in the ids of prompt sets."""
    if isinstance(ids, dict):
        return {method: _hashes(prompts) for method, prompts in ids.items()}
    return str(ids).rpartition("@")[2]


def freeze(store: RunFolder, settings: SweepSettings, created: str) -> None:
    """Keep when the run began, and its prompts."""
    if store.read_json(store.paths.run) is None:
        store.write(store.paths.run, {"created": created, "provenance": _facts()})
    first = next(iter(settings.extracted.values()), None)
    store.write_once(
        store.paths.prompts,
        {
            "harmful": list(first.harmful) if first else [],
            "harmless": list(first.harmless) if first else [],
            "extraction": {name: found.content() for name, found in settings.extracted.items()},
            "test": list(settings.test.unique),
            "test_repeats": settings.test.repeats,
            **_of_prompts(settings),
        },
    )


def _facts() -> dict[str, Any]:
    """What the run was begun on."""
    import torch

    from steersweep.model.device import resolve_device

    return provenance.facts(torch.device(resolve_device("auto")))


def _of_prompts(settings: SweepSettings) -> dict[str, Any]:
    """What else is known of prompts: the system prompt, their turns and categories, by the text."""
    test = settings.test
    turns = {
        text: [asdict(turn) for turn in test.conversations[text]]
        for text in test.unique
        if text in test.conversations
    }
    categories = {t: test.categories[t] for t in test.unique if t in test.categories}
    facts = {"system": settings.system, "test_turns": turns, "test_categories": categories}
    return {name: value for name, value in facts.items() if value}
