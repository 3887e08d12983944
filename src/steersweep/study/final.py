"""What all phases say together, when the last has ended."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from steersweep.core import typed
from steersweep.study import text
from steersweep.study.depths import (
    FEWEST_DEPTHS,
    answer_by_family,
    chosen_rows,
    family_sentence,
    overall_sentence,
)
from steersweep.study.phases.families import FAMILIES
from steersweep.study.phases.precisions import PRECISIONS
from steersweep.study.phases.sizes import SIZES
from steersweep.study.rows import CurveRow, DepthRow, PrecisionRow, rows_of

NAME = "final"
TITLE = "Final analysis"


def final_analysis(decided: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """The depth question's answer, and what every phase found, as a decision of its own.

    Args:
        decided: each phase's decision, in the order of phases.
    """
    phases = [decided.get(phase, {}) for phase in (FAMILIES.name, SIZES.name)]
    rows = [row for decision in phases for row in rows_of(DepthRow, decision, "depths")]
    families = decided.get(FAMILIES.name, {}).get("families", [])
    methods = {row["family"]: row["method"] for row in families if "method" in row}
    answers = answer_by_family(rows, methods)
    sentences = [
        family_sentence(
            family,
            [row for row in chosen_rows(rows, methods) if row.family == family],
            answer,
        )
        for family, answer in answers.items()
    ]
    not_asked = {
        row["family"]: _why_not_asked(row) for row in families if row["family"] not in answers
    }
    return {
        "phase": NAME,
        "depths": typed.plain(rows),
        "depth_question": {
            "families": answers,
            "sentences": sentences,
            "answer": overall_sentence(answers, not_asked),
        },
        "curves": decided.get(SIZES.name, {}).get("curves", []),
        "precisions": decided.get(PRECISIONS.name, {}).get("precisions", []),
        "notes": [note for found in decided.values() for note in found.get("notes", [])],
    }


def _why_not_asked(row: Mapping[str, Any]) -> str:
    """Why a family's best depth is not asked for."""
    if row["action"] == "not-run":
        return "could not run"
    if row["coherent"] is None:
        return "confirmed before the study"
    return f"fewer than {FEWEST_DEPTHS} depths tested at one strength"


def findings(decision: Mapping[str, Any]) -> Iterator[str]:
    """Its section of `FINDINGS_LOG.md`, notes aside."""
    yield f"**{decision['depth_question']['answer']}.**"
    yield ""
    if decision["depth_question"]["sentences"]:
        yield from (f"- {line}" for line in decision["depth_question"]["sentences"])
        yield ""
    if curves := rows_of(CurveRow, decision, "curves"):
        yield from text.size_curves(curves)
    if precisions := rows_of(PrecisionRow, decision, "precisions"):
        yield from text.precision_list(precisions)


def lines(decision: Mapping[str, Any]) -> Iterator[str]:
    """What it says, line by line, for a terminal; notes aside."""
    yield decision["depth_question"]["answer"]
    yield from decision["depth_question"]["sentences"]
    yield from map(text.curve_line, rows_of(CurveRow, decision, "curves"))
    for row in rows_of(PrecisionRow, decision, "precisions"):
        yield text.precision_line(row)
        yield from (f"  {line}" for line in text.borrowed_lines(row))
