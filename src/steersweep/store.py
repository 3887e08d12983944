"""The run folder: one file per finished condition, each whole or absent."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from steersweep import journal
from steersweep.atomic import write_bytes, write_json, write_text
from steersweep.conditions import direction_file
from steersweep.directions.direction import Direction
from steersweep.errors import InputError

if TYPE_CHECKING:
    from torch import Tensor

Record = dict[str, Any]


class RunStore:
    """The only state of a run. Everything shown or decided is a function of this folder.

    Several writers may share it: a condition's file is named by its content key and written in
    one step, so the worst two writers can do is write the same result twice.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder

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
        """Begin a run in `folder`, or continue the one that is there.

        Args:
            folder: made if needed.
            plan: the run's settings; frozen in `plan.yaml`.
            may_differ: settings that change no result, and so may change between continuations.
            accept: settings whose change the user accepts; recorded in `changes.jsonl`.
            way_out: what the user can do where settings differ, for the message.

        Raises:
            InputError: the folder cannot be written, holds other files, or holds a run with other
                settings (the message names them). Nothing in it is touched.
        """
        # Through YAML and back, so that tuples and lists compare equal.
        asked = yaml.safe_load(yaml.safe_dump(dict(plan), sort_keys=False, allow_unicode=True))
        frozen = folder / "plan.yaml"
        held: Mapping[str, Any] = {}
        changed: list[str] = []
        if frozen.exists():
            held = _read_yaml(frozen)
            changed = [name for name in {**held, **asked} if held.get(name) != asked.get(name)]
            different = [name for name in changed if name not in (*may_differ, *accept)]
            _refuse_other_run(folder, held, asked, different, way_out)
        elif folder.exists() and not folder.is_dir():
            raise InputError(f"--out {folder}: is a file, not a folder")
        elif folder.exists() and _foreign_entries(folder):
            raise InputError(
                f"--out {folder}: holds files that are no steersweep run "
                f"({', '.join(_foreign_entries(folder)[:3])}); choose an empty or new folder"
            )
        try:
            folder.mkdir(parents=True, exist_ok=True)
            for name in changed:
                change = {"field": name, "from": held.get(name), "to": asked.get(name)}
                journal.append(folder / "changes.jsonl", change)
            if changed or not frozen.exists():
                write_text(frozen, yaml.safe_dump(asked, sort_keys=False, allow_unicode=True))
        except OSError as error:
            raise InputError(f"--out {folder}: cannot be written: {error.strerror}") from error
        if not os.access(folder, os.W_OK):
            raise InputError(f"--out {folder}: cannot be written: permission denied")
        return cls(folder)

    @classmethod
    def existing(cls, folder: Path) -> RunStore:
        """The run in `folder`.

        Raises:
            InputError: there is none.
        """
        if not (folder / "plan.yaml").is_file():
            raise InputError(f"{folder}: holds no steersweep run (no plan.yaml)")
        return cls(folder)

    @property
    def plan(self) -> dict[str, Any]:
        """The run's frozen settings."""
        return _read_yaml(self.folder / "plan.yaml")

    def get(self, key: str) -> Record | None:
        """The record of a finished condition, or None.

        A file that is not whole JSON (a damaged disk; never a kill) counts as absent, and is set
        aside as `KEY.json.damaged` so that the condition is computed again.
        """
        path = self._condition_path(key)
        record = _read_json(path)
        if record is None:
            return None
        if isinstance(record, dict) and record.get("key") == key and "samples" in record:
            return record
        _set_aside(path)
        return None

    def put(self, record: Record) -> None:
        """Save a finished condition under `record["key"]`, unless it is there already."""
        path = self._condition_path(record["key"])
        if not path.exists():
            write_json(path, record)

    def put_direction(self, key: str, direction: Direction) -> str:
        """Save a direction once; returns its path relative to the run folder."""
        relative = direction_file(key)
        if not (self.folder / relative).exists():
            direction.save(self.folder / relative)
        return relative

    def put_tensors(self, name: str, make: Callable[[], Mapping[str, Tensor]]) -> str:
        """Save tensors under `name` as safetensors, made only if absent; returns the name."""
        from safetensors.torch import save

        if not (self.folder / name).exists():
            tensors = {key: tensor.contiguous() for key, tensor in make().items()}
            write_bytes(self.folder / name, save(tensors))
        return name

    def put_once(self, name: str, value: Any) -> Any:
        """Save JSON under `name` if absent; returns what is there."""
        if self.get_once(name) is None:
            write_json(self.folder / name, value)
        return self.get_once(name)

    def get_once(self, name: str) -> Any:
        """What was saved under `name`, or None; a damaged file is set aside, and counts as none."""
        return _read_json(self.folder / name)

    def put_current(self, name: str, value: Any) -> Path:
        """Save JSON under `name`, in place of what was there if that differs; returns its path."""
        path = self.folder / name
        if self.get_once(name) != json.loads(json.dumps(value)):
            write_json(path, value)
        return path

    def _condition_path(self, key: str) -> Path:
        return self.folder / "conditions" / f"{key}.json"


@contextmanager
def run_lock(folder: Path) -> Iterator[None]:
    """One runner per folder; the system frees the lock of a process that died.

    Raises:
        InputError: another process runs in the folder.
    """
    from filelock import FileLock, Timeout

    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock = FileLock(folder / ".lock", timeout=0)
        lock.acquire()
    except Timeout as error:
        raise InputError(
            f"--out {folder}: another steersweep is running there; wait for it or stop it"
        ) from error
    except OSError as error:
        raise InputError(f"--out {folder}: cannot be written: {error.strerror}") from error
    try:
        yield
    finally:
        lock.release()


def _read_json(path: Path) -> Any:
    """The content of a JSON file, None if there is none; what is no JSON is set aside."""
    try:
        return json.loads(path.read_text("utf-8"))
    except FileNotFoundError:
        return None
    except ValueError:
        _set_aside(path)
        return None


def _set_aside(path: Path) -> None:
    """Out of the way, but there to look at: `NAME.damaged`."""
    path.replace(path.with_name(path.name + ".damaged"))


def _foreign_entries(folder: Path) -> list[str]:
    """What lies in a folder besides leftovers of a run that was killed before it began."""
    ours = (".plan.yaml.", ".lock")
    return sorted(p.name for p in folder.iterdir() if not p.name.startswith(ours))


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
        raise InputError(f"--out {folder}: holds another run ({differences}). {way_out}")


def _read_yaml(path: Path) -> dict[str, Any]:
    try:
        content = yaml.safe_load(path.read_text("utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: not valid YAML: {error}") from error
    if not isinstance(content, dict):
        raise InputError(f"{path}: must hold a mapping of settings")
    return content
