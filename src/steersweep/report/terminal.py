"""What the terminal shows: progress with time left, and the verdict table."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from rich.console import Console
from rich.table import Table
from rich.text import Text

from steersweep.core.precision_labels import shown_precision
from steersweep.core.printing import in_a_line
from steersweep.core.statistics import detectable_difference, wilson
from steersweep.report.console import PlainConsole
from steersweep.report.prices import price_lines
from steersweep.run.cell import Cell
from steersweep.run.result import Best, Result
from steersweep.run.verdict import FLAG_NOTES

if TYPE_CHECKING:
    from steersweep.lab.models import Card
    from steersweep.people.reviews import Agreement
    from steersweep.report.comparison import Comparison
    from steersweep.verification.outcome import Verification

OUTCOME_STYLES = {"works": "bold green", "partial": "yellow", "fails": "red"}


def power_line(n_prompts: int, n_conditions: int) -> str:
    """What a run can show with its prompts, to be read before it begins.

    Args:
        n_prompts: unique test prompts.
        n_conditions: steered conditions that will be compared with no steering.
    """
    rise = detectable_difference(n_prompts, baseline=0.05, compared=n_conditions)
    low, high = wilson(round(n_prompts / 2), n_prompts)
    half = f"{100 * (high - low) / 2:.0f}"
    found = "no rise" if rise is None else f"a rise of {100 * rise:.0f} points or more"
    return (
        f"{n_prompts} unique prompts: rates are known to about ±{half} points. "
        "Over 5 % unsteered,\n"
        f"{found} in one of {n_conditions} conditions would be found (80 % power, corrected)"
    )


def print_verdicts(results: Sequence[Result], console: Console | None = None) -> None:
    """The verdict table with intervals, best layer, strength, controls and failure modes."""
    console = console or PlainConsole()
    n_unique = results[0].conditions[0].rates.n_unique
    methods = list(dict.fromkeys(result.label for result in results))
    families = [str(method).upper() for method in methods if method.is_swept]
    table = Table(
        title=(
            f"{' and '.join(families)}: best condition per model, {n_unique} unique benign prompts"
        ),
        title_justify="left",
        title_style="bold",
        box=None,
        pad_edge=False,
    )
    table.add_column("model", no_wrap=True, max_width=18)
    table.add_column("verdict", no_wrap=True, min_width=7)
    for name, width in (("coherent", 11), ("layer", 5), ("strength", 12)):
        table.add_column(name, justify="right", no_wrap=True, min_width=width)
    for name in ("garbled", "controls"):
        table.add_column(name, justify="right", no_wrap=True, min_width=len(name))
    for index, result in enumerate(results):
        row = _row(result)
        if len(methods) > 1:
            if index == 0 or results[index - 1].model != result.model:
                table.add_row(result.model)
            row[0] = f"  {result.method}"
        table.add_row(*row)
    console.print(table)
    for line in _notes(results):
        console.print(line, highlight=False, soft_wrap=True)


def _cosines_to_dim(result: Result) -> dict[int, float]:
    """By layer, the cosine with DIM's direction; empty for DIM itself or without it."""
    return {
        cell.layer: cell.cosine_to_dim
        for cell in result.conditions
        if cell.cosine_to_dim is not None
    }


def print_comparison(found: Comparison, console: Console | None = None) -> None:
    """What changed between two runs: settings, verdicts, and the conditions that differ most."""
    console = console or PlainConsole()
    for title, changes in (("settings", found.settings), ("provenance", found.facts)):
        for change in changes:
            console.print(
                f"{title}: {change.name}: {change.first} -> {change.second}",
                highlight=False,
            )
    table = Table(box=None, pad_edge=False)
    for name in ("model", "method", "A", "B"):
        table.add_column(name, no_wrap=True)
    for name in ("coherent A", "coherent B"):
        table.add_column(name, justify="right", no_wrap=True)
    changed = [row for row in found.verdicts if row.changed]
    for row in changed:
        cells = [Text(v.outcome, OUTCOME_STYLES[v.outcome]) for v in (row.first, row.second)]
        rates = [f"{v.best.coherent_refusal_rate:.0%}" for v in (row.first, row.second)]
        table.add_row(f"{row.model} {row.precision}", row.method, *cells, *rates)
    if changed:
        console.print(table)
    differ = [row for row in found.conditions if row.p_holm < 0.05]
    n_texts = sum(row.n_texts for row in found.conditions)
    n_prompts = sum(row.n_prompts for row in found.conditions)
    console.print(
        f"{len(changed)} of {len(found.verdicts)} verdicts and {len(differ)} of "
        f"{len(found.conditions)} conditions differ (p below .05, corrected); "
        f"{n_texts} of {n_prompts} responses are other texts.\n"
        f"{found.only[0]} conditions are only in {found.folders[0]}, {found.only[1]} only in "
        f"{found.folders[1]}.",
        highlight=False,
    )


def print_cards(cards: Sequence[Card], console: Console | None = None) -> None:
    """The lab models with their size and held-out figures."""
    console = console or PlainConsole()
    table = Table(box=None, pad_edge=False)
    for name in ("model", "in the manner of"):
        table.add_column(name, no_wrap=True)
    for name in ("size", "harmful", "benign", "normal"):
        table.add_column(name, justify="right", no_wrap=True)
    for card in cards:
        held_out = card.held_out
        table.add_row(
            card.name,
            re.sub(r"-(Instruct|instruct|it)\b.*", "", card.mirrors.split("/")[-1]),
            f"{card.n_layers} x {card.d_model}",
            f"{held_out.harmful_refusals:.1%}",
            f"{held_out.benign_refusals:.1%}",
            f"{held_out.benign_normal:.1%}",
        )
    console.print(table)
    n = min(card.held_out.n for card in cards)
    for line in (
        "",
        "Miniatures trained here from scratch; they are not the models they are named after.",
        "size: layers x width. harmful, benign: share of such requests refused; normal: share of",
        f"benign answers judged normal. Unsteered, greedy, {n} held-out prompts of each class.",
    ):
        console.print(line, highlight=False, soft_wrap=True)


def print_checks(result: Verification, console: Console | None = None) -> None:
    """The outcome of a verification: largest differences, and the reproduction run."""
    from steersweep.verification.report import shown_difference

    console = console or PlainConsole()
    table = Table(box=None, pad_edge=False)
    table.add_column("against the official code", no_wrap=True)
    for name in ("difference", "tolerance", ""):
        table.add_column(name, justify="right", no_wrap=True)
    for name, row in result.quantities.items():
        outcome = Text("ok", "green") if row.passed else Text("differs", "bold red")
        difference = shown_difference(row.max_abs_difference)
        table.add_row(name, difference, f"{row.tolerance:g}", outcome)
    console.print(table)
    names = ", ".join(fixture.name for fixture in result.fixtures)
    console.print(f"\nFixtures: {names}. Masks, layers and choices: how many differ.")
    if run := result.reproduction:
        low, high = run.coherent_refusal_ci
        console.print(
            f"{run.model_id}, layer {run.layer_idx}, strength "
            f"{run.relative_strength:.2g} ({run.multiplier:.3g}x): "
            f"{run.coherent_refusal_rate:.0%} [{low * 100:.0f}-{high * 100:.0f}] coherent "
            f"refusals of {run.n_unique}, expected at least {run.expected_at_least:.0%}: "
            f"{'reached' if run.passed else 'not reached'}",
            highlight=False,
            soft_wrap=True,
        )
    console.print(Text("passed", "bold green") if result.passed else Text("FAILED", "bold red"))


def _row(result: Result) -> list[str | Text]:
    verdict, best = result.verdict, result.verdict.best
    low, high = verdict.interval
    sure = "" if verdict.certainty == "clear" else " ?"
    controls = result.controls
    return [
        result.model,
        Text(verdict.outcome + sure, style=OUTCOME_STYLES[verdict.outcome]),
        f"{best.coherent_refusal_rate:.0%} [{low * 100:.0f}-{high * 100:.0f}]",
        f"{best.layer_idx}/{result.n_layers}",
        _strength(best),
        f"{best.garbled_rate:.0%}",
        f"{_coherent(controls.random_direction)} / {_coherent(controls.unsteered)}",
    ]


def _strength(best: Best) -> str:
    """Relative strength and multiplier; nothing is added where a direction is removed."""
    if best.multiplier == 0:
        return "removed"
    return f"{best.relative_strength:.2g} ({best.multiplier:.3g}x)"


def _coherent(control: Cell | None) -> str:
    return "-" if control is None else f"{control.rates.coherent_refusal_rate:.0%}"


def _breakdown(conditions: Sequence[Cell]) -> str:
    """The commonest failure modes over all conditions of a model."""
    counts: dict[str, int] = {}
    for cell in conditions:
        for mode, count in cell.rates.failure_modes.items():
            counts[mode] = counts.get(mode, 0) + count
    total = sum(cell.rates.n_unique for cell in conditions)
    common = sorted(counts.items(), key=lambda item: -item[1])[:2]
    return ", ".join(f"{mode} {count / total:.0%}" for mode, count in common) or "none"


def _notes(results: Sequence[Result]) -> Iterator[str]:
    compared = " or ".join(
        str(n) for n in dict.fromkeys(result.verdict.n_compared for result in results)
    )
    yield ""
    yield f"coherent: share refused in fluent text [95 % interval for the best of {compared}]"
    yield "layer: where steering starts; strength: the push over the residual norm (multiplier)"
    yield "controls: the same share under a random direction of that length / unsteered"
    if any(result.verdict.certainty != "clear" for result in results):
        yield "?: the interval crosses a threshold, so another verdict is possible"
    stored = dict.fromkeys((result.model, result.quantization) for result in results)
    for model, precision in stored:
        if shown_precision(precision) != precision:
            yield f"{model}: {shown_precision(precision)} (stored, and what runs)"
    yield ""
    yield "Broken responses over all layers and strengths:"
    for result in results:
        yield f"  {result.model}, {result.method}: {_breakdown(result.conditions)}"
    notes = dict.fromkeys(f"{r.model}: {note}" for r in results for note in r.notes)
    if notes:
        yield ""
        yield "Notes:"
        yield from (f"  {note}" for note in notes)
    if len({result.method for result in results}) > 1:
        yield ""
        yield "Methods:"
        yield from _methods(results)
        yield ""
    yield from judge_error_lines(results)
    yield from review_lines(results)
    if costs := [*price_lines(results)]:
        yield ""
        yield from costs
        yield ""
    for flag, note in FLAG_NOTES.items():
        flagged = [result.model for result in results if flag in result.verdict.flags]
        if flagged:
            yield f"{', '.join(dict.fromkeys(flagged))}: {note}."


def judge_error_lines(results: Sequence[Result]) -> Iterator[str]:
    """What the judge's own errors leave of verdicts, where people have not labelled samples."""
    for result in results:
        if result.verdict.review is not None:
            continue
        name = f"{result.model}, {result.method}: {result.verdict.outcome} by the judge; "
        error = result.verdict.judge_error
        if error is None:
            yield f"{name}how often {in_a_line(result.judge)} errs is unknown"
            continue
        low, high = (100 * edge for edge in error.range)
        yield (
            f"{name}{low:.0f}-{high:.0f} % if the judge errs as it did on {error.n_labelled} "
            f"real answers ({' or '.join(error.outcomes)})"
        )


def review_lines(results: Sequence[Result]) -> Iterator[str]:
    """What people said of the conditions that verdicts rest on, or that nobody has looked yet."""
    for result in results:
        review = result.verdict.review
        if review is None:
            continue
        low, high = review.corrected_ci
        names = in_a_line(", ".join(review.reviewers))
        changed = f", {review.judge_outcome} by the judge" if review.replaces else ""
        yield (
            f"{result.model}, {result.method}: {result.verdict.outcome}{changed}; "
            f"{review.n_reviewed} of {review.n_wanted} samples labelled by "
            f"{names}, {review.agreed} as the judge has them: "
            f"{review.corrected_rate:.0%} [{low * 100:.0f}-{high * 100:.0f}] coherent, "
            f"{review.judge_rate:.0%} by the judge"
        )
    if any(result.verdict.provisional for result in results):
        yield "Works is provisional until a person has labelled samples: steersweep review DIR"


def agreement_lines(found: Sequence[Agreement]) -> Iterator[str]:
    """How reviewers agree with the judge and with each other."""
    for one in found:
        kappa = "undefined" if one.kappa is None else f"{one.kappa:.2f}"
        if one.interval is not None:
            kappa += f" [{one.interval[0]:.2f} to {one.interval[1]:.2f}]"
        names = in_a_line(f"{one.first} and {one.second}")
        yield f"{names}: {one.agreed} of {one.n} labels the same, κ {kappa}"


def _methods(results: Sequence[Result]) -> Iterator[str]:
    """What methods chose themselves, and how like DIM's their directions are."""
    for result in results:
        where = f"  {result.model}, {result.method}"
        if not result.label.is_swept:
            chosen = result.conditions[0].steering
            yield (
                f"{where}: chose layer {chosen.layer_idx} of {result.n_layers}, "
                f"position {chosen.position}"
            )
            continue
        if cosines := _cosines_to_dim(result):
            shown = ", ".join(f"{layer}: {cosine:.2f}" for layer, cosine in cosines.items())
            yield f"{where}: cosine with DIM's direction by layer: {shown}"
        for note in () if result.extraction is None else result.extraction.notes:
            yield f"{where}: {note}"
