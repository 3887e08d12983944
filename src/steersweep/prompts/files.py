"""Prompt files as people and other tools write them: lines, JSON, JSON lines, tables, Parquet."""

from __future__ import annotations

import csv
import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

from steersweep.core.errors import InputError
from steersweep.core.text_files import check_regular, json_problem, parse_json, read_text, shown
from steersweep.prompts.arrow import arrow_rows, parquet_rows
from steersweep.prompts.characters import trimmed
from steersweep.prompts.conversation import is_message
from steersweep.prompts.entries import (
    PROMPT_FIELDS,
    Entry,
    collect,
    entries_of,
    entry,
    field_of,
    of_fields,
)
from steersweep.prompts.records import (
    DELIMITERS,
    MAX_HEADER,
    is_json,
    json_lines,
    read_table,
    refuse_other_files,
)

MAX_BYTES = 24 * 2**20
_WORD = re.compile(r"[A-Za-z_][A-Za-z0-9_.-]*")
_COLUMN = re.compile(r"[\w #.-]{0,40}(?<![.])")

Content = list[Entry] | dict[str, Any]


def read_prompt_file(path: str, column: str | None = None) -> Content:
    """The prompts of a file in order, or the object that a `.json` file holds.

    Args:
        path: the file; its ending says what it is.
        column: the field or column that holds the prompts; None: one of those that are known.

    Raises:
        InputError: cannot be read, or is not what its ending says; names file, and line or item.
    """
    ending = Path(path).suffix.lower()
    if ending in _ROWS:
        check_regular(path)
        rows = _ROWS[ending](path, column)
        return collect(path, (of_fields(path, place, row, name) for place, row, name in rows))
    return _READERS[ending](path, read_text(path, max_bytes=MAX_BYTES), column)


def is_prompt_file(name: str) -> bool:
    """Whether the name has an ending that `read_prompt_file` knows."""
    return Path(name).suffix.lower() in (*_READERS, *_ROWS)


def split_column(name: str) -> tuple[str, str | None]:
    """A prompt file, and the column named after it: `harmful.csv:goal`; None where none is.

    A colon may be part of the file's name, as after a drive's letter: what is there goes first.
    """
    if is_prompt_file(name) and os.path.isfile(name):
        return name, None
    colons = [found.start() for found in re.finditer(":", name)]
    files = [at for at in colons if is_prompt_file(name[:at]) and name[at + 1 :]]
    at = next((at for at in files if os.path.isfile(name[:at])), files[0] if files else None)
    return (name, None) if at is None else (name[:at], name[at + 1 :])


def _lines(path: str, text: str, column: str | None) -> list[Entry]:
    if column is not None:
        raise InputError(
            f"{path}: lines of text have no column {shown(column, 40)}; name the file .csv or .tsv "
            f"if it is a table"
        )
    lines = enumerate(text.split("\n"), start=1)
    found = collect(path, (Entry(f"line {n}", line, {}) for n, line in lines if trimmed(line)))
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


def _json(path: str, text: str, column: str | None) -> Content:
    try:
        data = parse_json(text)
    except ValueError as error:
        lines = [line for line in text.split("\n") if line.strip()]
        if len(lines) > 1 and all(line[0] in "{[" and is_json(line) for line in lines[:2]):
            return _json_lines(path, text, column)
        raise InputError(f"{path}: not valid JSON: {json_problem(error)}") from error
    talk = data.get("messages") if isinstance(data, dict) else data
    if isinstance(talk, list) and talk and all(map(is_message, talk)):
        return [entry(path, "the conversation", data, column)]
    if isinstance(data, dict):
        return data
    if isinstance(data, list):
        return entries_of(path, data, lambda index: f"item {index + 1}", column)
    raise InputError(f"{path}: must be a JSON list of prompts, or an object that has such lists")


def _json_lines(path: str, text: str, column: str | None) -> list[Entry]:
    lines = json_lines(path, text)
    return collect(path, (entry(path, f"line {number}", value, column) for number, value in lines))


def _table(path: str, text: str, column: str | None, delimiters: str = DELIMITERS) -> list[Entry]:
    wanted = PROMPT_FIELDS if column is None else (column.lower(),)
    table = read_table(path, text, wanted, delimiters)
    if table is None:
        return []
    holds = field_of(f"{path}, line {table.line}", table.names, "column", column)
    rows = ((f"line {number}", fields) for number, fields in table.rows)
    return collect(path, (of_fields(path, place, fields, holds) for place, fields in rows))


_READERS: dict[str, Callable[[str, str, str | None], Content]] = {
    ".txt": _lines,
    ".json": _json,
    ".jsonl": _json_lines,
    ".ndjson": _json_lines,
    ".csv": _table,
    ".tsv": lambda path, text, column: _table(path, text, column, "\t"),
}
_ROWS = {".parquet": parquet_rows, ".arrow": arrow_rows}
ENDINGS = (*_READERS, ".parquet")
