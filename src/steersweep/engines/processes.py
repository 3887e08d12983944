"""Several devices of this machine at once: a process for each, which lives from job to job.

Work goes to a process and events come back as pickles over its pipes. A process is not
multiprocessing's: a script that uses the library needs no `__main__` guard, and a process that dies
takes nobody with it.
"""

from __future__ import annotations

import contextlib
import os
import pickle
import queue
import signal
import subprocess
import sys
import threading
from collections import deque
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from steersweep.catalog.gpus import LOCAL
from steersweep.core.errors import SteersweepError
from steersweep.core.processor import use_sparingly
from steersweep.core.redaction import hide_secrets_of_crashes
from steersweep.core.signals import end_on_signals
from steersweep.engines.engine import Cancelled, Event, OnEvent, Work, carry_out, sparingly

_LOOK_EVERY = 0.2  # seconds
_STOP_WITHIN = 10.0


class ProcessEngine:
    """Runs as many jobs at a time as there are devices, each in a process of its own."""

    def __init__(self, devices: Sequence[str]) -> None:
        self._devices = list(devices)
        self._idle: list[_Process] = []
        self._busy: dict[str, _Process] = {}
        self._waiting: deque[Work] = deque()
        self._events: queue.Queue[tuple[_Process, Event | None]] = queue.Queue()
        self._seconds: dict[str, float] = {}
        self._folder = Path()

    def open(self, folder: Path) -> None:
        """Work in `folder`."""
        self._folder = folder
        self._idle = [_Process(device, self._events) for device in self._devices]

    def close(self) -> None:
        """End every process."""
        for process in (*self._idle, *self._busy.values()):
            process.stop()
        self._idle, self._busy = [], {}
        self._waiting.clear()

    def kind(self, gpu: str) -> str:
        """This machine, whatever was planned."""
        return LOCAL

    def capacity(self, kind: str) -> int | None:
        """One job per device."""
        return len(self._devices)

    def device(self, kind: str) -> str:
        """The first device; the others are of its type."""
        return self._devices[0]

    def submit(self, work: Work) -> None:
        """Give it to an idle process, or to the first that becomes idle."""
        self._waiting.append(work)
        self._hand_out()

    def cancel(self, name: str) -> None:
        """Stop the process it runs in; the device gets a new one."""
        if name in self._busy:
            self._busy[name].cancelled = True
            self._busy[name].stop()

    def wait(self, on_event: OnEvent) -> None:
        """Hand over what the processes reported."""
        try:
            process, event = self._events.get(timeout=_LOOK_EVERY)
        except queue.Empty:
            # One that died while it was idle told so before it was given this work.
            dead = next((p for p in self._busy.values() if not p.is_alive), None)
            if dead is None:
                return
            process, event = dead, None
        name = process.work
        if name is None or self._busy.get(name) is not process:
            return  # the last words of a process that was stopped
        if event is None:
            event = self._end_of(process, name)
        self._seconds[name] = event.seconds
        if event.is_end:
            del self._busy[name]
            alive = process.is_alive
            self._idle.append(process if alive else _Process(process.device, self._events))
            self._idle[-1].work = None
        on_event(event)
        self._hand_out()

    def _hand_out(self) -> None:
        while self._waiting and self._idle:
            process, work = self._idle.pop(), self._waiting.popleft()
            self._busy[work.name] = process
            process.send(self._folder, replace(work, job=replace(work.job, device=process.device)))

    def _end_of(self, process: _Process, name: str) -> Event:
        """What the end of a process means for the work it was at."""
        code, seconds = process.stop(), self._seconds.get(name, 0.0)
        if process.cancelled:
            return Event(name, "failed", seconds, error=Cancelled(f"{name} was cancelled"))
        reason = f"the process on {process.device} ended with exit code {code}"
        return Event(name, "lost", seconds, error=SteersweepError(f"{name}: {reason}"))


class _Process:
    """A process that carries out work on one device, and a thread that reads what it reports."""

    def __init__(self, device: str, events: queue.Queue[tuple[_Process, Event | None]]) -> None:
        self.device = device
        self.work: str | None = None
        self.cancelled = False
        self._process = subprocess.Popen(
            [sys.executable, "-m", __name__], stdin=subprocess.PIPE, stdout=subprocess.PIPE
        )
        self._events = events
        threading.Thread(target=self._read, daemon=True).start()

    @property
    def is_alive(self) -> bool:
        return self._process.poll() is None

    def send(self, folder: Path, work: Work) -> None:
        """Let it begin; a process that is gone shows in the events."""
        self.work = work.name
        assert self._process.stdin is not None
        with contextlib.suppress(BrokenPipeError):
            pickle.dump((str(folder), work), self._process.stdin)
            self._process.stdin.flush()

    def stop(self) -> int:
        """End it, now; what it saved is whole. Returns its exit code."""
        if self.is_alive:
            self._process.kill()
        return self._process.wait(_STOP_WITHIN)

    def _read(self) -> None:
        assert self._process.stdout is not None
        try:
            while True:
                self._events.put((self, pickle.load(self._process.stdout)))
        except (EOFError, OSError, pickle.UnpicklingError):
            self._events.put((self, None))


def main() -> None:
    """What a process of the engine runs: work from standard input, events to standard output."""
    end_on_signals()
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl+C reaches the parent, which ends this one
    hide_secrets_of_crashes()
    use_sparingly()
    # Whatever libraries print must not get between the pickles.
    events = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)

    def send(event: Event) -> None:
        pickle.dump(event, events)
        events.flush()

    while True:
        try:
            folder, work = pickle.load(sys.stdin.buffer)
        except EOFError:
            return
        try:
            carry_out(work, Path(folder), sparingly(send))
        except BrokenPipeError:  # whoever asked for it is gone
            return


if __name__ == "__main__":
    main()
