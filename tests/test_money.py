"""What a study pays: every attempt, never twice for the same, and never without saying so."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from steersweep.budget.ledger import Ledger, Limits
from steersweep.core.errors import SteersweepError
from steersweep.engines.engine import Event, OnEvent, TimedOut, Work
from steersweep.engines.local import LocalEngine
from steersweep.engines.modal import remote as there
from steersweep.engines.modal.engine import Lost, ModalEngine
from steersweep.engines.modal.volume import VolumeShare
from steersweep.study.away import apps
from steersweep.study.plan import Plan
from steersweep.study.plan_file import load_plan
from steersweep.study.scheduler import Scheduler, Task
from test_engines import job_of, planned_on
from test_study import small

V3 = load_plan("v3")


# -- every attempt is paid -----------------------------------------------------------------------


class Script(LocalEngine):
    """Reports what it is told to, an event at a time."""

    def __init__(self, *events: tuple[Any, float]) -> None:
        super().__init__("cpu")
        self._events = list(events)

    def wait(self, on_event: OnEvent) -> None:
        kind, seconds = self._events.pop(0)
        error = SteersweepError("preempted") if kind == "lost" else None
        on_event(Event("work", kind, seconds, error=error))


def paid(folder: Path, *events: tuple[Any, float]) -> list[float]:
    """Seconds of each job in the ledger of work that went so."""
    scheduler = Scheduler(
        small(prices={"local": 3600}),
        Ledger(folder),
        Limits(),
        Script(*events),
        on_progress=lambda _progress: None,
        on_finished=lambda _name: None,
        on_line=lambda _line: None,
    )
    scheduler.run("family_sweep", [Task(Work("work", job_of(), "local"), lambda _kind: 1.0)])
    jobs = Ledger(folder).jobs()
    assert [job["usd"] for job in jobs] == [job["seconds"] for job in jobs]
    return [job["seconds"] for job in jobs]


def test_attempts_that_a_provider_begins_again_are_added_up(tmp_path: Path) -> None:
    """Not the longest taken: each has occupied a GPU."""
    begun = [("started", 0), ("progress", 100), ("started", 0), ("progress", 70)]
    assert paid(tmp_path / "two", *begun, ("finished", 80)) == [180]
    again = [("started", 0), ("progress", 30), ("progress", 5), ("progress", 40), ("progress", 1)]
    assert paid(tmp_path / "three", *again, ("finished", 2)) == [72]
    assert paid(tmp_path / "one", ("started", 0), ("progress", 9), ("finished", 10)) == [10]


def test_an_attempt_whose_machine_is_lost_is_in_the_ledger_beside_the_next(tmp_path: Path) -> None:
    events = [("started", 0), ("progress", 100), ("lost", 110), ("started", 0), ("finished", 50)]
    assert paid(tmp_path, *events) == [110, 50]


class Heard:
    """Modal's calls, with one that ends as it is told to."""

    def __init__(self) -> None:
        self.events: list[Event] = []
        self.end: Event | Exception | None = None
        self.works: list[Work] = []
        self.timeouts: list[int | None] = []

    def spawn(
        self, _app: str, _function: str, _gpu: str | None, timeout_s: int | None, work: Work
    ) -> str:
        self.works.append(work)
        self.timeouts.append(timeout_s)
        return "fc-1"

    def result(self, _call: str) -> Event | None:
        if isinstance(self.end, Exception):
            raise self.end
        return self.end

    def cancel(self, _call: str) -> None:
        pass

    def heard(self) -> list[Event]:
        found, self.events = self.events, []
        return found


def modal_engine(
    plan: Plan, tmp_path: Path, step: str, timeout_s: float | None = None
) -> tuple[Heard, ModalEngine]:
    calls = Heard()
    share = VolumeShare(tmp_path / "volume", lambda: None, lambda: None)
    share.copy_all(tmp_path / "copy")
    engine = ModalEngine(apps.remote_functions(plan), apps.function_of(plan), share, calls)
    engine.open(tmp_path / "copy")
    labels = {"phase": "family_sweep", "step": step, "model": "q7"}
    engine.submit(Work("work", job_of(), "A10G", timeout_s, labels=labels))
    return calls, engine


def clock(monkeypatch: pytest.MonkeyPatch) -> Callable[[float], None]:
    """Lets Modal's engine see a time of one's own."""
    now = [1000.0]
    monkeypatch.setattr("steersweep.engines.modal.engine.time.monotonic", lambda: now[0])

    def wait(seconds: float) -> None:
        now[0] += seconds

    return wait


def test_a_preempted_call_is_paid_for_what_it_took_in_silence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A model that loads says nothing for minutes."""
    wait = clock(monkeypatch)
    calls, engine = modal_engine(planned_on("A10G"), tmp_path, "family")
    events: list[Event] = []
    calls.events = [Event("work", "started", 0.0)]
    engine.wait(events.append)
    wait(300)
    calls.events = [Event("work", "started", 0.0)]  # Modal began it again on another machine
    engine.wait(events.append)
    assert [event.seconds for event in events] == [0.0, pytest.approx(300), 0.0]
    wait(40)
    calls.end = Lost("taken away")
    engine.wait(events.append)
    assert (events[-1].kind, events[-1].seconds) == ("lost", pytest.approx(40))


# -- timeouts ------------------------------------------------------------------------------------


def test_every_phase_of_a_plan_on_rented_gpus_has_a_timeout() -> None:
    assert all(V3.timeout(phase, "A10G") for phase in V3.phases)
    assert V3.timeout("verification", "A10G") == 1800
    plan = small(timeouts={"size_sweep": 60})
    assert [plan.timeout(phase, "local") for phase in plan.phases] == [None, 60, None, None]
    assert plan.timeout("family_sweep", "A10G") == 7200


@pytest.mark.parametrize(("own", "asked"), [(None, None), (50.0, 50)])
def test_work_knows_the_timeout_of_the_function_that_carries_it_out(
    tmp_path: Path, own: float | None, asked: int | None
) -> None:
    """Else Modal's end of it would look like a lost machine, and it would be paid three times."""
    calls, _ = modal_engine(planned_on("A10G"), tmp_path, "follow-up", own)
    assert [work.timeout_s for work in calls.works] == [own or 7200]
    assert calls.timeouts == [asked]


def test_a_job_ends_itself_in_the_middle_of_loading(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where it shows no sign of progress, so that looking at the clock at each is too late."""

    def load(*_arguments: Any) -> None:
        for _ in range(1000):
            time.sleep(0.01)

    monkeypatch.setattr("steersweep.work.worker._load", load)
    saved: list[float] = []
    began = time.monotonic()
    work = Work("slow", job_of(), "A10G", timeout_s=0.4)
    end = there.run_work(work, tmp_path, lambda: saved.append(1), lambda _event: None)
    assert isinstance(end.error, TimedOut)
    assert 0.2 <= time.monotonic() - began < 5
    assert end.seconds >= 0.2
    assert saved
    time.sleep(0.3)  # nothing of it is left to be raised here
