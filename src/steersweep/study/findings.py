"""`FINDINGS_LOG.md`: what each phase found, appended once; negative results included."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from steersweep.core.atomic import read_file, write_text
from steersweep.core.digests import Damaged
from steersweep.core.printing import markdown
from steersweep.run.folder import RunStore

NAME = "FINDINGS_LOG.md"
_BEGINNING = "# Findings\n"
TITLES = {
    "verification": "COSMIC verification",
    "family_sweep": "Phase 1: families and layers",
    "size_sweep": "Phase 2: size",
    "precision_sweep": "Phase 3: precision",
    "transfer_sweep": "Phase 4: transfer between models",
    "final": "Final analysis",
}


def append_findings(store: RunStore, phase: str, decision: Mapping[str, Any]) -> None:
    """Add a section on a phase, unless one about exactly these findings is there.

    A log whose section on them has changed is set aside, and begun again.
    """
    text = json.dumps(decision, sort_keys=True)
    mark = f"<!-- {phase} {hashlib.sha256(text.encode()).hexdigest()[:16]} -->"
    lines = [mark, f"## {TITLES[phase]}", "", *_section(phase, _escaped(decision))]
    section = "\n".join(lines).rstrip() + "\n"
    held = _held(store)
    if mark in held and section not in held:
        store.set_aside(NAME, f"the section {TITLES[phase]} is not as it was written")
        held = _BEGINNING
    if section not in held:
        write_text(store.folder / NAME, f"{held}\n{section}")


def _held(store: RunStore) -> str:
    """The log so far; a new one where it cannot be read. People may have written into it."""
    try:
        data = read_file(store.folder / NAME)
        return _BEGINNING if data is None else data.decode("utf-8")
    except (Damaged, UnicodeDecodeError) as error:
        store.set_aside(NAME, "no UTF-8" if isinstance(error, ValueError) else str(error))
        return _BEGINNING


def _escaped(value: Any) -> Any:
    """A decision whose texts are shown as they are, and are no Markdown of their own."""
    if isinstance(value, Mapping):
        return {name: _escaped(item) for name, item in value.items()}
    if isinstance(value, list):
        return [_escaped(item) for item in value]
    return markdown(value) if isinstance(value, str) else value


def _section(phase: str, decision: Mapping[str, Any]) -> Iterator[str]:
    if phase == "verification":
        yield "Passed." if decision["passed"] else "Failed."
        yield f"Report: COSMIC_VERIFICATION.md, `{decision['results_file']}`."
        return
    if decision.get("outcomes"):
        yield from _outcomes(decision["outcomes"])
    if decision.get("families"):
        yield from _families(decision["families"])
    if decision.get("curves"):
        yield from _curves(decision["curves"])
    if decision.get("phase3"):
        yield "Chosen for phase 3:"
        yield ""
        for choice in decision["phase3"]:
            place = f"{choice['model']} ({choice['tier']}), layer {choice['layer_idx']}"
            yield f"- {place}: {choice['reason']}"
        yield ""
    if decision.get("precisions"):
        yield from _precisions(decision["precisions"])
    if decision.get("transfers"):
        yield from (f"- {transfer_line(row)}" for row in decision["transfers"])
        yield ""
    if decision.get("best_depths"):
        yield "Best depth by model and method (layer over layers):"
        yield ""
        for row in decision["best_depths"]:
            yield (
                f"- {row['model']}, {row['method']}: {row['depth']:.2f} "
                f"({row['coherent']:.0%} coherent)"
            )
        yield ""
    departures = [
        f"{markdown(name)}: could not run: {why}"
        for name, why in decision.get("failures", {}).items()
    ]
    for note in [*decision.get("notes", []), *departures]:
        yield f"- {note}"


def _outcomes(outcomes: Iterable[Mapping[str, Any]]) -> Iterator[str]:
    columns = "model|precision|method|verdict|coherent [95 %]|layer|strength|garbled|prompts"
    yield "| " + columns.replace("|", " | ") + " |"
    yield "|" + "---|" * (columns.count("|") + 1)
    for row in outcomes:
        low, high = row["interval"]
        strength = row["strength"]
        removed = strength["unit"] == "removed"
        given = "removed" if removed else f"{strength['value']:g} {strength['unit']}"
        yield (
            f"| {row['model']} | {row['precision']} | {row['method']} | {row['outcome']}"
            f"{_marks(row)} | {row['coherent']:.0%} "
            f"[{low:.0%}, {high:.0%}] | {row['layer_idx']} of {row['n_layers']} | "
            f"{given} | {row['garbled']:.0%} | {row['n_unique']} |"
        )
    yield ""
    yield "`*`: provisional until a person has labelled samples. `?`: the interval crosses a"
    yield "threshold. Intervals are of the best condition, not corrected for having picked it."
    yield ""


def _marks(row: Mapping[str, Any]) -> str:
    provisional = "*" if row["provisional"] else ""
    return provisional if row["certainty"] == "clear" else f"{provisional} ?"


def _families(families: Iterable[Mapping[str, Any]]) -> Iterator[str]:
    yield "Decisions:"
    yield ""
    for row in families:
        diverged = "; the methods' verdicts differ" if row["diverged"] else ""
        yield f"- **{row['family']}**: {row['action']}. {row['reason']}{diverged}"
    yield ""


def _curves(curves: Iterable[Mapping[str, Any]]) -> Iterator[str]:
    yield "Size curves (small to large):"
    yield ""
    for curve in curves:
        points = ", ".join(
            f"{p['model']} {p['coherent_refusal_rate']:.0%} "
            f"[{p['interval'][0]:.0%}, {p['interval'][1]:.0%}]"
            for p in curve["points"]
        )
        yield f"- {curve['family']}, {curve['method']}: **{curve['shape']}** ({points})"
    yield ""


def _precisions(rows: Iterable[Mapping[str, Any]]) -> Iterator[str]:
    for row in rows:
        yield f"- {precision_line(row)}"
        yield from (f"  - {line}" for line in borrowed_lines(row))
    yield ""


def decision_lines(decision: Mapping[str, Any]) -> list[str]:
    """What a phase decided, line by line: families, curves, precisions, transfers, notes."""
    lines = [
        f"{row['family']}: {row['action']}: {row['reason']}" for row in decision.get("families", [])
    ]
    lines += [
        f"{curve['family']}, {curve['method']}: size curve {curve['shape']}: "
        + ", ".join(f"{p['model']} {p['coherent_refusal_rate']:.0%}" for p in curve["points"])
        for curve in decision.get("curves", [])
    ]
    lines += [
        f"phase 3 takes {choice['model']} ({choice['tier']}): {choice['reason']}"
        for choice in decision.get("phase3", [])
    ]
    for row in decision.get("precisions", []):
        lines += [precision_line(row), *(f"  {line}" for line in borrowed_lines(row))]
    lines += map(transfer_line, decision.get("transfers", []))
    failures = decision.get("failures", {})
    return [
        *lines,
        *decision.get("notes", []),
        *(f"could not run: {name}: {why}" for name, why in failures.items()),
    ]


def precision_line(row: Mapping[str, Any]) -> str:
    """A model's precisions in one line: rates with corrected p, perplexities, and the cosine."""
    parts = []
    for precision, rate, p, perplexity in zip(
        row["precisions"],
        row["coherent_refusal_rates"],
        row["p_vs_first_holm"],
        row["perplexities"],
        strict=True,
    ):
        facts = [] if precision == row["precisions"][0] else [f"p {p:.2g}"]
        facts += [] if perplexity is None else [f"perplexity {perplexity:.3g}"]
        parts.append(f"{precision} {rate:.0%}" + (f" ({', '.join(facts)})" if facts else ""))
    lowest = min(value for line in row["cosines"] for value in line)
    kept = "preserved" if row["preserved"] else "not preserved"
    return (
        f"{row['model']}, {row['method']}: {', '.join(parts)}; direction {kept} "
        f"(lowest cosine {lowest:.3f})"
    )


def borrowed_lines(row: Mapping[str, Any]) -> list[str]:
    """What the reference's direction does in each other precision."""
    return [
        f"{entry['precision']} with the direction from {row['precisions'][0]}: "
        f"{entry['coherent_refusal_rate']:.0%} coherent, {entry['difference_to_own']:+.0%} "
        f"against its own (p {entry['p_vs_own_holm']:.2g})"
        for entry in row["borrowed"]
    ]


def transfer_line(row: Mapping[str, Any]) -> str:
    """What one model's direction does in another, in one line."""
    if row["efficiency"] is None:
        share = "its own direction does not work"
    else:
        low, high = row["efficiency_ci"] or (math.nan, math.nan)
        share = f"efficiency {row['efficiency']:.0%} [{low:.0%}, {high:.0%}]"
    return (
        f"{row['from']} to {row['to']}, {row['method']}: {row['coherent_refusal_rate']:.0%} "
        f"coherent against {row['own_rate']:.0%} with its own, {share}; cosine {row['cosine']:.2f}"
    )
