"""How decisions are put into words: Markdown for the findings, lines for a terminal."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from steersweep.run.condition import REMOVED
from steersweep.run.verdict import FLAG_NOTES, TOO_WEAK
from steersweep.study.decisions import NotRun, Outcome, push_text
from steersweep.study.depths import row_text
from steersweep.study.rows import CurveRow, DepthRow, PrecisionRow, TransferRow


def outcome_table(outcomes: Iterable[Outcome]) -> Iterator[str]:
    """The best condition of each model and method, as a Markdown table."""
    rows = list(outcomes)
    columns = "model|precision|method|verdict|coherent [95 %]|layer|strength|garbled|prompts"
    yield "| " + columns.replace("|", " | ") + " |"
    yield "|" + "---|" * (columns.count("|") + 1)
    for row in rows:
        low, high = row.interval
        yield (
            f"| {row.model} | {row.precision} | {row.method} | {row.outcome}"
            f"{marks(row)} | {row.coherent:.0%} "
            f"[{low:.0%}, {high:.0%}] | {row.layer_idx} of {row.n_layers} | "
            f"{push(row)} | {row.garbled:.0%} | {row.n_unique} |"
        )
    yield ""
    yield from (f"{line}." for line in legend(rows))
    yield ""


def marks(row: Outcome) -> str:
    """What stands after a verdict, as `legend` explains it."""
    provisional = "*" if row.provisional else ""
    weak = " (too weak)" if TOO_WEAK in row.flags else ""
    return f"{provisional}{'' if row.certainty == 'clear' else ' ?'}{weak}"


def legend(rows: Iterable[Outcome]) -> Iterator[str]:
    """What marks and intervals of outcomes mean, line by line."""
    shown = list(rows)
    names = "; ".join(dict.fromkeys(row.interval_name for row in shown if row.interval_name))
    yield "*: provisional until a person has labelled samples"
    yield f"?: the interval shown crosses a threshold. Intervals: {names}"
    if any(TOO_WEAK in row.flags for row in shown):
        yield f"too weak: {FLAG_NOTES[TOO_WEAK]}"


def push(row: Outcome, *, short: bool = False) -> str:
    """An outcome's strength in both units; `short`: as tables of a terminal have it."""
    if short and row.strength != REMOVED:
        return f"{row.relative_strength:.2g} ({row.multiplier:.3g}x)"
    return push_text(row.strength, row.multiplier, row.relative_strength)


def not_run_line(row: NotRun) -> str:
    """A sweep that could not run, or not to its end, in one line."""
    what = f"{row.model} ({row.family}), {row.step}, {row.precision}"
    if row.finished_some:
        return f"not run to its end: {what}: {row.reason}"
    return f"not run, so that nothing is known of it: {what}: {row.reason}"


def family_actions(families: Iterable[Mapping[str, Any]]) -> Iterator[str]:
    """What happens to each family, as a Markdown list."""
    yield "Decisions:"
    yield ""
    for row in families:
        diverged = "; the methods' verdicts differ" if row.get("diverged") else ""
        yield f"- **{row['family']}**: {row['action']}. {row['reason']}{diverged}"
    yield ""


def size_curves(curves: Iterable[CurveRow]) -> Iterator[str]:
    """Each size curve with its intervals, as a Markdown list."""
    yield "Size curves (small to large):"
    yield ""
    for curve in curves:
        points = ", ".join(
            f"{p.model} {p.coherent_refusal_rate:.0%} [{p.interval[0]:.0%}, {p.interval[1]:.0%}]"
            for p in curve.points
        )
        name = f"{curve.family}, {curve.method}"
        yield f"- {name}: **{curve.shape}** ({points}){_missing(curve)}"
    yield ""


def _missing(curve: CurveRow) -> str:
    return f"; without {', '.join(curve.missing)}" if curve.missing else ""


def precision_list(rows: Iterable[PrecisionRow]) -> Iterator[str]:
    """Each model's precisions, as a Markdown list."""
    for row in rows:
        yield f"- {precision_line(row)}"
        yield from (f"  - {line}" for line in borrowed_lines(row))
    yield ""


def depth_patterns(rows: Iterable[DepthRow]) -> Iterator[str]:
    """How each model with three depths or more changes over them, as a Markdown list."""
    shown = list(rows)
    if shown:
        yield "Patterns over layers, and whether about 60 % of the depth is best:"
        yield ""
        yield from (f"- {row_text(row)}" for row in shown)
        yield ""


def curve_line(curve: CurveRow) -> str:
    """A size curve in one line."""
    points = ", ".join(f"{p.model} {p.coherent_refusal_rate:.0%}" for p in curve.points)
    name = f"{curve.family}, {curve.method}"
    return f"{name}: size curve {curve.shape}: {points}{_missing(curve)}"


def precision_line(row: PrecisionRow) -> str:
    """A model's precisions in one line: rates with corrected p, perplexities, and the cosine."""
    parts = []
    for precision, rate, p, perplexity in zip(
        row.precisions,
        row.coherent_refusal_rates,
        row.p_vs_first_holm,
        row.perplexities,
        strict=True,
    ):
        facts = [] if precision == row.precisions[0] else [f"p {p:.2g}"]
        facts += [] if perplexity is None else [f"perplexity {perplexity:.3g}"]
        parts.append(f"{precision} {rate:.0%}" + (f" ({', '.join(facts)})" if facts else ""))
    lowest = min(value for line in row.cosines for value in line)
    kept = "preserved" if row.preserved else "not preserved"
    return (
        f"{row.model}, {row.method}: {', '.join(parts)}; direction {kept} "
        f"(lowest cosine {lowest:.3f})"
    )


def borrowed_lines(row: PrecisionRow) -> list[str]:
    """What the reference's direction does in each other precision."""
    return [
        f"{entry.precision} with the direction from {row.precisions[0]}: "
        f"{entry.coherent_refusal_rate:.0%} coherent, {entry.difference_to_own:+.0%} "
        f"against its own (p {entry.p_vs_own_holm:.2g})"
        for entry in row.borrowed
    ]


def transfer_line(row: TransferRow) -> str:
    """What one model's direction does in another, in one line."""
    if row.efficiency is None:
        share = "its own direction does not work"
    else:
        low, high = row.efficiency_ci or (math.nan, math.nan)
        share = f"efficiency {row.efficiency:.0%} [{low:.0%}, {high:.0%}]"
    return (
        f"{row.source} to {row.to}, {row.method}: {row.coherent_refusal_rate:.0%} "
        f"coherent against {row.own_rate:.0%} with its own, {share}; cosine {row.cosine:.2f}"
    )
