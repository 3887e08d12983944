"""Engines: the same results wherever jobs run, whatever happens to the machines under them."""

from __future__ import annotations

import contextlib
import copy
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import psutil
import pytest
import torch
import yaml

from conftest import rest_slow
from helpers.studies import SMALL, comparable, small
from steersweep import ChatModel, InputError, SteersweepError
from steersweep.budget.ledger import BudgetStop, Ledger, Limits
from steersweep.engines import engine as engine_module
from steersweep.engines.engine import Engine, Event, OnEvent, Work, carry_out, found_here, sparingly
from steersweep.engines.local import LocalEngine, local_engine
from steersweep.engines.processes import ProcessEngine
from steersweep.engines.ray import RayEngine
from steersweep.engines.ray_cluster import ClusterLost, Pulse, set_up_token
from steersweep.engines.share import Mirror, StorageAway
from steersweep.engines.versions import differences, versions
from steersweep.model import loading
from steersweep.model.memory import free_bytes, model_shape
from steersweep.model.source import ModelSource, find_model
from steersweep.run.folder import RunFolder
from steersweep.study.listeners import Listeners
from steersweep.study.plan import Plan
from steersweep.study.plan_file import parse_plan
from steersweep.study.scheduler import Scheduler, Task
from steersweep.study.study import StudyOptions, run_study
from steersweep.sweeps.settings import make_job, make_settings
from steersweep.work import answering
from steersweep.work.job import Job, Progress
from steersweep.work.worker import run_job

PHASE_1 = StudyOptions(until="family_sweep")
THREADS = torch.get_num_threads()


def job_of(name: str = "lab:qwen-3b", prompts: int = 3, rows: int = 64, tokens: int = 12) -> Job:
    settings = make_settings(
        [name], layers="0.5", strengths="0.2", max_prompts=prompts, max_new_tokens=tokens, rows=rows
    )
    return make_job(settings, settings.models[0], "cpu", "2026-11-25")


def records(folder: Path) -> dict[str, Any]:
    """Conditions by key, without moments and durations."""
    found = {}
    for file in folder.glob("conditions/*.json"):
        record = json.loads(file.read_text())
        kept = {k: v for k, v in record.items() if k not in ("timestamp", "runtime_seconds")}
        kept["result"] = {k: v for k, v in kept["result"].items() if k != "extraction_seconds"}
        found[file.name] = kept
    return found


def results(folder: Path) -> dict[str, Any]:
    return {name: found for name, found in comparable(folder).items() if name.startswith("v3_")}


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Phase 1 of the small study, in this process."""
    folder = tmp_path_factory.mktemp("alone") / "run"
    run_study(small(), folder, PHASE_1, engine=LocalEngine("cpu"))
    return folder


@pytest.fixture(scope="module")
def cluster() -> Iterator[Any]:
    """A Ray cluster on this machine, with GPUs that are only names."""
    import ray

    os.environ |= {"RAY_USAGE_STATS_ENABLED": "0", "RAY_ENABLE_UV_RUN_RUNTIME_ENV": "0"}
    set_up_token(own_cluster=True)
    ray.init(
        address="local",
        num_cpus=4,
        resources={"A10G": 5, "A100-80GB": 1},
        include_dashboard=False,
        log_to_driver=False,
    )
    yield ray
    ray.shutdown()


# -- the same results everywhere -----------------------------------------------------------------


def test_processes_give_the_results_of_one(alone: Path, tmp_path: Path) -> None:
    run_study(small(), tmp_path / "run", PHASE_1, engine=ProcessEngine(["cpu", "cpu"]))
    assert results(tmp_path / "run") == results(alone)


@pytest.mark.slow
def test_ray_gives_the_results_of_one(alone: Path, tmp_path: Path, cluster: Any) -> None:
    run_study(small(), tmp_path / "run", PHASE_1, engine=RayEngine(cpus=THREADS))
    assert results(tmp_path / "run") == results(alone)


@pytest.mark.slow
def test_results_travel_through_storage_where_folders_are_not_shared(
    alone: Path, tmp_path: Path, cluster: Any
) -> None:
    storage = (tmp_path / "bucket").as_uri()
    run_study(small(), tmp_path / "run", PHASE_1, engine=RayEngine(storage=storage, cpus=THREADS))
    assert results(tmp_path / "run") == results(alone)
    assert list((tmp_path / "bucket").glob("directions/*.safetensors"))
    # Another machine that goes on with the same storage computes nothing again.
    other = RayEngine(storage=storage, cpus=THREADS)
    (tmp_path / "other").mkdir()
    other.open(tmp_path / "other")
    Mirror(storage).refresh(tmp_path / "other")
    assert records(tmp_path / "other") == records(tmp_path / "run")


@pytest.mark.slow
def test_phase_1_of_v3_lab_on_ray_is_that_of_the_local_engine(tmp_path: Path, cluster: Any) -> None:
    from steersweep.study.phases.verification import VERIFICATION
    from steersweep.study.plan_file import load_plan

    plan = load_plan("v3-lab")
    phase_1 = replace(
        plan, sections={k: v for k, v in plan.sections.items() if k != VERIFICATION.name}
    )
    run_study(phase_1, tmp_path / "local", PHASE_1, engine=LocalEngine("cpu"))
    killed = kill_when_something_is_saved(tmp_path / "ray", ray_workers)
    run_study(phase_1, tmp_path / "ray", PHASE_1, engine=RayEngine(cpus=THREADS))
    assert killed()
    assert results(tmp_path / "ray") == results(tmp_path / "local")


# -- machines that go away -----------------------------------------------------------------------


def ray_workers() -> list[psutil.Process]:
    """Of this process's own cluster."""
    found = []
    for process in psutil.Process().children(recursive=True):
        with contextlib.suppress(psutil.Error):
            if "".join(process.cmdline()[:1]).startswith("ray::_run_on_ray"):
                found.append(process)
    return found


def ray_queues() -> list[psutil.Process]:
    """The processes of this process's own cluster that hold queues of events."""
    found = []
    for process in psutil.Process().children(recursive=True):
        with contextlib.suppress(psutil.Error):
            if "".join(process.cmdline()[:1]).startswith("ray::_QueueActor"):
                found.append(process)
    return found


def engine_processes() -> list[psutil.Process]:
    children = psutil.Process().children()
    return [p for p in children if "steersweep.engines.processes" in p.cmdline()]


def kill_when_something_is_saved(
    folder: Path, workers: Callable[[], list[psutil.Process]]
) -> Callable[[], bool]:
    """In the background, `kill -9` the workers once a condition is there; says whether it did."""
    killed: list[int] = []

    def watch() -> None:
        deadline = time.monotonic() + 120
        while time.monotonic() < deadline and not list(folder.glob("conditions/*.json")):
            time.sleep(0.005)
        for process in workers():
            process.send_signal(signal.SIGKILL)
            killed.append(process.pid)

    thread = threading.Thread(target=watch)
    thread.start()

    def done() -> bool:
        thread.join()
        return bool(killed)

    return done


@pytest.mark.parametrize("kind", rest_slow(["processes", "ray", "the queue of ray"], fast=0))
def test_a_worker_killed_in_the_middle_changes_nothing(
    kind: str, alone: Path, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    if kind != "processes":
        request.getfixturevalue("cluster")
    engine: Engine = ProcessEngine(["cpu"]) if kind == "processes" else RayEngine(cpus=THREADS)
    workers = {"processes": engine_processes, "ray": ray_workers}.get(kind, ray_queues)
    folder = tmp_path / "run"
    lines: list[str] = []
    killed = kill_when_something_is_saved(folder, workers)
    run_study(small(), folder, PHASE_1, engine=engine, on_line=lines.append)
    assert killed()
    assert any("it is run again" in line for line in lines)
    assert results(folder) == results(alone)
    paid = Ledger(folder).entries()
    ends = [entry["whole"] for entry in paid if entry["do"] == "settle"]
    assert False in ends
    assert True in ends
    # What is left of a job takes less than all of it, and is what its second attempt is held to.
    whole, rest, *_ = [entry["seconds"] for entry in paid if entry["do"] == "reserve"]
    assert 0 < rest < whole


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["processes", "ray"])
def test_a_method_of_ones_own_runs_in_a_worker_that_is_killed(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest
) -> None:
    if kind == "ray":
        request.getfixturevalue("cluster")
    (tmp_path / "median.py").write_text(
        "from steersweep.methods.last_token import found_along, last_token_states\n"
        "class Median:\n"
        "    name, chooses_layer, default_prompts = 'median', False, 'extract-dim-5'\n"
        "    def find(self, chat, prompts, layers, given):\n"
        "        states = last_token_states(chat, prompts, method=self.name)\n"
        "        vectors = states.paired_differences.median(0).values\n"
        "        return found_along(vectors, states, chat, prompts, layers, method=self.name)\n"
    )
    monkeypatch.chdir(tmp_path)
    data = copy.deepcopy(SMALL)
    data["prompts"]["extraction"]["median.py:Median"] = "extract-dim-5"
    data["family_sweep"]["methods"] = ["median.py:Median"]
    plan = parse_plan(yaml.safe_dump(data), "small.yaml")
    monkeypatch.chdir("/")
    run_study(plan, tmp_path / "alone", PHASE_1, engine=LocalEngine("cpu"))
    engine: Engine = ProcessEngine(["cpu"]) if kind == "processes" else RayEngine(cpus=THREADS)
    workers = engine_processes if kind == "processes" else ray_workers
    killed = kill_when_something_is_saved(tmp_path / "run", workers)
    run_study(plan, tmp_path / "run", PHASE_1, engine=engine)
    assert killed()
    assert results(tmp_path / "run") == results(tmp_path / "alone")
    assert "median" in json.dumps(results(tmp_path / "run"))


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


# -- concurrency ---------------------------------------------------------------------------------


def scheduler(engine: Engine, folder: Path, limits: Limits | None = None, **plan: Any) -> Scheduler:
    return Scheduler(
        small(**plan),
        Ledger(folder),
        limits or Limits(),
        engine,
        Listeners(),
        on_finished=lambda _name: None,
    )


class Counted:
    """An engine that counts how many jobs of a kind run at the same time."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._kinds: dict[str, str] = {}
        self._now: dict[str, set[str]] = {}
        self.most: dict[str, int] = {}

    def __getattr__(self, name: str) -> Any:
        return getattr(self._engine, name)

    def submit(self, work: Work) -> None:
        self._kinds[work.name] = work.gpu
        self._engine.submit(work)

    def wait(self, on_event: OnEvent) -> None:
        def counted(event: Event) -> None:
            kind = self._kinds[event.work]
            running = self._now.setdefault(kind, set())
            (running.discard if event.is_end else running.add)(event.work)
            self.most[kind] = max(self.most.get(kind, 0), len(running))
            on_event(event)

        self._engine.wait(counted)


@pytest.mark.slow
def test_no_more_jobs_of_a_kind_run_at_once_than_the_plan_allows(
    tmp_path: Path, cluster: Any
) -> None:
    """Ten A10G jobs on a cluster with five of them, at most three at once; A100 jobs singly."""
    folder = tmp_path / "run"
    folder.mkdir()
    engine = Counted(RayEngine())
    engine.open(folder)
    job = job_of(prompts=2, tokens=4)
    tasks = [
        Task(
            Work(f"{kind} {i}", job, kind, folder=f"runs/{kind}-{i}"),
            seconds=lambda _kind: 1.0,
        )
        for kind, count in (("A10G", 10), ("A100-80GB", 3))
        for i in range(count)
    ]
    limited = scheduler(engine, folder, concurrency={"A10G": 3, "A100-80GB": 2})  # type: ignore[arg-type]
    assert limited.run("family_sweep", tasks) == {}
    assert engine.most == {"A10G": 3, "A100-80GB": 1}  # there is one A100
    assert len(list(folder.glob("runs/*/conditions"))) == 13


@pytest.mark.slow
def test_a_cluster_without_the_gpu_says_so_at_once(tmp_path: Path, cluster: Any) -> None:
    engine = RayEngine()
    engine.open(tmp_path)
    with pytest.raises(InputError, match=r"no H100; it has .*A100-80GB, A10G.*--resources"):
        engine.capacity("H100")


@pytest.mark.slow
def test_a_folder_that_the_cluster_does_not_see_is_refused(
    tmp_path: Path, cluster: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("steersweep.engines.ray._sees", lambda _path: (False, versions()))
    with pytest.raises(InputError, match="or ray_storage"):
        RayEngine().open(tmp_path)
    RayEngine(storage=tmp_path.as_uri()).open(tmp_path)


@pytest.mark.slow
def test_a_machine_with_other_libraries_is_refused_by_name(
    tmp_path: Path, cluster: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    here = versions() | {"torch": "1.13.1"}
    monkeypatch.setattr("steersweep.engines.ray.versions", lambda: here)
    real = versions()["torch"]
    with pytest.raises(InputError, match=rf"torch {real} there, 1.13.1 here.*install"):
        RayEngine().open(tmp_path)


def test_differences_between_libraries_are_named() -> None:
    here = versions()
    assert differences({**here, "accelerate": "1"}, here | {"accelerate": "1"}) == []
    assert differences(here, here | {"torch": "1.13.1"})
    without = {name: version for name, version in here.items() if name != "transformers"}
    (told,) = differences(without, here)
    assert told.startswith("transformers missing there")


def test_storage_that_is_away_for_a_while_is_waited_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "conditions").mkdir()
    (tmp_path / "conditions" / "a.json").write_text("{}")
    there, left = Mirror._there, [2]

    def flaky(self: Mirror, system: Any, root: str) -> set[str]:
        if left[0]:
            left[0] -= 1
            raise TimeoutError("gateway timeout")
        return there(self, system, root)

    monkeypatch.setattr(Mirror, "_there", flaky)
    storage = (tmp_path / "bucket").as_uri()
    Mirror(storage, waits=(0, 0)).publish(tmp_path)
    assert (tmp_path / "bucket" / "conditions" / "a.json").read_text() == "{}"
    left[0] = 3
    with pytest.raises(StorageAway, match=r"gateway timeout.*the same command continues"):
        Mirror(storage, waits=(0, 0)).refresh(tmp_path)
    with pytest.raises(InputError, match="cannot be used"):
        Mirror("no-such-kind://x").refresh(tmp_path)


def test_warnings_travel_however_soon_after_other_progress() -> None:
    heard: list[Event] = []
    tell = sparingly(heard.append, every=1000)
    for note, warning in (("loading", ""), ("checking", ""), ("checking", "it thinks"), ("x", "")):
        progress = Progress("m", 0, 2, 0.0, note, warning=warning)
        tell(Event("m", "progress", progress=progress))
    assert [event.progress and event.progress.warning for event in heard] == ["", "it thinks"]


def test_a_file_that_was_damaged_and_made_again_reaches_the_others(tmp_path: Path) -> None:
    """Also where the damaged one went to the storage first."""
    storage = (tmp_path / "bucket").as_uri()
    leader, worker_there = RunFolder(tmp_path / "run"), RunFolder(tmp_path / "copy")
    damaged = leader.root / "extraction" / "a.json"
    damaged.parent.mkdir(parents=True)
    damaged.write_text("null")
    lead, share = Mirror(storage, waits=()), Mirror(storage, waits=())
    lead.publish(leader.root)
    share.refresh(worker_there.root)
    assert leader.read_json(leader.root / "extraction/a.json") is None
    worker_there.write_once(worker_there.root / "extraction/a.json", {"right": 1})
    share.publish(worker_there.root)
    lead.refresh(leader.root)
    assert leader.read_json(leader.root / "extraction/a.json") == {"right": 1}
    assert len(list((tmp_path / "bucket").rglob("*.json"))) == 1


def test_a_cluster_that_stops_answering_ends_in_one_sentence(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        pulse = Pulse(f"127.0.0.1:{server.getsockname()[1]}")
        assert pulse.answers()
    monkeypatch.setattr("steersweep.engines.ray_cluster._CHECK_EVERY", 0)
    pulse.check()  # it may come back
    monkeypatch.setattr("steersweep.engines.ray_cluster._GONE_AFTER", 0)
    with pytest.raises(ClusterLost, match=r"gone .*refused.*the same command continues"):
        pulse.check()
    assert pulse.is_gone
    assert not pulse.answers()


@pytest.mark.slow
def test_the_commands_of_the_guide_work_after_a_run_on_this_machine(tmp_path: Path) -> None:
    """A local cluster leaves no token behind, and one that is there is used by everybody."""
    ray = str(Path(sys.executable).parent / "ray")
    home = {**os.environ, "HOME": str(tmp_path), "RAY_USAGE_STATS_ENABLED": "0"}
    for name in ("RAY_AUTH_MODE", "RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH"):
        home.pop(name, None)
    with_token = {**home, "RAY_AUTH_MODE": "token"}

    def do(*command: str, env: dict[str, str]) -> str:
        done = subprocess.run(
            command, env=env, capture_output=True, text=True, timeout=200, check=False
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    opens = (
        "import sys; from pathlib import Path; from steersweep.engines.ray import RayEngine\n"
        "engine = RayEngine(sys.argv[2] if len(sys.argv) > 2 else None, cpus=1)\n"
        "engine.open(Path(sys.argv[1]))\n"
        "print(engine.capacity('A10G') if sys.argv[2:] else 'open')\n"
        "engine.close()\n"
    )
    do(sys.executable, "-c", opens, str(tmp_path), env=home)
    assert not (tmp_path / ".ray").exists()
    try:
        do(ray, "get-auth-token", "--generate", env=with_token)
        start = (ray, "start", "--num-cpus=1", "--resources", '{"A10G": 1}')
        do(*start, "--head", f"--port={port}", "--include-dashboard=false", env=with_token)
        do(*start, f"--address=127.0.0.1:{port}", env=with_token)
        found = do(sys.executable, "-c", opens, str(tmp_path), f"127.0.0.1:{port}", env=home)
        assert found.strip() == "2"
    finally:
        for process in psutil.process_iter():
            with contextlib.suppress(psutil.Error):
                if process.environ().get("HOME") == str(tmp_path):
                    process.kill()


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


# -- memory --------------------------------------------------------------------------------------


def out_of_memory_above(most: int, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Generation that runs out of memory with more than `most` rows; says what was tried."""
    generate, tried = answering.generate, []

    def limited(*arguments: Any, max_rows: int, **options: Any) -> Any:
        tried.append(max_rows)
        if max_rows > most:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB")
        return generate(*arguments, max_rows=max_rows, **options)

    monkeypatch.setattr(answering, "generate", limited)
    return tried


def test_rows_are_halved_until_they_fit_and_results_stay(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = job_of(prompts=6, rows=12)
    run_job(job, RunFolder(tmp_path / "ample"))
    tried = out_of_memory_above(4, monkeypatch)
    run_job(job, RunFolder(tmp_path / "scarce"))
    assert tried == [12, 6, 3, 3]  # what was too much is not tried again
    ample, scarce = records(tmp_path / "ample"), records(tmp_path / "scarce")
    assert {r["provenance"]["rows"] for r in ample.values()} == {12}
    assert {r["provenance"]["rows"] for r in scarce.values()} == {3}
    for key, record in ample.items():
        texts = [sample["response"] for sample in record["samples"]]
        assert texts == [sample["response"] for sample in scarce[key]["samples"]]


def test_memory_of_a_cpu_is_that_of_the_machine() -> None:
    assert 0 < free_bytes("cpu") <= psutil.virtual_memory().total


def test_rows_follow_free_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As on a GPU that has room for two rows of this job."""
    job = job_of(prompts=6, rows=12)
    chat = ChatModel.load("lab:qwen-3b")
    longest = max(len(chat.prompt_ids(text)) for text in job.test.prompts)
    row = model_shape(chat.model.config).row("fp32", longest, 12)
    monkeypatch.setattr("steersweep.model.memory.free_bytes", lambda _device: int(2.5 * row / 0.85))
    tried = out_of_memory_above(12, monkeypatch)
    run_job(job, RunFolder(tmp_path))
    assert tried == [2, 2]


class TwoKinds(LocalEngine):
    """This machine under the name of whatever GPU was planned."""

    def kind(self, gpu: str) -> str:
        return gpu


def planned_on(gpu: str, **changes: Any) -> Plan:
    families = copy.deepcopy(SMALL["families"])
    for models in families.values():
        for model in models:
            model["gpu"] = gpu
    return small(families=families, **changes)


def test_a_job_that_does_not_fit_moves_to_the_next_larger_gpu(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    load = loading._loaded
    loaded: list[str] = []

    def too_large_once(source: ModelSource, *options: Any) -> Any:
        loaded.append(source.model_id)
        if loaded.count(source.model_id) == 1:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return load(source, *options)

    monkeypatch.setattr(loading, "_loaded", too_large_once)
    plan = planned_on("A10G", fallback_gpu={"A10G": "A100-80GB"})
    lines: list[str] = []
    store = run_study(plan, tmp_path / "run", PHASE_1, engine=TwoKinds("cpu"), on_line=lines.append)
    assert store.read_json(store.root / "phases/family_sweep-failures.json") == {}
    assert any("moved from A10G to A100-80GB" in line for line in lines)
    for found in results(tmp_path / "run")["v3_phase1_family_sweep"]:
        assert found["provenance"]["moved_from"] == ["A10G"]
    reserved = [e for e in Ledger(tmp_path / "run").entries() if e["do"] == "reserve"]
    assert [(e["gpu"], e.get("moved_from")) for e in reserved[:2]] == [
        ("A10G", None),
        ("A100-80GB", ["A10G"]),
    ]


@pytest.mark.slow
def test_a_job_that_fits_nowhere_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out_of_memory_above(0, monkeypatch)
    plan = planned_on("A10G", fallback_gpu={"A10G": "A100-80GB", "A100-80GB": "A10G"})
    with pytest.raises(SteersweepError, match=r"no model could run.*with a single row"):
        run_study(plan, tmp_path / "run", PHASE_1, engine=TwoKinds("cpu"))


def test_other_errors_are_not_taken_for_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[int] = []

    def broken(*_arguments: Any, **_options: Any) -> Any:
        calls.append(1)
        raise RuntimeError("shapes do not match")

    monkeypatch.setattr(answering, "generate", broken)
    with pytest.raises(RuntimeError, match="shapes"):
        run_job(job_of(), RunFolder(tmp_path))
    assert calls == [1]


def test_the_memory_model_is_exact_where_it_can_be(family: ChatModel) -> None:
    """Weights and keys and values, against the tensors of a real model."""
    from steersweep.model.kv_cache import make_cache

    model = model_shape(family.model.config)
    weights = sum(p.numel() * p.element_size() for p in family.model.parameters())
    assert model.weights("fp32") == weights
    assert model == model_shape(family.model.config, family.model)
    cache: Any = make_cache(family.model.config, 20)
    batch = family.pad([family.prompt_ids("Hello")])
    family.logits(batch.input_ids, batch.attention_mask, batch.position_ids, cache=cache)
    held = sum(t.numel() * t.element_size() for x in cache.layers for t in (x._keys, x._values))
    assert model.cache("fp32", 20) == held
    assert model.weights("bf16") == weights // 2
    assert model.weights("int4") < model.weights("int8") < model.weights("bf16")
    one = model.row("fp32", 16, 4)
    assert model.rows_that_fit("fp32", 16, 4, free=100 * one) == 85
    assert model.rows_that_fit("fp32", 16, 4, free=-1) == 0


# -- errors --------------------------------------------------------------------------------------


def test_an_unforeseen_error_ends_one_job_and_leaves_its_traceback(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = engine_module.run_job

    def fails_for_qwen(job: Job, *arguments: Any) -> None:
        if job.family == "qwen":
            raise ZeroDivisionError("a bug")
        run(job, *arguments)

    monkeypatch.setattr(engine_module, "run_job", fails_for_qwen)
    store = run_study(small(), tmp_path / "run", PHASE_1, engine=LocalEngine("cpu"))
    failures = store.read_json(store.root / "phases/family_sweep-failures.json")
    assert "ZeroDivisionError: a bug" in failures["q7 family fp32"]
    log = tmp_path / "run" / "logs" / "q7-family-fp32.txt"
    assert "fails_for_qwen" in log.read_text()
    assert results(tmp_path / "run")["v3_phase1_family_sweep"][0]["family"] == "mistral"


def test_what_a_listener_raises_is_no_error_of_the_job(tmp_path: Path) -> None:
    def listener(event: Event) -> None:
        if event.kind == "progress":
            raise ValueError("the display broke")

    with pytest.raises(ValueError, match="display"):
        carry_out(Work("w", job_of(), "local"), tmp_path, listener)


def test_other_weights_at_the_same_place_are_noticed_where_the_job_runs(
    tmp_path: Path, copied_lab_model: Path
) -> None:
    settings = make_settings([str(copied_lab_model)], layers="0.5", strengths="0.2", max_prompts=2)
    job = make_job(settings, settings.models[0], "cpu", "2026-11-25")
    config = copied_lab_model / "generation_config.json"
    config.write_text(config.read_text().replace("{", '{"top_k": 7,', 1))
    events: list[Event] = []
    carry_out(Work("w", job, "local"), tmp_path, events.append)
    assert events[-1].kind == "failed"
    assert "are not those this run began with" in str(events[-1].error)


def test_a_folder_that_the_worker_lacks_is_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="is not on the machine"):
        found_here(ModelSource("models/mine", "/no/such/folder"))
    assert found_here(find_model("lab:qwen-3b")).is_local


def test_this_machine_is_one_engine(monkeypatch: pytest.MonkeyPatch) -> None:
    assert isinstance(local_engine("cpu"), LocalEngine)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 3)
    several = local_engine("auto")
    assert isinstance(several, ProcessEngine)
    assert several.capacity("local") == 3
