"""Files with a record an item, as other tools write them: JSON lines, tables, parquet."""

from __future__ import annotations

import csv
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from steersweep.core.errors import InputError
from steersweep.core.text_files import parse_json, read_bytes, shown
from steersweep.prompts.characters import trimmed

DELIMITERS = ",;\t|"
MAX_HEADER = 10_000  # characters
# Of a parquet file, unpacked: a few bytes can stand for any number of them.
_MAX_UNPACKED = 2**28
_MAX_VALUES = 5_000_000
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
        records: the line that each record below the header begins at, and its fields, as many as
            there are columns; empty records are left out.
    """

    line: int
    names: list[str]
    records: Iterator[tuple[int, list[str]]]


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
            raise InputError(f"{path}, line {number}: not valid JSON: {error}{hint}") from error
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
    path: str, text: str, known: Collection[str], hint: str, delimiters: str = DELIMITERS
) -> Table | None:
    """A table of texts; None if there is nothing at all.

    Args:
        path: the file, for messages.
        text: what it holds.
        known: names of columns that one looks for, in lower case: the delimiter is the one with
            which the header has one of them.
        hint: ends the message about a first line that can be no header.
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
        raise InputError(f"{path}, line {first + 1}: too long for a header; {hint}")

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
    return Table(number, names, _whole(path, records, len(names), delimiter))


def read_parquet(path: str, *, max_bytes: int, max_rows: int) -> list[dict[str, Any]]:
    """The rows of a parquet file as objects.

    Raises:
        InputError: cannot be read, too large, or not parquet; or pyarrow is not installed.
    """
    data = read_bytes(path, max_bytes)
    refuse_other_files(path, data[:MAX_HEADER].decode("utf-8", "replace"), "parquet")
    try:
        import pyarrow
        from pyarrow import parquet
    except ImportError as error:
        raise InputError(
            f"{path}: parquet files need pyarrow: pip install 'steersweep[parquet]'"
        ) from error
    try:
        file = parquet.ParquetFile(pyarrow.BufferReader(data))
        _refuse_large(path, file.metadata, max_rows)
        rows: list[dict[str, Any]] = file.read().to_pylist()
    except (pyarrow.ArrowException, OSError, ValueError) as error:
        reason = str(error).split("\n")[0]
        raise InputError(f"{path}: not a whole parquet file: {reason}") from error
    return rows


def _refuse_large(path: str, about: Any, max_rows: int) -> None:
    """Refuse what a small parquet file may unpack to."""
    if about.num_rows > max_rows:
        raise InputError(f"{path}: {about.num_rows:,} rows; {max_rows:,} is the most that is read")
    groups = [about.row_group(i) for i in range(about.num_row_groups)]
    unpacked = sum(group.total_byte_size for group in groups)
    values = sum(g.column(i).num_values for g in groups for i in range(about.num_columns))
    if unpacked > _MAX_UNPACKED or values > _MAX_VALUES:
        raise InputError(
            f"{path}: {unpacked // 2**20:,} MiB and {values:,} values unpacked; "
            f"{_MAX_UNPACKED // 2**20:,} MiB and {_MAX_VALUES:,} values are the most that is read"
        )


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
    path: str, records: Iterable[tuple[int, list[str]]], n_columns: int, delimiter: str
) -> Iterator[tuple[int, list[str]]]:
    for number, record in records:
        while len(record) > n_columns and not trimmed(record[-1]):
            record.pop()
        if not any(map(trimmed, record)):
            continue
        if len(record) != n_columns:
            raise InputError(
                f"{path}, line {number}: has {len(record)} fields, but the header {n_columns} "
                f"(delimiter {delimiter!r}); a field that holds the delimiter stands in double "
                f"quotes"
            )
        yield number, record
