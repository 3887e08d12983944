"""What is damaged of that which cannot be made again: money, signatures, labels, changes."""

from __future__ import annotations

from pathlib import Path

from steersweep.budget.ledger import Ledger
from steersweep.core import journal
from steersweep.core.errors import InputError
from steersweep.core.journal import Entry
from steersweep.people import gates, reviews
from steersweep.run.paths import RunPaths


def problems(folder: Path) -> list[str]:
    """Of each damaged line in a run folder, what is wrong with it, and what follows.

    Such lines stay where they are: a person may still read what they say.

    Raises:
        InputError: one of the files cannot be read.
    """
    return [
        *_empty(folder),
        *Ledger(folder).problems(),
        *gates.problems(folder),
        *reviews.problems(folder),
        *_problems_of_changes(RunPaths(folder).changes),
    ]


def _empty(folder: Path) -> list[str]:
    """These files are made with their first line, so one without any has lost it."""
    paths = RunPaths(folder)
    return [
        f"{path}: is empty. If something was written there, it is lost"
        for path in (paths.ledger, paths.gates, paths.reviews, paths.changes)
        if path.is_file() and not path.stat().st_size
    ]


def _problems_of_changes(path: Path) -> list[str]:
    """Nothing rests on this file, so one that cannot be read stops nothing."""
    try:
        lines = journal.read(path, _wrong)
    except InputError as error:
        return [str(error)]
    return journal.messages(path, lines, "What was changed on the way is not known there")


def _wrong(entry: Entry) -> str | None:
    """What is wrong with a change of settings, or None."""
    if entry.keys() != {"field", "from", "to"}:
        return "must have the fields field, from, to"
    return None if isinstance(entry["field"], str) else "field must be a text"
