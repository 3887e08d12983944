"""Commands of a study: `plan`, `run`, `status`, `decide`, `approve`, `fetch`."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from steersweep.cli.engines import check_budget, check_engine, engine_here
from steersweep.cli.options import (
    BudgetOption,
    DeviceOption,
    EngineOption,
    JsonOption,
    MismatchOption,
    OfflineOption,
    PlanModelsOption,
    PricesOption,
    QuietOption,
    RayAddressOption,
    RayStorageOption,
    TrackOption,
)
from steersweep.cli.output import (
    not_sent,
    quiet_libraries,
    say,
    show_notes,
    show_report,
    tell_tracker,
)
from steersweep.cli.plans import named_plan
from steersweep.core.errors import InputError, SteersweepError
from steersweep.core.printing import in_a_line
from steersweep.sweeps import defaults

if TYPE_CHECKING:
    from steersweep.engines.engine import Engine
    from steersweep.study.away.remote_run import ToldTracker
    from steersweep.study.plan import Plan
    from steersweep.study.study import StudyOptions
    from steersweep.tracking.tracker import Tracker


def plan(
    name: Annotated[
        str, typer.Argument(help="v3, v3-120, v3-small, v3-lab, or a .yaml file.", metavar="PLAN")
    ],
    phase: Annotated[
        str | None, typer.Option(help="Only this phase: 0 (verification) to 4 (transfer), or name.")
    ] = None,
    apply_cuts: Annotated[int, typer.Option(help="With the plan's first N cuts.")] = 0,
    models: PlanModelsOption = None,
    prices: PricesOption = None,
    as_json: JsonOption = False,
) -> None:
    """Show what a plan would run, without running: layers, time, memory, cost.

    Example: `steersweep plan v3`
    """
    from steersweep.core import typed
    from steersweep.report.plan_table import planned, print_plan
    from steersweep.study.begun import Begun
    from steersweep.study.cuts import savings
    from steersweep.study.plan_file import with_prices
    from steersweep.study.settings import prompt_notes
    from steersweep.study.sweeps import Cuts

    loaded = named_plan(name, models)
    if prices is not None:
        loaded = with_prices(loaded, prices)
    only = _phase(loaded, phase)
    if not 0 <= apply_cuts <= len(loaded.cuts):
        raise InputError(f"--apply-cuts {apply_cuts}: the plan has {len(loaded.cuts)} cuts")
    show_notes(prompt_notes(loaded))
    cuts = Cuts.first(loaded, apply_cuts)
    if as_json:
        found = savings(loaded, Begun(), range(1, len(loaded.cuts) + 1))
        said = {
            "plan": loaded.name,
            "sweeps": typed.plain(planned(loaded, cuts, only)),
            "cuts": typed.plain(found),
        }
        say(json.dumps(said, indent=1))
    else:
        print_plan(loaded, cuts, only)


def _phase(plan: Plan, text: str | None) -> str | None:
    """The name of the phase that a user means by a name or a number."""
    from steersweep.study.phases.registry import phase_called

    if text is None:
        return None
    try:
        phase = phase_called(text)
    except InputError as error:
        raise InputError(f"--phase {text}: {error}") from error
    if phase.name not in plan.phases:
        there = ", ".join(plan.phases)
        raise InputError(f"--phase {text}: {plan.name} has no {phase.name}; it has {there}")
    return phase.name


def _phase_budget(plan: Plan, text: str) -> tuple[str, float]:
    """A phase and its stop, as a user gives them: `size_sweep=50`."""
    from steersweep.study.phases.registry import phase_called

    named, _, amount = text.partition("=")
    try:
        phase, usd = phase_called(named), float(amount)
    except InputError as error:
        raise InputError(f"--phase-budget {text}: {error}") from error
    except ValueError as error:
        raise InputError(f"--phase-budget {text}: give PHASE=USD, as in size_sweep=50") from error
    if not 0 <= usd < float("inf"):
        raise InputError(f"--phase-budget {text}: must be 0 or more USD")
    if phase.name not in plan.phases:
        there = ", ".join(plan.phases)
        raise InputError(f"--phase-budget {text}: {plan.name} has no {phase.name}; it has {there}")
    return phase.name, usd


def run(
    name: Annotated[
        str, typer.Argument(help="v3, v3-120, v3-small, v3-lab, or a .yaml file.", metavar="PLAN")
    ],
    out: Annotated[Path, typer.Option(help="Run folder.")],
    phase: Annotated[
        str | None,
        typer.Option(help="Stop after this phase: 0 (verification) to 4 (transfer), or name."),
    ] = None,
    budget: BudgetOption = None,
    phase_budget: Annotated[
        list[str] | None,
        typer.Option(help="Hard stop of one phase, such as size_sweep=50 or 2=50 (USD)."),
    ] = None,
    apply_cuts: Annotated[int, typer.Option(help="Apply the plan's first N cuts.")] = 0,
    models: PlanModelsOption = None,
    prices: PricesOption = None,
    accept_change: Annotated[
        list[str] | None, typer.Option(help="A changed field to accept; model:NAME for weights.")
    ] = None,
    accept_mismatch: MismatchOption = False,
    new_run: Annotated[
        bool, typer.Option("--new-run", help="Begin anew; the earlier run is kept beside it.")
    ] = False,
    engine: EngineOption = "local",
    ray_address: RayAddressOption = None,
    ray_storage: RayStorageOption = None,
    detach: Annotated[
        bool, typer.Option("--detach", help="Modal: begin, and do not wait for the end.")
    ] = False,
    track: TrackOption = None,
    offline: OfflineOption = False,
    device: DeviceOption = defaults.DEVICE,
    quiet: QuietOption = False,
) -> None:
    """Run a study; the same command again continues. Stops at gates with exit code 3.

    Example: `steersweep run v3-lab --out study`
    """
    from steersweep.report.study_table import print_decision
    from steersweep.run.paths import RunPaths
    from steersweep.study.away.remote_run import ToldTracker
    from steersweep.study.plan_file import with_prices
    from steersweep.study.settings import prompt_notes
    from steersweep.study.status import decided, must_be_complete
    from steersweep.study.study import StudyOptions
    from steersweep.tracking.tracker import open_tracker

    check_engine(engine, ray_address, ray_storage)
    if engine != "modal" and detach:
        raise InputError("--detach goes with --engine modal")
    check_budget(budget)
    if apply_cuts < 0:
        raise InputError(f"--apply-cuts {apply_cuts}: must be 0 or more")
    loaded = named_plan(name, models)
    if prices is not None:
        loaded = with_prices(loaded, prices)
    until = _phase(loaded, phase)
    show_notes(prompt_notes(loaded))
    quiet_libraries()
    options = StudyOptions(
        until,
        budget,
        apply_cuts,
        tuple(accept_change or ()),
        new_run,
        accept_mismatch,
        dict(_phase_budget(loaded, text) for text in phase_budget or ()),
    )
    tracking = loaded.tracking
    told = ToldTracker(
        tracking.tracker if track is None else track,
        tracking.online and not offline,
        tracking.entity,
    )
    tracker = open_tracker(told.name, out, online=told.online, entity=told.entity)
    if engine == "modal":
        _run_away(loaded, out, options, tracker, told, detach=detach, quiet=quiet)
    else:
        where = engine_here(engine, device, ray_address, ray_storage)
        _run_here(loaded, out, options, where, tracker, quiet)
    last = until or "final"
    print_decision(last, decided(out)[last])
    say(f"\nFindings:  {RunPaths(out).findings}\nDecisions: steersweep decide {out}")
    show_report(out)
    must_be_complete(out, until)
    say(f"{loaded.name}: every phase asked for is done")


def _run_here(
    plan: Plan,
    out: Path,
    options: StudyOptions,
    engine: Engine,
    tracker: Tracker | None,
    quiet: bool,
) -> None:
    """Run a study from this process; at a gate, show what its phase found."""
    from steersweep.budget.ledger import Ledger
    from steersweep.report.live import live_view
    from steersweep.report.study_table import print_decision
    from steersweep.study.listeners import Ended
    from steersweep.study.running import GateStop
    from steersweep.study.status import decided
    from steersweep.study.study import run_study
    from steersweep.tracking.record import runs_of_job
    from steersweep.tracking.tracker import Tracking

    budget = plan.budget.total if options.budget is None else options.budget
    try:
        with live_view(quiet=quiet, spent=Ledger(out).spent, budget=budget) as view:
            tracking = None if tracker is None else Tracking(out, tracker, view.on_line)

            def on_job(ended: Ended) -> None:
                view.on_job(ended)
                if tracking is not None:
                    tracking.tell(runs_of_job(plan, ended))

            try:
                run_study(
                    plan,
                    out,
                    options,
                    engine=engine,
                    on_progress=view.on_progress,
                    on_job=on_job,
                    on_line=view.on_line,
                    on_note=view.on_note,
                )
            finally:
                if tracker and tracking and (kept := tracking.finish()):
                    view.on_line(not_sent(out, tracker, kept))
    except GateStop as stop:
        print_decision(stop.phase, decided(out)[stop.phase])
        show_report(out)
        say()
        raise


def _run_away(
    plan: Plan,
    out: Path,
    options: StudyOptions,
    tracker: Tracker | None,
    told: ToldTracker,
    *,
    detach: bool,
    quiet: bool,
) -> None:
    """Begin a study on Modal, and follow it unless told not to; `told`: see `away.begin`."""
    from steersweep.report.study_table import print_decision
    from steersweep.study.away import away
    from steersweep.study.status import decided

    chosen = {**asdict(options), "accept": list(options.accept)}
    away.begin(plan, out, chosen, tracker=None if tracker is None else told)
    if not quiet:
        say(
            f"{plan.name} runs on Modal; this machine may sleep. steersweep status {out} shows "
            f"where it stands, steersweep fetch {out} brings results home",
            err=True,
        )
    if detach:
        raise typer.Exit
    end = away.follow(out, lambda line: None if quiet else say(line, err=True))
    if tracker is not None:
        tell_tracker(out, tracker, quiet=quiet, if_any=True)
    if end.exit_code:
        if end.phase is not None:
            print_decision(end.phase, decided(out)[end.phase])
            say()
        raise away.EndedThere(end.message, end.exit_code)


def status(
    folder: Annotated[Path, typer.Argument(help="Run folder of a study.", metavar="DIR")],
    as_json: JsonOption = False,
) -> None:
    """Show where a study stands.

    Example: `steersweep status study`
    """
    from steersweep.core import typed
    from steersweep.core.precision_labels import shown_precision
    from steersweep.run.paths import RunPaths
    from steersweep.study.status import status as status_of

    if RunPaths(folder).is_away:
        from steersweep.study.away import away

        try:
            away.fetch(folder)
        except SteersweepError as error:
            say(f"{error}; this is what was fetched before", err=True)
    state = status_of(folder)
    if as_json:
        say(json.dumps(typed.plain(state), indent=1))
        return
    say(f"{state.plan}: {state.phase}, {state.done} of {state.total} conditions")
    if state.incomplete:
        say(f"incomplete: {len(state.failures)} could not run; run it again to try once more")
    say(f"spent: {state.spent_usd:.4g} USD")
    for model, precisions in state.stored_as.items():
        say(f"{model}: {', '.join(map(shown_precision, precisions))} (stored, and what runs)")
    if state.waiting_gate:
        gate = state.waiting_gate
        if state.waiting is not None and state.waiting.rejected_by:
            say(f"gate {gate} was rejected by {in_a_line(state.waiting.rejected_by)}")
        if state.waiting is not None and state.waiting.waits_again:
            say(state.waiting.waits_again)
        say(f"waiting: steersweep approve {folder} {gate} --by NAME")
    for job, why in state.failures.items():
        say(f"could not run: {job}: {why}")
    for problem in state.problems:
        say(problem)
    for damaged in state.damaged:
        say(f"damaged file set aside and computed again: {damaged}")


def decide(
    folder: Annotated[Path, typer.Argument(help="Run folder of a study.", metavar="DIR")],
    as_json: JsonOption = False,
) -> None:
    """Show what follows from the results so far, and why.

    Example: `steersweep decide study`
    """
    from steersweep.report.study_table import print_decision
    from steersweep.study.status import decided

    found = decided(folder)
    if as_json:
        say(json.dumps(found, indent=1))
        return
    if not found:
        say(f"{folder}: no phase has ended yet")
    for index, (phase, decision) in enumerate(found.items()):
        if index:
            say()
        print_decision(phase, decision)


def approve(
    folder: Annotated[Path, typer.Argument(help="Study or verification.", metavar="DIR")],
    gate: Annotated[str, typer.Argument(help="R0, R1, R2, R3, or cosmic-verification.")],
    by: Annotated[str, typer.Option(help="Name of the person who signs.")],
    note: Annotated[str, typer.Option(help="A remark.")] = "",
    reject: Annotated[bool, typer.Option("--reject", help="Say no; recorded too.")] = False,
) -> None:
    """Sign a checkpoint; recorded with time and the hash of the evidence.

    Example: `steersweep approve study R1 --by "A. Lead"`
    """
    from steersweep.people import gates
    from steersweep.study.phases.registry import gates as study_gates
    from steersweep.study.status import sign_gate
    from steersweep.verification.report import GATE
    from steersweep.verification.signing import sign_verification, signable

    known = (*study_gates(), GATE)
    if gate not in known:
        raise InputError(f"{gate}: no such gate; there are {', '.join(known)}")
    if gate == GATE:
        if reject:
            raise InputError(f"{GATE}: a report is signed or left unsigned")
        signature = sign_verification(folder, by=by, note=note)
    else:
        if gate == "R0" and not reject:
            signable(folder, note)  # both are signed, or neither is
        signature = sign_gate(folder, gate, by=by, note=note, rejected=reject)
        if gate == "R0" and not reject:
            sign_verification(folder, by=by, note=note)
    for problem in gates.problems(folder):
        say(problem, err=True)
    verb = "rejected" if reject else "signed"
    say(f"{gate} {verb} by {signature['by']} for {signature['evidence']}")


def fetch(
    folder: Annotated[Path, typer.Argument(help="Run folder of a study.", metavar="DIR")],
) -> None:
    """Bring home what a study that runs on Modal has finished, and tell its tracker.

    Example: `steersweep fetch study`
    """
    from steersweep.study.away import away
    from steersweep.tracking.tracker import open_tracker

    count = away.fetch(folder)
    say(f"{count} files are new or changed in {folder}")
    told = away.tracker_of(folder)
    if told is not None:
        tracker = open_tracker(told.name, folder, online=told.online, entity=told.entity)
        if tracker is not None:
            tell_tracker(folder, tracker, if_any=True)
    end = away.outcome(folder)
    say("the study is still running" if end is None else f"it ended: {end.message}")
    cost = away.billed(folder)
    if cost is not None:
        say(f"Modal billed {cost:.2f} USD for full hours so far")
