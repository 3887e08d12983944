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
_DELIMITERS = ",;\t|"
_MAX_HEADER = 10_000  # characters
# How files begin that are saved as text in place of prompts.
_OTHER_FILES = (
    ("version https://git-lfs", "a Git LFS pointer (git lfs pull)"),
    ("<!doctype html", "a web page"),
    ("<html", "a web page"),
    ("{\\rtf", "a document in Rich Text Format"),
)
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
    if len(line) > _MAX_HEADER:
        return
    where = f"{path}, {first.place}"
    if line in ("{", "[") or (line[0] in "{[" and _is_json(line.rstrip(","))):
        raise InputError(
            f"{where}: {shown(line)} is JSON, not a prompt; name the file .json, or .jsonl where "
            f"every line is a value of its own"
        )
    for beginning, what in _OTHER_FILES:
        if line.lower().startswith(beginning):
            raise InputError(f"{path}: is {what}, not prompts; get the file itself as plain text")
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
    rows = [next(csv.reader([line], delimiter=mark), []) for mark in _DELIMITERS]
    return max(rows, key=len)


def _json(path: str, text: str) -> Content:
    try:
        data = parse_json(text)
    except ValueError as error:
        lines = [line for line in text.split("\n") if line.strip()]
        if len(lines) > 1 and _is_json(lines[0]) and _is_json(lines[1]):
            raise InputError(f"{path}: holds a JSON value a line; name the file .jsonl") from error
        raise InputError(f"{path}: not valid JSON: {error}") from error
    if isinstance(data, dict):
        return data
    if isinstance(data, list):
        return entries_of(path, data, lambda index: f"item {index + 1}")
    raise InputError(f"{path}: must be a JSON list of prompts, or an object that has such lists")


def _is_json(text: str) -> bool:
    try:
        parse_json(text)
    except ValueError:
        return False
    return True


def _json_lines(path: str, text: str) -> list[Entry]:
    def entries() -> Iterator[Entry]:
        for number, line in enumerate(text.split("\n"), start=1):
            if not (line := trimmed(line)):
                continue
            try:
                value = parse_json(line)
            except ValueError as error:
                hint = "; the file is one JSON value: name it .json" if _is_json(text) else ""
                raise InputError(f"{path}, line {number}: not valid JSON: {error}{hint}") from error
            yield _entry(path, f"line {number}", value)

    return _collect(path, entries())


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


def _table(path: str, text: str, delimiters: str = _DELIMITERS) -> list[Entry]:
    lines = text.split("\n")
    if len(lines[0]) == 5 and lines[0].lower().startswith("sep="):  # Excel's own line
        delimiters, lines[0] = lines[0][4], ""
    first = next((index for index, line in enumerate(lines) if trimmed(line)), None)
    if first is None:
        return []
    if len(lines[first]) > _MAX_HEADER:
        raise InputError(f"{path}, line {first + 1}: too long for a header; {_RENAME}")
    delimiter = max(delimiters, key=lambda mark: _rank(lines[first], mark))
    records = _records(path, lines, first, delimiter)
    number, header = next(records)
    names = [trimmed(cell).lower() for cell in header]
    where = f"{path}, line {number}"
    column = _prompt_field(where, names, "column")
    twice = [name for name in names if name and names.count(name) > 1]
    if twice:
        raise InputError(f"{where}: column {shown(twice[0])} is there twice")
    return _collect(path, _rows(path, records, names, column, delimiter))


def _rows(
    path: str,
    records: Iterable[tuple[int, list[str]]],
    names: Sequence[str],
    column: str,
    delimiter: str,
) -> Iterator[Entry]:
    """Prompts of a table's records below the header; empty records are skipped."""
    for number, record in records:
        where = f"{path}, line {number}"
        while len(record) > len(names) and not trimmed(record[-1]):
            record.pop()
        if not any(map(trimmed, record)):
            continue
        if len(record) != len(names):
            raise InputError(
                f"{where}: has {len(record)} fields, but the header {len(names)} (delimiter "
                f"{delimiter!r}); a field that holds the delimiter stands in double quotes"
            )
        fields = dict(zip(names, record, strict=True))
        _refuse_context(where, fields, column)
        yield Entry(f"line {number}", fields[column], fields, column)


def _rank(header: str, delimiter: str) -> tuple[bool, int]:
    """How well a header reads with a delimiter: names a prompt; how many columns."""
    names = [trimmed(cell).lower() for cell in next(csv.reader([header], delimiter=delimiter), [])]
    return any(name in PROMPT_FIELDS for name in names), len(names)


def _records(
    path: str, lines: Sequence[str], first: int, delimiter: str
) -> Iterator[tuple[int, list[str]]]:
    """Records of a table with the number of the line that each begins at."""
    reader = csv.reader((f"{line}\n" for line in lines[first:]), delimiter=delimiter, strict=True)
    while True:
        number = first + reader.line_num + 1
        try:
            record = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            raise InputError(f"{path}, line {number}: not a table's line: {error}") from error
        yield number, record


_READERS: dict[str, Callable[[str, str], Content]] = {
    ".txt": _lines,
    ".json": _json,
    ".jsonl": _json_lines,
    ".ndjson": _json_lines,
    ".csv": _table,
    ".tsv": lambda path, text: _table(path, text, "\t"),
}
ENDINGS = tuple(_READERS)
