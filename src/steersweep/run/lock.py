"""One runner per run folder, and no run in a folder that holds something else."""

from __future__ import annotations

import os
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from steersweep.core.errors import InputError, setting
from steersweep.run.paths import RunPaths, free_damaged_name


@contextmanager
def run_lock(root: Path) -> Iterator[None]:
    """One runner per folder; the system frees the lock of a process that died.

    Raises:
        InputError: another process runs in the folder, or it holds other files.
    """
    from filelock import FileLock, Timeout

    refuse_other_files(root)
    path = RunPaths(root).lock
    try:
        root.mkdir(parents=True, exist_ok=True)
        if os.path.lexists(path) and (path.is_symlink() or not path.is_file()):
            path.rename(free_damaged_name(path))
        lock = FileLock(path, timeout=0)
        lock.acquire()
    except Timeout as error:
        raise InputError(
            f"{setting('out')} {root}: another steersweep is running there; wait for it or stop it"
        ) from error
    except OSError as error:
        raise unwritable(root, error.strerror) from error
    try:
        yield
    finally:
        lock.release()


def unwritable(root: Path, why: str | None) -> InputError:
    """The error for a run folder that cannot be written."""
    return InputError(f"{setting('out')} {root}: cannot be written: {why}")


def refuse_other_files(root: Path) -> None:
    """A folder that holds no run must be empty, but for leftovers of one killed before it began.

    Raises:
        InputError: it holds other files, or is a file itself.
    """
    if os.path.lexists(root) and not root.is_dir():
        raise InputError(f"{setting('out')} {root}: is a file, not a folder")
    names = [path.name for path in root.iterdir()] if root.exists() else []
    plan, lock = RunPaths(root).plan.name, RunPaths(root).lock.name
    others = sorted(name for name in names if not name.startswith((plan, f".{plan}.", lock)))
    if others and not any(name.startswith(plan) for name in names):
        raise InputError(
            f"{setting('out')} {root}: holds files that are no steersweep run "
            f"({', '.join(others[:3])}); choose an empty or new folder"
        )


def refuse_other_run(
    folder: Path,
    held: Mapping[str, Any],
    asked: Mapping[str, Any],
    different: Collection[str],
    way_out: str,
) -> None:
    """A run is continued with its own settings.

    Args:
        folder: of the run.
        held: its settings.
        asked: those asked for.
        different: names of settings that differ and must not.
        way_out: what the user can do.

    Raises:
        InputError: there are such settings.
    """
    if different:
        differences = "; ".join(
            f"{name}: {held.get(name)!r} there, {asked.get(name)!r} asked" for name in different
        )
        raise InputError(f"{setting('out')} {folder}: holds another run ({differences}). {way_out}")


def refuse_other_version(folder: Path, data: bytes) -> None:
    """Runs of versions that wrote no digests began with this field, and cannot be checked.

    Raises:
        InputError: `data`, of the run's settings, does.
    """
    if data.startswith(b"kind: "):
        raise InputError(
            f"{folder}: holds a run of an earlier version, whose files have no digests; this "
            f"version cannot read it. Use a new folder"
        )
