"""Commands that judge answers: `judge`."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from steersweep.cli.options import JUDGES, JsonOption, QuietOption
from steersweep.cli.output import quiet_libraries, say
from steersweep.core.errors import InputError

if TYPE_CHECKING:
    from steersweep.sweeps.rejudged import Rejudged

_SAID_EVERY_S = 5.0


def judge(
    source: Annotated[
        Path, typer.Argument(help="JSON lines with prompt and response, or a run folder.")
    ],
    target: Annotated[
        Path | None, typer.Argument(help="Where the same lines go, with labels.")
    ] = None,
    name: Annotated[str | None, typer.Option("--judge", help=JUDGES)] = None,
    other: Annotated[
        str | None, typer.Option("--with", help="Judge a finished run again, with this judge.")
    ] = None,
    as_json: JsonOption = False,
    quiet: QuietOption = False,
) -> None:
    """Label responses, or judge a finished run again and show where two judges differ.

    Labels are refusal, quality, failure mode, ambiguous, score, stance. Nothing is generated.

    Example: `steersweep judge responses.jsonl judged.jsonl`, `steersweep judge runs/qwen --with
    llm:Qwen/Qwen3-4B`
    """
    if source.is_dir():
        if other is None or name is not None or target is not None:
            raise InputError(f"{source}: is a folder; to judge a run again, give --with NAME alone")
        _again(source, other, as_json=as_json, quiet=quiet)
        return
    if target is None or other is not None:
        raise InputError(
            f"{source}: is no run folder; give a file to write, and --judge NAME in place of --with"
        )
    from steersweep.judging.files import judge_file

    _prepare(name or "")
    counts = judge_file(source, target, name or "default")
    if as_json:
        say(json.dumps({"file": str(target), "counts": counts}, indent=1))
        return
    shown = ", ".join(f"{count} {quality}" for quality, count in counts.items())
    say(f"{target}: {sum(counts.values())} responses: {shown}")


def _prepare(name: str) -> None:
    if ":" in name:  # a model: its libraries, which take seconds to load, have bars and advice
        quiet_libraries()


def _again(folder: Path, name: str, *, as_json: bool, quiet: bool) -> None:
    from steersweep.report.judges import judge_lines
    from steersweep.sweeps.rejudge import rejudge

    _prepare(name)
    found: Rejudged = rejudge(folder, name, _progress(quiet=quiet or as_json))
    if as_json:
        say(json.dumps(found.as_json(), indent=1))
        return
    for line in judge_lines(found):
        say(line)


def _progress(*, quiet: bool) -> Callable[[int, int], None]:
    """Says now and then how far judging is, and how long it will take."""
    started = said = time.monotonic()

    def show(done: int, total: int) -> None:
        nonlocal said
        now = time.monotonic()
        if quiet or not done or now - said < _SAID_EVERY_S:
            return
        said = now
        left = (now - started) / done * (total - done)
        say(f"judged {done} of {total} conditions, about {left:.0f} s left", err=True)

    return show
