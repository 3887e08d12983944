"""`FINDINGS_LOG.md`: what each phase found, appended once; negative results included."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from typing import Any

from steersweep.core.atomic import read_file, write_text
from steersweep.core.digests import Damaged
from steersweep.core.printing import markdown
from steersweep.run.folder import RunFolder
from steersweep.study import final, text
from steersweep.study.decisions import NotRun
from steersweep.study.phases.registry import phase_named, titles
from steersweep.study.rows import rows_of

_BEGINNING = "# Findings\n"


def append_findings(store: RunFolder, phase: str, decision: Mapping[str, Any]) -> None:
    """Add a section on a phase, unless one about exactly these findings is there.

    A log whose section on them has changed is set aside, and begun again.
    """
    text = json.dumps(decision, sort_keys=True)
    mark = f"<!-- {phase} {hashlib.sha256(text.encode()).hexdigest()[:16]} -->"
    lines = [mark, f"## {titles()[phase]}", "", *_section(phase, _escaped(decision))]
    section = "\n".join(lines).rstrip() + "\n"
    held = _held(store)
    if mark in held and section not in held:
        why = f"the section {titles()[phase]} is not as it was written"
        store.set_aside(store.paths.findings, why)
        held = _BEGINNING
    if section not in held:
        write_text(store.paths.findings, f"{held}\n{section}")


def _held(store: RunFolder) -> str:
    """The log so far; a new one where it cannot be read. People may have written into it."""
    try:
        data = read_file(store.paths.findings)
        return _BEGINNING if data is None else data.decode("utf-8")
    except (Damaged, UnicodeDecodeError) as error:
        why = "no UTF-8" if isinstance(error, ValueError) else str(error)
        store.set_aside(store.paths.findings, why)
        return _BEGINNING


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
