"""Cases that give a command hostile input: a name, files, the command, and what is right."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from torture.helpers.cases import Case, Verdict
from torture.helpers.runs import Ground
from torture.helpers.verdicts import of_input

Make = Callable[[Path], None]
"""Puts what a case needs into its folder."""


def hostile(
    ground: Ground,
    name: str,
    make: Make,
    arguments: Sequence[str],
    *,
    refused: bool | None = True,
    names: Sequence[str] = (),
    also: Callable[[Path], str | None] = lambda _folder: None,
    limit_s: float = 10,
) -> Case:
    """The case in which a command meets what `make` made.

    Args:
        ground: the shared runs and cache.
        name: of the case.
        make: puts files into the folder.
        arguments: the command.
        refused: whether it must refuse; None: it may.
        names: one of them must stand in a refusal.
        also: what else is wrong with what an accepted input led to, or None.
        limit_s: longest time.
    """

    def attack(folder: Path) -> Verdict:
        make(folder)
        done = ground.run(tuple(arguments), folder, limit_s)
        return of_input(done, folder, refused=refused, names=names, also=lambda: also(folder))

    return Case(name, attack)
