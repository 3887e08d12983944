"""Files of JSON lines that are only ever appended to: the ledger, signatures, labels, changes.

Several processes and machines may append at the same time: every line is written under a lock on
the file itself. A line ends in a short digest of what stands before it, so a single changed bit is
noticed; a line that a person wrote has none, and is accepted if it is otherwise right. A kill
leaves at most a cut last line. Damaged lines stay where they are, and readers get them marked: each
kind of file has its own rule for what follows from one.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import hashlib
import io
import json
import os
import re
import stat
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from steersweep.core.atomic import DISK_FULL, Unwritable
from steersweep.core.errors import InputError, SteersweepError
from steersweep.core.text_files import parse_json

LONGEST = 1 << 20  # bytes of a line; a longer one is damaged
_MOST_KNOWN = 16 << 20  # bytes of a file of which is kept what was read
_WAIT_FOR_LOCK_S = 30.0  # whoever holds it writes one line
_DIGEST = re.compile(rb', "sha": "([0-9a-f]{16})"\}')
_HELD = (errno.EAGAIN, errno.EACCES)
# Separators that other programs split lines at, and halves of characters that UTF-8 has not.
_ESCAPED = re.compile("[\x7f-\x9f\u2028\u2029\ud800-\udfff]")

Entry = dict[str, Any]
Check = Callable[[Entry], str | None]


@dataclass(frozen=True)
class Line:
    """A line of a file.

    Attributes:
        number: of the line, from 1.
        text: the line as far as it can be read.
        entry: its fields, where it is a JSON object and its digest, if it has one, is right.
        damage: why it cannot be relied on; empty for a good line. One that has both an entry and a
            damage has some field that it must not have.
    """

    number: int
    text: str
    entry: Entry | None = None
    damage: str = ""

    @property
    def is_cut(self) -> bool:
        """Whether it is the beginning of a line whose writing was cut, by a kill for instance."""
        return _looks_cut(self.text)


class Known:
    """Lines that were read from a file before, so that only what was added is parsed again.

    Where the file no longer begins with the same bytes, all of it is.
    """

    def __init__(self) -> None:
        self._bytes = b""
        self._number = 0  # of lines in it
        self._lines: list[Line] = []

    def lines(self, file: BinaryIO, check: Check) -> list[Line]:
        """Every line of a file that is open at its beginning."""
        found = file.read(_MOST_KNOWN + 1)
        if len(found) > _MOST_KNOWN:
            file.seek(0)
            return list(_lines(file, check))
        if not found.startswith(self._bytes):
            self._bytes, self._number, self._lines = b"", 0, []
        end = found.rfind(b"\n") + 1  # what follows may be written to the end later
        added = found[len(self._bytes) : end]
        self._lines += _lines(io.BytesIO(added), check, self._number)
        self._bytes, self._number = found[:end], self._number + added.count(b"\n")
        return [*self._lines, *_lines(io.BytesIO(found[end:]), check, self._number)]


def append(path: Path, entry: Mapping[str, Any]) -> None:
    """Add an entry as a line, and flush it to disk; the file is made if needed.

    Raises:
        InputError: the file cannot be opened, or the entry is too long for a line.
        SteersweepError: the lock cannot be had; the message says why.
        Unwritable: there is no room, or the disk fails. The file is as it was.
    """
    with opened(path) as journal:
        journal.append(entry)


def append_all(path: Path, entries: Iterable[Mapping[str, Any]]) -> None:
    """Add entries as lines in one write, flushed to disk once. Raises as `append`."""
    with opened(path) as journal:
        journal.append_bytes(lines_of(entries))


def lines_of(entries: Iterable[Mapping[str, Any]]) -> bytes:
    """Entries as the lines of a file, each with its digest."""
    return b"".join(map(_written, entries))


def append_text(path: Path, line: str) -> None:
    """Add a line of plain text to a log in the same way, without a digest."""
    with opened(path) as journal:
        journal.append_bytes(line.encode("utf-8", errors="backslashreplace") + b"\n")


def read(path: Path, check: Check = lambda _entry: None, known: Known | None = None) -> list[Line]:
    """Every line in order, good or damaged; blank lines are left out.

    Args:
        path: of the file; one that is not there has no lines.
        check: says what is wrong with an entry of this kind of file, or None.
        known: what was read of it before, with the same `check`.

    Raises:
        InputError: the file cannot be read.
    """
    try:
        handle = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except FileNotFoundError as error:
        if os.path.lexists(path):
            raise InputError(f"{path}: is a link to a file that is not there") from error
        return []
    except OSError as error:
        raise InputError(f"{path}: cannot be read: {error.strerror}") from error
    _must_be_a_file(path, handle)
    with os.fdopen(handle, "rb") as file:
        # Where there are no locks, or no right to one, reading needs none.
        _lock(path, file, fcntl.LOCK_SH, needed=False)
        return list(_lines(file, check)) if known is None else known.lines(file, check)


def good(lines: Iterable[Line]) -> list[Entry]:
    """Entries of the lines that are not damaged."""
    return [line.entry for line in lines if line.entry is not None and not line.damage]


def messages(path: Path, lines: Iterable[Line], what_follows: str) -> list[str]:
    """One message for each damaged line, for people.

    Args:
        path: of the file.
        lines: its lines, good ones too.
        what_follows: from a damaged line of this file, and what to do.
    """
    return [
        f"{path}: line {line.number} is damaged ({line.damage}). {what_follows}"
        for line in lines
        if line.damage
    ]


class Journal:
    """A file that is open and locked, to be read and appended to in one step."""

    def __init__(self, path: Path, file: BinaryIO) -> None:
        self._path = path
        self._file = file

    def lines(self, check: Check = lambda _entry: None, known: Known | None = None) -> list[Line]:
        """As `read`, while nobody else can write."""
        self._file.seek(0)
        return list(_lines(self._file, check)) if known is None else known.lines(self._file, check)

    def append(self, entry: Mapping[str, Any]) -> None:
        """Add an entry; see the function `append`."""
        line = _written(entry)
        if len(line) > LONGEST:
            raise InputError(f"{self._path}: an entry of {len(line)} bytes is too long for a line")
        self.append_bytes(line)

    def append_bytes(self, line: bytes) -> None:
        """Add a line that ends in a line feed, whole or not at all."""
        end = self._file.seek(0, os.SEEK_END)
        if end > 0:
            self._file.seek(end - 1)
            if self._file.read(1) != b"\n":  # a cut line gets a line of its own
                line = b"\n" + line
        try:
            self._file.seek(0, os.SEEK_END)
            while line:
                line = line[self._file.write(line) :]
            os.fsync(self._file.fileno())
        except BaseException as error:  # a signal too: nobody was told that the line is there
            with contextlib.suppress(OSError):  # what is left over is a cut line
                os.ftruncate(self._file.fileno(), end)
            if not isinstance(error, OSError):
                raise
            raise Unwritable.at(self._path, error) from error


@contextlib.contextmanager
def opened(path: Path) -> Iterator[Journal]:
    """Open and lock a file; made if needed. Raises as `append`."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NONBLOCK | os.O_CLOEXEC, 0o666)
    except OSError as error:
        if error.errno in DISK_FULL:
            raise Unwritable.at(path, error) from error
        raise InputError(f"{path}: cannot be written: {error.strerror}") from error
    _must_be_a_file(path, handle)
    # Without a buffer, a line that cannot be written is not tried again when the file is closed.
    with os.fdopen(handle, "r+b", buffering=0) as file:
        _lock(path, file, fcntl.LOCK_EX, needed=True)
        yield Journal(path, file)  # closing the file frees the lock


def _must_be_a_file(path: Path, handle: int) -> None:
    if not stat.S_ISREG(os.fstat(handle).st_mode):
        os.close(handle)
        raise InputError(f"{path}: must be a file; move away what is there")


def _lock(path: Path, file: Any, kind: int, *, needed: bool) -> None:
    """Lock an open file; `flock` holds between processes, and between machines over NFS."""
    end = time.monotonic() + _WAIT_FOR_LOCK_S
    while True:
        try:
            return fcntl.flock(file.fileno(), kind | fcntl.LOCK_NB)
        except OSError as error:
            if error.errno not in _HELD:
                if not needed:
                    return None
                raise SteersweepError(
                    f"{path}: cannot be locked ({error.strerror}), so two writers could lose each "
                    f"other's lines. Put the run folder on a file system with locks"
                ) from error
        if time.monotonic() > end:
            raise SteersweepError(
                f"{path}: another process has held its lock for {_WAIT_FOR_LOCK_S:.0f} s. Stop "
                f"that process and try again; nothing was written"
            )
        time.sleep(0.002)


def _written(entry: Mapping[str, Any]) -> bytes:
    text = json.dumps(dict(entry), ensure_ascii=False, allow_nan=False)
    body = _ESCAPED.sub(lambda found: f"\\u{ord(found[0]):04x}", text).encode("utf-8")[:-1]
    return body + b', "sha": "' + _digest(body) + b'"}\n'


def _digest(body: bytes) -> bytes:
    return hashlib.sha256(body).hexdigest()[:16].encode()


def _lines(file: BinaryIO, check: Check, number: int = 0) -> Iterator[Line]:
    """Lines are split at line feeds alone, and no more than one is in memory.

    The first is that after line `number` of the whole file.
    """
    rest = b""
    while True:
        chunk = file.read(LONGEST)
        parts = (rest + chunk).split(b"\n")
        rest = parts.pop()
        if not chunk:
            parts, rest = ([rest] if rest else []), b""
        for raw in parts:
            number += 1
            if (line := _line(number, raw, check)) is not None:
                yield line
        if not chunk:
            return
        rest = rest[: LONGEST + 1]  # of a line that is too long, its beginning is enough


def _line(number: int, raw: bytes, check: Check) -> Line | None:
    """An entry, or what is wrong; None for a blank line."""
    if number == 1:
        raw = raw.removeprefix(b"\xef\xbb\xbf")  # an editor's mark
    raw = raw.removesuffix(b"\r")
    if not raw.strip():
        return None
    text = raw[:LONGEST].decode("utf-8", errors="replace")
    if len(raw) > LONGEST:
        return Line(number, text[:1000], damage=f"longer than {LONGEST} bytes")
    try:
        entry = parse_json(raw.decode("utf-8"))
    except ValueError as error:
        return Line(number, text, damage="cut" if _looks_cut(text) else _reason(error))
    if not isinstance(entry, dict):
        return Line(number, text, damage="not a JSON object")
    if "sha" in entry:
        digest = _DIGEST.fullmatch(raw[-28:])
        if digest is None or digest[1] != _digest(raw[:-28]):
            return Line(number, text, damage="its digest is not that of its content")
        del entry["sha"]
    return Line(number, text, entry, check(entry) or "")


def _looks_cut(text: str) -> bool:
    return text.startswith("{") and "}" not in text and "\x00" not in text


def _reason(error: Exception) -> str:
    if isinstance(error, UnicodeDecodeError):
        return "not UTF-8"
    return "not JSON" if isinstance(error, json.JSONDecodeError) else str(error)
