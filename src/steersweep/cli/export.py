"""The command `export`: results of a run for other tools."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Annotated

import typer

from steersweep.cli.output import say, tell_problems
from steersweep.core.errors import InputError

_TABLES = ("conditions", "answers")
_INSPECT = "inspect"


def export(
    folder: Annotated[Path, typer.Argument(help="Run folder of a sweep or study.", metavar="DIR")],
    to: Annotated[
        str, typer.Option(help="csv, jsonl or parquet: a table; inspect: logs for `inspect view`.")
    ] = "csv",
    what: Annotated[
        str | None,
        typer.Option(
            help="Of a table. conditions: a line for each; answers: every answer, judged "
            "[default: conditions]."
        ),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(
            help="File to write [default: DIR/WHAT.FORMAT]; of logs the folder [default: "
            "DIR/inspect]."
        ),
    ] = None,
) -> None:
    """Write the results of a run as a table, or as logs of Inspect with every answer.

    Example: `steersweep export demo`, `steersweep export demo --what answers --to parquet`,
    `steersweep export demo --to inspect`
    """
    from steersweep.library.tables import FORMATS

    for option, value, known in (("--to", to, (*FORMATS, _INSPECT)), ("--what", what, _TABLES)):
        if value is not None and value not in known:
            raise InputError(f"{option} {value}: choose from {', '.join(known)}")
    if to == _INSPECT:
        if what is not None:
            raise InputError(
                f"--what {what}: logs of Inspect hold conditions with their answers; leave it out"
            )
        _write_logs(folder, out)
    else:
        _write_table(folder, to, what or "conditions", out)


def _write_table(folder: Path, to: str, what: str, out: Path | None) -> None:
    from steersweep.library.results import SweepResults
    from steersweep.library.tables import write_table
    from steersweep.run.paths import RunPaths

    tell_problems(folder)
    found = SweepResults.of(folder)
    path = out or RunPaths(folder).table(what, to)
    if path.is_dir():
        raise InputError(f"--out {path}: is a folder; give a file")
    count = write_table(found.rows() if what == "conditions" else found.answers(), path, to)
    say(f"{path}: {count} {what}")


def _write_logs(folder: Path, out: Path | None) -> None:
    from steersweep.interop.inspect_logs import write_logs
    from steersweep.run.paths import RunPaths

    tell_problems(folder)
    path = out or RunPaths(folder).inspect_logs
    if path.is_file():
        raise InputError(f"--out {path}: is a file; give a folder")
    count = len(write_logs(folder, path))
    say(f"{path}: {count} logs; inspect view --log-dir {shlex.quote(str(path))}")
