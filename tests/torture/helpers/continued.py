"""Whether a run that was disturbed ends as if nothing had happened."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from pathlib import Path

from torture.helpers.cases import OK, Verdict
from torture.helpers.damages import BY_PEOPLE
from torture.helpers.ledgers import ledger_fault
from torture.helpers.process import Ended, command
from torture.helpers.runs import GO_ON, READING, Finished
from torture.helpers.snapshot import masked
from torture.helpers.verdicts import common_fault

_REFUSED = 2
_RESTS_ON_PEOPLE = ("decisions/", "results/", "FINDINGS_LOG.md")
# Files that hold numbers which people read or which others are made from.
_NUMBERS = ("conditions/", "decisions/", "directions/", "results/", "FINDINGS_LOG.md")


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
    return next(_faults(run, folder, done, damaged, may_stay_open), Verdict(OK))


def _faults(
    run: Finished, folder: Path, done: Ended, damaged: Collection[str], may_stay_open: int
) -> Iterator[Verdict]:
    if (fault := common_fault(done)) is not None:
        yield fault
    usual = run.read.get(GO_ON, "")
    named = _named(run, folder, done, damaged)
    if done.code != 0:
        fault = Verdict("unnamed" if damaged else "wrong", f"exit {done.code}: {done.err[-400:]}")
        yield Verdict(OK) if named else fault
    facts = run.seen_in(folder)
    harmed, allowed = set(map(masked, damaged)), set(map(masked, named))
    for name in sorted(run.facts.keys() - facts.keys() - allowed):
        yield Verdict("wrong", f"{name} is missing")
    if extra := sorted(facts.keys() - run.facts.keys() - harmed):
        yield Verdict("leftover", ", ".join(extra[:4]))
    late: list[Verdict] = []
    people = any(is_named(name, done.text, usual) for name in damaged if name in BY_PEOPLE)
    free = _RESTS_ON_PEOPLE if people else ()
    for name in sorted(run.facts.keys() & facts.keys() - run.varying - allowed - {"ledger.jsonl"}):
        if facts[name] != run.facts[name] and not name.startswith(free):
            how = _first_difference(facts[name], run.facts[name])
            unnoticed = name in harmed and not name.startswith(_NUMBERS)
            late.append(Verdict("unnoticed" if unnoticed else "wrong", f"{name} differs: {how}"))
    yield from sorted(late, key=lambda verdict: verdict.name == "unnoticed")
    if run.name == "study" and "ledger.jsonl" not in allowed:
        money = ledger_fault(
            folder / "run",
            run.folder / "run",
            may_stay_open=may_stay_open,
            may_run_again=max(1, len(damaged)),
        )
        if money is not None:
            yield Verdict("wrong" if damaged else "leftover", money)


def _named(run: Finished, folder: Path, done: Ended, damaged: Collection[str]) -> list[str]:
    """Damaged files that the command names, or `status` after it."""
    found = [name for name in damaged if names(done, name, run.read.get(GO_ON, ""))]
    if damaged and not found and run.name == "study":
        status = READING["study"][0]
        said = command(status, folder, cache=run.cache).text
        found = [name for name in damaged if is_named(name, said, run.read[" ".join(status)])]
    return found


def names(done: Ended, name: str, usual: str) -> bool:
    """Whether a command that ended names a file, where it `usual`ly says something else.

    A refusal is one message, and nothing of what is usual.
    """
    return (
        is_named(name, done.err, "") if done.code == _REFUSED else is_named(name, done.text, usual)
    )


def is_named(name: str, text: str, usual: str) -> bool:
    """Whether a text names a file, more often than the `usual` one."""
    if name == "plan.yaml" and "holds another run" in text:
        return True
    return text.count(Path(name).name) > usual.count(Path(name).name)


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
        line = next((i for i, (x, y) in enumerate(zip(mine, theirs, strict=False)) if x != y), None)
        if line is not None:
            return f"line {line + 1}: {mine[line][:100]!r}, not {theirs[line][:100]!r}"
    return f"{place or 'it'} is {str(a)[:120]!r}, not {str(b)[:120]!r}"
