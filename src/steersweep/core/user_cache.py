"""What is kept for this user between runs: hashes of large files, checks that a model has passed.

Only things that can be made again are kept here, so a folder that cannot be written costs time and
nothing else.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from steersweep.core.atomic import remove_leftovers, write_json
from steersweep.core.errors import SteersweepError

VARIABLE = "STEERSWEEP_CACHE"


def cache_folder() -> Path:
    """`$STEERSWEEP_CACHE`, else `steersweep` in the user's cache folder; it may not exist yet."""
    if chosen := os.environ.get(VARIABLE):
        return Path(chosen).expanduser()
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / "steersweep"


def kept(name: str) -> Any:
    """The JSON kept under `name` (a relative path), or None: absent, unreadable or no JSON."""
    try:
        return json.loads((cache_folder() / name).read_text("utf-8"))
    except (OSError, ValueError, RecursionError):
        return None


def keep(name: str, value: Any) -> None:
    """Keep JSON under `name`, where the folder can be written."""
    try:
        write_json(cache_folder() / name, value)
        remove_leftovers(cache_folder())
    except (OSError, SteersweepError):
        return
