"""Prompt files as people and other tools write them: lines, JSON, JSON lines, tables."""

from __future__ import annotations

import csv
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from steersweep.core.errors import InputError
from steersweep.core.text_files import parse_json, read_text, shown
from steersweep.prompts.characters import trimmed
from steersweep.prompts.records import (
    DELIMITERS,
    MAX_HEADER,
    Table,
    is_json,
    json_lines,
    read_table,
    refuse_other_files,
)

MAX_BYTES = 24 * 2**20
MAX_PROMPTS = 100_000
# Names of the field or column that holds the prompt; the last three are of AdvBench and
# JailbreakBench, of HarmBench, and of StrongREJECT.
PROMPT_FIELDS: tuple[str, ...] = (
    *("prompt", "instruction", "question", "text", "query", "request"),
    *("goal", "behavior", "forbidden_prompt"),
)
# A prompt goes on in these (Alpaca, HarmBench): where they are filled it is not whole alone.
_CONTEXT_FIELDS = ("input", "context", "contextstring")
_WORD = re.compile(r"[A-Za-z_][A-Za-z0-9_.-]*")
_COLUMN = re.compile(r"[\w #.-]{0,40}(?<![.])")
_RENAME = f'rename the one with the prompts to "prompt" (known: {", ".join(PROMPT_FIELDS)})'


@dataclass(frozen=True)
class Entry:
    """One prompt of a file.

    Attributes:
        place: where it stands, for messages: `line 3`, `"prompts" item 3`.
        text: the prompt as the file has it.
        fields: what else stands beside it, by name in lower case (columns of a table).
        field: which of these holds it; empty where the prompt stands alone.
    """

    place: str
    text: str
    fields: Mapping[str, Any]
    field: str = ""


Content = list[Entry] | dict[str, Any]


def read_prompt_file(path: str) -> Content:
    """The prompts of a file in order, or the object that a `.json` file holds.

    Raises:
        InputError: cannot be read, or is not what its ending says; names file, and line or item.
    """
    return _READERS[Path(path).suffix.lower()](path, read_text(path, max_bytes=MAX_BYTES))


def is_prompt_file(name: str) -> bool:
    """Whether the name has an ending that `read_prompt_file` knows."""
    return Path(name).suffix.lower() in _READERS


def entries_of(path: str, values: Sequence[Any], place: Callable[[int], str]) -> list[Entry]:
    """Prompts from JSON values: texts, or objects with a prompt among their fields.

    Raises:
        InputError: a value is neither, or two have their prompts in different fields; `place` names
            a value by its index.
    """
    return _collect(path, (_entry(path, place(i), value) for i, value in enumerate(values)))


def _collect(path: str, entries: Iterable[Entry]) -> list[Entry]:
    found: list[Entry] = []
    first: Entry | None = None  # that has a field
    for entry in entries:
        if entry.field and first is None:
            first = entry
        if entry.field and first is not None and entry.field != first.field:
            raise InputError(
                f'{path}, {entry.place}: the prompt stands in field "{entry.field}", but at '
                f'{first.place} in "{first.field}"; give all the same field'
            )
        if len(found) == MAX_PROMPTS:
            raise InputError(f"{path}: more than {MAX_PROMPTS:,} prompts; use fewer")
        found.append(entry)
    return found


def _lines(path: str, text: str) -> list[Entry]:
    lines = enumerate(text.split("\n"), start=1)
    found = _collect(path, (Entry(f"line {n}", line, {}) for n, line in lines if trimmed(line)))
    if found:
        _refuse_other_formats(path, found[0])
    return found


def _refuse_other_formats(path: str, first: Entry) -> None:
    """A first line that is no prompt but the beginning of a table or of JSON."""
    line = trimmed(first.text)
    if len(line) > MAX_HEADER:
        return
    where = f"{path}, {first.place}"
    if line in ("{", "[") or (line[0] in "{[" and is_json(line.rstrip(","))):
        raise InputError(
            f"{where}: {shown(line)} is JSON, not a prompt; name the file .json, or .jsonl where "
            f"every line is a value of its own"
        )
    refuse_other_files(path, line, "prompts")
    cells = _cells(line)
    known = any(trimmed(cell).lower().removesuffix("s") in PROMPT_FIELDS for cell in cells)
    columns = known and all(_COLUMN.fullmatch(cell) for cell in cells)
    words = len(cells) > 1 and all(_WORD.fullmatch(cell) for cell in cells)
    if columns or words:
        raise InputError(
            f"{where}: {shown(line)} is the header of a table, not a prompt; name the file .csv, "
            f"or remove the line"
        )


def _cells(line: str) -> list[str]:
    """A line as the cells of a table, with the delimiter that gives most."""
    rows = [next(csv.reader([line], delimiter=mark), []) for mark in DELIMITERS]
    return max(rows, key=len)


def _json(path: str, text: str) -> Content:
    try:
        data = parse_json(text)
    except ValueError as error:
        lines = [line for line in text.split("\n") if line.strip()]
        if len(lines) > 1 and is_json(lines[0]) and is_json(lines[1]):
            raise InputError(f"{path}: holds a JSON value a line; name the file .jsonl") from error
        raise InputError(f"{path}: not valid JSON: {error}") from error
    if isinstance(data, dict):
        return data
    if isinstance(data, list):
        return entries_of(path, data, lambda index: f"item {index + 1}")
    raise InputError(f"{path}: must be a JSON list of prompts, or an object that has such lists")


def _json_lines(path: str, text: str) -> list[Entry]:
    lines = ((f"line {number}", value) for number, value in json_lines(path, text))
    return _collect(path, (_entry(path, place, value) for place, value in lines))


def _entry(path: str, place: str, value: Any) -> Entry:
    if isinstance(value, str):
        return Entry(place, value, {})
    where = f"{path}, {place}"
    if not isinstance(value, dict):
        raise InputError(f"{where}: must be a non-empty text, or an object with one")
    fields = {name.lower(): item for name, item in value.items()}
    if len(fields) < len(value):
        raise InputError(f"{where}: two fields differ in upper and lower case only")
    if "messages" in fields and "prompt" not in fields:
        return Entry(place, _user_turn(where, "messages", fields["messages"]), fields, "messages")
    name = _prompt_field(where, list(fields), "field")
    text = fields[name]
    if isinstance(text, list):
        text = _user_turn(where, name, text)
    if not isinstance(text, str):
        raise InputError(f'{where}: field "{name}" must be a text')
    _refuse_context(where, fields, name)
    return Entry(place, text, fields, name)


def _user_turn(where: str, field: str, messages: Any) -> str:
    """The text of a conversation that is one user turn."""
    wanted = 'a single {"role": "user", "content": TEXT}'
    if not isinstance(messages, list) or not all(isinstance(turn, dict) for turn in messages):
        raise InputError(f'{where}: field "{field}" must be a list with {wanted}')
    roles = [str(turn.get("role")) for turn in messages]
    if roles != ["user"]:
        raise InputError(
            f'{where}: field "{field}" has turns of {shown(", ".join(roles))}; a prompt is {wanted}'
        )
    if not isinstance(content := messages[0].get("content"), str):
        raise InputError(f'{where}: field "{field}": the content of its turn must be a text')
    return content


def _prompt_field(where: str, names: Sequence[str], what: str) -> str:
    """Which of the names holds the prompt; `what` they are: field or column.

    "prompt" goes before all others, and "goal" before "behavior": in JailbreakBench the first is
    the request and the second a word for it.
    """
    known = [name for name in names if name in PROMPT_FIELDS]
    if "prompt" in known:
        known = ["prompt"]
    elif "goal" in known and "behavior" in known:
        known.remove("behavior")
    if len(known) == 1:
        return known[0]
    found = ", ".join(shown(name, 40) for name in names[:12]) + (" ..." if len(names) > 12 else "")
    problem = "no {}s with prompts among" if not known else "more than one {} with prompts among"
    raise InputError(f"{where}: {problem.format(what)} {found or 'none'}; {_RENAME}")


def _refuse_context(where: str, fields: Mapping[str, Any], name: str) -> None:
    for other in _CONTEXT_FIELDS:
        if isinstance(more := fields.get(other), str) and trimmed(more):
            raise InputError(
                f'{where}: "{other}" is filled, so "{name}" is not the whole prompt; write both '
                f'as one "prompt", or leave this entry out'
            )


def _table(path: str, text: str, delimiters: str = DELIMITERS) -> list[Entry]:
    table = read_table(path, text, PROMPT_FIELDS, _RENAME, delimiters)
    if table is None:
        return []
    column = _prompt_field(f"{path}, line {table.line}", table.names, "column")
    return _collect(path, _rows(path, table, column))


def _rows(path: str, table: Table, column: str) -> Iterator[Entry]:
    for number, record in table.records:
        fields = dict(zip(table.names, record, strict=True))
        _refuse_context(f"{path}, line {number}", fields, column)
        yield Entry(f"line {number}", fields[column], fields, column)


_READERS: dict[str, Callable[[str, str], Content]] = {
    ".txt": _lines,
    ".json": _json,
    ".jsonl": _json_lines,
    ".ndjson": _json_lines,
    ".csv": _table,
    ".tsv": lambda path, text: _table(path, text, "\t"),
}
ENDINGS = tuple(_READERS)
