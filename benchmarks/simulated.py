"""Machines that are taken away at random, as an engine with a clock of its own."""

from __future__ import annotations

import heapq
import itertools
import math
import random
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

from steersweep.core.errors import SteersweepError
from steersweep.engines.engine import Cancelled, Event, Kind, OnEvent, Work
from steersweep.model.memory import OutOfMemory
from steersweep.work.job import Progress

AWAY_S = 600.0  # until another machine stands in for one that was taken
SAVED_EVERY_S = 60.0  # of work


@dataclass
class Truth:
    """What a job really is, which nobody knows before it has run.

    Attributes:
        loading_s: by kind of GPU, until its model is loaded.
        working_s: by kind of GPU, all that follows.
        n_conditions: it has.
        gpu: kind that it is planned on.
        fits: kind that it fits, which may be another.
        saved: share of its work that is kept.
    """

    loading_s: Mapping[str, float]
    working_s: Mapping[str, float]
    n_conditions: int
    gpu: str
    fits: str
    saved: float = 0.0

    @property
    def done(self) -> int:
        """Conditions that have finished."""
        return int(self.saved * self.n_conditions + 1e-9)


@dataclass(frozen=True)
class Attempt:
    """A job on a GPU."""

    work: Work
    began: float
    ends: float
    kind: Kind
    error: SteersweepError | None = None


@dataclass
class Fleet:
    """Machines that are taken away at random, with a clock of their own: an engine.

    Attributes:
        gpus: of each kind.
        jobs: what each job really is, by name.
        rate: how often an hour a GPU at work is taken away.
        seed: of when.
        keeps: whether a job goes on from what it saved.
        look_s: seconds between two signs of progress of a job.
    """

    gpus: Mapping[str, int]
    jobs: Mapping[str, Truth]
    rate: float
    seed: int
    keeps: bool = True
    look_s: float = 900.0
    now: float = 0.0
    busy_s: dict[str, float] = field(default_factory=dict)
    losses: int = 0

    def __post_init__(self) -> None:
        self._random = random.Random(self.seed)
        self._next: list[tuple[float, int, str, Attempt | None]] = []
        self._count = itertools.count()
        self._running: dict[str, Attempt] = {}
        self._away = dict.fromkeys(self.gpus, 0)

    def open(self, folder: Path) -> None:
        """Nothing to open."""

    def close(self) -> None:
        """Nothing to close."""

    def kind(self, gpu: str) -> str:
        """As planned."""
        return gpu

    def capacity(self, kind: str) -> int | None:
        """GPUs of a kind that are there now."""
        return self.gpus[kind] - self._away[kind]

    def device(self, kind: str) -> str:
        """All have one."""
        return "cuda"

    def submit(self, work: Work) -> None:
        """Begin a job, on a GPU that is idle."""
        truth, kind = self.jobs[work.name], work.gpu
        if not self.keeps:
            truth.saved = 0.0
        loading_s = truth.loading_s[kind]
        ends = self.now + loading_s + (1 - truth.saved) * truth.working_s[kind]
        attempt = Attempt(work, self.now, ends, "finished")
        if truth.fits != kind and kind == truth.gpu:
            full = OutOfMemory(f"{work.name}: a single row does not fit")
            attempt = replace(attempt, ends=self.now + loading_s, kind="failed", error=full)
        taken = self.now + self._random.expovariate(self.rate / 3600) if self.rate else math.inf
        if taken < attempt.ends:
            gone = SteersweepError("the machine was taken away")
            attempt = replace(attempt, ends=taken, kind="lost", error=gone)
        self._running[work.name] = attempt
        self._at(self.now, work.name, attempt)

    def cancel(self, name: str) -> None:
        """End a job now."""
        attempt = replace(
            self._running[name],
            ends=self.now,
            kind="failed",
            error=Cancelled(f"{name} was cancelled"),
        )
        self._running[name] = attempt
        self._at(self.now, name, attempt)

    def wait(self, on_event: OnEvent) -> None:
        """Go on to the next thing that happens, and report it."""
        self.now, _, name, attempt = heapq.heappop(self._next)
        if attempt is None:  # another machine has come
            self._away[name] -= 1
        elif self._running.get(name) is attempt:
            on_event(self._step(attempt))

    def _step(self, attempt: Attempt) -> Event:
        name, kind, seconds = attempt.work.name, attempt.work.gpu, self.now - attempt.began
        truth = self.jobs[name]
        if self.now < attempt.ends:
            self._at(min(attempt.ends, self.now + self.look_s), name, attempt)
            # What is said to be finished is what would be kept if it ended now.
            done = int(self._saved(attempt, seconds) * truth.n_conditions + 1e-9)
            told = Progress(name, done, truth.n_conditions, 0.0, "")
            return Event(name, "progress", seconds, told)
        truth.saved = 1.0 if attempt.kind == "finished" else self._saved(attempt, seconds)
        self.busy_s[kind] = self.busy_s.get(kind, 0.0) + seconds
        del self._running[name]
        if attempt.kind == "lost":
            self.losses += 1
            self._away[kind] += 1
            self._at(self.now + AWAY_S, kind, None)
        return Event(name, attempt.kind, seconds, error=attempt.error)

    def _saved(self, attempt: Attempt, seconds: float) -> float:
        truth, kind = self.jobs[attempt.work.name], attempt.work.gpu
        worked = max(0.0, seconds - truth.loading_s[kind])
        kept = SAVED_EVERY_S * math.floor(worked / SAVED_EVERY_S) if self.keeps else 0.0
        return min(1.0, truth.saved + kept / truth.working_s[kind])

    def _at(self, time: float, name: str, attempt: Attempt | None) -> None:
        heapq.heappush(self._next, (time, next(self._count), name, attempt))
