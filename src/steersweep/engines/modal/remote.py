"""What runs in Modal's containers with a GPU: a piece of work.

The run folder lies on a volume. Work saves there and commits after every condition.
"""

from __future__ import annotations

import contextlib
import ctypes
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from steersweep.catalog.gpus import kind_of
from steersweep.engines.engine import (
    Event,
    OnEvent,
    Work,
    carry_out,
    sparingly,
    timed_out,
)

RUNS, HUB = "/runs", "/hub"  # where the volumes are mounted
RUNS_VOLUME, HUB_VOLUME, EVENTS_QUEUE = "steersweep-runs", "steersweep-hub", "steersweep-events"
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
    """Carry work out in a folder of a volume, commit every finished condition; returns its end.

    It ends itself some seconds before its timeout, whatever it is at then.
    """
    gpu, began = _gpu_here(), time.monotonic()
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

    with contextlib.suppress(_TimeIsUp), _ended_after(_limit(work)):
        carry_out(work, folder, sparingly(on_event, _PROGRESS_EVERY_S))
    if not ends:
        commit()
        ends.append(Event(work.name, "failed", time.monotonic() - began, error=timed_out(work)))
    return replace(ends[-1], gpu=gpu)


_AGAIN_S = 2.0


class _TimeIsUp(BaseException):
    """Ends a piece of work at its timeout; no handler of errors takes it for one."""


def _limit(work: Work) -> float | None:
    """Seconds after which work ends itself; None: it has no timeout."""
    if work.timeout_s is None:
        return None
    return max(work.timeout_s - _END_BEFORE_TIMEOUT_S, work.timeout_s / 2)


@contextlib.contextmanager
def _ended_after(seconds: float | None) -> Iterator[None]:
    """Raise `_TimeIsUp` in this thread after so long, between any two steps of Python.

    A model that loads says nothing for minutes, so looking at the clock at every sign of progress
    is not enough.
    """
    here, over = ctypes.c_ulong(threading.get_ident()), threading.Event()
    raise_in = ctypes.pythonapi.PyThreadState_SetAsyncExc

    def watch() -> None:
        # Again, should it be lost: Python ignores what is raised while a dead object is taken down.
        wait = seconds
        while not over.wait(wait):
            raise_in(here, ctypes.py_object(_TimeIsUp))
            wait = _AGAIN_S

    if seconds is not None:
        threading.Thread(target=watch, daemon=True).start()
    try:
        yield
    finally:
        over.set()
        raise_in(here, None)


def _gpu_here() -> str:
    """The catalog's kind of the GPU this container was given."""
    import torch

    if not torch.cuda.is_available():
        return ""
    facts = torch.cuda.get_device_properties(0)
    return kind_of(facts.name, facts.total_memory / 1e9) or ""
