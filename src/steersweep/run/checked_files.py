"""The files of a run, each with its digest; one that is not as it was written counts as absent."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from steersweep.core.atomic import Unwritable, file_state, read_file, write_bytes
from steersweep.core.digests import Damaged, check, seal, seal_tensors, unseal, unseal_tensors
from steersweep.core.errors import InputError
from steersweep.core.printing import printable
from steersweep.run.paths import RunPaths, free_damaged_name

if TYPE_CHECKING:
    from numpy.typing import NDArray

_T = TypeVar("_T")

OnNote = Callable[[str], None]


def log_note(note: str) -> None:
    """Say that a file was set aside, in Python's log."""
    logging.getLogger(__name__).warning(printable(note))


@contextmanager
def said_of(path: Path) -> Iterator[None]:
    """Name the file that the system refuses to write: it says nothing about what it was to hold."""
    try:
        yield
    except OSError as error:
        raise Unwritable.at(path, error) from error


class CheckedFiles:
    """Reads and writes the files of a run folder, and checks what it reads.

    Args:
        root: the folder.
        repairs: set damaged files aside as `NAME.damaged`; else they are left and noted.
        on_note: told of each file that is set aside; a warning in Python's log otherwise.

    Attributes:
        root: the folder.
        paths: where everything in it is.
        damaged: why each damaged file that was met is so, by name.
    """

    def __init__(self, root: Path, *, repairs: bool = True, on_note: OnNote = log_note) -> None:
        self.root = root
        self.paths = RunPaths(root)
        self.damaged: dict[str, str] = {}
        self._repairs = repairs
        self._on_note = on_note
        self._digests: dict[str, tuple[object, str]] = {}

    def read_json(self, path: Path) -> dict[str, Any] | None:
        """The JSON object that was saved in a file, or None."""

        def whole(data: bytes) -> dict[str, Any]:
            held: dict[str, Any] = unseal(self.paths.name_of(path), data)
            return held

        return self.read(path, whole)

    def read_checked(self, path: Path, whole: Callable[[dict[str, Any]], _T]) -> _T | None:
        """What `whole` makes of the JSON object in a file; None if that is absent or damaged.

        Args:
            path: the file.
            whole: raises `Damaged` where the object is not what it should be.
        """
        return self.read(path, lambda data: whole(unseal(self.paths.name_of(path), data)))

    def write_once(self, path: Path, value: Mapping[str, Any]) -> dict[str, Any]:
        """Save a JSON object if the file is absent; returns what is there."""
        held = self.read_json(path)
        if held is None:
            self.write(path, value)
            held = json.loads(json.dumps(value))
        return held

    def write_json(self, path: Path, value: Mapping[str, Any]) -> None:
        """Save a JSON object in place of what was there, if that differs."""
        if self.read_json(path) != json.loads(json.dumps(value)):
            self.write(path, value)

    def tensors(self, path: Path) -> dict[str, NDArray[Any]] | None:
        """Arrays saved in a file, or None."""

        def whole(data: bytes) -> dict[str, NDArray[Any]]:
            tensors, facts = unseal_tensors(data)
            if facts.get("file") != self.paths.name_of(path):
                raise Damaged("holds another file's tensors")
            return tensors

        return self.read(path, whole)

    def put_tensors(self, path: Path, make: Callable[[], Mapping[str, NDArray[Any]]]) -> str:
        """Save arrays as safetensors, made only if absent; returns the file's name."""
        if self.tensors(path) is None:
            self.write_tensors(path, make())
        return self.paths.name_of(path)

    def write_tensors(self, path: Path, tensors: Mapping[str, NDArray[Any]]) -> None:
        """Save arrays as safetensors in place of what was there."""
        with said_of(path):
            write_bytes(path, seal_tensors(tensors, {"file": self.paths.name_of(path)}))

    def set_aside(self, path: Path, why: str) -> None:
        """Move a file out of the way, to `NAME.damaged` or the next free name, and say so.

        Raises:
            InputError: it cannot be moved.
        """
        aside = free_damaged_name(path)
        try:
            with suppress(FileNotFoundError):  # another process was faster
                path.rename(aside)
        except OSError as error:
            raise InputError(
                f"{path}: is damaged ({why}) and cannot be moved: {error.strerror}; remove it"
            ) from error
        self._on_note(f"{path}: damaged ({why}); kept as {aside.name}, and made again")

    def why_damaged(self, path: Path) -> str | None:
        """In what way a file is damaged that was read before; None: it was not."""
        return self.damaged.get(self.paths.name_of(path))

    def digest(self, name: str) -> str | None:
        """The digest of the JSON file of a name, if it is as it was written, else None.

        A file whose size, times and place on the disk are those of the last time is not read again.
        """
        state = file_state(self._place(name))
        held = self._digests.get(name)
        if held is not None and held[0] == state:
            return held[1]
        found = self._read(name, partial(check, name))
        if found is not None and state is not None:
            self._digests[name] = state, found
        return found

    def write(self, path: Path, value: Mapping[str, Any]) -> None:
        """Save a JSON object.

        Raises:
            Unwritable: the system refuses it.
        """
        with said_of(path):
            write_bytes(path, seal(self.paths.name_of(path), value))

    def read(self, path: Path, whole: Callable[[bytes], _T]) -> _T | None:
        """What `whole` makes of a file; None if it is absent or damaged.

        Args:
            path: the file.
            whole: raises `Damaged` where the bytes are not what they should be.

        Raises:
            InputError: it cannot be read, or is damaged and cannot be moved.
        """
        return self._read(self.paths.name_of(path), whole)

    def _place(self, name: str) -> str:
        """Where the file of a name is; see `RunPaths.name_of_condition`."""
        return f"{self.root}/{name}"

    def _read(self, name: str, whole: Callable[[bytes], _T]) -> _T | None:
        try:
            data = read_file(self._place(name))
            found = None if data is None else whole(data)
        except Damaged as error:
            self.damaged[name] = str(error)
            if self._repairs:
                self.set_aside(self.paths.named(name), str(error))
            return None
        except OSError as error:
            path = self.paths.named(name)
            raise InputError(f"{path}: cannot be read: {error.strerror}") from error
        if data is not None:
            self.damaged.pop(name, None)  # made again since
        return found
