"""Files that are either whole or absent, whatever happens while they are written."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import os
import re
import secrets
import socket
import stat
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from steersweep.core.digests import Damaged
from steersweep.core.errors import SteersweepError

DISK_FULL = (errno.ENOSPC, errno.EDQUOT)
# What the system says when a file, and not the machine, is the trouble.
_OF_THE_FILE = (
    errno.EACCES,
    errno.EPERM,
    errno.EIO,
    errno.EISDIR,
    errno.ELOOP,
    errno.ENOTDIR,
    errno.ENXIO,
)
_TEMPORARY = re.compile(r"\..+\.(?P<host>[0-9a-f]{8})-(?P<pid>\d+)-[0-9a-f]{12}\.tmp")
_LEFT_AFTER = 3600.0  # seconds; a temporary file lives for milliseconds
_STARTED = time.time()


class Unwritable(SteersweepError):
    """A file could not be written, for want of room or otherwise; those of before are whole."""

    @classmethod
    def at(cls, path: Path, error: OSError) -> Unwritable:
        """The error for a file that could not be written."""
        needed = "free some space" if error.errno in DISK_FULL else "see to its folder and its disk"
        return cls(
            f"{path}: cannot be written: {error.strerror}. Everything finished is kept; {needed} "
            f"and run the same command again"
        )


def write_bytes(path: Path, data: bytes) -> None:
    """Write to a temporary file beside `path`, flush it to disk, and rename it into place.

    Raises as `write_pieces`.
    """
    write_pieces(path, (data,))


def write_pieces(path: Path, data: Iterable[bytes]) -> None:
    """`write_bytes` of what comes bit by bit; nothing is changed if it does not come to an end.

    A reader, or a run that continues after a kill, sees the old file or the new one, never a part.
    The price is one flush per file. Parent folders are made. The user's umask says who may read it.

    Raises:
        Unwritable: there is no room.
        OSError: anything else that the system refuses.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = path.with_name(_temporary_name(path.name))
        handle = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666)
        try:
            with os.fdopen(handle, "wb") as file:
                file.writelines(data)
                file.flush()
                os.fsync(file.fileno())
            os.replace(temporary, path)
        except BaseException:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(temporary)
            raise
    except OSError as error:
        if error.errno in DISK_FULL:
            raise Unwritable.at(path, error) from error
        raise


def read_file(path: str | Path) -> bytes | None:
    """The content of a regular file, None if nothing is there.

    Never waits, as reading a pipe would.

    Raises:
        Damaged: something else is there, or it cannot be read.
        OSError: the system is short of something, which says nothing about the file.
    """
    try:
        handle = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    except FileNotFoundError as error:
        if os.path.islink(path):
            raise Damaged("a link to nothing") from error
        return None
    except OSError as error:
        if error.errno in _OF_THE_FILE:
            raise Damaged(f"cannot be read: {error.strerror}") from error
        raise
    try:
        mode = os.fstat(handle).st_mode
        if not stat.S_ISREG(mode):
            raise Damaged("a folder" if stat.S_ISDIR(mode) else "no regular file")
        with os.fdopen(handle, "rb", buffering=0, closefd=False) as file:
            return file.read()
    except OSError as error:
        if error.errno in _OF_THE_FILE:
            raise Damaged(f"cannot be read: {error.strerror}") from error
        raise
    finally:
        os.close(handle)


def file_state(path: str | Path) -> object:
    """What changes with a file, as far as the system tells; None: it is not there.

    Equal states are no proof: what was written in place within the clock's tick, with as many
    bytes, shows in none.
    """
    try:
        found = os.stat(path)
    except OSError:
        return None
    return found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns


def remove_leftovers(folder: Path) -> list[Path]:
    """Remove temporary files that killed processes left in a folder; returns what they were.

    Those of a process that lives are kept: a person may label samples while a run begins. Of a
    process on another machine nothing is known, so its files go when they are an hour old.
    """
    found = []
    links = [path for path in folder.iterdir() if path.is_symlink() and path.is_dir()]
    for root in (folder, *links):
        for place, _, names in os.walk(root):
            for name in names:
                match = _TEMPORARY.fullmatch(name)
                if match is None:
                    continue
                path = Path(place, name)
                if _is_left(path, match["host"], int(match["pid"])):
                    path.unlink(missing_ok=True)
                    found.append(path)
    return found


def _temporary_name(name: str) -> str:
    return f".{name}.{_host()}-{os.getpid()}-{secrets.token_hex(6)}.tmp"


def _is_left(path: Path, host: str, pid: int) -> bool:
    if host == _host() and pid != os.getpid():
        return not _lives(pid)
    # In containers every process may have the same number, so this one's says little.
    latest = _STARTED if host == _host() else time.time() - _LEFT_AFTER
    try:
        return path.lstat().st_mtime < latest
    except FileNotFoundError:
        return False


def _lives(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except PermissionError:
        pass  # somebody else's
    return True


def _host() -> str:
    return hashlib.sha256(socket.gethostname().encode()).hexdigest()[:8]


def write_text(path: Path, text: str) -> None:
    """`write_bytes` of UTF-8; lone surrogates that a model may produce are escaped."""
    write_bytes(path, text.encode("utf-8", errors="backslashreplace"))


def write_json(path: Path, value: Any) -> None:
    """`write_text` of readable JSON; NaN is refused, since other programs cannot read it."""
    write_text(path, json.dumps(value, indent=1, ensure_ascii=False, allow_nan=False) + "\n")
