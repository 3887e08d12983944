"""What a job's time goes to: its stages, how far each is, and how long the rest will take.

A stage begins with seconds from the estimate. What stages took so far corrects those to come, and
a stage that runs goes more and more by its own pace.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

# Seconds of its own after which a stage goes by its own pace as much as by the estimate.
_OWN_PACE_FROM = 5.0
# Seconds that the estimate counts for, beside what was seen of it.
_ESTIMATE_COUNTS = 2.0
_NEARLY = 0.97  # the most that is said of a stage that has not ended


@dataclass(frozen=True)
class StageNow:
    """How far a stage is.

    Attributes:
        name: of the stage.
        share: done of it, 0 to 1.
        spent: seconds it took so far.
        left: seconds it will still take.
        seen: share that was done here, and not by an earlier run.
        runs: whether it is the one that goes on.
    """

    name: str
    share: float
    spent: float
    left: float
    seen: float = 0.0
    runs: bool = False


@dataclass
class _Stage:
    expected: float
    begun: float = 0.0  # share that was done before
    share: float = 0.0
    spent: float = 0.0
    since: float = 0.0  # of these, since it last said how far it is
    ended: bool = False

    @property
    def seen(self) -> float:
        """Share that was done here."""
        return self.share - self.begun


class Stages:
    """The stages of a job, in order; one of them runs at a time.

    Args:
        expected: seconds of each stage, by the estimate.
        apart: stages whose pace says nothing about that of others.
        now: a clock, in seconds.
    """

    def __init__(
        self,
        expected: Mapping[str, float],
        *,
        apart: frozenset[str] = frozenset(),
        now: Callable[[], float] = time.monotonic,
    ) -> None:
        self._stages = {name: _Stage(seconds) for name, seconds in expected.items()}
        self._apart = apart
        self._now = now
        self._current: str | None = None
        self._since = now()

    @property
    def current(self) -> str:
        """The stage that runs; empty before the first and after the last."""
        return self._current or ""

    def expect(self, expected: Mapping[str, float]) -> None:
        """Take better estimates, and stages that were not known; the order is that of these."""
        held = self._stages
        self._stages = {name: held.pop(name, _Stage(0.0)) for name in expected} | held
        for name, seconds in expected.items():
            self._stages[name].expected = seconds

    def skip(self, name: str, share: float) -> None:
        """Count a share of a stage as done by an earlier run."""
        stage = self._stages[name]
        stage.begun += share
        stage.share += share

    def begin(self, name: str) -> None:
        """Run a stage, for the first time or again; the one that runs waits or has ended."""
        self._count()
        self._current = name

    def at(self, share: float) -> None:
        """Say how much of the stage that runs is done, 0 to 1."""
        self._count()
        if self._current is not None:
            stage = self._stages[self._current]
            stage.share = max(stage.share, min(1.0, share))
            stage.since = 0.0

    def end(self) -> None:
        """The stage that runs has ended."""
        self._count()
        if self._current is not None:
            stage = self._stages[self._current]
            stage.share, stage.ended = 1.0, True
        self._current = None

    def finish(self, *names: str) -> None:
        """These stages have ended, whether or not they ever ran."""
        self.end()
        for name in names:
            stage = self._stages[name]
            stage.share, stage.ended = 1.0, True

    def now(self) -> tuple[StageNow, ...]:
        """Every stage as it stands."""
        self._count()
        factor = self._factor()
        found = []
        for name, stage in self._stages.items():
            share = stage.share
            if not stage.ended and not stage.seen and stage.spent:  # it cannot tell
                share = min(_NEARLY, stage.spent / max(stage.expected * factor, 1e-9))
            left = 0.0 if stage.ended else self._left(stage, share, factor)
            runs = name == self._current
            found.append(StageNow(name, share, stage.spent, left, stage.seen, runs))
        return tuple(found)

    def _left(self, stage: _Stage, share: float, factor: float) -> float:
        by_estimate = stage.expected * factor * (1 - share)
        if not stage.seen:
            return by_estimate
        # Since it last told how far it is, it has come further by as much as it takes.
        told = stage.spent - stage.since
        by_pace = told / stage.seen * (1 - share)
        weight = told / (told + _OWN_PACE_FROM)
        left = weight * by_pace + (1 - weight) * by_estimate
        return max(left - stage.since, 0.0)

    def _factor(self) -> float:
        """Seconds it took over those estimated, of what was seen."""
        seen = [s for name, s in self._stages.items() if s.seen and name not in self._apart]
        spent = sum(stage.spent for stage in seen)
        expected = sum(stage.expected * stage.seen for stage in seen)
        return (spent + _ESTIMATE_COUNTS) / (expected + _ESTIMATE_COUNTS)

    def _count(self) -> None:
        now = self._now()
        if self._current is not None:
            stage = self._stages[self._current]
            stage.spent += now - self._since
            stage.since += now - self._since
        self._since = now


def seconds_left(stages: tuple[StageNow, ...]) -> float:
    """Seconds until the last stage ends."""
    return sum(stage.left for stage in stages)


def share_done(stages: tuple[StageNow, ...]) -> float:
    """Share of a job's time that is over, 0 to 1; what earlier runs did counts."""
    total = done = 0.0
    for stage in stages:
        pace = (stage.spent + stage.left) or 0.0
        whole = pace if stage.share in (0.0, 1.0) else max(pace, stage.left / (1 - stage.share))
        total += whole
        done += whole - stage.left
    return done / total if total else 1.0
