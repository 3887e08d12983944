"""Result files of a run folder: lists of result objects, written with a digest, read back whole."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from steersweep.core import typed
from steersweep.core.atomic import read_file, write_pieces
from steersweep.core.digests import FIELD, Damaged, check_file, sealed, unseal
from steersweep.core.errors import InputError
from steersweep.run.cell import Cell
from steersweep.run.packed import without_samples
from steersweep.run.paths import RunPaths
from steersweep.run.result import Result

Object = Mapping[str, Any]  # plain JSON

_DIGEST = re.compile(rb'"digest": "([0-9a-f]{64})"')
_LARGE = 1 << 24  # bytes from which samples stay in their file

# What the files of a sweep of one's own, of a study's phases and of a verification begin with.
SWEEP = "sweep"
FAMILY_SWEEP = "v3_phase1_family_sweep"
VERIFICATION = "v3_cosmic_verification"


def write_result_file(root: Path, kind: str, results: Sequence[Result]) -> Path:
    """Write results to a file called by their kind and when the last was finished; its path.

    The file can always be made again from conditions, so what was there is replaced.

    Args:
        root: the run folder.
        kind: what the name begins with.
        results: at least one.
    """
    return _write_new(root, kind, _plain(results))


def write_verification(root: Path, result: Object) -> Path:
    """Write the result of a verification, with its `timestamp`, to a file called by that."""
    return _write_new(root, VERIFICATION, [result])


def replace_result_file(path: Path, results: Iterable[Result]) -> Path:
    """Write results to a file that may be there; returns its path."""
    return _write(path, _plain(results))


def read_result_file(path: Path) -> list[Result]:
    """The results in a file.

    Raises:
        InputError: it is not as it was written, cannot be read, or holds no results.
    """
    try:
        large = path.is_file() and path.stat().st_size >= _LARGE
        return typed.read(list[Result], _read_large(path) if large else read_objects(path))
    except typed.WrongField as error:
        raise InputError(
            f"{path}: {error}. If another version wrote it, run the same sweep or study again"
        ) from error


def read_objects(path: Path) -> list[Object]:
    """The objects in a result file, of a verification too, as plain data.

    Raises:
        InputError: it is not as it was written, or cannot be read.
    """
    with _named(path):
        data = read_file(path)
        if data is None:
            raise InputError(f"{path}: no such file")
        found: list[Object] = unseal(_name(path), data)
    return found


def _read_large(path: Path) -> list[Object]:
    """The same, with samples that stay in the file."""
    with _named(path):
        file = path.open("rb", buffering=0)  # open as long as any of its samples is wanted
        check_file(_name(path), file)
        head, samples = without_samples(file)

    def with_samples(facts: dict[str, Any]) -> dict[str, Any]:
        number = facts.get("samples")
        return facts | {"samples": samples[number]} if isinstance(number, int) else facts

    found: list[Object] = json.loads(head, object_hook=with_samples)
    found[-1] = {name: value for name, value in found[-1].items() if name != FIELD}
    return found


@contextmanager
def _named(path: Path) -> Iterator[None]:
    """Say which file is damaged, or cannot be read."""
    try:
        yield
    except Damaged as error:
        raise InputError(
            f"{path}: is damaged, or of an earlier version ({error}); run the same command again "
            f"to write it again"
        ) from error
    except OSError as error:
        raise InputError(f"{path}: cannot be read: {error.strerror}") from error


def digest_of(path: Path) -> str | None:
    """The digest that a result file says it has; None: there is none."""
    try:
        if not path.is_file():  # a pipe would be waited for
            return None
        with path.open("rb") as file:
            file.seek(max(0, path.stat().st_size - 200))
            found = _DIGEST.search(file.read())
    except OSError:
        return None
    return None if found is None else found[1].decode()


def result_files(root: Path) -> list[Path]:
    """Files of a run folder with results of sweeps: of each kind the newest.

    A file's kind is its name up to the time when its newest result was finished. Verifications,
    which steer nothing, do not count.
    """
    return [path for kind, path in _newest(root).items() if kind != VERIFICATION]


def verification_file(root: Path) -> Path | None:
    """The newest result file of a verification, None where there is none."""
    return _newest(root).get(VERIFICATION)


def _newest(root: Path) -> dict[str, Path]:
    """The newest result file of each kind."""
    paths = sorted(RunPaths(root).results.glob("*.json"))
    return {path.stem.rpartition("_")[0]: path for path in paths}


def _plain(results: Iterable[Result]) -> list[Object]:
    """Results as plain data, but for conditions: each is made so when it is written."""
    return [typed.plain(result, later=(Cell,)) for result in results]


def _write_new(root: Path, kind: str, objects: Sequence[Object]) -> Path:
    newest = max(str(found["timestamp"]) for found in objects)
    stamp = newest.replace("-", "").replace(":", "")
    return _write(RunPaths(root).result(f"{kind}_{stamp}"), objects)


def _write(path: Path, objects: Sequence[Object]) -> Path:
    write_pieces(path, sealed(_name(path), objects, typed.plain))
    return path


def _name(path: Path) -> str:
    return f"{path.parent.name}/{path.name}"
