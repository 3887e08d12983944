"""What a damaged run says: each reading command, and the command that continues it."""

from __future__ import annotations

import random
from collections.abc import Collection, Sequence
from pathlib import Path

from torture.helpers.cases import OK, Case, Verdict
from torture.helpers.continued import is_named, names, of_continued
from torture.helpers.damages import Damage
from torture.helpers.process import command
from torture.helpers.runs import GO_ON, PAGE, READING, Finished
from torture.helpers.verdicts import common_fault

_GATE = 3


def damaged_case(
    name: str, run: Finished, file: str, damage: Damage, seed: str, *, review: bool
) -> Case:
    """The case in which a file of a finished run is damaged: read, then continued.

    Args:
        name: of the case.
        run: the finished run.
        file: relative to the run folder.
        damage: what happens to it.
        seed: of what the damage draws.
        review: read by `review` too, beside `report`, which most often says the same.
    """

    def attack(folder: Path) -> Verdict:
        read = _harmed(run, folder / "read", file, damage, seed)
        skipped = () if review else ("review",)
        verdict = _read(run, folder / "read", read, skipped)
        if verdict.name != OK:
            return verdict
        harmed = _harmed(run, folder / "go-on", file, damage, seed)
        done = run.go_on(folder / "go-on")
        usual = run.read[GO_ON]
        if done.code == _GATE and any(is_named(name, done.text, usual) for name in harmed):
            return common_fault(done) or Verdict(OK)
        return of_continued(run, folder / "go-on", done, damaged=harmed)

    return Case(name, attack)


def _harmed(run: Finished, folder: Path, file: str, damage: Damage, seed: str) -> Sequence[str]:
    """A damaged copy of the run; returns the harmed files, relative to the run folder."""
    out = run.copy_to(folder)
    harmed = damage(out / file, random.Random(seed)) or [out / file]
    return [str(path.relative_to(out)) for path in harmed]


def _read(run: Finished, folder: Path, harmed: Sequence[str], skipped: Collection[str]) -> Verdict:
    for arguments in READING[run.name]:
        if arguments[0] in skipped:
            continue
        done = command(arguments, folder, cache=run.cache)
        if (fault := common_fault(done)) is not None:
            return Verdict(fault.name, f"{arguments[0]}: {fault.why}")
        expected = run.read[" ".join(arguments)]
        named = any(names(done, name, expected) for name in harmed)
        if done.code != 0 and not named:
            return Verdict("unnamed", f"{arguments[0]}: exit {done.code}: {done.text[-400:]}")
        if named:
            continue
        said = done.text
        if arguments[0] == "report":
            said += (folder / "run" / "report.html").read_text("utf-8")
            expected += run.read[PAGE]
        if said != expected and not any(is_named(name, said, expected) for name in harmed):
            return Verdict("wrong", f"{arguments[0]}: {_first_difference(said, expected)}")
    return Verdict(OK)


def _first_difference(mine: str, theirs: str) -> str:
    place = next(
        (i for i, (a, b) in enumerate(zip(mine, theirs, strict=False)) if a != b), len(theirs)
    )
    begin = max(0, place - 40)
    return f"{mine[begin : place + 60]!r}, not {theirs[begin : place + 60]!r}"
