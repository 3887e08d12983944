"""Engines: the same results in processes and on Ray, also when workers are killed."""

from __future__ import annotations

import contextlib
import copy
import json
import os
import signal
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
from helpers.jobs import PHASE_1, engine_processes, job_of, records, results, scheduler
from helpers.studies import SMALL, small
from steersweep import InputError
from steersweep.budget.ledger import Ledger
from steersweep.engines.engine import Engine, Event, OnEvent, Work
from steersweep.engines.local import LocalEngine, local_engine
from steersweep.engines.processes import ProcessEngine
from steersweep.engines.ray import RayEngine
from steersweep.engines.ray_cluster import set_up_token
from steersweep.engines.share import Mirror
from steersweep.engines.versions import versions
from steersweep.study.plan_file import parse_plan
from steersweep.study.scheduler import Task
from steersweep.study.study import run_study

THREADS = torch.get_num_threads()


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


# -- what a cluster has ---------------------------------------------------------------------------


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


def test_this_machine_is_one_engine(monkeypatch: pytest.MonkeyPatch) -> None:
    assert isinstance(local_engine("cpu"), LocalEngine)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 3)
    several = local_engine("auto")
    assert isinstance(several, ProcessEngine)
    assert several.capacity("local") == 3
