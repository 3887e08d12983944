"""What an engine takes for each job beside the job: local, processes, and Ray with 1, 2, 4 workers.

    RAY_worker_niceness=0 python benchmarks/engines.py [--jobs 12] [--empty 60] [--workers 1,2,4]

Jobs are tiny (a lab model, five conditions, two prompts, four tokens), on one core each. They are
run as they are, and then as many as `--empty` in a folder where they have finished: nothing is left
to do, so that the time is the engine's and the scheduler's alone. Starting the engine and a first
job for each worker, which imports torch, stand apart. Ray believes to have as many GPUs of a kind
as there are workers. Processor seconds are of every process that the engine started.
"""

from __future__ import annotations

import argparse
import contextlib
import datetime
import logging
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import cache
from pathlib import Path

import psutil
import torch

from machine import named
from steersweep.budget.ledger import Ledger, Limits
from steersweep.core.errors import SteersweepError
from steersweep.engines.engine import Engine, Work
from steersweep.engines.local import LocalEngine
from steersweep.engines.processes import ProcessEngine
from steersweep.engines.ray import RayEngine
from steersweep.engines.ray_cluster import set_up_token
from steersweep.study.listeners import Listeners
from steersweep.study.plan_file import load_plan
from steersweep.study.scheduler import Scheduler, Task
from steersweep.sweeps.settings import make_job, make_settings
from steersweep.work.job import Job

GPU = "A10G"
PHASE = "family_sweep"


def main() -> None:
    """Parse options, measure, print Markdown."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--jobs", type=int, default=12)
    parser.add_argument("--empty", type=int, default=60, help="jobs with nothing to do")
    parser.add_argument("--workers", default="1,2,4")
    parser.add_argument("--engines", default="local,processes,ray")
    asked = parser.parse_args()
    torch.set_num_threads(1)
    workers = [int(number) for number in asked.workers.split(",")]
    print(f"{named(torch.device('cpu'))}, {psutil.cpu_count()} cores, busy by ", end="")
    print(f"{psutil.getloadavg()[0]:.1f} processes; {datetime.datetime.now(datetime.UTC):%Y-%m-%d}")
    print("\n| engine | workers | start, s | a job: wall, s | processor, s "
          "| nothing to do: wall, ms | processor, ms |")  # fmt: skip
    print("|---|---|---|---|---|---|---|")
    if "local" in asked.engines:
        print_row("local", 1, LocalEngine("cpu"), asked)
    for number in workers if "processes" in asked.engines else ():
        print_row("processes", number, ProcessEngine(["cpu"] * number), asked)
    for number in workers if "ray" in asked.engines else ():
        with cluster(number):
            print_row("ray", number, RayEngine(), asked)


@contextlib.contextmanager
def cluster(workers: int) -> Iterator[None]:
    """A cluster on this machine that believes to have so many GPUs."""
    import ray

    set_up_token(own_cluster=True)
    ray.init(
        address="local",
        num_cpus=workers,
        resources={GPU: workers},
        include_dashboard=False,
        log_to_driver=False,
        logging_level=logging.ERROR,
    )
    try:
        yield
    finally:
        ray.shutdown()


def print_row(name: str, workers: int, engine: Engine, asked: argparse.Namespace) -> None:
    """Measure one engine."""
    with tempfile.TemporaryDirectory() as made:
        folder = Path(made)
        began = time.monotonic()
        engine.open(folder)
        try:
            run(engine, folder, "first", workers)
            started = time.monotonic() - began
            whole = seconds_of(lambda: run(engine, folder, "job", asked.jobs))
            for number in range(asked.empty):
                (folder / "empty").mkdir(exist_ok=True)
                (folder / "empty" / str(number)).symlink_to(folder / "job" / "0")
            empty = seconds_of(lambda: run(engine, folder, "empty", asked.empty))
        finally:
            engine.close()
    each = [f"{seconds / asked.jobs:.2f}" for seconds in whole]
    each += [f"{1000 * seconds / asked.empty:.0f}" for seconds in empty]
    print(f"| {name} | {workers} | {started:.1f} | {' | '.join(each)} |", flush=True)


def run(engine: Engine, folder: Path, name: str, count: int) -> None:
    """Run jobs, each in a folder of its own, as a study would."""
    kind = engine.kind(GPU)
    tasks = [
        Task(Work(f"{name} {number}", a_job(), kind, folder=f"{name}/{number}"), lambda _kind: 1.0)
        for number in range(count)
    ]
    scheduler = Scheduler(
        replace(load_plan("v3"), at_once={}),
        Ledger(folder),
        Limits(),
        engine,
        Listeners(),
        on_finished=lambda _name: None,
    )
    failed = scheduler.run(PHASE, tasks)
    if failed:
        raise SteersweepError(str(failed))


@cache
def a_job() -> Job:
    """What every task does."""
    settings = make_settings(
        ["lab:qwen-3b"], layers="0.3,0.6", strengths="0.2", max_prompts=2, max_new_tokens=4
    )
    return make_job(settings, settings.models[0], "cpu", "2026-01-01")


def seconds_of(act: Callable[[], None]) -> tuple[float, float]:
    """Seconds by the clock, and of the processor, of this process and all that it began."""
    wall, spent = time.monotonic(), processor_seconds()
    act()
    return time.monotonic() - wall, processor_seconds() - spent


def processor_seconds() -> float:
    """Of this process and all that it began."""
    me = psutil.Process()
    total = 0.0
    for process in (me, *me.children(recursive=True)):
        with contextlib.suppress(psutil.Error):
            total += sum(process.cpu_times()[:4])  # with those that have ended under it
    return total


if __name__ == "__main__":
    main()
