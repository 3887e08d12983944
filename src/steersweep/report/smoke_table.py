"""The checks of a plan's models as a table for the terminal."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console
from rich.table import Table

from steersweep.report.console import PlainConsole

if TYPE_CHECKING:
    from steersweep.study.checking import Checked


def print_smoke(found: Sequence[Checked], folder: Path, console: Console | None = None) -> None:
    """A row for each model, then what is wrong with each that failed."""
    console = console or PlainConsole()
    table = Table(box=None, pad_edge=False)
    table.add_column("model", no_wrap=True)
    table.add_column("precision", no_wrap=True)
    table.add_column("GPU", no_wrap=True)
    for name in ("min", "USD"):
        table.add_column(name, justify="right", no_wrap=True)
    table.add_column("checks", no_wrap=True)
    for row in found:
        table.add_row(
            row.model,
            row.precision,
            row.gpu,
            "" if row.seconds is None else f"{row.seconds / 60:.1f}",
            "" if row.usd is None else f"{row.usd:.2f}",
            "passed" if row.passed else "FAILED",
        )
    console.print(table)
    failed = [row for row in found if not row.passed]
    for row in failed:
        console.print(f"{row.model}: {row.why}", highlight=False, soft_wrap=True, markup=False)
    said = f"{len(found) - len(failed)} of {len(found)} models passed"
    console.print(f"{said}; kept in {folder}", highlight=False, soft_wrap=True, markup=False)
