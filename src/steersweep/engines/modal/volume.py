"""A run folder on a volume, and copies of it elsewhere."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

from steersweep.run.paths import is_of_jobs


class VolumeShare:
    """A folder on a volume, and copies of it elsewhere.

    Args:
        root: the folder where the volume is mounted.
        commit: makes what was written visible to others.
        reload: makes visible here what others committed.
    """

    def __init__(self, root: Path, commit: Callable[[], Any], reload: Callable[[], Any]) -> None:
        self._root = root
        self._commit = commit
        self._reload = reload
        self._published: dict[str, tuple[int, int]] = {}

    def copy_all(self, folder: Path) -> None:
        """Bring everything the volume holds of the run to `folder`."""
        self._reload()
        if self._root.is_dir():
            shutil.copytree(self._root, folder, dirs_exist_ok=True)
        self._published = {str(name): _state(path) for name, path in _to_publish(folder)}

    def refresh(self, folder: Path) -> None:
        """Bring what jobs saved since."""
        self._reload()
        for path in self._root.rglob("*"):
            name = path.relative_to(self._root)
            if path.is_file() and is_of_jobs(name) and not (folder / name).exists():
                _copy(path, folder / name)

    def publish(self, folder: Path) -> None:
        """Send what changed in `folder`, but nothing of what jobs save."""
        changed = False
        for name, path in _to_publish(folder):
            state = _state(path)
            if self._published.get(str(name)) != state:
                _copy(path, self._root / name)
                self._published[str(name)] = state
                changed = True
        if changed:
            self._commit()


def _to_publish(folder: Path) -> list[tuple[Path, Path]]:
    """Files that jobs do not save, by name and path."""
    found = ((path.relative_to(folder), path) for path in folder.rglob("*") if path.is_file())
    return [
        (name, path)
        for name, path in found
        if not is_of_jobs(name) and not path.name.startswith(".")
    ]


def _state(path: Path) -> tuple[int, int]:
    facts = path.stat()
    return facts.st_size, facts.st_mtime_ns


def _copy(source: Path, target: Path) -> None:
    """Copy a file so that it appears whole."""
    target.parent.mkdir(parents=True, exist_ok=True)
    part = target.with_name(f".{target.name}.part")
    shutil.copyfile(source, part)
    part.replace(target)
