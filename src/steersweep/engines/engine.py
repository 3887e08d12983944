"""The protocol of engines: work goes in; what happens to it comes out as events.

An engine moves whole jobs, never conditions. Whoever runs a piece of work calls `carry_out`, which
saves finished conditions in the run folder it sees; an engine sees to it that they reach the run
folder the study was begun with before it reports them.
"""

from __future__ import annotations

import gc
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal, Protocol

from steersweep.core.atomic import Unwritable, write_text
from steersweep.core.errors import InputError, SteersweepError
from steersweep.core.redaction import redacted_traceback
from steersweep.model.find import find_model
from steersweep.model.source import LAB_PREFIX, ModelSource
from steersweep.run.folder import RunFolder
from steersweep.run.paths import RunPaths
from steersweep.work.job import Job, Progress
from steersweep.work.worker import run_job


@dataclass(frozen=True)
class Work:
    """A job on its way: a model at a precision with its conditions, and where it may run.

    Attributes:
        name: unique among the work of a phase, such as `gemma-9b family fp16`.
        job: the model and its conditions.
        gpu: kind of GPU to run on, as the engine's `kind` gave it.
        timeout_s: limit of the plan, or None.
        folder: where its conditions go, relative to the run folder; empty: the run folder.
        labels: `phase`, `step`, `model` and `family` of the plan, for an engine's names.
    """

    name: str
    job: Job
    gpu: str
    timeout_s: float | None = None
    folder: str = ""
    labels: Mapping[str, str] = field(default_factory=dict)


Kind = Literal["started", "progress", "finished", "failed", "lost"]


@dataclass(frozen=True)
class Event:
    """What an engine reports of a piece of work.

    Attributes:
        work: its name.
        kind: `started`; `progress`, which includes finished conditions; and one of three ends:
            `finished`, `failed` with an error, or `lost` when the machine under it went away and
            the same work may be submitted again.
        seconds: how long this attempt has occupied its GPU so far; money follows from it. Where a
            provider begins the work again by itself, they begin again too.
        progress: with `progress`.
        error: with `failed` and `lost`.
        gpu: the kind it really runs on, where a provider may give a larger one; else empty.
    """

    work: str
    kind: Kind
    seconds: float = 0.0
    progress: Progress | None = None
    error: SteersweepError | None = None
    gpu: str = ""

    @property
    def is_end(self) -> bool:
        """Whether nothing more will come of this work."""
        return self.kind in ("finished", "failed", "lost")


OnEvent = Callable[[Event], None]


class Cancelled(SteersweepError):
    """The study asked for the end of this work."""


class TimedOut(SteersweepError):
    """Work reached its timeout; what it finished counts."""

    exit_code = 4


def timed_out(work: Work) -> TimedOut:
    """The error of work that reached its timeout."""
    return TimedOut(
        f"{work.name}: its timeout of {work.timeout_s:g} s is reached. What is finished "
        f"counts; the same command again goes on with the rest"
    )


class Engine(Protocol):
    """Where work runs. A study knows engines by this alone."""

    def open(self, folder: Path) -> None:
        """Make ready for the run in `folder`. Everything saved there is seen by the work.

        Raises:
            InputError: this engine cannot be used here; the message says what is missing.
        """

    def close(self) -> None:
        """End what still runs, and let go of processes and connections."""

    def kind(self, gpu: str) -> str:
        """The kind of GPU that work planned for `gpu` runs on here; its price is what counts."""

    def capacity(self, kind: str) -> int | None:
        """Jobs of a kind of GPU that can run at the same time; None: as many as asked for.

        Raises:
            InputError: this engine has no such GPU.
        """

    def device(self, kind: str) -> str:
        """Torch device of work on a kind of GPU; `auto` and precisions are resolved by it."""

    def submit(self, work: Work) -> None:
        """Begin a piece of work, at once or in `wait`."""

    def cancel(self, name: str) -> None:
        """Ask for the end of a piece of work. It still ends with an event."""

    def wait(self, on_event: OnEvent) -> None:
        """Hand over what happened; returns after some events, or after a moment without any.

        What `on_event` raises ends the call.
        """


def carry_out(work: Work, folder: Path, on_event: OnEvent) -> None:
    """Run work where it has arrived, and report from its start to its end.

    Errors become an event and end this work alone. One that nobody foresaw does too; its traceback
    is kept in `logs/` of the run folder. What `on_event` raises passes through.

    Args:
        work: what to run.
        folder: the run folder as it is seen here.
        on_event: told of its start, progress and end.
    """
    started = time.monotonic()
    told: list[BaseException] = []

    def tell(
        kind: Kind, progress: Progress | None = None, error: SteersweepError | None = None
    ) -> None:
        try:
            on_event(Event(work.name, kind, time.monotonic() - started, progress, error))
        except BaseException as raised:
            told.append(raised)
            raise

    gc.collect()  # the model of the work before
    tell("started")
    try:
        job = replace(work.job, source=found_here(work.job.source))

        def note(text: str) -> None:
            tell(
                "progress", Progress(job.source.name, 0, len(job.conditions), 0.0, "", warning=text)
            )

        store = RunFolder(folder / work.folder, on_note=note)
        run_job(job, store, lambda progress: tell("progress", progress))
    except SteersweepError as error:
        if error in told:
            raise
        failure = error
    except Exception as error:
        if error in told:
            raise
        log = RunPaths(folder).traceback(work.name)
        failure = SteersweepError(
            f"{type(error).__name__}: {error} (traceback: {log.relative_to(folder)})"
        )
        try:
            write_text(log, redacted_traceback(error))
        except Unwritable as full:
            failure = full
    else:
        return tell("finished")
    return tell("failed", error=failure)


def sparingly(on_event: OnEvent, every: float = 0.5) -> OnEvent:
    """Pass on every event but progress within `every` seconds with nothing finished and no warning.

    For events that travel: a small model makes hundreds of steps a second.
    """
    last, done = -every, -1

    def pass_on(event: Event) -> None:
        nonlocal last, done
        now, finished = time.monotonic(), event.progress.done if event.progress else -1
        warns = event.progress is not None and bool(event.progress.warning)
        if event.kind == "progress" and now - last < every and finished == done and not warns:
            return
        last, done = now, finished
        on_event(event)

    return pass_on


def found_here(source: ModelSource) -> ModelSource:
    """The same model on the machine this runs on; lab models lie elsewhere on each.

    Raises:
        InputError: a folder that this machine does not have.
    """
    if source.model_id.startswith(LAB_PREFIX):
        return find_model(source.model_id)
    if Path(source.location).is_absolute() and not source.is_local:
        raise InputError(
            f"{source.model_id}: {source.location} is not on the machine that should "
            f"run it; put it on storage that every machine sees, or on the hub"
        )
    return source
