"""Every phase, in the order they run. A new phase is a file of its own and a line here."""

from __future__ import annotations

from collections.abc import Sequence

from steersweep.core.errors import InputError
from steersweep.core.text_files import shown
from steersweep.study import final
from steersweep.study.phases.families import FAMILIES
from steersweep.study.phases.phase import Phase
from steersweep.study.phases.precisions import PRECISIONS
from steersweep.study.phases.sizes import SIZES
from steersweep.study.phases.transfer import TRANSFER
from steersweep.study.phases.verification import VERIFICATION
from steersweep.study.plan import Plan
from steersweep.study.sweeps import Step

PHASES: Sequence[Phase] = (VERIFICATION, FAMILIES, SIZES, PRECISIONS, TRANSFER)


def all_phases() -> Sequence[Phase]:
    """Every phase, in the order they run."""
    return PHASES


def phases_of(plan: Plan) -> list[Phase]:
    """The phases a plan has, in the order they run."""
    return [phase for phase in PHASES if phase.name in plan.phases]


def phase_called(text: str) -> Phase:
    """A phase by its name or its number.

    Raises:
        InputError: there is none; the message names those there are.
    """
    for phase in PHASES:
        if text in (phase.name, phase.number):
            return phase
    there = ", ".join(f"{phase.number} ({phase.name})" for phase in PHASES)
    raise InputError(f"{shown(text)} is no phase: choose a number or a name of {there}")


def phase_named(name: str) -> Phase:
    """The phase of that name.

    Raises:
        LookupError: there is none.
    """
    for phase in PHASES:
        if phase.name == name:
            return phase
    raise LookupError(f"no phase {name}")


def titles() -> dict[str, str]:
    """Headings by phase, then that of the final analysis."""
    return {**{phase.name: phase.title for phase in PHASES}, final.NAME: final.TITLE}


def gates() -> dict[str, Phase]:
    """Each gate, with the phase it comes after."""
    return {phase.gate: phase for phase in PHASES if phase.gate is not None}


def gate_after(plan: Plan, phase: Phase) -> str | None:
    """The gate after a phase, None where the plan asks nothing."""
    return phase.gate if phase.gate is not None and plan.questions(phase.gate) else None


def step_of_file(name: str) -> Step | None:
    """The step whose results a result file of that name holds; None: of no phase."""
    for phase in PHASES:
        for step in phase.steps:
            if name.startswith(step.results.split("{", maxsplit=1)[0]):
                return step
    return None
