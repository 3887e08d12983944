"""Prompt files as people and other tools write them: lines, JSON, JSON lines, tables, Parquet."""

from __future__ import annotations

import csv
import os
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from steersweep.core.errors import InputError
from steersweep.core.text_files import check_regular, parse_json, read_text, shown
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

MAX_BYTES = 24 * 2**20
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


def _json(path: str, text: str, column: str | None) -> Content:
    try:
        data = parse_json(text)
    except ValueError as error:
        lines = [line for line in text.split("\n") if line.strip()]
        if len(lines) > 1 and all(line[0] in "{[" and _is_json(line) for line in lines[:2]):
            return _json_lines(path, text, column)
        raise InputError(f"{path}: not valid JSON: {error}") from error
    if isinstance(data, dict):
        return data
    if isinstance(data, list) and data and all(map(is_message, data)):
        return [entry(path, "the conversation", data, column)]
    if isinstance(data, list):
        return entries_of(path, data, lambda index: f"item {index + 1}", column)
    raise InputError(f"{path}: must be a JSON list of prompts, or an object that has such lists")


def _is_json(text: str) -> bool:
    try:
        parse_json(text)
    except ValueError:
        return False
    return True


def _json_lines(path: str, text: str, column: str | None) -> list[Entry]:
    def entries() -> Iterator[Entry]:
        for number, line in enumerate(text.split("\n"), start=1):
            if not (line := trimmed(line)):
                continue
            try:
                value = parse_json(line)
            except ValueError as error:
                hint = "; the file is one JSON value: name it .json" if _is_json(text) else ""
                raise InputError(f"{path}, line {number}: not valid JSON: {error}{hint}") from error
            yield entry(path, f"line {number}", value, column)

    return collect(path, entries())


def _table(path: str, text: str, column: str | None, delimiters: str = _DELIMITERS) -> list[Entry]:
    lines = text.split("\n")
    if len(lines[0]) == 5 and lines[0].lower().startswith("sep="):  # Excel's own line
        delimiters, lines[0] = lines[0][4], ""
    first = next((index for index, line in enumerate(lines) if trimmed(line)), None)
    if first is None:
        return []
    if len(lines[first]) > _MAX_HEADER:
        raise InputError(
            f"{path}, line {first + 1}: too long for a header; the first line names the columns"
        )
    delimiter = max(delimiters, key=lambda mark: _rank(lines[first], mark, column))
    records = _records(path, lines, first, delimiter)
    number, header = next(records)
    names = [trimmed(cell).lower() for cell in header]
    where = f"{path}, line {number}"
    holds = field_of(where, names, "column", column)
    twice = [name for name in names if name and names.count(name) > 1]
    if twice:
        raise InputError(f"{where}: column {shown(twice[0])} is there twice")
    return collect(path, _rows(path, records, names, holds, delimiter))


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
        yield of_fields(path, f"line {number}", dict(zip(names, record, strict=True)), column)


def _rank(header: str, delimiter: str, column: str | None) -> tuple[bool, int]:
    """How well a header reads with a delimiter: names a prompt; how many columns."""
    names = [trimmed(cell).lower() for cell in next(csv.reader([header], delimiter=delimiter), [])]
    wanted = PROMPT_FIELDS if column is None else (column.lower(),)
    return any(name in wanted for name in names), len(names)


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
