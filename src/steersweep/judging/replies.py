"""Replies of models that were asked over a network, kept so that none is asked for twice.

A file of JSON lines, each with a digest, as `journal` writes them; a damaged line is asked again.
"""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

from steersweep.core import journal


class Replies:
    """Replies by key, in a file or only in memory.

    Args:
        path: of the file; None: nothing is written.
    """

    def __init__(self, path: Path | None) -> None:
        self._path = path
        self._lock = threading.Lock()
        self._held: dict[str, dict[str, Any]] = {}
        if path is not None:
            for entry in journal.good(journal.read(path, _wrong)):
                self._held[entry["key"]] = entry["reply"]

    def get(self, key: str) -> dict[str, Any] | None:
        """The reply kept under a key, or None."""
        return self._held.get(key)

    def put(self, key: str, reply: dict[str, Any]) -> None:
        """Keep a reply; it is on disk when this returns.

        Raises:
            InputError: the file cannot be written.
        """
        with self._lock:
            self._held[key] = reply
            if self._path is not None:
                journal.append(self._path, {"key": key, "reply": reply})


def _wrong(entry: journal.Entry) -> str | None:
    if not isinstance(entry.get("key"), str) or not isinstance(entry.get("reply"), dict):
        return "must have the fields key and reply"
    return None
