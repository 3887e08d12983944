"""Result files of a run folder: lists of result objects, written with a digest, read back whole."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from steersweep.core.atomic import read_file, write_bytes
from steersweep.core.digests import Damaged, seal, unseal
from steersweep.core.errors import InputError

Result = dict[str, Any]

_FOLDER = "results"


def write_result_file(folder: Path, stem: str, results: Sequence[Result]) -> Path:
    """Write results to `results/STEM.json` of a run folder; returns the file's path.

    The file can always be made again from conditions, so what was there is replaced.
    """
    path = folder / _FOLDER / f"{stem}.json"
    write_bytes(path, seal(_name(path), results))
    return path


def read_result_file(path: Path) -> list[Result]:
    """The result objects in a file.

    Raises:
        InputError: it is not as it was written, or cannot be read.
    """
    try:
        data = read_file(path)
        if data is None:
            raise InputError(f"{path}: no such file")
        results: list[Result] = unseal(_name(path), data)
    except Damaged as error:
        raise InputError(
            f"{path}: is damaged, or of an earlier version ({error}); run the same command again "
            f"to write it again"
        ) from error
    except OSError as error:
        raise InputError(f"{path}: cannot be read: {error.strerror}") from error
    return results


def newest_result_files(folder: Path, pattern: str = "*.json") -> list[Path]:
    """The newest result file of each kind; names end in the time a run began."""
    newest: dict[str, Path] = {}
    for path in sorted((folder / _FOLDER).glob(pattern)):
        newest[path.stem.rsplit("_", 1)[0]] = path
    return [*newest.values()]


def _name(path: Path) -> str:
    return f"{_FOLDER}/{path.name}"
