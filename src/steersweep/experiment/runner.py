"""Runs a sweep from settings to result files; the same call again continues it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from steersweep.errors import SteersweepError
from steersweep.experiment.results import Result, sweep_results, write_results
from steersweep.experiment.sweep import SweepSettings, make_job
from steersweep.store import RunStore, run_lock
from steersweep.worker import Job, OnProgress, run_job

RunJob = Callable[[Job, RunStore, OnProgress], None]


@dataclass(frozen=True)
class SweepOutcome:
    """What a sweep left behind.

    Attributes:
        folder: the run folder.
        results: result objects, one per model and method.
        results_file: where they are written.
    """

    folder: Path
    results: list[Result]
    results_file: Path


def run_sweep(
    settings: SweepSettings,
    out: Path,
    *,
    device: str = "auto",
    on_progress: OnProgress = lambda _progress: None,
    on_model: Callable[[int, int], None] = lambda _index, _count: None,
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
        run: runs a job into the run folder on another machine, whose device `device` is then;
            None: here.

    Raises:
        InputError: bad settings, a folder of another run, or one where another process runs.
            Raised before any model is loaded where possible.
    """
    from steersweep.chat_model import resolve_device

    target = device if run else resolve_device(device)
    jobs = [make_job(settings, model, target) for model in settings.models]
    with run_lock(out):
        store = RunStore.open(out, settings.plan())
        created = _freeze(store, settings)
        for index, job in enumerate(jobs):
            on_model(index, len(jobs))
            (run or run_job)(job, store, on_progress)
        results = sweep_results(store, jobs, created)
        if not results:
            raise SteersweepError(f"{out}: no condition finished")
        return SweepOutcome(out, results, write_results(out, results, created))


def _freeze(store: RunStore, settings: SweepSettings) -> str:
    """Write `run.json` and `prompts.json` once; returns when the run began."""
    import torch

    from steersweep import provenance
    from steersweep.chat_model import resolve_device

    device = torch.device(resolve_device("auto"))
    run = store.put_once(
        "run.json", {"created": provenance.utc_now(), "provenance": provenance.facts(device)}
    )
    first = next(iter(settings.extraction.values()))
    store.put_once(
        "prompts.json",
        {
            "harmful": list(first.harmful),
            "harmless": list(first.harmless),
            "extraction": {name: found.content() for name, found in settings.extraction.items()},
            "test": list(settings.test.prompts),
            "test_repeats": settings.test.repeats,
        },
    )
    return str(run["created"])
