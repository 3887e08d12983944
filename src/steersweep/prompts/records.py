"""Records of files as other tools write them: JSON lines, and tables with a header."""

from __future__ import annotations

import csv
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from steersweep.core.errors import InputError
from steersweep.core.text_files import json_problem, parse_json, shown
from steersweep.prompts.characters import trimmed

DELIMITERS = ",;\t|"
MAX_HEADER = 10_000  # characters
# How files begin that are saved in place of those that were wanted.
_OTHER_FILES = (
    ("version https://git-lfs", "a Git LFS pointer (git lfs pull)"),
    ("<!doctype html", "a web page"),
    ("<html", "a web page"),
    ("{\\rtf", "a document in Rich Text Format"),
)


@dataclass(frozen=True)
class Table:
    """A table with a header.

    Attributes:
        line: of the header.
        names: of the columns, in lower case.
        rows: the line that each record below the header begins at, and its fields by name; empty
            records are left out.
    """

    line: int
    names: list[str]
    rows: Iterator[tuple[int, dict[str, str]]]


def json_lines(path: str, text: str) -> Iterator[tuple[int, Any]]:
    """The number of each line that is not empty, from 1, and its JSON value.

    Raises:
        InputError: a line is not JSON; names it.
    """
    for number, line in enumerate(text.split("\n"), start=1):
        if not (line := trimmed(line)):
            continue
        try:
            value = parse_json(line)
        except ValueError as error:
            hint = "; the file is one JSON value: name it .json" if is_json(text) else ""
            problem = f"not valid JSON: {json_problem(error)}{hint}"
            raise InputError(f"{path}, line {number}: {problem}") from error
        yield number, value


def refuse_other_files(path: str, text: str, wanted: str) -> None:
    """Refuse what was saved in place of the file that was `wanted`.

    Raises:
        InputError: it is a web page, a pointer of Git LFS or the like.
    """
    beginning = trimmed(text[:MAX_HEADER]).lower()
    for mark, what in _OTHER_FILES:
        if beginning.startswith(mark):
            raise InputError(f"{path}: is {what}, not {wanted}; get the file itself")


def is_json(text: str) -> bool:
    """Whether the whole text is a JSON value."""
    try:
        parse_json(text)
    except ValueError:
        return False
    return True


def read_table(
    path: str, text: str, known: Collection[str], delimiters: str = DELIMITERS
) -> Table | None:
    """A table of texts; None if there is nothing at all.

    Args:
        path: the file, for messages.
        text: what it holds.
        known: names of columns that one looks for, in lower case: the delimiter is the one with
            which the header has one of them.
        delimiters: that come into question.

    Raises:
        InputError: no header, a column that is there twice, or a record that does not fit; names
            the line.
    """
    lines = text.split("\n")
    if len(lines[0]) == 5 and lines[0].lower().startswith("sep="):  # Excel's own line
        delimiters, lines[0] = lines[0][4], ""
    first = next((index for index, line in enumerate(lines) if trimmed(line)), None)
    if first is None:
        return None
    if len(lines[first]) > MAX_HEADER:
        raise InputError(
            f"{path}, line {first + 1}: too long for a header; the first line names the columns"
        )

    def rank(mark: str) -> tuple[bool, int]:
        names = _names(next(csv.reader([lines[first]], delimiter=mark), []))
        return any(name in known for name in names), len(names)

    delimiter = max(delimiters, key=rank)
    records = _records(path, lines, first, delimiter)
    number, header = next(records)
    names = _names(header)
    twice = [name for name in names if name and names.count(name) > 1]
    if twice:
        raise InputError(f"{path}, line {number}: column {shown(twice[0])} is there twice")
    return Table(number, names, _whole(path, records, names, delimiter))


def _names(cells: Iterable[str]) -> list[str]:
    return [trimmed(cell).lower() for cell in cells]


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


def _whole(
    path: str, records: Iterable[tuple[int, list[str]]], names: Sequence[str], delimiter: str
) -> Iterator[tuple[int, dict[str, str]]]:
    """Records that have as many fields as there are columns, by name; empty ones are left out."""
    for number, record in records:
        while len(record) > len(names) and not trimmed(record[-1]):
            record.pop()
        if not any(map(trimmed, record)):
            continue
        if len(record) != len(names):
            raise InputError(
                f"{path}, line {number}: has {len(record)} fields, but the header {len(names)} "
                f"(delimiter {delimiter!r}); a field that holds the delimiter stands in double "
                f"quotes"
            )
        yield number, dict(zip(names, record, strict=True))
