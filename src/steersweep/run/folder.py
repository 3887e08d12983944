"""The run folder: one file per finished condition, each whole or absent, each with its digest."""

from __future__ import annotations

import json
import logging
import os
import re
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import yaml

from steersweep.core import journal
from steersweep.core.atomic import read_file, remove_leftovers, write_bytes
from steersweep.core.digests import (
    Damaged,
    check,
    seal,
    seal_tensors,
    seal_text,
    unseal,
    unseal_tensors,
    unseal_text,
)
from steersweep.core.errors import InputError, SteersweepError, setting
from steersweep.core.plain_yaml import parse_yaml
from steersweep.run.condition import direction_file
from steersweep.run.direction import Direction, stored_vector
from steersweep.run.records import Record

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

_T = TypeVar("_T")

PLAN = "plan.yaml"
# Where it is kept what judges' servers replied.
REPLIES = "judgements/replies"
# Folders that a run makes; a file in place of one would stop it.
_FOLDERS = ("conditions", "decisions", "directions", "extraction", "logs", "phases", "results")
# Says where a run is that runs elsewhere.
ENGINE_FILE = "engine.json"
_NOT_MADE_AGAIN = ("cuts.json", ENGINE_FILE)
_log = logging.getLogger(__name__)


class LostDirection(SteersweepError):
    """A direction that others rest on is damaged or gone; the job that found it can again."""


class RunStore:
    """The only state of a run. Everything shown or decided is a function of this folder.

    A file that is not as it was written counts as absent. A run sets it aside as `NAME.damaged`,
    says so, and computes it again; a command that only reads (`existing`) leaves the folder as it
    is and notes the file in `damaged`.

    Attributes:
        folder: where it is.
        damaged: why each damaged file that was met is so, by name.
    """

    def __init__(self, folder: Path, *, repairs: bool = True) -> None:
        self.folder = folder
        self.damaged: dict[str, str] = {}
        self._repairs = repairs

    @classmethod
    def open(
        cls,
        folder: Path,
        plan: Mapping[str, Any],
        *,
        may_differ: Collection[str] = (),
        accept: Collection[str] = (),
        way_out: str = "Choose another folder, or the same settings to continue that run",
    ) -> RunStore:
        """Begin a run in `folder`, or continue the one that is there; for one runner at a time.

        What killed processes left there is removed. A damaged `plan.yaml` is written again from
        the settings asked for: no result of others can pass for one of them.

        Args:
            folder: made if needed.
            plan: the run's settings; frozen in `plan.yaml`.
            may_differ: settings that change no result, and so may change between continuations.
            accept: settings whose change the user accepts; recorded in `changes.jsonl`.
            way_out: what the user can do where settings differ, for the message.

        Raises:
            InputError: the folder cannot be written, holds other files, or holds a run with other
                settings (the message names them) or of another version. Nothing in it is touched.
        """
        # Through YAML and back, so that tuples and lists compare equal.
        text = yaml.safe_dump(dict(plan), sort_keys=False, allow_unicode=True)
        asked = parse_yaml(text, str(folder / PLAN)).data
        _refuse_other_files(folder)
        store = cls(folder)
        held = store.get_plan() if folder.exists() else None
        changed = [n for n in {**held, **asked} if held.get(n) != asked.get(n)] if held else []
        different = [name for name in changed if name not in (*may_differ, *accept)]
        _refuse_other_run(folder, held or {}, asked, different, way_out)
        try:
            folder.mkdir(parents=True, exist_ok=True)
            remove_leftovers(folder)
            for name in _FOLDERS:
                if os.path.lexists(folder / name) and not (folder / name).is_dir():
                    store.set_aside(name, "no folder")
            for name in changed:
                change = {"field": name, "from": (held or {}).get(name), "to": asked.get(name)}
                journal.append(folder / "changes.jsonl", change)
            if changed or held is None:
                write_bytes(folder / PLAN, seal_text(PLAN, text))
            store.look_through()
        except OSError as error:
            raise _unwritable(folder, error.strerror) from error
        if not os.access(folder, os.W_OK):
            raise _unwritable(folder, "permission denied")
        return store

    @classmethod
    def existing(cls, folder: Path) -> RunStore:
        """The run in `folder`, to be read only.

        Raises:
            InputError: there is none, or it cannot be read.
        """
        if not os.path.lexists(folder / PLAN):
            raise InputError(f"{folder}: holds no steersweep run (no {PLAN})")
        store = cls(folder, repairs=False)
        if store.get_plan() is None:
            raise InputError(
                f"{folder / PLAN}: is damaged ({store.damaged[PLAN]}); run the same command again "
                f"to write it again"
            )
        return store

    @property
    def plan(self) -> dict[str, Any]:
        """The run's frozen settings.

        Raises:
            InputError: they are damaged.
        """
        held = self.get_plan()
        if held is None:
            raise InputError(f"{self.folder / PLAN}: is damaged or gone")
        return held

    def get_plan(self) -> dict[str, Any] | None:
        """The frozen settings, None where there are none or they are damaged."""

        def whole(data: bytes) -> dict[str, Any]:
            _refuse_other_version(self.folder, data)
            try:
                held: dict[str, Any] = parse_yaml(unseal_text(PLAN, data), PLAN).data
            except InputError as error:
                raise Damaged(str(error)) from error
            return held

        return self._read(PLAN, whole)

    # -- conditions ------------------------------------------------------------------------------

    def get(self, key: str, prompts: Sequence[str] | None = None) -> Record | None:
        """The record of a finished condition, or None; its numbers follow from its samples.

        Args:
            key: of the condition.
            prompts: that it must have been tested on, in order; None: not known here.
        """
        name = condition_file(key)

        def whole(data: bytes) -> Record:
            return Record.from_json(unseal(name, data), key, prompts)

        return self._read(name, whole)

    def put(self, record: Record) -> None:
        """Save a finished condition under its key, unless it is there already."""
        if self.get(record.key) is None:
            self._write(condition_file(record.key), record.as_json())

    def has(self, key: str) -> bool:
        """Whether a finished condition is there as it was written; faster than `get`."""
        name = condition_file(key)

        def whole(data: bytes) -> bool:
            check(name, data)
            return True

        return bool(self._read(name, whole))

    # -- directions and other tensors --------------------------------------------------------------

    def vector(self, key: str) -> NDArray[np.float32] | None:
        """Unit vector of a saved direction `[d_model]`; None if none with this content is there."""
        return self._read(direction_file(key), partial(stored_vector, key=key))

    def needed_vector(self, key: str) -> NDArray[np.float32]:
        """Unit vector `[d_model]` of a direction that other results rest on.

        Raises:
            LostDirection: it is not there.
        """
        found = self.vector(key)
        if found is None:
            raise LostDirection(
                f"{self.folder / direction_file(key)}: is damaged or gone; run the same command "
                f"again, and the job that found it makes it again"
            )
        return found

    def direction(self, key: str) -> Direction | None:
        """A saved direction, or None if none with exactly this content is there."""
        if self.vector(key) is None:
            return None
        return Direction.load(self.folder / direction_file(key))

    def needed_direction(self, key: str) -> Direction:
        """A direction that other results rest on.

        Raises:
            LostDirection: it is not there.
        """
        self.needed_vector(key)
        return Direction.load(self.folder / direction_file(key))

    def put_direction(self, direction: Direction) -> str:
        """Save a direction under its key; returns its path relative to the run folder."""
        if self.vector(direction.key) is None:
            direction.save(self.folder / direction_file(direction.key))
        return direction_file(direction.key)

    def tensors(self, name: str) -> dict[str, NDArray[Any]] | None:
        """Arrays saved under `name`, or None."""

        def whole(data: bytes) -> dict[str, NDArray[Any]]:
            tensors, facts = unseal_tensors(data)
            if facts.get("file") != name:
                raise Damaged("holds another file's tensors")
            return tensors

        return self._read(name, whole)

    def put_tensors(self, name: str, make: Callable[[], Mapping[str, NDArray[Any]]]) -> str:
        """Save arrays under `name` as safetensors, made only if absent; returns the name."""
        if self.tensors(name) is None:
            write_bytes(self.folder / name, seal_tensors(make(), {"file": name}))
        return name

    # -- other files -------------------------------------------------------------------------------

    def put_once(self, name: str, value: Mapping[str, Any]) -> dict[str, Any]:
        """Save a JSON object under `name` if absent; returns what is there."""
        held = self.get_once(name)
        if held is None:
            self._write(name, value)
            held = json.loads(json.dumps(value))
        return held

    def get_once(self, name: str) -> dict[str, Any] | None:
        """The JSON object that was saved under `name`, or None."""

        def whole(data: bytes) -> dict[str, Any]:
            held: dict[str, Any] = unseal(name, data)
            return held

        return self._read(name, whole)

    def put_current(self, name: str, value: Mapping[str, Any]) -> Path:
        """Save a JSON object in place of what was there, if that differs; returns its path."""
        if self.get_once(name) != json.loads(json.dumps(value)):
            self._write(name, value)
        return self.folder / name

    def look_through(self) -> None:
        """See that every file here is as it was written, also those that nothing would read now.

        Results are written anew by every run, and what cannot be made again speaks for itself.
        """
        for place in ("", *_FOLDERS):
            for path in sorted((self.folder / place).glob("*.json")):
                name = f"{place}/{path.name}".lstrip("/")
                if place != "results" and name not in _NOT_MADE_AGAIN:
                    self._read(name, partial(check, name))
            for path in sorted((self.folder / place).glob("*.safetensors")):
                self._read(f"{place}/{path.name}".lstrip("/"), unseal_tensors)

    def set_aside(self, name: str, why: str) -> None:
        """Move a file out of the way, to `NAME.damaged` or the next free name, and say so.

        Raises:
            InputError: it cannot be moved.
        """
        path = self.folder / name
        aside, count = path.with_name(f"{path.name}.damaged"), 1
        while os.path.lexists(aside):
            count += 1
            aside = path.with_name(f"{path.name}.{count}.damaged")
        try:
            with suppress(FileNotFoundError):  # another process was faster
                path.rename(aside)
        except OSError as error:
            raise InputError(
                f"{path}: is damaged ({why}) and cannot be moved: {error.strerror}; remove it"
            ) from error
        _log.warning("%s: damaged (%s); kept as %s, and made again", path, why, aside.name)

    def lost(self, beginning: str) -> list[str]:
        """Names that begin so, of files that were set aside and have not been made again."""
        path = self.folder / beginning
        aside = path.parent.glob(f"{path.name}*.damaged")
        names = {re.sub(r"(\.\d+)?\.damaged$", "", found.name) for found in aside}
        return sorted(name for name in names if not (path.parent / name).exists())

    def _write(self, name: str, value: Mapping[str, Any]) -> None:
        write_bytes(self.folder / name, seal(name, value))

    def _read(self, name: str, whole: Callable[[bytes], _T]) -> _T | None:
        """What `whole` makes of a file; None if it is absent or damaged."""
        try:
            data = read_file(self.folder / name)
            found = None if data is None else whole(data)
        except Damaged as error:
            self.damaged[name] = str(error)
            if self._repairs:
                self.set_aside(name, str(error))
            return None
        except OSError as error:
            raise InputError(f"{self.folder / name}: cannot be read: {error.strerror}") from error
        if data is not None:
            self.damaged.pop(name, None)  # made again since
        return found


def is_away(folder: Path) -> bool:
    """Whether the run in a folder runs elsewhere."""
    return (folder / ENGINE_FILE).is_file()


def condition_file(key: str) -> str:
    """Where in a run folder a finished condition is kept."""
    return f"conditions/{key}.json"


@contextmanager
def run_lock(folder: Path) -> Iterator[None]:
    """One runner per folder; the system frees the lock of a process that died.

    Raises:
        InputError: another process runs in the folder, or it holds other files.
    """
    from filelock import FileLock, Timeout

    _refuse_other_files(folder)
    path = folder / ".lock"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if os.path.lexists(path) and (path.is_symlink() or not path.is_file()):
            RunStore(folder).set_aside(path.name, "no regular file")
        lock = FileLock(path, timeout=0)
        lock.acquire()
    except Timeout as error:
        raise InputError(
            f"{setting('out')} {folder}: another steersweep is running there; wait for it or stop "
            f"it"
        ) from error
    except OSError as error:
        raise _unwritable(folder, error.strerror) from error
    try:
        yield
    finally:
        lock.release()


def _unwritable(folder: Path, why: str | None) -> InputError:
    return InputError(f"{setting('out')} {folder}: cannot be written: {why}")


def _refuse_other_files(folder: Path) -> None:
    """A folder that holds no run must be empty, but for leftovers of one killed before it began."""
    if os.path.lexists(folder) and not folder.is_dir():
        raise InputError(f"{setting('out')} {folder}: is a file, not a folder")
    names = [path.name for path in folder.iterdir()] if folder.exists() else []
    ours = (PLAN, f".{PLAN}.", ".lock")
    others = sorted(name for name in names if not name.startswith(ours))
    if others and not any(name.startswith(PLAN) for name in names):
        raise InputError(
            f"{setting('out')} {folder}: holds files that are no steersweep run "
            f"({', '.join(others[:3])}); choose an empty or new folder"
        )


def _refuse_other_run(
    folder: Path,
    held: Mapping[str, Any],
    asked: Mapping[str, Any],
    different: Collection[str],
    way_out: str,
) -> None:
    if different:
        differences = "; ".join(
            f"{name}: {held.get(name)!r} there, {asked.get(name)!r} asked" for name in different
        )
        raise InputError(f"{setting('out')} {folder}: holds another run ({differences}). {way_out}")


def _refuse_other_version(folder: Path, data: bytes) -> None:
    """Runs of versions that wrote no digests began with this field, and cannot be checked."""
    if data.startswith(b"kind: "):
        raise InputError(
            f"{folder}: holds a run of an earlier version, whose files have no digests; this "
            f"version cannot read it. Use a new folder"
        )
