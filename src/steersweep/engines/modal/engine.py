"""Modal: a study runs in a small container there and calls a function with a GPU for each job."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol

from steersweep.core.errors import SteersweepError
from steersweep.engines.engine import Cancelled, Event, OnEvent, Work
from steersweep.engines.modal.functions import RemoteFunction, import_modal, modal_gpu, place
from steersweep.engines.modal.remote import EVENTS_QUEUE
from steersweep.engines.modal.volume import VolumeShare
from steersweep.run.folder import RunFolder

_LOOK_EVERY_S = 2.0


class Lost(Exception):
    """A call ended without a result."""


@dataclass
class _Heard:
    """What was last heard of a call: its seconds then, and when, by this machine's clock."""

    at: float
    seconds: float = 0.0

    def by_now(self) -> float:
        """Its seconds if it has gone on in silence: while a model loads nothing is said."""
        return self.seconds + time.monotonic() - self.at


class Calls(Protocol):
    """The calls of functions that an engine makes."""

    def spawn(
        self, app: str, function: str, gpu: str | None, timeout_s: int | None, work: Work
    ) -> str:
        """Begin a call; returns its id. `gpu` and `timeout_s`: None, as deployed."""

    def result(self, call: str) -> Event | None:
        """How a call ended, None while it runs.

        Raises:
            Lost: it ended without a result, or is not known any more.
        """

    def cancel(self, call: str) -> None:
        """End a call."""

    def heard(self) -> list[Event]:
        """Progress since the last time."""


class ModalEngine:
    """Calls deployed functions, from within Modal.

    Args:
        functions: that are deployed.
        function_of: app and name of the function that carries out a piece of work.
        share: the run folder on its volume.
        calls: makes the calls.
    """

    def __init__(
        self,
        functions: Iterable[RemoteFunction],
        function_of: Callable[[Work], tuple[str, str]],
        share: VolumeShare,
        calls: Calls,
    ) -> None:
        self._deployed = {(f.app, f.name): f for f in functions}
        self._function_of = function_of
        self._share = share
        self._calls = calls
        self._folder = Path()
        self._running: dict[str, str] = {}
        self._heard: dict[str, _Heard] = {}
        self._done: dict[str, int] = {}
        self._cancelled: set[str] = set()

    def open(self, folder: Path) -> None:
        """Work in `folder`, a copy of the run folder on the volume."""
        self._folder = folder

    def close(self) -> None:
        """Cancel what still runs."""
        for name in self._running:
            self.cancel(name)
        self._share.publish(self._folder)

    def kind(self, gpu: str) -> str:
        """As planned; the cheapest GPU for what was planned for none."""
        return place(gpu)

    def capacity(self, kind: str) -> int | None:
        """As many as asked for; the plan's concurrency is the limit."""
        place(kind)
        return None

    def device(self, kind: str) -> str:
        """The container's GPU."""
        return "cuda"

    def submit(self, work: Work) -> None:
        """Call the function of the work's step and model, unless that very call still runs."""
        key = f"{work.name} on {work.gpu}"
        held = self._noted().get(key)
        self._cancelled.discard(work.name)
        self._heard[work.name], self._done[work.name] = _Heard(time.monotonic()), 0
        if held is None or not self._still_runs(held):
            # The reservation must be on the volume before money is spent.
            self._share.publish(self._folder)
            held = self._call(work)
            self._note(key, held)
        self._running[work.name] = held

    def cancel(self, name: str) -> None:
        """End its call."""
        if name in self._running:
            self._cancelled.add(name)
            self._calls.cancel(self._running[name])

    def wait(self, on_event: OnEvent) -> None:
        """Hand over what the calls reported, and how they ended."""
        heard = [event for event in self._calls.heard() if event.work in self._running]
        for event in heard:
            self._hear(event, on_event)
            if event.progress is not None and event.progress.done > self._done[event.work]:
                self._done[event.work] = event.progress.done
                self._share.refresh(self._folder)
            on_event(event)
        ended = [(name, end) for name in [*self._running] if (end := self._end(name)) is not None]
        for name, event in ended:
            del self._running[name]
            self._share.refresh(self._folder)
            on_event(event)
        self._share.publish(self._folder)
        if not heard and not ended:
            time.sleep(_LOOK_EVERY_S)

    def _hear(self, event: Event, on_event: OnEvent) -> None:
        """Note an event's seconds. Modal begins a call again whose machine it takes away.

        What the earlier attempt took in silence is reported first, at its worst: until the new one
        began.
        """
        held = self._heard[event.work]
        if event.seconds < held.seconds or (event.kind == "started" and held.seconds):
            on_event(Event(event.work, "progress", held.by_now() - event.seconds))
        # A sign of life counts as time, so that a second start is told from the first.
        self._heard[event.work] = _Heard(time.monotonic(), max(event.seconds, 1e-9))

    def _call(self, work: Work) -> str:
        app, function = self._function_of(work)
        deployed = self._deployed[app, function]
        # Every job has a timeout here, so that it ends itself before Modal ends it.
        work = replace(work, timeout_s=work.timeout_s or deployed.timeout_s)
        timeout = int(work.timeout_s or 0)
        return self._calls.spawn(
            app,
            function,
            None if work.gpu == deployed.gpus[0] else modal_gpu(work.gpu),
            None if timeout == deployed.timeout_s else timeout,
            work,
        )

    def _end(self, name: str) -> Event | None:
        try:
            return self._calls.result(self._running[name])
        except Lost as lost:
            seconds = self._heard[name].by_now()
            if name in self._cancelled:
                return Event(name, "failed", seconds, error=Cancelled(f"{name} was cancelled"))
            return Event(name, "lost", seconds, error=SteersweepError(f"{name}: {lost}"))

    def _still_runs(self, call: str) -> bool:
        with contextlib.suppress(Lost):
            return self._calls.result(call) is None
        return False

    def _noted(self) -> dict[str, str]:
        run = RunFolder(self._folder)
        return dict(run.read_json(run.paths.calls) or {})

    def _note(self, key: str, call: str) -> None:
        run = RunFolder(self._folder)
        run.write_json(run.paths.calls, self._noted() | {key: call})
        self._share.publish(self._folder)


class ModalCalls:
    """Calls of deployed functions through Modal's client.

    Args:
        run: name of the run; progress comes through its partition of a queue.
    """

    def __init__(self, run: str) -> None:
        self._modal = import_modal()
        self._run = run
        self._queue = self._modal.Queue.from_name(EVENTS_QUEUE, create_if_missing=True)

    def spawn(
        self, app: str, function: str, gpu: str | None, timeout_s: int | None, work: Work
    ) -> str:
        """See `Calls`."""
        called = self._modal.Function.from_name(app, function)
        options = {"gpu": gpu, "timeout": timeout_s}
        options = {name: value for name, value in options.items() if value is not None}
        if options:
            called = called.with_options(**options)
        return str(called.spawn(work, self._run).object_id)

    def result(self, call: str) -> Event | None:
        """See `Calls`."""
        errors = self._modal.exception
        try:
            found: Event = self._modal.FunctionCall.from_id(call).get(timeout=0)
        except errors.OutputExpiredError as error:
            raise Lost(f"its result has expired: {error}") from error
        except errors.FunctionTimeoutError as error:
            raise Lost(f"Modal ended it at its timeout: {error}") from error
        except (TimeoutError, errors.TimeoutError):
            return None
        except (errors.ConnectionError, errors.ServiceError, errors.InternalError):
            return None  # of the line, not of the call; ask again
        except Exception as error:  # whatever ended the call came through here
            raise Lost(f"{type(error).__name__}: {error}") from error
        return found

    def cancel(self, call: str) -> None:
        """See `Calls`."""
        with contextlib.suppress(self._modal.exception.Error):
            self._modal.FunctionCall.from_id(call).cancel(terminate_containers=True)

    def heard(self) -> list[Event]:
        """See `Calls`."""
        with contextlib.suppress(self._modal.exception.Error):
            return list(self._queue.get_many(100, block=False, partition=self._run) or [])
        return []
