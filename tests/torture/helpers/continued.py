"""Whether a run that was disturbed ends as if nothing had happened."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path

from torture.helpers.cases import OK, Verdict
from torture.helpers.ledgers import ledger_fault
from torture.helpers.process import Ended
from torture.helpers.runs import Finished
from torture.helpers.verdicts import common_fault


def of_continued(
    run: Finished,
    folder: Path,
    done: Ended,
    *,
    damaged: Collection[str] = (),
    may_stay_open: int = 0,
) -> Verdict:
    """The verdict on a run folder after the command was given again.

    Args:
        run: the undisturbed one.
        folder: where the disturbed one is.
        done: how the last command ended.
        damaged: names of files that were damaged on purpose: such a file must be as before, or be
            named; and a refusal must name one.
        may_stay_open: reservations that may stay unsettled.
    """
    if (fault := common_fault(done)) is not None:
        return fault
    named = [name for name in damaged if is_named(name, done.text)]
    if done.code != 0:
        if named:
            return Verdict(OK)
        return Verdict("unnamed" if damaged else "wrong", f"exit {done.code}: {done.err[-400:]}")
    facts = run.seen_in(folder)
    for name in sorted(run.facts.keys() - facts.keys()):
        if name not in damaged or not named:
            return Verdict("wrong", f"{name} is missing")
    if extra := sorted(facts.keys() - run.facts.keys() - set(damaged)):
        return Verdict("leftover", ", ".join(extra[:4]))
    for name in sorted(run.facts.keys() & facts.keys() - run.varying):
        if name == "ledger.jsonl" or facts[name] == run.facts[name]:
            continue
        if name not in damaged or not named:
            return Verdict("wrong", f"{name} differs: {_first_difference(facts[name], run.facts[name])}")
    if run.name == "study" and "ledger.jsonl" not in named:
        money = ledger_fault(folder / "run", run.folder / "run", may_stay_open=may_stay_open)
        if money is not None:
            return Verdict("wrong" if damaged else "leftover", money)
    return Verdict(OK)


def is_named(name: str, text: str) -> bool:
    """Whether a message names a file: by its name, with or without its ending."""
    path = Path(name)
    return path.name in text or (len(path.stem) >= 12 and path.stem in text)


def _first_difference(a: object, b: object, place: str = "") -> str:
    if isinstance(a, dict) and isinstance(b, dict):
        for key in [*b, *a]:
            if a.get(key) != b.get(key):
                return _first_difference(a.get(key), b.get(key), f"{place}.{key}")
    if isinstance(a, list) and isinstance(b, list) and len(a) == len(b):
        for index, (x, y) in enumerate(zip(a, b, strict=True)):
            if x != y:
                return _first_difference(x, y, f"{place}[{index}]")
    if isinstance(a, str) and isinstance(b, str) and "\n" in b:
        mine, theirs = a.split("\n"), b.split("\n")
        line = next((i for i, (x, y) in enumerate(zip(mine, theirs)) if x != y), None)
        if line is not None:
            return f"line {line + 1}: {mine[line][:100]!r}, not {theirs[line][:100]!r}"
    return f"{place or 'it'} is {str(a)[:120]!r}, not {str(b)[:120]!r}"
