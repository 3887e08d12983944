"""What a thousand jobs take on 64 GPUs that may be taken away: hours, money, work done twice.

    python benchmarks/fleet.py [--jobs 1000] [--prompts 120,1000] [--seeds 20] [--rates 0,0.05,0.2]

A simulation. Which job starts when, what is reserved and settled, how a lost job goes on and what a
stop does is decided by steersweep's own scheduler, ledger, prices and estimates; the machines and
their clock are made up (simulated.py). Beside it stand two plain queues on the same machines with
the same jobs: one line for all, whose first job holds up the others, and a line for each kind of
GPU. In both a job whose machine is taken away goes to the end of its line and begins anew, as does
one that does not fit, on a larger GPU. docs/scale.md says what is assumed and what is left out.
"""

from __future__ import annotations

import argparse
import itertools
import math
import random
import tempfile
from collections import defaultdict, deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import median

from simulated import Fleet, Truth
from steersweep.budget.estimate import LOADING, stage_seconds
from steersweep.budget.ledger import BudgetStop, Ledger, Limits
from steersweep.budget.timing import gpu as gpu_machine
from steersweep.catalog.gpus import gpu_catalog
from steersweep.engines.engine import Event, Work
from steersweep.run.condition import Strength
from steersweep.study.costs import estimate, expected_seconds, workload
from steersweep.study.listeners import Listeners
from steersweep.study.phases.sizes import SIZES
from steersweep.study.plan import Plan, layer_choice
from steersweep.study.plan_file import load_plan
from steersweep.study.scheduler import Scheduler, Task
from steersweep.study.sweeps import Sweep
from steersweep.sweeps.settings import make_job, make_settings
from steersweep.work.job import Job

FLEET = {"A10G": 40, "A100-80GB": 24}
SPOT = 0.4  # of the price, where machines may be taken away
TOO_LARGE = 0.02  # of the jobs on the smaller GPU
# True times over estimates: by kind of GPU, which finished jobs correct, and how far jobs differ.
OFF = {"A10G": 1.5, "A100-80GB": 0.8}
SPREAD = 0.3  # standard deviation of the logarithm
PHASE = SIZES.name


@dataclass(frozen=True)
class Outcome:
    """What a run came to.

    Attributes:
        hours: until its last job ended.
        gpu_hours: that GPUs were at work.
        usd: for these.
        twice: share of the GPU hours beyond one uninterrupted run of each job.
        losses: machines that were taken away under a job.
        finished: jobs.
    """

    hours: float
    gpu_hours: float
    usd: float
    twice: float
    losses: int
    finished: int


@dataclass(frozen=True)
class Case:
    """Jobs to run, and what machines.

    Attributes:
        plan: with the prices of these machines.
        sweeps: the jobs.
        n_prompts: unique prompts of each.
        rate: how often an hour a GPU at work is taken away.
        seed: of the case.
        job: stands for the job of each.
    """

    plan: Plan
    sweeps: Sequence[Sweep]
    n_prompts: int
    rate: float
    seed: int
    job: Job

    @classmethod
    def drawn(cls, count: int, n_prompts: int, rate: float, seed: int, job: Job) -> Case:
        """The case of a seed. Its jobs are the same at every rate."""
        share = SPOT if rate else 1.0
        prices = {kind: share * gpu_catalog()[kind]["usd_per_hour"] for kind in FLEET}
        plan = replace(load_plan("v3"), prices=prices, at_once={}, timeouts={PHASE: 10**6})
        sweeps = make_sweeps(plan, count, random.Random(seed))
        return cls(plan, sweeps, n_prompts, rate, seed, job)

    def fleet(self, *, keeps: bool = True, look_s: float = 900.0) -> Fleet:
        """The machines, before anything runs."""
        chance = random.Random(self.seed + 1)
        jobs = {str(sweep): truth_of(self, sweep, chance) for sweep in self.sweeps}
        return Fleet(FLEET, jobs, self.rate, self.seed + 2, keeps, look_s)


# -- the jobs --------------------------------------------------------------------------------------


def make_sweeps(plan: Plan, count: int, chance: random.Random) -> list[Sweep]:
    """Sweeps of the plan's models, each of a size of its own, in the plan's order of models."""
    made = []
    for number in range(count):
        model = chance.choice([*plan.models.values()])
        layers = chance.sample([0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8], chance.randint(2, 6))
        strengths = [Strength("relative", 0.1 * (k + 1)) for k in range(chance.randint(1, 4))]
        sweep = Sweep(
            SIZES.steps[0],
            replace(model, name=f"{model.name}-{number}"),
            chance.choice([("dim",), ("dim", "cosmic")]),
            tuple(layer_choice(share) for share in layers),
            tuple(strengths),
            model.precision,
        )
        made.append(sweep)
    return made


def truth_of(case: Case, sweep: Sweep, chance: random.Random) -> Truth:
    """A job as it will turn out: its estimate, off by what nobody knows."""
    factor = chance.lognormvariate(0.0, SPREAD)
    loading, working = {}, {}
    for kind in FLEET:
        work = workload(case.plan, sweep, case.n_prompts)
        rows = estimate(case.plan, sweep, case.n_prompts, gpu=kind).rows
        stages = stage_seconds(replace(work, rows=rows), gpu_machine(gpu_catalog()[kind]))
        loading[kind] = stages.pop(LOADING)
        working[kind] = OFF[kind] * factor * sum(stages.values())
    planned = sweep.model.gpu
    larger = case.plan.fallback_gpus.get(planned, planned)
    fits = larger if chance.random() < TOO_LARGE else planned
    return Truth(loading, working, sweep.n_conditions, planned, fits)


def tasks_of(case: Case, sweeps: Iterable[Sweep], fleet: Fleet, ledger: Ledger) -> list[Task]:
    """The tasks that a study would give the scheduler for these sweeps."""

    def task(sweep: Sweep) -> Task:
        def seconds(kind: str) -> float:
            truth = fleet.jobs[str(sweep)]
            left = 1 - truth.done / truth.n_conditions
            return expected_seconds(case.plan, sweep, case.n_prompts, kind, ledger, share=left)

        gpu = sweep.model.gpu
        return Task(Work(str(sweep), case.job, gpu, case.plan.timeout(PHASE, gpu)), seconds)

    return [task(sweep) for sweep in sweeps]


# -- ways to run them ------------------------------------------------------------------------------


def by_steersweep(case: Case, fleet: Fleet, *, stop: float = math.inf) -> tuple[Outcome, int]:
    """By steersweep's scheduler, and jobs that it gave up; these are run again, as a person would.

    With a stop, what was done when it was reached.
    """
    left, given_up = list(case.sweeps), 0
    done: set[str] = set()
    with tempfile.TemporaryDirectory() as folder:
        ledger = Ledger(Path(folder))
        while left:
            scheduler = Scheduler(
                case.plan,
                ledger,
                Limits(stop),
                fleet,
                Listeners(),
                on_finished=done.add,
                clock=lambda: fleet.now,
            )
            try:
                failed = scheduler.run(PHASE, tasks_of(case, left, fleet, ledger))
            except BudgetStop:
                break
            given_up += len(failed)
            left = [sweep for sweep in left if str(sweep) in failed]
        seconds: dict[str, float] = {}
        for paid in ledger.jobs():
            seconds[paid.gpu] = seconds.get(paid.gpu, 0.0) + (paid.seconds or 0.0)
        outcome = outcome_of(case, fleet, seconds, len(done))
        assert math.isclose(outcome.usd, ledger.spent(), rel_tol=1e-9)
    return outcome, given_up


def by_lines(case: Case, fleet: Fleet, *, one: bool) -> Outcome:
    """By a plain queue: one line for all, or one for each kind of GPU; nothing is kept."""
    lines: dict[str, deque[Work]] = {}

    def join(work: Work) -> None:
        lines.setdefault("" if one else work.gpu, deque()).append(work)

    for sweep in case.sweeps:
        join(Work(str(sweep), case.job, sweep.model.gpu))
    running: dict[str, Work] = {}
    finished = 0

    def hear(event: Event) -> None:
        nonlocal finished
        if not event.is_end:
            return
        work = running.pop(event.work)
        finished += event.kind == "finished"
        if event.kind == "failed":
            work = replace(work, gpu=case.plan.fallback_gpus[work.gpu])
        if event.kind != "finished":
            join(work)

    while running or any(lines.values()):
        for line in lines.values():
            while line:
                kind = line[0].gpu
                busy = sum(work.gpu == kind for work in running.values())
                if busy >= (fleet.capacity(kind) or 0):
                    break
                work = line.popleft()
                running[work.name] = work
                fleet.submit(work)
        fleet.wait(hear)
    return outcome_of(case, fleet, fleet.busy_s, finished)


def outcome_of(case: Case, fleet: Fleet, seconds: Mapping[str, float], finished: int) -> Outcome:
    """A run by the seconds that GPUs of each kind were at work."""
    needed = sum(
        truth.loading_s[truth.fits] + truth.working_s[truth.fits] for truth in fleet.jobs.values()
    )
    total = sum(seconds.values())
    return Outcome(
        fleet.now / 3600,
        total / 3600,
        sum(case.plan.price(kind) * took / 3600 for kind, took in seconds.items()),
        total / needed - 1,
        fleet.losses,
        finished,
    )


# -- the tables ------------------------------------------------------------------------------------


def main() -> None:
    """Parse options, simulate, print Markdown."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--jobs", type=int, default=1000)
    parser.add_argument("--prompts", default="120,1000", help="of each job: how long jobs are")
    parser.add_argument("--seeds", type=int, default=20)
    parser.add_argument("--rates", default="0,0.05,0.2")
    parser.add_argument("--parts", default="ways,stops")
    asked = parser.parse_args()
    settings = make_settings(["lab:qwen-3b"], layers="0.5", strengths="0.2", max_prompts=1)
    job = make_job(settings, settings.models[0], "cpu", "2026-01-01")
    rates = [float(rate) for rate in asked.rates.split(",")]

    def cases(n_prompts: int, rate: float) -> Iterator[Case]:
        for seed in range(asked.seeds):
            yield Case.drawn(asked.jobs, n_prompts, rate, seed, job)

    lengths = [int(number) for number in asked.prompts.split(",")]
    if "ways" in asked.parts:
        print("| prompts | taken | way | hours | GPU hours | USD | twice | losses | given up |")
        print("|---|---|---|---|---|---|---|---|---|")
        for n_prompts, rate in itertools.product(lengths, rates):
            print_ways(cases(n_prompts, rate), f"{n_prompts} | {rate:g}")
    if "stops" in asked.parts:
        print("\n| stop | taken | spent of it | jobs finished |")
        print("|---|---|---|---|")
        for share, rate in itertools.product((0.7,), rates):
            stopped = [stopped_at(share, case) for case in cases(lengths[0], rate)]
            spent, finished = zip(*stopped, strict=True)
            row = f"{shown(spent, '.1%')} | {shown(finished, '.0f')}"
            print(f"| {share:.0%} | {rate:g} | {row} |", flush=True)


def print_ways(cases: Iterable[Case], head: str) -> None:
    """A row for each way to run the jobs, each on the same machines."""
    found: dict[str, list[tuple[Outcome, int]]] = defaultdict(list)
    for case in cases:
        for way, one in (("one line", True), ("a line for each kind", False)):
            found[way].append((by_lines(case, case.fleet(keeps=False), one=one), 0))
        found["steersweep"].append(by_steersweep(case, case.fleet()))
    for way, outcomes in found.items():
        print(f"| {head} | {way} | {cells(outcomes)} |", flush=True)


def stopped_at(share: float, case: Case) -> tuple[float, int]:
    """With a stop at a share of what all jobs cost: how much of it is spent, and finished jobs."""
    whole, _ = by_steersweep(case, case.fleet())
    outcome, _ = by_steersweep(case, case.fleet(look_s=10.0), stop=share * whole.usd)
    return outcome.usd / (share * whole.usd), outcome.finished


def cells(found: Sequence[tuple[Outcome, int]]) -> str:
    """A row of the first table."""
    outcomes = [outcome for outcome, _ in found]
    return " | ".join(
        [
            shown([one.hours for one in outcomes], ".1f"),
            shown([one.gpu_hours for one in outcomes], ".0f"),
            shown([one.usd for one in outcomes], ".0f"),
            shown([one.twice for one in outcomes], ".1%"),
            shown([one.losses for one in outcomes], ".0f"),
            shown([given_up for _, given_up in found], ".0f"),
        ]
    )


def shown(values: Sequence[float], form: str) -> str:
    """The median of some values, and the least and most."""
    return f"{median(values):{form}} ({min(values):{form}}-{max(values):{form}})"


if __name__ == "__main__":
    main()
