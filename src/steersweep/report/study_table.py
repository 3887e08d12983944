"""What a phase of a study found and decided, for the terminal."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from steersweep.core.precision_labels import shown_precision
from steersweep.report.console import PlainConsole
from steersweep.report.terminal import OUTCOME_STYLES
from steersweep.study import text
from steersweep.study.decisions import Outcome
from steersweep.study.findings import decision_lines
from steersweep.study.phases.registry import titles
from steersweep.study.rows import rows_of


def print_decision(phase: str, decision: Mapping[str, Any], console: Console | None = None) -> None:
    """The evidence of a gate: verdicts with intervals, what follows, curves, failures, notes."""
    console = console or PlainConsole()
    console.print(Text(titles()[phase], style="bold"))
    if outcomes := rows_of(Outcome, decision, "outcomes"):
        console.print(_outcomes(outcomes))
        for line in text.legend(outcomes):
            console.print(line, highlight=False, soft_wrap=True)
    for line in decision_lines(decision):
        console.print(line, highlight=False, soft_wrap=True)


def _outcomes(outcomes: Sequence[Outcome]) -> Table:
    table = Table(box=None, pad_edge=False)
    labels = {row.precision for row in outcomes}
    precisions = len(labels) > 1 or any(shown_precision(label) != label for label in labels)
    table.add_column("model", no_wrap=True, max_width=18)
    for name in ("precision",) * precisions + ("method", "verdict"):
        table.add_column(name, no_wrap=True)
    for name in ("coherent", "layer", "strength", "garbled"):
        table.add_column(name, justify="right", no_wrap=True)
    for row in outcomes:
        low, high = row.interval
        table.add_row(
            row.model,
            *((shown_precision(row.precision),) if precisions else ()),
            row.method,
            Text(row.outcome + text.marks(row), style=OUTCOME_STYLES[row.outcome]),
            f"{row.coherent:.0%} [{low * 100:.0f}-{high * 100:.0f}]",
            f"{row.layer_idx}/{row.n_layers}",
            text.push(row, short=True),
            f"{row.garbled:.0%}",
        )
    return table
