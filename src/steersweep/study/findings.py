"""`FINDINGS_LOG.md`: what each phase found, appended once; negative results included."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from steersweep.core.atomic import read_file, write_text
from steersweep.core.digests import Damaged
from steersweep.core.printing import markdown, printable
from steersweep.run.folder import RunFolder
from steersweep.study import final, text
from steersweep.study.decisions import NotRun
from steersweep.study.phases.registry import phase_named, titles
from steersweep.study.rows import rows_of

_BEGINNING = "# Findings\n"
_CONTROL = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f]")  # none that text is written with
# Before a section: its phase, how many lines it has, and the digest of these.
_MARK = re.compile(r"<!-- ([a-z_]+): ([0-9]{1,6}) lines, ([0-9a-f]{16}) -->")


def append_findings(store: RunFolder, phase: str, decision: Mapping[str, Any]) -> None:
    """Add a section on a phase, unless one about exactly these findings is there.

    A log in which a section has changed, of today or of before, is set aside; the others stay.
    """
    lines = [f"## {titles()[phase]}", "", *_section(phase, _escaped(decision))]
    # A text of several lines, or of none at its end.
    lines = "\n".join(lines).rstrip().split("\n")
    section = "\n".join(
        [f"<!-- {phase}: {len(lines)} lines, {_digest(phase, lines)} -->", *lines, ""]
    )
    held = _held(store)
    log = held if held.endswith("\n") else f"{held}\n"
    if section not in log:
        log = f"{log}\n{section}"
    if log != held:
        write_text(store.paths.findings, log)


def _held(store: RunFolder) -> str:
    """The log so far, or the whole sections of a damaged one. People may write between these."""
    try:
        data = read_file(store.paths.findings)
        held = _BEGINNING if data is None else data.decode("utf-8")
    except (Damaged, UnicodeDecodeError) as error:
        why = "no UTF-8" if isinstance(error, ValueError) else str(error)
        store.set_aside(store.paths.findings, why)
        return _BEGINNING
    whole, damage = _looked_at(held)
    if damage is None:
        return held
    store.set_aside(store.paths.findings, damage)
    held = "\n".join([_BEGINNING, *whole])
    write_text(store.paths.findings, held)
    return held


def _looked_at(held: str) -> tuple[list[str], str | None]:
    """Sections that are as they were written, each with its mark, and what is not."""
    whole: list[str] = []
    damage = None if held.startswith(_BEGINNING) else "its first line is not as it was written"
    if found := _CONTROL.search(held):
        damage = damage or f"it holds the control character {printable(found[0])}"
    headings = {f"## {title}": title for title in titles().values()}
    marks = tuple(f"<!-- {phase}:" for phase in titles())
    lines = held.split("\n")
    at = 0
    while at < len(lines):
        line, at = lines[at], at + 1
        if found := _MARK.fullmatch(line):
            end = at + int(found[2])
            section = "\n".join([*lines[at - 1 : end], ""])
            if _digest(found[1], lines[at:end]) != found[3]:
                damage = damage or f"the section after {line} is not as it was written"
            elif section in whole:
                damage, at = damage or f"the section after {line} stands there twice", end
            else:
                whole.append(section)
                at = end
        elif bare := [title for heading, title in headings.items() if heading in line]:
            damage = damage or f"the section {bare[0]} is without its mark"
        elif line.startswith(marks) or (line and any(mark.startswith(line) for mark in marks)):
            damage = damage or f"the mark {line} is cut"
    return whole, damage


def _digest(phase: str, lines: Sequence[str]) -> str:
    return hashlib.sha256("\n".join([phase, *lines]).encode()).hexdigest()[:16]


def _escaped(value: Any) -> Any:
    """A decision whose texts are shown as they are, and are no Markdown of their own."""
    if isinstance(value, Mapping):
        # Names of fields have no marks to escape; what could not run is a name from outside.
        return {markdown(str(name)): _escaped(item) for name, item in value.items()}
    if isinstance(value, list):
        return [_escaped(item) for item in value]
    return markdown(value) if isinstance(value, str) else value


def _section(phase: str, decision: Mapping[str, Any]) -> Iterator[str]:
    yield from (
        final.findings(decision) if phase == final.NAME else phase_named(phase).findings(decision)
    )
    for line in (*decision.get("notes", []), *_not_run(decision)):
        yield f"- {line}"


def decision_lines(decision: Mapping[str, Any]) -> list[str]:
    """What a phase decided, line by line: what the phase says of it, notes, failures."""
    phase = decision["phase"]
    found = final.lines(decision) if phase == final.NAME else phase_named(phase).lines(decision)
    return [*found, *decision.get("notes", []), *_not_run(decision)]


def _not_run(decision: Mapping[str, Any]) -> Iterator[str]:
    """What could not run, so that nothing is known of it."""
    if "not_run" in decision:
        yield from map(text.not_run_line, rows_of(NotRun, decision, "not_run"))
    else:
        for name, why in decision.get("failures", {}).items():
            yield f"could not run: {name}: {why}"
