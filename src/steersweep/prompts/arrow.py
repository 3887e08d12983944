"""Rows of Parquet and Arrow files, as data sets are published and kept in."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack
from typing import Any

from steersweep.core.errors import InputError
from steersweep.prompts.entries import READ_FIELDS, field_of

_BATCH = 1000  # rows that are in memory at a time

# A row's place in its file, its fields by name in lower case, and which of them has the prompt.
Rows = Iterator[tuple[str, Mapping[str, Any], str]]


def parquet_rows(path: str, column: str | None) -> Rows:
    """Rows of a Parquet file, of the columns that say something of prompts.

    Args:
        path: the file.
        column: the one that holds the prompts; None: one of those that are known.

    Raises:
        InputError: it is no such file, lacks the column, or pyarrow is not installed.
    """
    arrow = _pyarrow(path, "parquet")
    from pyarrow import parquet

    with ExitStack() as opened:
        try:
            file = opened.enter_context(parquet.ParquetFile(path))
            schema = file.schema_arrow
            names, holds = _columns(path, schema, column)
            batches = file.iter_batches(_BATCH, columns=[*names])
            yield from _rows(path, schema, batches, names, holds)
        except (arrow.ArrowException, OSError) as error:
            raise _not_read(path, "Parquet", error) from error


def parquet_objects(path: str) -> Iterator[tuple[str, dict[str, Any]]]:
    """Rows of a Parquet file with all their columns, each with its place.

    Raises:
        InputError: it is no such file, or pyarrow is not installed.
    """
    arrow = _pyarrow(path, "parquet")
    from pyarrow import parquet

    number = 0
    try:
        with parquet.ParquetFile(path) as file:
            for batch in file.iter_batches(_BATCH):
                for row in batch.to_pylist():
                    number += 1
                    yield f"row {number}", row
    except ValueError as error:  # ArrowInvalid among them; or bytes that are no text
        if not number:
            raise _not_read(path, "Parquet", error) from error
        raise InputError(f"{path}, after row {number}: cannot be read: {error}") from error
    except (arrow.ArrowException, OSError) as error:
        raise _not_read(path, "Parquet", error) from error


def arrow_rows(path: str, column: str | None) -> Rows:
    """Rows of an Arrow file, as `datasets` saves and caches data sets; see `parquet_rows`.

    Raises:
        InputError: see `parquet_rows`.
    """
    arrow = _pyarrow(path, "datasets")
    with ExitStack() as opened:
        try:
            source = opened.enter_context(arrow.memory_map(path))
            try:
                batches = opened.enter_context(arrow.ipc.open_stream(source))
            except arrow.ArrowInvalid:
                file = opened.enter_context(arrow.ipc.open_file(source))
                batches = (file.get_batch(i) for i in range(file.num_record_batches))
                schema = file.schema
            else:
                schema = batches.schema
            names, holds = _columns(path, schema, column)
            parts = (b.slice(i, _BATCH) for b in batches for i in range(0, b.num_rows, _BATCH))
            yield from _rows(path, schema, parts, names, holds)
        except (arrow.ArrowException, OSError) as error:
            raise _not_read(path, "Arrow", error) from error


def _pyarrow(path: str, extra: str) -> Any:
    try:
        import pyarrow
    except ImportError as error:
        raise InputError(
            f"{path}: reading it takes pyarrow; install it with pip install 'steersweep[{extra}]'"
        ) from error
    return pyarrow


def _columns(path: str, schema: Any, column: str | None) -> tuple[dict[str, str], str]:
    """Columns that say something of prompts, with their names in lower case; which has them."""
    holds = field_of(path, [name.lower() for name in schema.names], "column", column)
    names = {name: name.lower() for name in schema.names if name.lower() in {*READ_FIELDS, holds}}
    if len({*names.values()}) < len(names):
        raise InputError(f"{path}: two columns differ in upper and lower case only")
    return names, holds


def _rows(
    path: str, schema: Any, batches: Iterable[Any], names: Mapping[str, str], holds: str
) -> Rows:
    classes = _class_names(schema)
    number = 0
    for batch in batches:
        try:
            rows = batch.select([*names]).to_pylist()
        except ValueError as error:  # bytes that are no text, numbers out of range
            raise InputError(f"{path}, after row {number}: cannot be read: {error}") from error
        for row in rows:
            number += 1
            fields = {names[name]: value for name, value in row.items()}
            for name, words in classes.items():
                if isinstance(index := row.get(name), int) and 0 <= index < len(words):
                    fields[names[name]] = words[index]
            yield f"row {number}", fields, holds


def _class_names(schema: Any) -> dict[str, list[str]]:
    """By column, what its numbers stand for, as `datasets` writes it into a file."""
    try:
        about = json.loads((schema.metadata or {}).get(b"huggingface", b"{}"))
        features = about["info"]["features"]
        return {
            name: [*map(str, feature["names"])]
            for name, feature in features.items()
            if isinstance(feature, dict) and feature.get("_type") == "ClassLabel"
        }
    except (ValueError, KeyError, TypeError, AttributeError):
        return {}


def _not_read(path: str, kind: str, error: Exception) -> InputError:
    said = str(error).strip().splitlines() or [type(error).__name__]
    return InputError(f"{path}: is no whole {kind} file: {said[0][:200]}")
