"""What all phases say together, when the last has ended."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from steersweep.study import text
from steersweep.study.phases.families import FAMILIES
from steersweep.study.phases.precisions import PRECISIONS
from steersweep.study.phases.sizes import SIZES

NAME = "final"
TITLE = "Final analysis"


def final_analysis(decided: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """Best depth per family and size, and what every phase found, as a decision of its own.

    Args:
        decided: each phase's decision, in the order of phases.
    """
    depths = {
        (outcome["model"], outcome["method"]): {
            "family": outcome["family"],
            "model": outcome["model"],
            "method": outcome["method"],
            "depth": round(outcome["layer_idx"] / outcome["n_layers"], 4),
            "coherent": outcome["coherent"],
        }
        for phase in (FAMILIES.name, SIZES.name)
        for outcome in decided.get(phase, {}).get("outcomes", [])
    }
    return {
        "phase": NAME,
        "best_depths": list(depths.values()),
        "curves": decided.get(SIZES.name, {}).get("curves", []),
        "precisions": decided.get(PRECISIONS.name, {}).get("precisions", []),
        "notes": [note for found in decided.values() for note in found.get("notes", [])],
    }


def findings(decision: Mapping[str, Any]) -> Iterator[str]:
    """Its section of `FINDINGS_LOG.md`, notes aside."""
    if decision["curves"]:
        yield from text.size_curves(decision["curves"])
    if decision["precisions"]:
        yield from text.precision_list(decision["precisions"])
    if decision["best_depths"]:
        yield from text.best_depths(decision["best_depths"])


def lines(decision: Mapping[str, Any]) -> Iterator[str]:
    """What it says, line by line, for a terminal; notes aside."""
    yield from map(text.curve_line, decision["curves"])
    for row in decision["precisions"]:
        yield text.precision_line(row)
        yield from (f"  {line}" for line in text.borrowed_lines(row))
