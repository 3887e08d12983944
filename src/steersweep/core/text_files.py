"""Reading text files that other people's tools wrote: bounded, decoded, lines told apart.

Used for whatever a user hands in: prompt sets, plans, prices, responses to judge.
"""

from __future__ import annotations

import codecs
import json
import math
import os
import re
import stat
from pathlib import Path
from typing import Any

from steersweep.core.errors import InputError

# Longest first: the mark of UTF-32 (little-endian) begins like that of UTF-16.
_MARKS = (
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF8, "utf-8-sig"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)
_KINDS = {
    stat.S_IFDIR: "a folder",
    stat.S_IFIFO: "a pipe",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
    stat.S_IFSOCK: "a socket",
}
_LONE_RETURN = re.compile(r"\r(?!\n)")
_SURROGATE = re.compile("[\ud800-\udfff]")
MAX_DIGITS = 400  # of a number in JSON; floats end at 309


def read_text(path: Path | str, *, max_bytes: int) -> str:
    """The text of a regular file, with line feeds as its only line breaks.

    UTF-8 with or without a byte order mark; UTF-16 and UTF-32 with one. CR LF becomes LF; in a
    file without any line feed CR does (old Macs). Other characters that some tools take for line
    breaks (U+2028, U+0085, form feed, ...) stay what they are.

    Args:
        path: the file. Pipes, devices and folders are refused before they are opened, since
            reading one may never end.
        max_bytes: largest file that is read.

    Raises:
        InputError: cannot be read, too large, or not a text; names the file, and the line where
            there is one.
    """
    data = read_bytes(path, max_bytes)
    text = _decode(path, data)
    if "\0" in text:
        line = text.count("\n", 0, text.index("\0")) + 1
        raise InputError(
            f"{path}, line {line}: holds a NUL character, so it is no text file, or UTF-16 without "
            f"a byte order mark; save it as UTF-8"
        )
    text = re.sub(r"\r+\n", "\n", text)
    if "\n" not in text:
        return text.replace("\r", "\n")
    if lone := _LONE_RETURN.search(text.rstrip("\r")):
        line = text.count("\n", 0, lone.start()) + 1
        raise InputError(
            f"{path}, line {line}: a carriage return without a line feed, in a file that has line "
            f"feeds; use one kind of line break"
        )
    return text.rstrip("\r")


def parse_json(text: str) -> Any:
    """A JSON value, strictly: nothing that other programs would read differently.

    Raises:
        ValueError: not JSON, a name given twice in an object, NaN, a number too large for a float,
            or nested too deeply; the message says which.
    """
    try:
        return json.loads(
            text,
            object_pairs_hook=_object,
            parse_constant=_constant,
            parse_float=_float,
            parse_int=_int,
        )
    except RecursionError as error:
        raise ValueError("nested too deeply") from error


def json_problem(error: ValueError) -> str:
    """What `parse_json` found, and where: by column in a single line, else by line and column."""
    if not isinstance(error, json.JSONDecodeError):
        return str(error)
    line = f"line {error.lineno}, " if "\n" in error.doc else ""
    return f"{error.msg} at {line}column {error.colno}"


def lone_surrogate(text: str) -> str | None:
    """The first half of a character without its other half, as `U+D800`, or None.

    JSON can hold such halves (`"\\ud800"`); UTF-8 and tokenizers cannot.
    """
    found = _SURROGATE.search(text)
    return f"U+{ord(found[0]):04X}" if found else None


def shown(text: str, length: int = 60) -> str:
    """A text for a message: quoted, escaped, in ASCII where a character is not printable."""
    return repr(text if len(text) <= length else text[:length] + "...")


def check_regular(path: Path | str) -> None:
    """See that a path is a file that can be read to its end, before it is opened.

    Raises:
        InputError: a folder, a pipe, a device, or nothing.
    """
    try:
        kind = stat.S_IFMT(os.stat(path).st_mode)
    except OSError as error:
        raise InputError(f"{path}: cannot be read: {error.strerror}") from error
    except ValueError as error:  # a NUL in the name
        raise InputError(f"{shown(str(path), 300)}: cannot be read: {error}") from error
    if kind in _KINDS:
        raise InputError(f"{path}: is {_KINDS[kind]}, not a file")


def read_bytes(path: Path | str, max_bytes: int) -> bytes:
    """The bytes of a regular file; see `read_text`.

    Raises:
        InputError: cannot be read, or is too large.
    """
    check_regular(path)
    try:
        with open(path, "rb") as file:
            data = file.read(max_bytes + 1)
    except OSError as error:
        raise InputError(f"{path}: cannot be read: {error.strerror}") from error
    if len(data) > max_bytes:
        raise InputError(
            f"{path}: larger than {max_bytes // 2**10:,} KiB, the most that is read; "
            f"make the file smaller"
        )
    return data


def _decode(path: Path | str, data: bytes) -> str:
    encoding = next((name for mark, name in _MARKS if data.startswith(mark)), "utf-8")
    try:
        return data.decode(encoding).lstrip("\ufeff")  # some tools write the mark twice
    except UnicodeDecodeError as error:
        if encoding in ("utf-16", "utf-32"):
            raise InputError(
                f"{path}: begins as {encoding.upper()} but byte {error.start} is not; "
                f"save it as UTF-8"
            ) from error
        line = data.count(b"\n", 0, error.start) + 1
        raise InputError(
            f"{path}, line {line}: byte 0x{data[error.start]:02X} is not UTF-8 (Latin-1 or "
            f"Windows-1252, perhaps, or no text file); save it as UTF-8"
        ) from error


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    if not pairs:
        return {}
    found = dict(pairs)
    if len(found) < len(pairs):
        seen: set[str] = set()
        for name, _ in pairs:
            if name in seen:
                raise ValueError(f"{shown(name)} is given twice in one object")
            seen.add(name)
    return found


def _constant(name: str) -> float:
    raise ValueError(f"{name} is no JSON number")


def _float(text: str) -> float:
    number = float(text)
    if not math.isfinite(number):
        raise ValueError(f"{text[:40]} is too large a number")
    return number


def _int(text: str) -> int:
    if len(text) > MAX_DIGITS:
        raise ValueError(f"{text[:40]}... is too large a number")
    return int(text)
