"""Which job runs when and where: lost machines, order, money and time."""

from __future__ import annotations

from pathlib import Path

import pytest

from helpers.jobs import PHASE_1, engine_processes, job_of, scheduler
from helpers.studies import small
from steersweep import InputError, SteersweepError
from steersweep.budget.ledger import BudgetStop, Ledger, Limits
from steersweep.engines.engine import Engine, Event, OnEvent, Work
from steersweep.engines.local import LocalEngine
from steersweep.engines.processes import ProcessEngine
from steersweep.study.scheduler import Task
from steersweep.study.study import run_study
from steersweep.work.job import Progress

# -- machines that go away -----------------------------------------------------------------------


class Restless(LocalEngine):
    """Loses its machine as often as it is told to."""

    def __init__(self, losses: int) -> None:
        super().__init__("cpu")
        self.losses = losses

    def wait(self, on_event: OnEvent) -> None:
        if self._waiting and self.losses:
            self.losses -= 1
            work = self._waiting.popleft()
            on_event(Event(work.name, "lost", 1.0, error=SteersweepError("preempted")))
        else:
            super().wait(on_event)


def test_a_machine_lost_three_times_is_given_up_by_name(tmp_path: Path) -> None:
    engine = Restless(losses=3)
    store = run_study(small(), tmp_path / "run", PHASE_1, engine=engine)
    failures = store.read_json(store.root / "phases/family_sweep-failures.json")
    assert list(failures) == ["q7 family fp32"]
    assert "lost 3 times, nothing finished between: preempted" in failures["q7 family fp32"]


class Preempted(LocalEngine):
    """Loses a job's machine after so many conditions, each time it is begun."""

    def __init__(self, *done: int) -> None:
        super().__init__("cpu")
        self._done = list(done)

    def wait(self, on_event: OnEvent) -> None:
        name, done = self._waiting.popleft().name, self._done.pop(0)
        on_event(Event(name, "progress", 1.0, Progress("m", done, 9, 0.0, "")))
        on_event(Event(name, "lost", 2.0, error=SteersweepError("preempted")))


def test_a_job_that_comes_further_each_time_is_not_given_up(tmp_path: Path) -> None:
    """On machines that are taken away often. One that stands still may be what they end of."""
    task = Task(Work("work", job_of(), "local"), lambda _kind: 1.0)
    engine = Preempted(0, 0, 1, 1, 3, 4, 4, 2, 4, 9)
    failed = scheduler(engine, tmp_path).run("family_sweep", [task])
    assert "lost 3 times, nothing finished between" in str(failed["work"])
    assert engine._done == [9]


class LosesAKind(LocalEngine):
    """Has no A10G from its first look until so many jobs have ended; one job has no A10G."""

    def __init__(self, back_after: int) -> None:
        super().__init__("cpu")
        self._looks, self._back_after = 0, back_after

    def capacity(self, kind: str) -> int | None:
        self._looks += kind == "A10G"
        if kind == "A10G" and self._looks > 1 and self._back_after > 0:
            raise InputError("the cluster has no A10G")
        return 1

    def wait(self, on_event: OnEvent) -> None:
        self._back_after -= 1
        on_event(Event(self._waiting.popleft().name, "finished", 1.0))


def test_the_others_go_on_while_a_kind_of_gpu_is_gone(tmp_path: Path) -> None:
    def tasks() -> list[Task]:
        kinds = ("A10G", "local", "local")
        works = [Work(f"{i} {kind}", job_of(), kind) for i, kind in enumerate(kinds)]
        return [Task(work, lambda _kind: 1.0) for work in works]

    back = scheduler(LosesAKind(2), tmp_path / "back")
    assert back.run("family_sweep", tasks()) == {}
    order = [job.job for job in Ledger(tmp_path / "back").jobs()]
    assert order == ["1 local", "2 local", "0 A10G"]
    gone = scheduler(LosesAKind(9), tmp_path / "gone")
    with pytest.raises(InputError, match="has no A10G"):
        gone.run("family_sweep", tasks())
    assert [job.whole for job in Ledger(tmp_path / "gone").jobs()] == [True, True]


class Ends(LocalEngine):
    """Has so many places, and ends jobs at once."""

    def __init__(self, places: int) -> None:
        super().__init__("cpu")
        self._places = places

    def capacity(self, kind: str) -> int | None:
        return self._places

    def wait(self, on_event: OnEvent) -> None:
        on_event(Event(self._waiting.popleft().name, "finished", 1.0))


@pytest.mark.parametrize(("places", "order"), [(2, "bac"), (1, "abc")])
def test_the_longest_begin_first_where_several_run_at_a_time(
    places: int, order: str, tmp_path: Path
) -> None:
    def task(name: str, seconds: float) -> Task:
        return Task(Work(name, job_of(), "local"), lambda _kind: seconds)

    tasks = [task("a", 2), task("b", 3), task("c", 1)]
    assert scheduler(Ends(places), tmp_path).run("family_sweep", tasks) == {}
    assert "".join(job.job for job in Ledger(tmp_path).jobs()) == order


class Talkative(LocalEngine):
    """Has two places, counts how often it is asked for them, and reports one thing at a time."""

    def __init__(self) -> None:
        super().__init__("cpu")
        self.asked, self._told = 0, 0

    def capacity(self, kind: str) -> int | None:
        self.asked += 1
        return 2

    def wait(self, on_event: OnEvent) -> None:
        self._told += 1
        ends = self._told % 50 == 0
        name = (self._waiting.popleft() if ends else self._waiting[0]).name
        on_event(Event(name, "finished" if ends else "progress", self._told % 50 or 50.0))


def test_it_is_looked_for_places_when_a_job_ends_and_not_at_every_sign_of_one(
    tmp_path: Path,
) -> None:
    """A look may take a cluster some milliseconds, and jobs that run tell a lot."""
    engine = Talkative()
    tasks = [Task(Work(f"{i}", job_of(), "local"), lambda _kind: 1.0) for i in range(20)]
    assert scheduler(engine, tmp_path).run("family_sweep", tasks) == {}
    assert engine.asked <= 1 + 20 + 2  # before anything starts, and as often as a job has ended


# -- money and time -------------------------------------------------------------------------------


class TwoAtOnce(LocalEngine):
    """Takes two jobs, of which the second waits here."""

    def capacity(self, kind: str) -> int | None:
        return 2


def test_a_job_waits_for_the_money_that_others_may_not_need(tmp_path: Path) -> None:
    """Reservations of two do not fit at once, but the first costs far less than it reserved."""
    engine = TwoAtOnce("cpu")
    engine.open(tmp_path)
    tasks = [
        Task(Work(name, job_of(), "local", folder=name), seconds=lambda _kind: 1000.0)
        for name in "ab"
    ]
    dear = scheduler(engine, tmp_path, Limits(2000.0), prices={"local": 3600})
    assert dear.run("family_sweep", tasks) == {}
    assert [entry["do"] for entry in Ledger(tmp_path).entries()] == ["reserve", "settle"] * 2
    assert Ledger(tmp_path).spent() < 500


@pytest.mark.slow
def test_a_stop_ends_jobs_in_other_processes(tmp_path: Path) -> None:
    engine = ProcessEngine(["cpu", "cpu"])
    engine.open(tmp_path)
    try:
        long = job_of(prompts=60, tokens=100)
        tasks = [Task(Work(name, long, "local"), seconds=lambda _kind: 0.0) for name in "ab"]
        dear = scheduler(engine, tmp_path, Limits(1.0), prices={"local": 3600})
        with pytest.raises(BudgetStop, match="is reached"):
            dear.run("family_sweep", tasks)
        assert {e["whole"] for e in Ledger(tmp_path).entries() if e["do"] == "settle"} == {False}
        # The devices are free again, with new processes.
        assert dear_again(engine, tmp_path) == {}
    finally:
        engine.close()
    assert engine_processes() == []


def dear_again(engine: Engine, folder: Path) -> dict[str, SteersweepError]:
    tasks = [Task(Work("c", job_of(), "local"), seconds=lambda _kind: 0.0)]
    return scheduler(engine, folder).run("size_sweep", tasks)


@pytest.mark.slow
def test_a_timeout_ends_a_job_in_another_process(tmp_path: Path) -> None:
    engine = ProcessEngine(["cpu"])
    engine.open(tmp_path)
    try:
        work = Work("slow", job_of(prompts=60, tokens=100), "local", timeout_s=0.5)
        failures = scheduler(engine, tmp_path).run("family_sweep", [Task(work, lambda _kind: 1.0)])
    finally:
        engine.close()
    assert "timeout of 0.5 s" in str(failures["slow"])
