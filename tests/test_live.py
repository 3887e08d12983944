"""What a person sees while a run goes on: several jobs, money, the last verdict, calm lines."""

from __future__ import annotations

import io
import re
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console
from rich.live import Live

from helpers.studies import small
from steersweep.report.live import Lines, Screen, View, verdict_lines
from steersweep.study.listeners import Ended
from steersweep.study.study import StudyOptions, run_study
from steersweep.work.job import Progress
from steersweep.work.stages import StageNow


class Clock:
    """Time that passes when told."""

    def __init__(self) -> None:
        self.seconds = 0.0

    def __call__(self) -> float:
        return self.seconds


def at(
    fraction: float, job: str = "a", done: int = 0, *, seen: float = 0.25, left: float = 10.0
) -> Progress:
    """A job that has loaded its model, and generated `seen` of its answers here in ten seconds."""
    stages = (
        StageNow("loading", 1.0, 3.0, 0.0, seen=1.0),
        StageNow("generation", fraction, 10.0, left, seen=seen, runs=True),
        StageNow("likelihoods", fraction, 4.0, 2.0, seen=seen),
    )
    note = "step 3, 80 rows"
    return Progress("m", done, 4, fraction, note, rows=400, job=job, stages=stages)


def picture(spent: float = 1.5, budget: float | None = 4.0) -> tuple[Screen, Clock, Console]:
    clock = Clock()
    console = Console(file=io.StringIO(), force_terminal=True, width=110)
    live = Live(console=console, auto_refresh=False)
    return Screen(live, lambda: spent, budget, now=clock), clock, console


def shown(screen: Screen) -> str:
    console = Console(file=io.StringIO(), width=110)
    console.print(screen.picture())
    return console.file.getvalue()  # type: ignore[attr-defined, no-any-return]


def test_jobs_that_run_at_the_same_time_have_a_line_each_with_their_own_pace() -> None:
    screen, clock, _ = picture()
    screen.on_line("phase size_sweep")
    screen.on_progress(at(0.5, "one", done=2, seen=0.5, left=8.0))
    screen.on_progress(at(0.75, "two", done=3, left=68.0))
    text = shown(screen)
    assert "Phase 2: size" in text
    assert "1.50 USD spent or reserved, 2.50 left" in text
    one, two = (next(line for line in text.splitlines() if name in line) for name in ("one", "two"))
    assert "50%, 10 s left" in one
    assert "20 rows/s" in one
    assert "75%, 1 min 10 s left" in two
    assert "10 rows/s" in two  # half of it was there before
    clock.seconds = 7
    assert "50%, 3 s left" in shown(screen)  # while nothing is said, time passes
    screen.on_progress(at(1.0, "one", done=4))
    assert "one" not in shown(screen)


def test_every_stage_of_a_single_job_has_its_line() -> None:
    screen, clock, _ = picture()
    screen.on_progress(at(0.5, "one", done=2, left=61.0))
    clock.seconds = 1
    lines = {line.split()[0]: line for line in shown(screen).splitlines() if line.strip()}
    assert "generation 50%, step 3, 80 rows" in lines["one"]
    assert "3 s" in lines["loading"]
    assert "left" not in lines["loading"]
    assert "50%, 1 min 0 s left" in lines["generation"]
    assert "50%, 2 s left" in lines["likelihoods"]  # it waits
    screen.on_progress(at(0.5, "two"))
    assert "loading" not in shown(screen)  # of several jobs only what goes on


def test_nothing_is_said_of_the_time_left_before_the_model_is_known() -> None:
    screen, _, _ = picture()
    loading = (StageNow("loading", 0.0, 2.0, 3.0, runs=True),)
    screen.on_progress(Progress("m", 0, 4, 0.0, "loading", rows=400, stages=loading))
    (line,) = (line for line in shown(screen).splitlines() if line.startswith("m "))
    assert "left" not in line
    assert "0/4, loading" in line


def test_plain_lines_come_now_and_then_for_each_job() -> None:
    clock, file = Clock(), io.StringIO()
    lines = Lines(Console(file=file, width=80), now=clock)
    for second in range(25):
        clock.seconds = second
        for job in ("one", "two"):
            lines.on_progress(at(0.1 + second / 100, job))
    lines.on_line("x" * 200)
    said = file.getvalue().splitlines()
    assert [sum(name in line for line in said) for name in ("one", "two")] == [3, 3]
    assert said[-1] == "x" * 200  # not broken: logs are searched
    assert "\x1b" not in file.getvalue()


def test_no_colour_where_told(monkeypatch: pytest.MonkeyPatch) -> None:
    def coloured() -> bool:
        screen, _, console = picture()
        screen.on_progress(at(0.5))
        console.print(screen.picture())
        codes = re.findall(r"\x1b\[([\d;]*)m", console.file.getvalue())  # type: ignore[attr-defined]
        return any(re.search(r"(^|;)(3|4|9)\d", code) for code in codes)

    monkeypatch.delenv("NO_COLOR", raising=False)
    monkeypatch.setenv("TERM", "xterm-256color")
    assert coloured()
    monkeypatch.setenv("NO_COLOR", "1")
    assert not coloured()


def test_a_study_tells_of_every_job_that_ends_and_of_those_that_had(tmp_path: Path) -> None:
    class Told(View):
        def __init__(self) -> None:
            super().__init__()
            self.ended: list[Ended] = []
            self.lines: list[str] = []
            self.names: set[str] = set()

        def on_job(self, ended: Ended) -> None:
            self.ended.append(ended)
            super().on_job(ended)

        def on_line(self, line: str) -> None:
            self.lines.append(line)

        def show(self, name: str, _pace: Any) -> None:
            self.names.add(name)

    def go() -> Told:
        view = Told()
        run_study(
            small(),
            tmp_path / "run",
            StudyOptions(until="family_sweep"),
            on_progress=view.on_progress,
            on_job=view.on_job,
            on_line=view.on_line,
        )
        return view

    first = go()
    names = {str(ended.sweep) for ended in first.ended}
    assert {"q7 family fp32", "m7 family fp32"} <= names
    assert names <= first.names
    assert first.jobs == {}
    for ended in first.ended:
        assert not ended.earlier
        for line in verdict_lines(ended):
            assert line in first.lines
    again = go()
    assert {str(ended.sweep) for ended in again.ended} == names
    assert all(ended.earlier for ended in again.ended)
    assert [ended.results for ended in again.ended] == [ended.results for ended in first.ended]
    assert not again.names
