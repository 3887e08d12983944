"""Decisions a person signs, in `gates.jsonl` of a folder; nothing is ever erased."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from steersweep.core import journal
from steersweep.core.errors import InputError, setting
from steersweep.core.journal import Entry, Line
from steersweep.core.printing import in_a_line
from steersweep.run.paths import RunPaths

_LONGEST_NAME = 200  # characters
_LONGEST_NOTE = 10_000
_WHAT_FOLLOWS = (
    "It counts for nothing, and gates signed before it wait again if it may have rejected them: "
    "sign again with steersweep approve"
)


def sign(
    folder: Path,
    gate: str,
    *,
    by: str,
    note: str,
    evidence: Path,
    time: str,
    rejected: bool = False,
    basis: Mapping[str, Any] | None = None,
) -> Entry:
    """Append a signature to the folder's `gates.jsonl`.

    Args:
        folder: run or verification folder.
        gate: what is signed.
        by: who signs.
        note: remark, may be empty.
        evidence: file that was judged; its hash is recorded, so the signature holds for it alone.
        time: UTC time.
        rejected: the person says no.
        basis: what the evidence rests on, for a reader that tells changes that matter from others.

    Raises:
        InputError: no name, or a name or note that is too long; or the file cannot be written.
    """
    check_person(setting("by"), by, note)
    signature = {
        "gate": gate,
        "rejected": rejected,
        "by": by.strip(),
        "note": note,
        "time": time,
        "evidence": evidence.name,
        "sha256": _hash(evidence),
        **({} if basis is None else {"basis": dict(basis)}),
    }
    journal.append(RunPaths(folder).gates, signature)
    return signature


def check_person(setting: str, name: str, note: str) -> None:
    """See that what a person says of themselves can be written and shown.

    Args:
        setting: where the name was given, for the message.
        name: of the person.
        note: their remark.

    Raises:
        InputError: no name, one of several lines, or a text that is too long.
    """
    if not name.strip():
        raise InputError(f"{setting}: needs a name")
    if in_a_line(name) != name:
        raise InputError(f"{setting}: a name is one line without control characters")
    if len(name) > _LONGEST_NAME or len(note) > _LONGEST_NOTE:
        raise InputError(
            f"a name has at most {_LONGEST_NAME} characters, and a note {_LONGEST_NOTE}"
        )


def signature_of(
    folder: Path,
    gate: str,
    evidence: Path,
    holds: Callable[[Entry], bool] = lambda _entry: False,
) -> Entry | None:
    """The newest signature of a gate for this evidence, or None.

    None too if a damaged line stands after it that may have been a rejection.

    Args:
        folder: run or verification folder.
        gate: what is signed.
        evidence: the file that was judged; as long as it is the same, a signature holds.
        holds: whether a signature holds though the file has changed.
    """
    found = None
    judged = _hash(evidence)
    for line in _lines(folder):
        if line.damage:
            found = found if _is_approval(line.text) else None
        elif (
            line.entry is not None
            and line.entry["gate"] == gate
            and (line.entry["sha256"] == judged or holds(line.entry))
        ):
            found = line.entry
    return found


def signatures(folder: Path) -> list[Entry]:
    """Every signature of a folder, oldest first; damaged lines are left out."""
    return journal.good(_lines(folder))


def problems(folder: Path) -> list[str]:
    """What is wrong with lines of the folder's signatures, and what follows."""
    return journal.messages(RunPaths(folder).gates, _lines(folder), _WHAT_FOLLOWS)


def _lines(folder: Path) -> list[Line]:
    return journal.read(RunPaths(folder).gates, _wrong)


def _wrong(entry: Entry) -> str | None:
    for name in ("gate", "by", "note", "time", "evidence", "sha256"):
        if not isinstance(entry.get(name), str):
            return f"{name} must be a text"
    return None if isinstance(entry.get("rejected"), bool) else "rejected must be true or false"


def _is_approval(text: str) -> bool:
    """Whether a damaged line was a signature that says yes; losing one only makes a gate wait."""
    return '"rejected": false' in text


def _hash(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()
