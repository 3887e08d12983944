"""Where a study stands, and signing its gates: functions of the run folder."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from steersweep.budget.ledger import Ledger
from steersweep.core import typed
from steersweep.core.errors import InputError, SteersweepError
from steersweep.core.journal import Entry
from steersweep.core.precision_labels import runs_as
from steersweep.people import gates
from steersweep.people.problems import problems
from steersweep.run.folder import RunFolder
from steersweep.run.paths import damaged_files
from steersweep.study.evidence import basis, signature_for, why_it_waits_again
from steersweep.study.final import NAME
from steersweep.study.phases.registry import gate_after, phases_of
from steersweep.study.phases.registry import gates as all_gates
from steersweep.study.plan import Plan
from steersweep.study.plan_file import parse_plan

_ADDED = (
    "kind",
    "prompt_sets",
    "judge_id",
    "result_version",
)  # by the engine to the plan's own fields


def frozen_plan(store: RunFolder) -> Plan:
    """The plan a study was begun with.

    Raises:
        InputError: the folder holds another kind of run.
    """
    data = store.plan
    if data.get("kind") != "study":
        raise InputError(f"{store.root}: holds a {data.get('kind', 'run')}, not a study")
    own = {key: value for key, value in data.items() if key not in _ADDED}
    own.setdefault("own_methods", {})  # what a run folder names is never imported by readers
    return parse_plan(yaml.safe_dump(own, sort_keys=False), str(store.paths.plan))


@dataclass(frozen=True)
class Waiting:
    """A gate that waits.

    Attributes:
        rejected_by: who rejected it; None: nobody.
        waits_again: why it waits although it was signed; None: it never was.
    """

    rejected_by: str | None
    waits_again: str | None


@dataclass(frozen=True)
class Standing:
    """Where a study stands.

    Attributes:
        plan: its name.
        phase: the first that has not ended, or whose gate waits; `finished`: there is none.
        waiting_gate: the gate that waits; None: none does.
        waiting: more of that gate.
        done: conditions that are there.
        total: conditions known so far.
        spent_usd: spent or reserved.
        budget_usd: hard stop; None: there is none.
        stored_as: precisions of models, by name, whose files store other numbers than what runs.
        failures: why each job that could not run did not, by name.
        incomplete: whether there are any.
        problems: what is damaged that cannot be made again.
        damaged: files that runs set aside, and files that the next run will set aside and make
            again; they count as not there.
    """

    plan: str
    phase: str
    waiting_gate: str | None
    waiting: Waiting | None = field(metadata=typed.FLAT)
    done: int
    total: int
    spent_usd: float
    budget_usd: float | None
    stored_as: dict[str, list[str]]
    failures: dict[str, str]
    incomplete: bool
    problems: list[str]
    damaged: list[str]


def status(folder: Path) -> Standing:
    """Phase, finished and known conditions, money, and the gate that waits.

    Raises:
        InputError: no study there.
    """
    store = RunFolder.existing(folder)
    plan = frozen_plan(store)
    phase, gate, waiting = _waits(store, plan)
    store.look_through()
    phases = [store.read_json(store.paths.phase(phase)) or {} for phase in plan.phases]
    keys = list(dict.fromkeys(key for held in phases for key in held.get("conditions", [])))
    failures = could_not_run(store, plan)
    return Standing(
        plan=plan.name,
        phase=phase,
        waiting_gate=gate,
        waiting=waiting,
        done=sum(store.has(key) for key in keys),
        total=len(keys),
        spent_usd=round(Ledger(folder).spent(), 6),
        budget_usd=plan.budget.total,
        stored_as=_stored_as(store, plan),
        failures=failures,
        incomplete=bool(failures),
        problems=problems(folder),
        damaged=sorted({*damaged_files(folder), *store.damaged}),
    )


def _waits(store: RunFolder, plan: Plan) -> tuple[str, str | None, Waiting | None]:
    """The phase that a study is at, and the gate that waits after it, if one does."""
    for phase in phases_of(plan):
        if store.read_json(store.paths.decision(phase.name)) is None:
            return phase.name, None, None
        if (gate := gate_after(plan, phase)) is None:
            continue
        signature = signature_for(store, phase.name, gate)
        if signature is None:
            why = why_it_waits_again(store, phase.name, gate)
            return phase.name, gate, Waiting(None, why)
        if signature.get("rejected"):
            return phase.name, gate, Waiting(signature["by"], None)
    return "finished", None, None


def _stored_as(store: RunFolder, plan: Plan) -> dict[str, list[str]]:
    """Precisions of models, by name, whose files store other numbers than what runs."""
    found: dict[str, dict[str, None]] = {}
    for phase in phases_of(plan):
        decided = store.read_json(store.paths.decision(phase.name)) or {}
        for row in decided.get("outcomes", []):
            if runs_as(row["precision"]) != row["precision"]:
                found.setdefault(row["model"], {})[row["precision"]] = None
    return {model: [*labels] for model, labels in found.items()}


def could_not_run(store: RunFolder, plan: Plan, until: str | None = None) -> dict[str, str]:
    """What a study lacks of what was asked for, and why: timeouts, models left out, failed jobs.

    Args:
        store: its folder.
        plan: its plan.
        until: the last phase that counts; None: all.
    """
    found: dict[str, str] = {}
    for phase in plan.phases:
        found |= store.read_json(store.paths.failures(phase)) or {}
        if phase == until:
            break
    return found


class Incomplete(SteersweepError):
    """A study ended without everything that was asked for; `phase` is the last that it came to."""

    exit_code = 4

    def __init__(self, failures: Mapping[str, str], phase: str) -> None:
        said = "; ".join(f"{name}: {why}" for name, why in failures.items())
        super().__init__(
            f"incomplete: {len(failures)} of what was asked for could not run ({said}). Everything "
            f"else is done; the same command again tries these once more"
        )
        self.phase = phase


def must_be_complete(folder: Path, until: str | None = None) -> None:
    """See that a study has everything that was asked for.

    Args:
        folder: run folder of the study, whose phases have ended.
        until: the last phase that was asked for; None: all.

    Raises:
        Incomplete: it has not; the message says what is missing, and why.
    """
    store = RunFolder.existing(folder)
    failures = could_not_run(store, frozen_plan(store), until)
    if failures:
        raise Incomplete(failures, until or NAME)


def sign_gate(folder: Path, gate: str, *, by: str, note: str = "", rejected: bool = False) -> Entry:
    """Sign or reject a gate for exactly the decisions that are there now.

    Raises:
        InputError: no such gate, or its phase has not been decided yet.
    """
    from steersweep.core import provenance

    store = RunFolder.existing(folder)
    plan = frozen_plan(store)
    known = {name: phase for name, phase in all_gates().items() if plan.questions(name)}
    if gate not in known:
        raise InputError(
            f"{gate}: no such gate in {folder}; there are {', '.join(known) or 'none'}"
        )
    evidence = store.paths.decision(known[gate].name)
    if store.read_json(evidence) is None:
        _refuse_damaged(store)
        raise InputError(
            f"{gate}: {known[gate].name} has not ended in {folder}, so there is no evidence"
        )
    return gates.sign(
        folder,
        gate,
        by=by,
        note=note,
        evidence=evidence,
        time=provenance.utc_now(),
        rejected=rejected,
        basis=basis(store, known[gate].name),
    )


def decided(folder: Path) -> dict[str, Any]:
    """Every decision of a study by phase.

    Raises:
        InputError: no study there, or a decision is damaged.
    """
    store = RunFolder.existing(folder)
    plan = frozen_plan(store)
    phases = (*plan.phases, NAME)
    found = {phase: store.read_json(store.paths.decision(phase)) for phase in phases}
    _refuse_damaged(store)
    return {phase: decision for phase, decision in found.items() if decision is not None}


def _refuse_damaged(store: RunFolder) -> None:
    for name, why in store.damaged.items():
        raise InputError(
            f"{store.paths.named(name)}: is damaged ({why}); run the same command again to make it "
            f"again"
        )
