"""A run as it happens: a live picture at a terminal, calm lines in pipes and CI, or nothing."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from steersweep.budget.estimate import GENERATION
from steersweep.report.console import PlainConsole
from steersweep.work.job import Progress
from steersweep.work.stages import StageNow, seconds_left

if TYPE_CHECKING:
    from steersweep.study.listeners import Ended

_PLAIN_LINE_EVERY = 10.0  # seconds, per job
_LONG_AGO = 60.0  # seconds after which a job that says nothing leaves the picture


@dataclass
class Pace:
    """What a job said last, and when."""

    progress: Progress
    seen: float

    def seconds_left(self, now: float) -> float | None:
        """Seconds until the job ends; None while it does not say what it will do."""
        stages = self.progress.stages
        if len(stages) < 2:  # only that the model is being loaded
            return None
        return max(0.0, seconds_left(stages) - (now - self.seen))

    def rows_per_second(self) -> float | None:
        """Responses per second while they were generated; None before some were."""
        for stage in self.progress.stages:
            if stage.name == GENERATION and stage.seen and stage.spent > 0:
                return stage.seen * self.progress.rows / stage.spent
        return None

    @property
    def stage(self) -> StageNow | None:
        """The stage that goes on, where there is one."""
        return next((stage for stage in self.progress.stages if stage.runs), None)


class View:
    """What is shown of a run; this one shows notes alone.

    Args:
        now: a clock, in seconds.
    """

    def __init__(self, now: Callable[[], float] = time.monotonic) -> None:
        self.now = now
        self.jobs: dict[str, Pace] = {}
        self.models: tuple[int, int] | None = None

    def on_model(self, index: int, count: int) -> None:
        """A sweep's next model begins."""
        self.models = index, count

    def on_progress(self, progress: Progress) -> None:
        """Something happened within a job."""
        name = progress.job or progress.model
        now = self.now()
        pace = self.jobs.get(name)
        if pace is None:
            pace = self.jobs[name] = Pace(progress, now)
        pace.progress, pace.seen = progress, now
        if progress.warning:
            self.on_note(f"{name}: {progress.warning}")
        self.show(name, pace)
        if progress.fraction >= 1:
            del self.jobs[name]

    def on_line(self, line: str) -> None:
        """Something that a person should read."""

    def on_note(self, note: str) -> None:
        """Something without which results mislead: shown whatever else is not."""
        PlainConsole(stderr=True).print(f"note: {note}", highlight=False, soft_wrap=True)

    def on_job(self, ended: Ended) -> None:
        """A job ended; `ended.results` is what it found."""
        self.jobs.pop(str(ended.sweep), None)
        if not ended.earlier:
            for line in verdict_lines(ended):
                self.on_line(line)

    def show(self, name: str, pace: Pace) -> None:
        """Show what is new about a job."""


def _title(phase: str) -> str | None:
    """The heading of a phase, if it is one."""
    from steersweep.study.phases.registry import titles

    return titles().get(phase)


def _count(progress: Progress) -> str:
    """How many conditions are done, of how many where that is known."""
    return f"{progress.done}/{progress.total}" if progress.total else str(progress.done)


class Lines(View):
    """Now and then a whole line, for logs and pipes."""

    def __init__(self, console: Console, now: Callable[[], float] = time.monotonic) -> None:
        super().__init__(now)
        self._console = console
        self._last: dict[str, float] = {}

    def on_line(self, line: str) -> None:
        """Print it."""
        self._console.print(line, highlight=False, soft_wrap=True)

    def on_note(self, note: str) -> None:
        """See `View.on_note`."""
        self.on_line(f"note: {note}")

    def show(self, name: str, pace: Pace) -> None:
        """A line per job, not too often."""
        if pace.seen - self._last.get(name, -_PLAIN_LINE_EVERY) < _PLAIN_LINE_EVERY and (
            pace.progress.fraction < 1
        ):
            return
        self._last[name] = pace.seen
        progress = pace.progress
        where = name if self.models is None else f"{name} ({self.models[0] + 1}/{self.models[1]})"
        self.on_line(
            f"{progress.fraction:4.0%}  {where}: {_count(progress)} conditions, "
            f"{_doing(pace)}{_speed(pace)}{_left(pace, pace.seen)}"
        )


class Screen(View):
    """A picture that is drawn again and again, for a person at a terminal.

    Args:
        spent: USD spent or reserved so far; None where nothing costs money.
        budget: stop in USD, or None.
    """

    def __init__(
        self,
        live: Live,
        spent: Callable[[], float] | None = None,
        budget: float | None = None,
        now: Callable[[], float] = time.monotonic,
    ) -> None:
        super().__init__(now)
        self._live = live
        self._spent = spent
        self._budget = budget
        self._phase = ""
        self._verdict = ""
        live.get_renderable = self.picture  # type: ignore[method-assign]

    def on_line(self, line: str) -> None:
        """Above the picture, where it stays; a phase begins in the picture's first line."""
        title = _title(line.removeprefix("phase ")) if line.startswith("phase ") else None
        if title is not None:
            self._phase = title
        else:
            self._live.console.print(line, highlight=False, soft_wrap=True)

    def on_note(self, note: str) -> None:
        """See `View.on_note`."""
        self.on_line(f"note: {note}")

    def on_job(self, ended: Ended) -> None:
        """Keep the last verdict in sight."""
        super().on_job(ended)
        lines = verdict_lines(ended)
        self._verdict = lines[-1] if lines else self._verdict

    def picture(self) -> RenderableType:
        """Phase and money, a line per running job, a single one's stages, the last verdict."""
        head = Text(self._phase, style="bold")
        if self.models is not None:
            head = Text(f"model {self.models[0] + 1} of {self.models[1]}", style="bold")
        if self._spent is not None:
            spent = self._spent()
            head.append(f"  {spent:.2f} USD spent or reserved", style="default not bold")
            if self._budget is not None:
                head.append(f", {self._budget - spent:.2f} left", style="default not bold")
        jobs = Table.grid(padding=(0, 1))
        for _ in range(4):
            jobs.add_column(no_wrap=True)
        now = self.now()
        for name, pace in self.jobs.items():
            if now - pace.seen > _LONG_AGO and len(self.jobs) > 1:
                continue
            progress = pace.progress
            jobs.add_row(
                name,
                ProgressBar(total=1.0, completed=progress.fraction, width=18),
                f"{progress.fraction:4.0%}{_left(pace, now)}",
                f"{_count(progress)}, {_doing(pace)}{_speed(pace)}",
            )
            if len(self.jobs) == 1:
                for stage in progress.stages:
                    jobs.add_row(*_stage_row(stage, now - pace.seen))
        last = [Text(f"last: {self._verdict}", style="dim")] if self._verdict else []
        return Group(head, jobs, *last)


@contextmanager
def live_view(
    *, quiet: bool, spent: Callable[[], float] | None = None, budget: float | None = None
) -> Iterator[View]:
    """Show a run on standard error in the way that suits it.

    Args:
        quiet: show notes alone.
        spent: see `Screen`.
        budget: see `Screen`.
    """
    console = PlainConsole(stderr=True)
    if quiet:
        yield View()
    elif not console.is_terminal:
        yield Lines(console)
    else:
        with Live(console=console, transient=True, refresh_per_second=4) as live:
            yield Screen(live, spent, budget)


def verdict_lines(ended: Ended) -> list[str]:
    """The verdicts of a job in a line each."""
    lines = []
    for result in ended.results:
        verdict, best = result.verdict, result.verdict.best
        low, high = verdict.interval
        lines.append(
            f"{ended.sweep}, {result.method}: {verdict.outcome}, "
            f"{best.coherent_refusal_rate:.0%} [{low * 100:.0f}-{high * 100:.0f}] coherent "
            f"from layer {best.layer_idx} of {result.n_layers}, "
            f"{best.garbled_rate:.0%} garbled"
        )
    return lines


def _speed(pace: Pace) -> str:
    speed = pace.rows_per_second()
    return "" if speed is None else f", {speed:.3g} rows/s"


def _left(pace: Pace, now: float) -> str:
    seconds = pace.seconds_left(now)
    if seconds is None or pace.progress.fraction >= 1:
        return ""
    return f", {duration(seconds)} left"


def _doing(pace: Pace) -> str:
    """What goes on: the stage and its share, and what it says of it."""
    stage, note = pace.stage, pace.progress.note
    if stage is None:
        return note
    share = f"{stage.name} {stage.share:.0%}" if stage.share else stage.name
    return share if note == stage.name else f"{share}, {note}"


def _stage_row(stage: StageNow, since: float) -> tuple[RenderableType, ...]:
    """A stage's line: what it took, and what it will take."""
    name = Text(f"  {stage.name}", style="" if stage.runs else "dim")
    bar = ProgressBar(total=1.0, completed=stage.share, width=18)
    spent = duration(stage.spent + (since if stage.runs else 0))
    if stage.left == 0 and stage.share >= 1:
        return name, bar, Text(spent if stage.spent else "done before", style="dim"), ""
    left = max(0.0, stage.left - (since if stage.runs else 0))
    said = (
        f"{stage.share:4.0%}, {duration(left)} left" if stage.spent else f"about {duration(left)}"
    )
    return name, bar, Text(said, style="" if stage.runs else "dim"), ""


def duration(seconds: float) -> str:
    """Seconds for people."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours} h {minutes} min"
    return f"{minutes} min {rest} s" if minutes else f"{rest} s"
