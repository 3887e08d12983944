"""The run folder: one file per finished condition, each whole or absent, each with its digest."""

from __future__ import annotations

import os
from collections.abc import Collection, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from steersweep.core import journal
from steersweep.core.atomic import remove_leftovers, write_bytes
from steersweep.core.digests import (
    Damaged,
    seal_text,
    unseal,
    unseal_tensors,
    unseal_text,
)
from steersweep.core.errors import InputError, SteersweepError
from steersweep.core.plain_yaml import parse_yaml
from steersweep.run.checked_files import CheckedFiles, OnNote, log_note, said_of
from steersweep.run.direction import Direction, stored_vector
from steersweep.run.finished import Finished, FinishedRecords
from steersweep.run.lock import (
    refuse_other_files,
    refuse_other_run,
    refuse_other_version,
    unwritable,
)
from steersweep.run.paths import FOLDERS, RunPaths
from steersweep.run.records import Record

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


class LostDirection(SteersweepError):
    """A direction that others rest on is damaged or gone; the job that found it can again."""


class RunFolder(CheckedFiles):
    """The only state of a run. Everything shown or decided is a function of this folder.

    A file that is not as it was written counts as absent. A run sets it aside as `NAME.damaged`,
    says so, and computes it again; a command that only reads (`existing`) leaves the folder as it
    is and notes the file in `damaged`.

    Args:
        root: where it is.
        repairs: set damaged files aside.
        on_note: told of each file that is set aside; a warning in Python's log otherwise.
    """

    def __init__(self, root: Path, *, repairs: bool = True, on_note: OnNote = log_note) -> None:
        super().__init__(root, repairs=repairs, on_note=on_note)
        self._finished = FinishedRecords(
            partial(self.read_checked, self.paths.finished),
            partial(self.write, self.paths.finished) if repairs else None,
        )

    @classmethod
    def open(
        cls,
        root: Path,
        plan: Mapping[str, Any],
        *,
        on_note: OnNote = log_note,
        may_differ: Collection[str] = (),
        accept: Collection[str] = (),
        way_out: str = "Choose another folder, or the same settings to continue that run",
    ) -> RunFolder:
        """Begin a run in a folder, or continue the one that is there; for one runner at a time.

        What killed processes left there is removed. A damaged `plan.yaml` is written again from
        the settings asked for: no result of others can pass for one of them.

        Args:
            root: the folder, made if needed.
            plan: the run's settings; frozen in `plan.yaml`.
            on_note: told of each damaged file that is set aside.
            may_differ: settings that change no result, and so may change between continuations.
            accept: settings whose change the user accepts; recorded in `changes.jsonl`.
            way_out: what the user can do where settings differ, for the message.

        Raises:
            InputError: the folder cannot be written, holds other files, or holds a run with other
                settings (the message names them) or of another version. Nothing in it is touched.
        """
        # Through YAML and back, so that tuples and lists compare equal.
        text = yaml.safe_dump(dict(plan), sort_keys=False, allow_unicode=True)
        asked = parse_yaml(text, str(RunPaths(root).plan)).data
        refuse_other_files(root)
        run = cls(root, on_note=on_note)
        held = run.get_plan() if root.exists() else None
        changed = [n for n in {**held, **asked} if held.get(n) != asked.get(n)] if held else []
        different = [name for name in changed if name not in (*may_differ, *accept)]
        refuse_other_run(root, held or {}, asked, different, way_out)
        try:
            root.mkdir(parents=True, exist_ok=True)
            remove_leftovers(root)
            for name in FOLDERS:
                if os.path.lexists(root / name) and not (root / name).is_dir():
                    run.set_aside(root / name, "no folder")
            for name in changed:
                change = {"field": name, "from": (held or {}).get(name), "to": asked.get(name)}
                journal.append(run.paths.changes, change)
            if changed or held is None:
                path = run.paths.plan
                write_bytes(path, seal_text(path.name, text))
            run.look_through()
        except OSError as error:
            raise unwritable(root, error.strerror) from error
        if not os.access(root, os.W_OK):
            raise unwritable(root, "permission denied")
        return run

    @classmethod
    def existing(cls, root: Path) -> RunFolder:
        """The run in a folder, to be read only.

        Raises:
            InputError: there is none, or it cannot be read.
        """
        run = cls(root, repairs=False)
        path = run.paths.plan
        if not os.path.lexists(path):
            raise InputError(f"{root}: holds no steersweep run (no {path.name})")
        if run.get_plan() is None:
            raise InputError(
                f"{path}: is damaged ({run.why_damaged(path)}); run the same command again to "
                f"write it again"
            )
        return run

    @property
    def plan(self) -> dict[str, Any]:
        """The run's frozen settings.

        Raises:
            InputError: they are damaged.
        """
        held = self.get_plan()
        if held is None:
            raise InputError(f"{self.paths.plan}: is damaged or gone")
        return held

    def get_plan(self) -> dict[str, Any] | None:
        """The frozen settings, None where there are none or they are damaged."""

        def whole(data: bytes) -> dict[str, Any]:
            refuse_other_version(self.root, data)
            name = self.paths.plan.name
            try:
                held: dict[str, Any] = parse_yaml(unseal_text(name, data), name).data
            except InputError as error:
                raise Damaged(str(error)) from error
            return held

        return self.read(self.paths.plan, whole)

    def begun(self) -> str | None:
        """UTC time the run began; None where none has, or nothing says when.

        Chat templates are told this day. Where the file that holds it is damaged or gone, it is the
        day that prompts of finished conditions were rendered with.
        """
        held = self.read_json(self.paths.run)
        if held is not None:
            return str(held["created"])
        for path in sorted(self.paths.condition("*").parent.glob("*.json")):
            record = self.get(path.stem)
            if record is not None and (date := record.provenance.get("template_date")):
                return f"{date}T00:00:00Z"
        return None

    # -- conditions ------------------------------------------------------------------------------

    def get(self, key: str, prompts: Sequence[str] | None = None) -> Record | None:
        """The record of a finished condition, or None; its numbers follow from its samples.

        Args:
            key: of the condition.
            prompts: that it must have been tested on, in order; None: not known here.
        """
        path = self.paths.condition(key)

        def whole(data: bytes) -> Record:
            return Record.from_json(unseal(self.paths.name_of(path), data), key, prompts)

        return self.read(path, whole)

    def finished(self, key: str, prompts: Sequence[str]) -> Finished | None:
        """What is known of a finished condition, or None; as sure as `get`, and much faster.

        The file is read and compared with its digest, once as long as it is left alone. Only one
        that was never found right is looked into.

        Args:
            key: of the condition.
            prompts: that it must have been tested on, in order.
        """
        digest = self.digest(self.paths.name_of_condition(key))
        if digest is None:
            return None
        found = self._finished.get(key, digest, prompts)
        if found is None and (record := self.get(key, prompts)) is not None:
            found = Finished.of(record, digest)
            self._finished.note(key, found)
        return found

    def keep_finished(self) -> None:
        """Keep which records were found right, where they are many."""
        self._finished.keep()

    def put(self, record: Record) -> None:
        """Save a finished condition under its key, unless it is there already."""
        if self.get(record.key) is None:
            path = self.paths.condition(record.key)
            self.write(path, record.as_json())
            if (digest := self.digest(self.paths.name_of(path))) is not None:
                self._finished.note(record.key, Finished.of(record, digest))

    def has(self, key: str) -> bool:
        """Whether a finished condition is there as it was written; faster than `get`."""
        return self.digest(self.paths.name_of_condition(key)) is not None

    # -- directions ------------------------------------------------------------------------------

    def vector(self, key: str) -> NDArray[np.float32] | None:
        """Unit vector of a saved direction `[d_model]`; None if none with this content is there."""
        return self.read(self.paths.direction(key), partial(stored_vector, key=key))

    def needed_vector(self, key: str) -> NDArray[np.float32]:
        """Unit vector `[d_model]` of a direction that other results rest on.

        Raises:
            LostDirection: it is not there.
        """
        found = self.vector(key)
        if found is None:
            raise LostDirection(
                f"{self.paths.direction(key)}: is damaged or gone; run the same command again, and "
                f"the job that found it makes it again"
            )
        return found

    def direction(self, key: str) -> Direction | None:
        """A saved direction, or None if none with exactly this content is there."""
        if self.vector(key) is None:
            return None
        return Direction.load(self.paths.direction(key))

    def needed_direction(self, key: str) -> Direction:
        """A direction that other results rest on.

        Raises:
            LostDirection: it is not there.
        """
        self.needed_vector(key)
        return Direction.load(self.paths.direction(key))

    def put_direction(self, direction: Direction) -> str:
        """Save a direction under its key; returns its path relative to the run folder."""
        path = self.paths.direction(direction.key)
        if self.vector(direction.key) is None:
            with said_of(path):
                direction.save(path)
        return self.paths.name_of(path)

    def look_through(self) -> None:
        """See that every file here is as it was written, also those that nothing would read now.

        Results are written anew by every run, and what cannot be made again speaks for itself.
        """
        self.digests()
        for name in FOLDERS:
            for path in sorted((self.root / name).glob("*.safetensors")):
                self.read(path, unseal_tensors)

    def digests(self) -> dict[str, str]:
        """By name, digests of all JSON files but results that are as they were written."""
        apart = (self.paths.cuts, self.paths.engine)  # nothing else says what is in them
        names = {*map(self.paths.name_of, apart)}
        found = {name: self.digest(name) for name in self.paths.json_names() if name not in names}
        return {name: digest for name, digest in found.items() if digest and name[0] != "."}
