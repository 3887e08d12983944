"""What several commands print."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from steersweep.core.printing import printable

if TYPE_CHECKING:
    from steersweep.run.result import Result
    from steersweep.tracking.tracker import Tracker


def tell_tracker(
    folder: Path, tracker: Tracker, *, quiet: bool = False, if_any: bool = False
) -> None:
    """Tell a tracker everything a run folder holds, and wait a while for it to arrive.

    `if_any`: a study that holds nothing yet is no mistake.
    """
    from steersweep.people.reviews import results_in
    from steersweep.run.folder import RunFolder
    from steersweep.run.paths import RunPaths
    from steersweep.study.status import frozen_plan
    from steersweep.tracking.record import runs_of_study, runs_of_sweep
    from steersweep.tracking.tracker import Tracking

    if if_any and not RunPaths(folder).plan.is_file():
        return
    store = RunFolder.existing(folder)
    if store.plan.get("kind") == "study":
        runs = runs_of_study(frozen_plan(store), folder, if_any=if_any)
    else:
        runs = runs_of_sweep([result for _, held in results_in(folder) for result in held], folder)
    tracking = Tracking(folder, tracker, lambda line: say(line, err=True))
    told = tracking.tell(runs)
    unsent = tracking.finish()
    if not quiet:
        say(f"{tracker.name}: {told} of {len(runs)} runs new or changed", err=True)
        if unsent:
            say(not_sent(folder, tracker, unsent), err=True)


def not_sent(folder: Path, tracker: Tracker, runs: Sequence[str]) -> str:
    """What to do about runs that did not arrive."""
    again = f"steersweep track {folder} --to {tracker.name}"
    return f"{len(runs)} runs are kept here and not sent: {again}"


def show_report(folder: Path) -> None:
    """Write the report of a run folder and say where it is."""
    from steersweep.report.html import write_report

    say(f"Report:    {write_report(folder).path}")


def verdicts_of(results: Sequence[Result], results_file: Path) -> dict[str, Any]:
    """What `--json` prints of results: verdicts, and the file that has everything."""
    from steersweep.core import typed

    return {
        "results_file": str(results_file),
        "results": [
            {
                "model": result.model,
                "model_id": result.model_id,
                "family": result.family,
                "method": result.method,
                "quantization": result.quantization,
                "verdict": typed.plain(result.verdict),
            }
            for result in results
        ],
    }


def effects_in(result: Result) -> list[dict[str, Any]]:
    """What `--json` prints of effects: every condition that was measured, with its own."""
    from steersweep.core import typed

    controls = result.controls
    cells = [controls.unsteered, *controls.random_directions, *result.conditions]
    return [
        {
            "model": result.model,
            "method": cell.method,
            "key": cell.key,
            "layer_idx": None if cell.steering is None else cell.steering.layer_idx,
            "relative_strength": None if cell.steering is None else cell.steering.relative_strength,
            "coherent_refusal_rate": cell.rates.coherent_refusal_rate,
            "refuses_as_often": bool(result.priced and cell.key in result.priced.equal),
            "effects": typed.plain(cell.effects),
        }
        for cell in cells
        if cell is not None and cell.effects is not None
    ]


def say(text: str = "", *, err: bool = False) -> None:
    """Print text; whatever in it would command a terminal is escaped."""
    typer.echo(printable(text), err=err)


def tell_note(note: str) -> None:
    """Print what a user should know, beside the output; with --quiet too."""
    say(f"note: {note}", err=True)


def tell_problems(folder: Path) -> list[str]:
    """Say what is damaged in a run folder that cannot be made again; returns it."""
    from steersweep.people.problems import problems

    found = problems(folder)
    show_notes(found)
    return found


def show_notes(notes: Iterable[str]) -> None:
    """Say what was noticed about the model and the files given; never among results."""
    for note in notes:
        tell_note(note)


def quiet_libraries() -> None:
    """Their loading bars and advice would break up ours. Download bars of the hub stay."""
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    from transformers.utils import logging

    logging.disable_progress_bar()
    logging.set_verbosity_error()
