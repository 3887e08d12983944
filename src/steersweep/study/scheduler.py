"""Which job runs when: order, concurrency, money, timeouts, lost machines, too small GPUs.

Knows an engine by its protocol alone, and nothing of what a job computes.
"""

from __future__ import annotations

import math
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from steersweep.budget.estimate import RESERVE
from steersweep.budget.ledger import BudgetStop, Ledger, Limits, way_out
from steersweep.core import provenance
from steersweep.core.atomic import Unwritable
from steersweep.core.errors import InputError, SteersweepError
from steersweep.engines.engine import Cancelled, Engine, Event, Work, timed_out
from steersweep.model.memory import OutOfMemory
from steersweep.study.listeners import Listeners
from steersweep.study.plan import Plan

MOST_ATTEMPTS = 3  # of a job whose machine is lost under it before it comes any further
_LOOK_EVERY = 1.0  # seconds after which a machine may have joined, while no job ends


@dataclass(frozen=True)
class Task:
    """Work that waits, with what a scheduler must know of it.

    Attributes:
        work: what to run, on the kind of GPU it is to be tried on next.
        seconds: what the rest of it is expected to take on a kind of GPU, as it stands.
        done: conditions that had finished when its machine was last lost.
        attempts: how often it was lost since more had finished.
    """

    work: Work
    seconds: Callable[[str], float]
    done: int = 0
    attempts: int = 0


@dataclass
class _Running:
    task: Task
    reservation: str
    reserved: float
    gpu: str
    price: float  # USD per second
    earlier: float = 0.0  # seconds of attempts that a provider began again by itself
    latest: float = 0.0  # seconds of the attempt that runs
    done: int = 0  # conditions that have finished
    cancelled: SteersweepError | None = None

    def hear(self, event: Event) -> None:
        """Count an event's seconds. Where they begin again, so did the work: both are paid."""
        if event.seconds < self.latest:
            self.earlier += self.latest
        self.latest = event.seconds
        if event.progress is not None:
            self.done = max(self.done, event.progress.done)

    @property
    def seconds(self) -> float:
        """What it has taken so far, every attempt."""
        return self.earlier + self.latest

    @property
    def cost(self) -> float:
        return self.seconds * self.price


class Scheduler:
    """Runs tasks on an engine within the limits.

    Args:
        plan: for prices, the concurrency of each kind of GPU and the fallbacks.
        ledger: of the run folder.
        limits: hard stops.
        engine: where work runs.
        listeners: told of progress, and what a person should read.
        on_finished: told the name of each job that finished.
        clock: seconds, from any beginning.
    """

    def __init__(
        self,
        plan: Plan,
        ledger: Ledger,
        limits: Limits,
        engine: Engine,
        listeners: Listeners,
        *,
        on_finished: Callable[[str], None],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._plan = plan
        self._ledger = ledger
        self._limits = limits
        self._engine = engine
        self._on_progress = listeners.on_progress
        self._on_finished = on_finished
        self._say = listeners.on_line
        self._running: dict[str, _Running] = {}
        self._waiting: deque[Task] = deque()
        self._failures: dict[str, SteersweepError] = {}
        self._stop: SteersweepError | None = None
        self._settled = {"total": 0.0}
        self._clock = clock
        self._look_at = -math.inf  # when it is looked next whether a job may start

    def run(self, phase: str, tasks: Sequence[Task]) -> dict[str, SteersweepError]:
        """Run every task to its end; returns why each that failed did, by name.

        Raises:
            BudgetStop: a stop is reached, or the next task could pass one and nothing runs.
            Unwritable: results cannot be written.
            InputError: the engine has no GPU of a kind that is asked for.
        """
        self._waiting, self._failures, self._stop = deque(self._ordered(tasks)), {}, None
        self._look_at = -math.inf
        try:
            while self._waiting or self._running:
                if self._clock() >= self._look_at:
                    self._start_what_may(phase)
                    self._look_at = self._clock() + _LOOK_EVERY
                self._engine.wait(lambda event: self._take(phase, event))
                if self._stop is not None:
                    raise self._stop
        finally:
            for running in list(self._running.values()):
                self._engine.cancel(running.task.work.name)
                self._settle(phase, running, whole=False)
        return self._failures

    def _ordered(self, tasks: Sequence[Task]) -> list[Task]:
        """The longest first where several of a kind may run at a time, else as they are given.

        A long one that began last would run alone in the end.

        Raises:
            InputError: the engine has no GPU of a kind that is asked for.
        """
        several = {kind for kind in {t.work.gpu for t in tasks} if self._places(kind) > 1}
        return sorted(
            tasks,
            key=lambda task: -task.seconds(task.work.gpu) if task.work.gpu in several else 0.0,
        )

    def _start_what_may(self, phase: str) -> None:
        places: dict[str, float] = {}  # by kind of GPU, how many more jobs
        gone: InputError | None = None
        held_back: deque[Task] = deque()
        while self._waiting:
            task = self._waiting.popleft()
            kind = task.work.gpu
            if kind not in places:
                try:
                    places[kind] = self._places(kind)
                except InputError as error:  # its last machine was lost, and may come back
                    places[kind], gone = 0, error
            if places[kind] < 1:
                held_back.append(task)
                continue
            try:
                self._start(phase, task)
            except BudgetStop:
                if not self._running:
                    raise
                # What runs may cost less than was reserved for it.
                held_back.append(task)
                break
            places[kind] -= 1
        self._waiting = held_back + self._waiting
        if gone is not None and not self._running:
            raise gone

    def _places(self, kind: str) -> float:
        """How many more jobs of a kind of GPU may run now."""
        busy = sum(running.task.work.gpu == kind for running in self._running.values())
        limits = (self._engine.capacity(kind), self._plan.concurrency(kind))
        return min((limit for limit in limits if limit is not None), default=math.inf) - busy

    def _start(self, phase: str, task: Task) -> None:
        work = task.work
        price = self._plan.price(work.gpu) / 3600
        seconds = task.seconds(work.gpu)
        reserved = RESERVE * seconds * price
        identity = self._ledger.reserve(
            phase,
            work.name,
            usd=reserved,
            seconds=seconds,
            gpu=work.gpu,
            moved_from=work.job.moved_from,
            limits=self._limits,
            time=provenance.utc_now(),
        )
        self._running[work.name] = _Running(task, identity, reserved, work.gpu, price)
        self._count_settled(phase)
        self._engine.submit(work)

    def _take(self, phase: str, event: Event) -> None:
        running = self._running.get(event.work)
        if running is None:
            return  # settled already
        running.hear(event)
        if event.gpu:
            running.gpu, running.price = event.gpu, self._plan.price(event.gpu) / 3600
        if not event.is_end:
            if event.progress is not None:
                self._on_progress(replace(event.progress, job=event.work))
            self._hold_to_limits(phase, running)
            return
        self._look_at = -math.inf
        self._settle(phase, running, whole=event.kind == "finished")
        if event.kind == "finished":
            self._on_finished(event.work)
        elif event.kind == "lost":
            self._again(running, event.error)
        elif isinstance(event.error, Cancelled) and running.cancelled is not None:
            if running.cancelled is not self._stop:
                self._fail(running.task, running.cancelled)
        elif isinstance(event.error, OutOfMemory):
            self._move(running.task, event.error)
        elif isinstance(event.error, Unwritable):
            self._stop = event.error
        elif event.error is not None:
            self._fail(running.task, event.error)

    def _hold_to_limits(self, phase: str, running: _Running) -> None:
        """Cancel a job that reaches its timeout, and all when money runs out."""
        work = running.task.work
        if running.cancelled is not None:
            return
        if work.timeout_s is not None and running.seconds >= work.timeout_s:
            running.cancelled = timed_out(work)
            self._engine.cancel(work.name)
        cost = sum(other.cost for other in self._running.values())
        for name, stop in (("total", self._limits.total), (phase, self._limits.of(phase))):
            if cost > 0 and self._settled[name] + cost >= stop:
                self._stop = running.cancelled = BudgetStop(
                    f"{work.name}: the {name} stop of {stop:.4g} USD is reached. Everything "
                    f"finished is kept. {way_out(name)}"
                )
                self._engine.cancel(work.name)

    def _again(self, running: _Running, error: SteersweepError | None) -> None:
        """A machine went away; what it saved is not computed again.

        A job that never comes any further may be what its machines end of.
        """
        task = running.task
        further = running.done > task.done
        task = replace(
            task,
            done=max(task.done, running.done),
            attempts=0 if further else task.attempts + 1,
        )
        if task.attempts >= MOST_ATTEMPTS:
            why = f"its machine was lost {task.attempts} times, nothing finished between: {error}"
            return self._fail(task, SteersweepError(f"{task.work.name}: {why}"))
        self._say(f"{task.work.name}: {error}; it is run again")
        return self._waiting.appendleft(task)

    def _move(self, task: Task, error: OutOfMemory) -> None:
        """Out of memory with a single row: the next larger GPU, if the plan names one."""
        work = task.work
        tried = (*work.job.moved_from, work.gpu)
        larger = self._plan.fallback_gpu(work.gpu)
        kind = None if larger is None else self._engine.kind(larger)
        if kind is None or kind in tried:
            return self._fail(task, error)
        try:
            self._engine.capacity(kind)
        except InputError as missing:
            return self._fail(task, SteersweepError(f"{error}; {missing}"))
        self._say(f"{error}; it is moved from {work.gpu} to {kind}")
        moved = replace(work, gpu=kind, job=replace(work.job, moved_from=tried))
        return self._waiting.appendleft(replace(task, work=moved))

    def _fail(self, task: Task, error: SteersweepError) -> None:
        self._failures[task.work.name] = error
        self._say(f"{task.work.name}: {error}")

    def _settle(self, phase: str, running: _Running, *, whole: bool) -> None:
        self._ledger.settle(
            running.reservation,
            usd=running.cost,
            seconds=running.seconds,
            gpu=running.gpu,
            whole=whole,
            time=provenance.utc_now(),
        )
        del self._running[running.task.work.name]
        self._count_settled(phase)

    def _count_settled(self, phase: str) -> None:
        """Spent, without what is reserved for the jobs that run now."""
        reserved = sum(running.reserved for running in self._running.values())
        self._settled = {
            name: self._ledger.spent(None if name == "total" else name) - reserved
            for name in ("total", phase)
        }
