"""Runs the sweeps of a phase as jobs: conditions noted, money reserved, failures kept by name."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace

from steersweep import provenance
from steersweep.atomic import DiskFull
from steersweep.errors import InputError, SteersweepError
from steersweep.experiment import phases
from steersweep.experiment.budget import BudgetStop, Ledger, Limits
from steersweep.experiment.estimate import RESERVE, calibration, estimate
from steersweep.experiment.phases import Cuts, Sweep
from steersweep.experiment.plan import LOCAL, Plan
from steersweep.experiment.results import Result, sweep_results
from steersweep.experiment.sweep import make_job
from steersweep.store import RunStore
from steersweep.worker import Job, OnProgress, Progress, run_job, unplaced


class ChangedWeights(SteersweepError):
    """Weights changed under a run; not a model that merely fails."""

    exit_code = 2


class Jobs:
    """Runs sweeps in a study's folder.

    Args:
        plan: the plan.
        store: the run folder.
        cuts: cuts that apply.
        limits: hard stops.
        created: UTC time the study began.
        device: `auto` or a torch device.
        accept: `model:NAME` of every model whose changed weights are accepted.
        on_progress: told of progress within a job.
        on_line: told what a person should read.
    """

    def __init__(
        self,
        plan: Plan,
        store: RunStore,
        cuts: Cuts,
        limits: Limits,
        *,
        created: str,
        device: str,
        accept: Collection[str],
        on_progress: OnProgress,
        on_line: Callable[[str], None],
    ) -> None:
        self.plan = plan
        self.store = store
        self.cuts = cuts
        self.created = created
        self.device = device
        self.accept = accept
        self.on_progress = on_progress
        self.say = on_line
        self._limits = limits
        self._ledger = Ledger(store.folder)

    def run(self, phase: str, sweeps: Sequence[Sweep]) -> list[Result]:
        """Run what is missing of some sweeps of a phase; their results, one per model and method.

        A model that cannot run is named and left out; the others go on.
        """
        jobs: list[tuple[Sweep, Job]] = []
        failures: dict[str, str] = {}
        for sweep in sweeps:
            try:
                jobs.append((sweep, self._job(sweep)))
            except InputError as error:
                failures[str(sweep)] = str(error)
        self._note_conditions(phase, [job for _, job in jobs])
        for sweep, job in jobs:
            try:
                self._run_one(phase, sweep, job)
            except (BudgetStop, DiskFull):
                raise
            except SteersweepError as error:
                failures[str(sweep)] = str(error)
                self.say(f"{sweep}: {error}")
        held = self.store.get_once(f"phases/{phase}-failures.json") or {}
        others = {name: why for name, why in held.items() if name not in {*map(str, sweeps)}}
        self.store.put_current(f"phases/{phase}-failures.json", others | failures)
        self._note_conditions(phase, [job for _, job in jobs])
        if sweeps and len(failures) == len(sweeps):
            raise SteersweepError(
                f"{phase}: no model could run: "
                + "; ".join(f"{name}: {reason}" for name, reason in failures.items())
            )
        return self._results(jobs)

    def _job(self, sweep: Sweep) -> Job:
        settings = phases.settings_of(self.plan, sweep, self.cuts)
        job = make_job(settings, settings.models[0], self.device)
        name = f"model:{sweep.model.name}"
        fingerprint = job.conditions[0].model_fingerprint
        held = self.store.get_once("models.json") or {}
        if held.get(name, fingerprint) != fingerprint and name not in self.accept:
            raise ChangedWeights(
                f"{sweep.model.name}: the model's weights are not those this run began with "
                f"(fingerprint {held[name]} then, {fingerprint} now). Use --accept-change {name}, "
                f"or a new folder"
            )
        self.store.put_current("models.json", held | {name: fingerprint})
        if job.n_layers != sweep.model.n_layers:
            self.say(
                f"{sweep.model.name}: the plan says {sweep.model.n_layers} layers, the model has "
                f"{job.n_layers}; the model decides"
            )
        return job

    def _run_one(self, phase: str, sweep: Sweep, job: Job) -> None:
        missing = [
            c
            for c in job.conditions
            if self.store.get(c.key) is None and not unplaced(c, self.store)
        ]
        if not missing:
            return
        expected = estimate(
            self.plan,
            sweep,
            len(job.test.prompts),
            gpu=LOCAL,
            factor=calibration(self._ledger.timings()),
        )
        seconds = expected.seconds * len(missing) / len(job.conditions)
        with self.paid(phase, str(sweep), seconds, sweep.timeout_s) as on_progress:
            run_job(job, self.store, on_progress)

    @contextmanager
    def paid(
        self, phase: str, job: str, seconds: float, timeout_s: float | None = None
    ) -> Iterator[OnProgress]:
        """Reserve money for what is expected to take `seconds`, and settle what it took.

        Yields what to tell of progress: it ends a job that reaches a stop because it takes longer
        than it reserved for, or that reaches `timeout_s`.
        """
        price = self.plan.price(LOCAL) / 3600
        stops = {"total": self._limits.total, phase: self._limits.of(phase)}
        spent = {"total": self._ledger.spent(), phase: self._ledger.spent(phase)}
        identity = self._ledger.reserve(
            phase,
            job,
            usd=RESERVE * seconds * price,
            seconds=seconds,
            limits=self._limits,
            time=provenance.utc_now(),
        )
        started = time.monotonic()

        def watch(progress: Progress) -> None:
            took = time.monotonic() - started
            if timeout_s is not None and took >= timeout_s:
                raise SteersweepError(
                    f"{job}: the plan's timeout of {timeout_s:g} s is reached. What is finished "
                    f"counts; the same command again goes on with the rest"
                )
            cost = took * price
            for name, stop in stops.items():
                if cost > 0 and spent[name] + cost >= stop:
                    raise BudgetStop(
                        f"{job}: the {name} stop of {stop:.4g} USD is reached. Everything "
                        f"finished is kept; raise the budget with --budget to go on"
                    )
            self.on_progress(progress)

        whole = False
        try:
            yield watch
            whole = True
        finally:
            took = time.monotonic() - started
            self._ledger.settle(
                identity, usd=took * price, seconds=took, whole=whole, time=provenance.utc_now()
            )

    def _results(self, jobs: Sequence[tuple[Sweep, Job]]) -> list[Result]:
        """Result objects; the sweeps of a model in one precision are one result per method."""
        merged: dict[tuple[str, str], tuple[Sweep, Job]] = {}
        for sweep, job in jobs:
            key = sweep.model.name, sweep.precision
            first, held = merged.get(key, (sweep, job))
            together = {c.key: c for c in (*held.conditions, *job.conditions)}
            merged[key] = first, replace(held, conditions=tuple(together.values()))
        results = []
        for sweep, job in merged.values():
            for result in sweep_results(self.store, [job], self.created):
                results.append(result | {"phase": sweep.phase})
        return results

    def _note_conditions(self, phase: str, jobs: Iterable[Job]) -> None:
        """What the phase consists of, for `status`."""
        name = f"phases/{phase}.json"
        held = self.store.get_once(name) or []
        keys = dict.fromkeys([*held, *(c.key for job in jobs for c in job.conditions)])
        left_out = {c.key for job in jobs for c in job.conditions if unplaced(c, self.store)}
        self.store.put_current(name, [key for key in keys if key not in left_out])
