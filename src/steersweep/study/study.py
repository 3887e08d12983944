"""Runs a plan from phase to phase: sweeps, decisions, gates, budget. The same call continues.

The run folder is the only state. Every step looks there for what is done, so a kill at any moment
loses at most the running batch, and a finished study run again does nothing.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from steersweep.budget.ledger import Limits
from steersweep.core import provenance, typed
from steersweep.core.errors import InputError, setting
from steersweep.core.printing import in_a_line
from steersweep.engines.engine import Engine
from steersweep.engines.local import local_engine
from steersweep.judging.judges import get_judge
from steersweep.methods.method import METHODS
from steersweep.people.problems import problems
from steersweep.prompts.prompts import load_extraction_set, load_test_set
from steersweep.run.condition import RESULT_VERSION
from steersweep.run.folder import RunFolder
from steersweep.run.lock import run_lock
from steersweep.study import final
from steersweep.study.begun import begun
from steersweep.study.cuts import cuts_of_phase, savings
from steersweep.study.evidence import signature_for, why_it_waits_again
from steersweep.study.findings import append_findings
from steersweep.study.jobs import Jobs
from steersweep.study.listeners import Ended, Listeners
from steersweep.study.phases.phase import Phase
from steersweep.study.phases.registry import gate_after, phases_of
from steersweep.study.plan import Plan
from steersweep.study.running import GateStop, Running
from steersweep.study.sweeps import Cuts
from steersweep.sweeps.settings import frozen_code
from steersweep.work.job import OnProgress

# Changing these changes no result of a finished condition.
FREE_FIELDS = (
    "description",
    "effects",
    "prices",
    "prices_as_of",
    "fallback_gpu",
    "concurrency",
    "timeouts",
    "modal",
    "budget",
    "cuts",
    "gates",
    "dropped",
    "tracking",
)


@dataclass(frozen=True)
class StudyOptions:
    """How to run a study, apart from the plan.

    Attributes:
        until: the last phase to run, or None for all.
        budget: total stop in USD instead of the plan's.
        phase_budgets: by phase, stops in USD instead of the plan's.
        apply_cuts: how many of the plan's cuts to apply; never fewer than applied before.
        accept: changed fields of the plan, or `model:NAME` for changed weights, to accept.
        new_run: begin anew; what is in the folder is kept beside it.
        accept_mismatch: go on whatever the smoke test finds wrong with a model.
    """

    until: str | None = None
    budget: float | None = None
    apply_cuts: int = 0
    accept: Collection[str] = ()
    new_run: bool = False
    accept_mismatch: bool = False
    phase_budgets: Mapping[str, float] = field(default_factory=dict)


def run_study(
    plan: Plan,
    out: Path,
    options: StudyOptions | None = None,
    *,
    engine: Engine | None = None,
    on_progress: OnProgress = lambda _progress: None,
    on_job: Callable[[Ended], None] = lambda _ended: None,
    on_line: Callable[[str], None] = lambda _line: None,
    on_note: Callable[[str], None] | None = None,
) -> RunFolder:
    """Run every phase up to its gate, as far as signatures and budget allow.

    Args:
        plan: what to run.
        out: the run folder, new or of the same plan.
        options: how.
        engine: where jobs run; None: this machine.
        on_progress: told of progress within a job.
        on_job: told of each job that is done, those of earlier runs included.
        on_line: told what a person should read.
        on_note: told what results mislead without; None: as `on_line`.

    Raises:
        GateStop: a gate waits for a signature, or was rejected (exit code 3).
        BudgetStop: the next job could pass a stop, or the running one reached it (exit code 3).
        InputError: settings, models or weights differ from the run's.
        SteersweepError: the COSMIC verification failed, or no job of a phase could run.
    """
    options = options or StudyOptions()
    engine = engine or local_engine()
    note = on_note or on_line
    with opened(plan, out, options, engine, on_line=on_line, on_note=note) as store:
        for problem in problems(out):
            note(problem)
        _run_phases(plan, store, options, engine, Listeners(on_progress, on_job, on_line))
    return store


@contextmanager
def opened(
    plan: Plan,
    out: Path,
    options: StudyOptions,
    engine: Engine,
    *,
    on_line: Callable[[str], None],
    on_note: Callable[[str], None],
) -> Iterator[RunFolder]:
    """The run folder of a study, begun or gone on with, and an engine that is open for it.

    Raises:
        InputError: see `run_study`.
    """
    if options.new_run and out.exists():
        with run_lock(out):  # nobody runs there
            aside = out.with_name(f"{out.name}-before-{provenance.utc_now().replace(':', '')}")
        out.rename(aside)
        on_line(f"the earlier run is kept in {aside}")
    with run_lock(out):
        store = RunFolder.open(
            out,
            _frozen(plan),
            on_note=on_note,
            may_differ=FREE_FIELDS,
            accept=options.accept,
            way_out=(
                f"Use {setting('accept')} FIELD to go on with it, or "
                f"{setting('new_run')} to begin anew"
            ),
        )
        engine.open(out)
        try:
            yield store
        finally:
            engine.close()


def jobs_of(
    plan: Plan,
    store: RunFolder,
    options: StudyOptions,
    engine: Engine,
    listeners: Listeners,
    *,
    cuts: Cuts,
) -> Jobs:
    """What runs jobs in a study's folder, within the limits of plan and options."""
    total = plan.budget.total if options.budget is None else options.budget
    began = store.begun() or provenance.utc_now()
    created = str(store.write_once(store.paths.run, {"created": began})["created"])
    limits = Limits(
        math.inf if total is None else total, {**plan.budget.phases, **options.phase_budgets}
    )
    return Jobs(
        plan,
        store,
        cuts,
        limits,
        engine,
        listeners,
        created=created,
        accept=options.accept,
        accept_mismatch=options.accept_mismatch,
    )


def _frozen(plan: Plan) -> dict[str, Any]:
    """The plan, with the content of its prompt sets, and versions of the judge and of results."""
    sets = {
        "test": load_test_set(plan.prompts.test).id,
        **{
            method: load_extraction_set(name).id for method, name in plan.prompts.extraction.items()
        },
    }
    try:
        judge_id = get_judge(plan.judge).id
    except ValueError as error:
        raise InputError(f"plan {plan.name}: judge {plan.judge}: {error}") from error
    return {
        "kind": "study",
        **plan.written,
        "prompt_sets": sets,
        "judge_id": judge_id,
        "result_version": RESULT_VERSION,
        **frozen_code(METHODS.own_of(plan.prompts.extraction)),
    }


def _run_phases(
    plan: Plan,
    store: RunFolder,
    options: StudyOptions,
    engine: Engine,
    listeners: Listeners,
) -> None:
    """Phase after phase; each ends at its gate. Then what all say together."""
    on_line = listeners.on_line
    count = _apply_cuts(plan, store, options, on_line)
    jobs = jobs_of(plan, store, options, engine, listeners, cuts=Cuts.first(plan, count))
    decided = {}
    for phase in phases_of(plan):
        on_line(f"phase {phase.name}")
        cuts = cuts_of_phase(plan, store, phase.name, count)
        study = Running(plan, store, jobs, cuts, on_line)
        decided[phase.name] = _decide(study, phase, count)
        append_findings(store, phase.name, decided[phase.name])
        if phase.name == options.until:
            return
        _pass_gate(study, phase)
    analysis = final.final_analysis(decided)
    store.write_json(store.paths.decision(final.NAME), analysis)
    append_findings(store, final.NAME, analysis)


def _decide(study: Running, phase: Phase, n_cuts: int) -> dict[str, Any]:
    """Run a phase and keep what it decided, and under how many cuts it first did.

    Raises:
        SteersweepError: the study must not go on after it.
    """
    earlier = study.decided(phase.name)
    decision: dict[str, Any] = typed.plain({"phase": phase.name, **phase.run(study)})
    n_cuts = n_cuts if earlier is None else earlier.get("cuts", 0)
    if n_cuts:
        decision["cuts"] = n_cuts
    failures = study.store.read_json(study.store.paths.failures(phase.name))
    if failures is not None:
        decision["failures"] = failures
    study.store.write_json(study.store.paths.decision(phase.name), decision)
    if (obstacle := phase.obstacle(study, decision)) is not None:
        raise obstacle
    return study.decision(phase.name)


def _pass_gate(study: Running, phase: Phase) -> None:
    """Go on where a person has signed for exactly this decision.

    Raises:
        GateStop: nobody has, or somebody said no.
    """
    gate, paths = gate_after(study.plan, phase), study.store.paths
    if gate is None:
        return
    evidence = paths.decision(phase.name)
    signature = signature_for(study.store, phase.name, gate)
    if signature is None:
        again = why_it_waits_again(study.store, phase.name, gate)
        questions = " ".join(study.plan.questions(gate))
        raise GateStop(
            f"gate {gate} waits for a person after {phase.name}. "
            f"{'' if again is None else f'{again}. '}{questions} Evidence: "
            f"{evidence}, {paths.findings.name}. Then: steersweep approve {paths.root} "
            f"{gate} --by NAME, and the same run command again",
            phase.name,
        )
    if signature.get("rejected"):
        raise GateStop(
            f"gate {gate} was rejected by {in_a_line(signature['by'])} "
            f"({in_a_line(signature['note']) or 'no note'}); sign it again to go on, or start "
            f"another run",
            phase.name,
        )


def _apply_cuts(
    plan: Plan, store: RunFolder, options: StudyOptions, on_line: Callable[[str], None]
) -> int:
    """How many cuts apply: those of earlier runs, and those asked for now."""
    held = _cuts_so_far(store, options)
    count = max(options.apply_cuts, int(held["applied"]))
    if count > len(plan.cuts):
        raise InputError(f"{setting('apply_cuts')} {count}: the plan has {len(plan.cuts)} cuts")
    if count != held["applied"]:
        for saving in savings(plan, begun(plan, store), range(held["applied"] + 1, count + 1)):
            on_line(f"{saving} of what is left")
        store.write_json(store.paths.cuts, {"applied": count})
    return count


def _cuts_so_far(store: RunFolder, options: StudyOptions) -> Mapping[str, Any]:
    """What earlier runs cut. No other file says it, so a damaged one stops the study."""
    reader = RunFolder(store.root, repairs=options.apply_cuts > 0)
    held = reader.read_json(reader.paths.cuts)
    why = reader.why_damaged(reader.paths.cuts)
    if held is None and why is not None and not options.apply_cuts:
        raise InputError(
            f"{reader.paths.cuts}: is damaged ({why}), and nothing "
            f"else says how many cuts were applied. Give their number with "
            f"{setting('apply_cuts')}, or remove the file if there were none"
        )
    return held or {"applied": 0}
