"""What is asked of every command, and of one that got hostile input."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from torture.helpers.cases import OK, Verdict
from torture.helpers.process import MEMORY_LIMIT_MB, Ended

# Control characters but tab and line ends; and those that turn the direction of text around.
_CONTROL = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]")
_TRACEBACK = "Traceback (most recent call last)"
_LONGEST_MESSAGE = 20_000


def common_fault(done: Ended) -> Verdict | None:
    """A fault that no command may have, whatever its input."""
    if done.hung:
        return Verdict("hang", f"after {done.seconds:.0f} s: {_end(done)}")
    if done.memory_mb > MEMORY_LIMIT_MB:
        return Verdict("memory", f"{done.memory_mb} MB")
    if _TRACEBACK in done.text:
        return Verdict("traceback", done.err[-400:] or done.out[-400:])
    if done.code < 0:
        return Verdict("traceback", f"ended by signal {-done.code}: {_end(done)}")
    if found := _CONTROL.search(done.text):
        place = found.start()
        return Verdict("escape", f"{found[0]!r} in {done.text[max(0, place - 60) : place + 20]!r}")
    return None


def of_input(
    done: Ended,
    folder: Path,
    *,
    refused: bool | None,
    names: Sequence[str] = (),
    also: Callable[[], str | None] = lambda: None,
) -> Verdict:
    """The verdict of a command that got hostile input.

    Args:
        done: how it ended.
        folder: where it ran; nothing temporary may lie there.
        refused: True: it must refuse; False: it must not; None: both are right.
        names: one of these must stand in the message where it refuses.
        also: what else is wrong with what it made, or None.
    """
    return next(_faults(done, folder, refused, names, also), Verdict(OK))


def _faults(
    done: Ended,
    folder: Path,
    refused: bool | None,
    names: Sequence[str],
    also: Callable[[], str | None],
) -> Iterator[Verdict]:
    if (fault := common_fault(done)) is not None:
        yield fault
    if refused is True and done.code == 0:
        yield Verdict("wrong", f"accepted: {_end(done)}")
    if refused is False and done.code != 0:
        yield Verdict("wrong", f"refused: {_end(done)}")
    if done.code not in (0, 1, 2, 3, 4):
        yield Verdict("wrong", f"exit code {done.code}")
    if done.code != 0 and not done.text.strip():
        yield Verdict("unnamed", "no message at all")
    if done.code != 0 and names and not any(name in done.text for name in names):
        yield Verdict("unnamed", f"none of {', '.join(map(ascii, names))} in: {_end(done)}")
    if len(done.err) > _LONGEST_MESSAGE:
        yield Verdict("unnamed", f"a message of {len(done.err)} characters")
    if left := [path.name for path in folder.rglob("*.tmp")]:
        yield Verdict("leftover", ", ".join(left))
    if done.code == 0 and (problem := also()) is not None:
        yield Verdict("wrong", problem)


def _end(done: Ended) -> str:
    return (done.err.strip() or done.out.strip())[-400:]
