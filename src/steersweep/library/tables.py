"""Tables of results as files that spreadsheets, notebooks and databases read."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from steersweep.core.atomic import write_bytes
from steersweep.core.errors import InputError

Row = Mapping[str, Any]

# Columns that may be empty throughout and are no text.
_TYPES = {
    "layer_idx": "int64",
    **dict.fromkeys(
        ("layer_pct", "multiplier", "relative_strength", "direction_norm", "residual_norm"),
        "double",
    ),
    **dict.fromkeys(("nll", "nll_worst"), "double"),
    **dict.fromkeys(("harmful_kept", "borderline", "divergence", "text", "choices"), "double"),
    **dict.fromkeys(
        ("harmful_kept_change", "borderline_change", "text_change", "choices_change"), "double"
    ),
    "refuses_as_often": "bool",
}


def write_table(rows: Iterable[Row], path: Path, format_: str) -> int:
    """Write rows of one kind to a file, whole or not at all; how many there are.

    Args:
        rows: each with the same columns in the same order.
        path: the file; what was there is replaced.
        format_: one of `FORMATS`.

    Raises:
        InputError: the file cannot be written, or the package that writes it is missing.
    """
    table = [*rows]
    try:
        write_bytes(path, FORMATS[format_](table))
    except OSError as error:
        raise InputError(f"{path}: cannot be written: {error.strerror}") from error
    return len(table)


def _csv(rows: Sequence[Row]) -> bytes:
    """With a header; what there is not is empty, line ends within a text stay."""
    text = io.StringIO(newline="")
    if rows:
        writer = csv.DictWriter(text, [*rows[0]], lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
    return _utf8(text.getvalue())


def _jsonl(rows: Sequence[Row]) -> bytes:
    """An object a line; what there is not is null."""
    lines = (json.dumps(row, ensure_ascii=False, allow_nan=False) + "\n" for row in rows)
    return _utf8("".join(lines))


def _parquet(rows: Sequence[Row]) -> bytes:
    try:
        import pyarrow
        from pyarrow import parquet
    except ImportError as error:
        raise InputError("parquet files need pyarrow: pip install 'steersweep[parquet]'") from error
    plain = [
        {name: _whole(value) if isinstance(value, str) else value for name, value in row.items()}
        for row in rows
    ]
    table = pyarrow.Table.from_pylist(plain)
    for index, column in enumerate(table.schema):
        if pyarrow.types.is_null(column.type):  # nowhere in this run; elsewhere it may be
            kind = _TYPES.get(column.name, "string")
            table = table.set_column(index, column.name, table[column.name].cast(kind))
    sink = io.BytesIO()
    parquet.write_table(table, sink)
    return sink.getvalue()


def _utf8(text: str) -> bytes:
    return _whole(text).encode()


def _whole(text: str) -> str:
    """Half a surrogate pair, which a broken answer may end in, is no text in any of these files."""
    return text.encode("utf-8", "replace").decode()


FORMATS: dict[str, Callable[[Sequence[Row]], bytes]] = {
    "csv": _csv,
    "jsonl": _jsonl,
    "parquet": _parquet,
}
