"""The jobs of a phase: made from its sweeps, run, and gathered into results; failures by name."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import replace

from steersweep.budget.ledger import SMOKE, Ledger, Limits
from steersweep.core.errors import InputError, SteersweepError, setting
from steersweep.engines.engine import Engine, Work
from steersweep.model.source import hub_commit
from steersweep.run.folder import LostDirection, RunFolder
from steersweep.run.result import Result
from steersweep.study.begun import Begun, begun
from steersweep.study.costs import estimate, expected_seconds
from steersweep.study.listeners import Ended, Listeners
from steersweep.study.plan import Plan
from steersweep.study.scheduler import Scheduler, Task
from steersweep.study.settings import settings_of
from steersweep.study.sweeps import Cuts, Sweep
from steersweep.sweeps.results import sweep_results
from steersweep.sweeps.settings import make_job
from steersweep.work.asked_effects import NO_EFFECTS, note_asked
from steersweep.work.job import Job, effects_missing, placeable, unfinished, window_notes
from steersweep.work.overflow import as_it_runs, share_overflow


class ChangedWeights(SteersweepError):
    """Weights changed under a run; not a model that merely fails."""

    exit_code = 2


class NothingRan(SteersweepError):
    """No job of a phase could run, so nothing can be decided."""

    exit_code = 4


_EFFECTS_SHARE = 0.25  # of a job's time, at most, with the usual number of items
CHECKED_PROMPTS = 1  # the checks of a model take about as long as so many prompts of a cell


class Jobs:
    """Runs sweeps in a study's folder.

    Args:
        plan: the plan.
        store: the run folder.
        cuts: cuts that apply.
        limits: hard stops.
        engine: where jobs run; open for the run folder.
        created: UTC time the study began.
        accept: `model:NAME` of every model whose changed weights are accepted.
        accept_mismatch: go on whatever the smoke test finds.
        listeners: told what happens.
    """

    def __init__(
        self,
        plan: Plan,
        store: RunFolder,
        cuts: Cuts,
        limits: Limits,
        engine: Engine,
        listeners: Listeners,
        *,
        created: str,
        accept: Collection[str],
        accept_mismatch: bool,
    ) -> None:
        self.plan = plan
        self.store = store
        self.cuts = cuts
        self.created = created
        self.accept = accept
        self.accept_mismatch = accept_mismatch
        self.say = listeners.on_line
        self._begun = Begun() if cuts.prompts is None else begun(plan, store)
        self._engine = engine
        self._ledger = Ledger(store.root)
        self._on_job = listeners.on_job
        self._said: set[str] = set()
        self._asked: dict[str, set[str]] = {}  # by phase, sweeps of this run
        self._conditions: dict[str, set[str]] = {}  # by phase, keys that this run asks for
        self._running: dict[str, tuple[str, Sweep, Job]] = {}
        self._scheduler = Scheduler(
            plan,
            self._ledger,
            limits,
            engine,
            listeners,
            on_finished=self._ended,
        )

    def run(
        self, phase: str, sweeps: Sequence[Sweep], *, all_may_fail: bool = False
    ) -> list[Result]:
        """Run what is missing of some sweeps of a phase; their results, one per model and method.

        A model that cannot run is named and left out; the others go on.

        Raises:
            SteersweepError: none could run, and `all_may_fail` is not set.
        """
        jobs: list[tuple[Sweep, Job]] = []
        failures: dict[str, str] = {}
        for sweep in sweeps:
            try:
                jobs.append((sweep, self._job(sweep)))
            except InputError as error:
                failures[str(sweep)] = str(error)
        self._note_conditions(phase, [job for _, job in jobs])
        tasks = []
        self._running = {str(sweep): (phase, sweep, job) for sweep, job in jobs}
        for sweep, job in jobs:
            if unfinished(job, self.store) or effects_missing(job, self.store):
                tasks.append(self._task(phase, sweep, job))
            else:
                self._ended(str(sweep), earlier=True)
        for name, reason in self._run(phase, jobs, tasks).items():
            failures[name] = str(reason)
        left = {c.key for _, job in jobs for c in job.conditions}
        jobs = [(sweep, as_it_runs(job, self.store)) for sweep, job in jobs]
        left -= {c.key for _, job in jobs for c in job.conditions}
        self._note_failures(phase, [str(sweep) for sweep in sweeps], failures)
        self._note_conditions(phase, [job for _, job in jobs], without=left)
        if sweeps and len(failures) == len(sweeps) and not all_may_fail:
            raise NothingRan(
                f"{phase}: no model could run: "
                + "; ".join(f"{name}: {why}" for name, why in failures.items())
            )
        return self._results(jobs)

    def _run(
        self, phase: str, jobs: Sequence[tuple[Sweep, Job]], tasks: Sequence[Task]
    ) -> dict[str, SteersweepError]:
        """Run tasks; why each that failed did, by name.

        Where a borrowed direction was damaged meanwhile, the job that found it makes it again, and
        those that missed it run once more.
        """
        failed = self._scheduler.run(phase, tasks)
        lost = {name for name, why in failed.items() if isinstance(why, LostDirection)}
        if not lost:
            return failed
        again = [
            self._task(phase, sweep, job) for sweep, job in jobs if unfinished(job, self.store)
        ]
        first = [task for task in again if task.work.name not in lost]
        failed |= self._scheduler.run(phase, first)
        for name in lost:
            del failed[name]
        then = [task for task in again if task.work.name in lost]
        return failed | self._scheduler.run(phase, then)

    def run_apart(self, phase: str, sweep: Sweep, job: Job, store: RunFolder) -> None:
        """Run a job whose conditions go to a run of their own inside the study's folder.

        Where its model overflows in one of the two runs, the other is told.

        Raises:
            SteersweepError: why it could not run.
        """
        fingerprint = job.conditions[0].model_fingerprint
        share_overflow(fingerprint, self.store, store)
        folder = store.root.relative_to(self.store.root).as_posix()
        # What it reproduces is a rate: its conditions are measured where they are swept.
        job = replace(as_it_runs(job, store), effects=NO_EFFECTS)
        task = self._task(phase, sweep, job, folder)
        failed = self._scheduler.run(phase, [task])
        share_overflow(fingerprint, store, self.store)
        for error in failed.values():
            raise error

    def check(self, sweeps: Sequence[Sweep]) -> dict[str, str]:
        """Make every check of the models of some sweeps, where they will run, and nothing else.

        Returns, by `check_name`, what is wrong with each that fails; one does not stop the others.

        Raises:
            BudgetStop: see `Scheduler.run`.
        """
        failures: dict[str, str] = {}
        tasks = []
        for sweep in sweeps:
            try:
                job = replace(self._job(sweep), checks_only=True)
            except SteersweepError as error:
                failures[check_name(sweep)] = str(error)
            else:
                tasks.append(self._check_task(sweep, job))
        failed = self._scheduler.run(SMOKE, tasks)
        return failures | {name: str(why) for name, why in failed.items()}

    def _check_task(self, sweep: Sweep, job: Job) -> Task:
        def seconds(kind: str) -> float:
            return estimate(self.plan, sweep, CHECKED_PROMPTS, gpu=kind).seconds

        kind = self._engine.kind(sweep.model.gpu)
        timeout_s = self.plan.timeout(sweep.step.phase, kind)
        return Task(Work(check_name(sweep), job, kind, timeout_s, "", _labels(sweep)), seconds)

    def tell(self, ended: Ended) -> None:
        """Tell of a job whose results are not those of the study's own folder."""
        self._on_job(ended)

    def device(self, sweep: Sweep) -> str:
        """Torch device a sweep's job runs on."""
        return self._engine.device(self._engine.kind(sweep.model.gpu))

    def _job(self, sweep: Sweep) -> Job:
        name = f"model:{sweep.model.name}"
        held = self.store.read_json(self.store.paths.models) or {}
        accepted = name in self.accept
        # A model of the hub stays at the commit this run began with.
        commit = None if accepted else hub_commit(held.get(name, ""))
        cuts = self._begun.cuts_of(self.cuts, sweep.model.model)
        settings = settings_of(self.plan, sweep, cuts, commit)
        settings = replace(settings, smoke=True, accept_mismatch=self.accept_mismatch)
        job = make_job(settings, settings.models[0], self.device(sweep), self.created[:10])
        fingerprint = job.conditions[0].model_fingerprint
        if held.get(name, fingerprint) != fingerprint and not accepted:
            raise ChangedWeights(
                f"{sweep.model.name}: the model's weights are not those this run began with "
                f"(fingerprint {held[name]} then, {fingerprint} now). Use "
                f"{setting('accept')} {name}, or a new folder"
            )
        self.store.write_json(self.store.paths.models, held | {name: fingerprint})
        job = as_it_runs(job, self.store)
        if job.effects:
            judge = job.conditions[0].judge
            note_asked(self.store, job.effects, judge, job.special_tokens)
        for note in job.notes:
            if note not in self._said:
                self._said.add(note)
                self.say(note)
        if job.n_layers != sweep.model.n_layers:
            self.say(
                f"{sweep.model.name}: the plan says {sweep.model.n_layers} layers, the model has "
                f"{job.n_layers}; the model decides"
            )
        return job

    def _task(self, phase: str, sweep: Sweep, job: Job, folder: str = "") -> Task:
        def seconds(kind: str) -> float:
            # Files that conditions rest on may be missing too; after a loss it is what is left.
            share = 1.0 if folder else self._share_missing(job)
            n_prompts = len(job.test.prompts)
            return expected_seconds(self.plan, sweep, n_prompts, kind, self._ledger, share=share)

        kind = self._engine.kind(sweep.model.gpu)
        timeout_s = sweep.timeout_s or self.plan.timeout(phase, kind)
        work = Work(str(sweep), job, kind, timeout_s, folder, _labels(sweep))
        return Task(work, seconds)

    def _share_missing(self, job: Job) -> float:
        """Of a job's time, as what it lacks is a share of what it has; 0 to 1."""
        share = min(1.0, unfinished(job, self.store) / len(placeable(job, self.store)))
        return max(share, _EFFECTS_SHARE) if effects_missing(job, self.store) else share

    def _ended(self, name: str, *, earlier: bool = False) -> None:
        if name not in self._running:
            return  # the verification's, whose results are its own
        phase, ended, _ = self._running[name]
        same = [
            (sweep, job)
            for _, sweep, job in self._running.values()
            if (sweep.model.name, sweep.precision) == (ended.model.name, ended.precision)
        ]
        self._on_job(Ended(phase, ended, self._results(same), earlier))

    def _results(self, jobs: Sequence[tuple[Sweep, Job]]) -> list[Result]:
        """Results; the sweeps of a model in one precision are one result per method."""
        merged: dict[tuple[str, str], tuple[Sweep, Job]] = {}
        notes: dict[tuple[str, str], list[str]] = {}
        for sweep, job in jobs:
            runs = as_it_runs(job, self.store)  # it may have overflowed since it was made
            key = sweep.model.name, runs.precision
            first, held = merged.get(key, (sweep, runs))
            together = {c.key: c for c in (*held.conditions, *runs.conditions)}
            merged[key] = first, replace(held, conditions=tuple(together.values()), window=())
            notes.setdefault(key, []).extend(window_notes(runs, self.store))
        results = []
        thresholds = self.plan.thresholds
        for key, (sweep, job) in merged.items():
            for result in sweep_results(self.store, [job], thresholds):
                said = tuple(dict.fromkeys([*result.notes, *notes[key]]))
                results.append(replace(result, phase=sweep.step.number, notes=said))
        return results

    def _note_failures(self, phase: str, asked: Sequence[str], failures: Mapping[str, str]) -> None:
        """What of the phase could not run; of earlier runs, only what this one has asked for too.

        A follow-up that failed once may not be asked for again.
        """
        before = self._asked.setdefault(phase, set())
        held = self.store.read_json(self.store.paths.failures(phase)) or {}
        others = {name: why for name, why in held.items() if name in before - {*asked}}
        self.store.write_json(self.store.paths.failures(phase), others | {**failures})
        before.update(asked)

    def _note_conditions(
        self, phase: str, jobs: Iterable[Job], *, without: Collection[str] = ()
    ) -> None:
        """What the phase consists of, for `status`; `without` what it no longer does.

        Of what earlier runs asked for and this one does not, only what has finished.
        """
        jobs = list(jobs)
        path = self.store.paths.phase(phase)
        held = (self.store.read_json(path) or {"conditions": []})["conditions"]
        asked = self._conditions.setdefault(phase, set())
        asked.update(c.key for job in jobs for c in job.conditions)
        # What one job leaves out another may run.
        run = {c.key for job in jobs for c in placeable(job, self.store)}
        out = {c.key for job in jobs for c in job.conditions} - run
        asked -= out | {*without}
        keys = asked | {key for key in held if self.store.has(key)} - {*without}
        # Sorted, since a run that goes on after a kill asks in another order.
        self.store.write_json(path, {"conditions": sorted(keys)})


def check_name(sweep: Sweep) -> str:
    """What the checks of a sweep's model are called among jobs."""
    return f"{sweep.model.name} {SMOKE} {sweep.precision}"


def _labels(sweep: Sweep) -> dict[str, str]:
    return {
        "phase": sweep.step.phase,
        "step": sweep.step.name,
        "model": sweep.model.name,
        "family": sweep.model.family,
    }
