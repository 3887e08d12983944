"""The command `export`: results of a run as tables for other tools."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from steersweep.cli.output import say, tell_problems
from steersweep.core.errors import InputError

_TABLES = ("conditions", "answers")


def export(
    folder: Annotated[Path, typer.Argument(help="Run folder of a sweep or study.", metavar="DIR")],
    to: Annotated[str, typer.Option(help="csv, jsonl or parquet.")] = "csv",
    what: Annotated[
        str, typer.Option(help="conditions: a line for each; answers: every answer, judged.")
    ] = "conditions",
    out: Annotated[
        Path | None, typer.Option(help="File to write [default: DIR/WHAT.FORMAT].")
    ] = None,
) -> None:
    """Write the results of a run as a table: conditions with their rates, or every answer.

    Example: `steersweep export demo`, `steersweep export demo --what answers --to parquet`
    """
    from steersweep.library.results import SweepResults
    from steersweep.library.tables import FORMATS, write_table
    from steersweep.run.paths import RunPaths

    for option, value, known in (("--to", to, FORMATS), ("--what", what, _TABLES)):
        if value not in known:
            raise InputError(f"{option} {value}: choose from {', '.join(known)}")
    tell_problems(folder)
    found = SweepResults.of(folder)
    path = out or RunPaths(folder).table(what, to)
    if path.is_dir():
        raise InputError(f"--out {path}: is a folder; give a file")
    count = write_table(found.rows() if what == "conditions" else found.answers(), path, to)
    say(f"{path}: {count} {what}")
