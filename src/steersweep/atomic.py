"""Files that are either whole or absent, whatever happens while they are written."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import tempfile
from pathlib import Path
from typing import Any

from steersweep.errors import SteersweepError

_DISK_FULL = (errno.ENOSPC, errno.EDQUOT)


class DiskFull(SteersweepError):
    """There was no room for a file; what was written before is whole."""

    @classmethod
    def at(cls, path: Path, error: OSError) -> DiskFull:
        """The error for a file that could not be written."""
        return cls(
            f"{path}: cannot be written: {error.strerror}. Everything finished is kept; free some "
            f"space and run the same command again"
        )


def write_bytes(path: Path, data: bytes) -> None:
    """Write to a temporary file beside `path`, flush it to disk, and rename it into place.

    A reader, or a run that continues after a kill, sees the old file or the new one, never a part.
    The price is one flush per file. Parent folders are made.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=".tmp")
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.chmod(temporary, 0o644)  # mkstemp makes private files
        os.replace(temporary, path)
    except BaseException as error:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(temporary)
        if isinstance(error, OSError) and error.errno in _DISK_FULL:
            raise DiskFull.at(path, error) from error
        raise


def write_text(path: Path, text: str) -> None:
    """`write_bytes` of UTF-8; lone surrogates that a model may produce are escaped."""
    write_bytes(path, text.encode("utf-8", errors="backslashreplace"))


def write_json(path: Path, value: Any) -> None:
    """`write_text` of readable JSON; NaN is refused, since other programs cannot read it."""
    write_text(path, json.dumps(value, indent=1, ensure_ascii=False, allow_nan=False) + "\n")
