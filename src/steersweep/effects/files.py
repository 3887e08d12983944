"""Files of questions and of texts: those that come with the package, and the user's own.

A file holds a record an item: JSON lines, a JSON list, a table, or parquet.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any

from steersweep.core.errors import InputError
from steersweep.core.text_files import check_regular, json_problem, parse_json, read_text, shown
from steersweep.prompts.arrow import parquet_objects
from steersweep.prompts.lists import refuse_bad_text
from steersweep.prompts.records import (
    DELIMITERS,
    is_json,
    json_lines,
    read_table,
    refuse_other_files,
)

MAX_BYTES = 64 * 2**20
MAX_ITEMS = 100_000


@dataclass(frozen=True)
class Wanted:
    """What a file should hold, for reading it and for messages.

    Attributes:
        what: its items, in the plural: `questions`. A JSON object has them in a list of this name.
        fields: names of the field that every item has, in lower case: one of them marks a header.
        rename: says what to call it if it has none of these names.
    """

    what: str
    fields: Collection[str]
    rename: str


@dataclass(frozen=True)
class Item:
    """An item of a file.

    Attributes:
        where: file and place, for messages: `mine.csv, line 3`.
        place: the place alone.
        fields: what it holds, by name in lower case; in a table all are texts.
    """

    where: str
    place: str
    fields: Mapping[str, Any]

    def bad(self, field: str, problem: str) -> InputError:
        """The error about one of its fields."""
        return InputError(f'{self.where}, field "{field}": {problem}')

    def filled(self, names: Iterable[str]) -> list[str]:
        """Those of the names that it has, and not empty."""
        return [name for name in names if self.fields.get(name) not in (None, "")]

    def text(self, field: str, value: Any) -> str:
        """The value of a field as a text without white space at its ends.

        Raises:
            InputError: it is none, empty, or too long, or holds what no tokenizer reads.
        """
        if not isinstance(value, str):
            raise self.bad(field, f"must be a text, not {value!r:.40}")
        return refuse_bad_text(f'{self.where}, field "{field}"', value, "text")


def shipped(name: str) -> Iterator[Item]:
    """The items of a set that comes with the package."""
    text = (resources.files("steersweep.effects") / f"data/{name}.jsonl").read_text("utf-8")
    for number, value in json_lines(name, text):
        yield Item(f"{name}, line {number}", f"line {number}", value)


def is_item_file(name: str) -> bool:
    """Whether the name has an ending that `read_items` knows."""
    return Path(name).suffix.lower() in ENDINGS


def read_items(path: str, wanted: Wanted) -> list[Item]:
    """The items of a file in order.

    Raises:
        InputError: cannot be read, is not what its ending says, or holds no items, too many, or
            some that are no objects; names file, and line, item or row.
    """
    if Path(path).suffix.lower() == _PARQUET:
        check_regular(path)
        values: Iterator[tuple[str, Any]] = parquet_objects(path)
    else:
        text = read_text(path, max_bytes=MAX_BYTES)
        refuse_other_files(path, text, wanted.what)
        values = _READERS[Path(path).suffix.lower()](path, text, wanted)
    found: list[Item] = []
    for place, value in values:
        if len(found) == MAX_ITEMS:
            raise InputError(f"{path}: more than {MAX_ITEMS:,} {wanted.what}; use fewer")
        found.append(_item(path, place, value, wanted))
    if not found:
        raise InputError(f"{path}: holds no {wanted.what}")
    return found


def refuse_doubled(path: str, what: str, seen: Iterable[tuple[str, object]]) -> None:
    """Refuse items that are given twice.

    Args:
        path: the file.
        what: an item, for messages: `question`.
        seen: place of each item, and what makes it the same as another.

    Raises:
        InputError: there are some; names the places of the first five.
    """
    places: dict[object, str] = {}
    doubled = []
    for place, look in seen:
        if look in places:
            doubled.append(f"{place} has the same {what} as {places[look]}")
        places.setdefault(look, place)
    if doubled:
        more = f" (and {len(doubled) - 5:,} more)" if len(doubled) > 5 else ""
        raise InputError(f"{path}: {'; '.join(doubled[:5])}{more}; each {what} counts once")


def _item(path: str, place: str, value: Any, wanted: Wanted) -> Item:
    where = f"{path}, {place}"
    if not isinstance(value, dict):
        raise InputError(f"{where}: must be an object with fields, not {value!r:.40}")
    fields = {str(name).strip().lower(): field for name, field in value.items()}
    if len(fields) < len(value):
        raise InputError(f"{where}: two fields differ in upper and lower case only")
    if not any(name in fields for name in wanted.fields):
        found = ", ".join(shown(name, 40) for name in [*fields][:12])
        raise InputError(
            f"{where}: no field with {wanted.what} among {found or 'none'}; {wanted.rename}"
        )
    return Item(where, place, fields)


def _json_lines(path: str, text: str, _wanted: Wanted) -> Iterator[tuple[str, Any]]:
    return ((f"line {number}", value) for number, value in json_lines(path, text))


def _json(path: str, text: str, wanted: Wanted) -> Iterator[tuple[str, Any]]:
    try:
        data = parse_json(text)
    except ValueError as error:
        lines = [line for line in text.split("\n") if line.strip()]
        if len(lines) > 1 and is_json(lines[0]):
            raise InputError(f"{path}: holds a JSON value a line; name the file .jsonl") from error
        raise InputError(f"{path}: not valid JSON: {json_problem(error)}") from error
    values = data.get(wanted.what) if isinstance(data, dict) else data
    if not isinstance(values, list):
        raise InputError(
            f"{path}: must be a JSON list of {wanted.what}, or an object with a list "
            f'"{wanted.what}"'
        )
    return ((f"item {number}", value) for number, value in enumerate(values, start=1))


def _table(
    path: str, text: str, wanted: Wanted, delimiters: str = DELIMITERS
) -> Iterator[tuple[str, Any]]:
    table = read_table(path, text, wanted.fields, delimiters)
    if table is None:
        return iter(())
    if not any(name in wanted.fields for name in table.names):
        found = ", ".join(shown(name, 40) for name in table.names[:12])
        raise InputError(
            f"{path}, line {table.line}: no column with {wanted.what} among {found}; the first "
            f"line names the columns: {wanted.rename}"
        )
    return ((f"line {number}", fields) for number, fields in table.rows)


_Reader = Callable[[str, str, Wanted], Iterator[tuple[str, Any]]]
_READERS: dict[str, _Reader] = {
    ".jsonl": _json_lines,
    ".ndjson": _json_lines,
    ".json": _json,
    ".csv": _table,
    ".tsv": lambda path, text, wanted: _table(path, text, wanted, "\t"),
}
_PARQUET = ".parquet"
ENDINGS = (*_READERS, _PARQUET)
