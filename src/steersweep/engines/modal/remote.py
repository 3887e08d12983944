"""What runs in Modal's containers: a piece of work on a GPU, or the study that leads the others.

The run folder lies on a volume. Work saves there and commits after every condition. The study
works on a copy, since a volume with open files cannot be reloaded, and publishes what it changes.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from steersweep.catalog.gpus import kind_of
from steersweep.core.errors import SteersweepError
from steersweep.core.journal import append_text
from steersweep.engines.engine import (
    Engine,
    Event,
    OnEvent,
    Work,
    carry_out,
    sparingly,
    timed_out,
)
from steersweep.engines.share import is_of_jobs
from steersweep.study.plan import Plan, parse_plan
from steersweep.study.study import StudyOptions, run_study
from steersweep.work.job import Progress

RUNS, HUB = "/runs", "/hub"  # where the volumes are mounted
RUNS_VOLUME, HUB_VOLUME, EVENTS_QUEUE = "steersweep-runs", "steersweep-hub", "steersweep-events"
LOG = "log.txt"
_END_BEFORE_TIMEOUT_S = 30.0  # Modal's own end of a call would look like a lost machine
_PROGRESS_EVERY_S = 5.0


def work_there(work: Work, run: str) -> Event:
    """A function of a phase's app: one piece of work of a run. Returns how it ended."""
    import modal

    volume = modal.Volume.from_name(RUNS_VOLUME)
    queue = modal.Queue.from_name(EVENTS_QUEUE, create_if_missing=True)

    def tell(event: Event) -> None:
        # Progress is for people: a queue that is full or away must not end a job.
        with contextlib.suppress(modal.exception.Error, TimeoutError):
            queue.put(event, partition=run)

    volume.reload()
    end = run_work(work, Path(RUNS) / run, volume.commit, tell)
    modal.Volume.from_name(HUB_VOLUME).commit()
    return end


def run_work(work: Work, folder: Path, commit: Callable[[], Any], tell: OnEvent) -> Event:
    """Carry work out in a folder of a volume, commit every finished condition; returns its end."""
    gpu = _gpu_here()
    ends: list[Event] = []
    saved = -1

    def on_event(event: Event) -> None:
        nonlocal saved
        done = -1 if event.progress is None else event.progress.done
        if event.is_end or done > saved:
            saved = done
            commit()
        if event.is_end:
            ends.append(event)
            return
        tell(event)
        limit = work.timeout_s and work.timeout_s - _END_BEFORE_TIMEOUT_S
        if limit and limit > 0 and event.seconds >= limit:
            ends.append(Event(work.name, "failed", event.seconds, error=timed_out(work)))
            raise _TimeIsUp

    with contextlib.suppress(_TimeIsUp):
        carry_out(work, folder, sparingly(on_event, _PROGRESS_EVERY_S))
    return replace(ends[-1], gpu=gpu)


class _TimeIsUp(Exception):
    """Ends a piece of work at its timeout."""


def study_there(plan_text: str, run: str, options: Mapping[str, Any]) -> dict[str, Any]:
    """The function of the study's app: lead a study to its end or next gate; returns the outcome.

    Called again after its machine was taken away, it goes on with what the volume holds, and takes
    over the jobs that still run.
    """
    import modal

    # Imports this module for its names.
    from steersweep.engines.modal.engine import ModalCalls, ModalEngine

    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    plan = parse_plan(plan_text, "the plan")
    volume = modal.Volume.from_name(RUNS_VOLUME)
    share = VolumeShare(Path(RUNS) / run, volume.commit, volume.reload)
    return lead(plan, share, ModalEngine(plan, share, ModalCalls(run)), options)


def lead(
    plan: Plan, share: VolumeShare, engine: Engine, options: Mapping[str, Any]
) -> dict[str, Any]:
    """Run a study on an engine in a copy of its folder; see `study_there`.

    Args:
        plan: what to run.
        share: the run folder on the volume.
        engine: where jobs run.
        options: fields of `StudyOptions`, and `shown_as`: what messages call the folder.
    """
    options = dict(options)
    shown_as = options.pop("shown_as", "DIR")
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch) / "run"
        share.copy_all(folder)

        def say(line: str) -> None:
            append_text(folder / LOG, line.replace(str(folder), shown_as))
            share.publish(folder)

        def warn(progress: Progress) -> None:
            if progress.warning:
                say(f"{progress.job}: note: {progress.warning}")

        try:
            run_study(
                plan,
                folder,
                StudyOptions(**options),
                engine=engine,
                on_progress=warn,
                on_line=say,
            )
        except SteersweepError as error:
            message = str(error).replace(str(folder), shown_as)
            say(message)
            phase = getattr(error, "phase", None)
            return {"exit_code": error.exit_code, "message": message, "phase": phase}
        finally:
            share.publish(folder)
    return {"exit_code": 0, "message": "every phase asked for is done", "phase": None}


class VolumeShare:
    """A folder on a volume, and copies of it elsewhere.

    Args:
        root: the folder where the volume is mounted.
        commit: makes what was written visible to others.
        reload: makes visible here what others committed.
    """

    def __init__(self, root: Path, commit: Callable[[], Any], reload: Callable[[], Any]) -> None:
        self._root = root
        self._commit = commit
        self._reload = reload
        self._published: dict[str, tuple[int, int]] = {}

    def copy_all(self, folder: Path) -> None:
        """Bring everything the volume holds of the run to `folder`."""
        self._reload()
        if self._root.is_dir():
            shutil.copytree(self._root, folder, dirs_exist_ok=True)

    def refresh(self, folder: Path) -> None:
        """Bring what jobs saved since."""
        self._reload()
        for path in self._root.rglob("*"):
            name = path.relative_to(self._root)
            if path.is_file() and is_of_jobs(name) and not (folder / name).exists():
                _copy(path, folder / name)

    def publish(self, folder: Path) -> None:
        """Send what changed in `folder`, but nothing of what jobs save."""
        changed = False
        for path in folder.rglob("*"):
            name = path.relative_to(folder)
            if not path.is_file() or is_of_jobs(name) or path.name.startswith("."):
                continue
            state = path.stat().st_size, path.stat().st_mtime_ns
            if self._published.get(str(name)) != state:
                _copy(path, self._root / name)
                self._published[str(name)] = state
                changed = True
        if changed:
            self._commit()


def _copy(source: Path, target: Path) -> None:
    """Copy a file so that it appears whole."""
    target.parent.mkdir(parents=True, exist_ok=True)
    part = target.with_name(f".{target.name}.part")
    shutil.copyfile(source, part)
    part.replace(target)


def _gpu_here() -> str:
    """The catalog's kind of the GPU this container was given."""
    import torch

    if not torch.cuda.is_available():
        return ""
    facts = torch.cuda.get_device_properties(0)
    return kind_of(facts.name, facts.total_memory / 1e9) or ""
