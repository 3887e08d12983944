"""How what a worker saves on one machine reaches the run folder on another.

What jobs write never changes once it is there: conditions, directions, extraction scores and logs,
each named by its content or its work. So sharing them is copying what the other side lacks, and
what was damaged and made again.
"""

from __future__ import annotations

import time
import uuid
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Protocol, TypeVar

from steersweep.core.atomic import write_bytes
from steersweep.core.errors import InputError, SteersweepError
from steersweep.run.paths import is_of_jobs, was_set_aside

# Seconds between tries while storage is away: five minutes in all.
WAITS = (0.5, 1.0, 2.0, 4.0, 8.0, 15.0, 30.0, 60.0, 60.0, 60.0, 60.0)
# What another try does not change.
_FOR_GOOD = (PermissionError, FileNotFoundError, NotADirectoryError, IsADirectoryError)
_T = TypeVar("_T")


class StorageAway(SteersweepError):
    """Storage could not be reached for a while; what was to be copied is still where it was."""


class Share(Protocol):
    """A run folder seen from several machines."""

    def refresh(self, folder: Path) -> None:
        """Bring to `folder` what others saved."""

    def publish(self, folder: Path) -> None:
        """Let others see what was saved in `folder`."""


class SameFolder:
    """Every machine sees the folder itself: one machine, or a shared file system."""

    def refresh(self, folder: Path) -> None:
        """Nothing to bring."""

    def publish(self, folder: Path) -> None:
        """Nothing to send."""


class Mirror:
    """Copies through a place that fsspec can reach, such as `s3://bucket/runs/mine`.

    Args:
        url: of a folder there. Credentials come from the environment, as for fsspec itself.
        waits: seconds before each further try while it cannot be reached.

    Both methods raise InputError where another try would not help, and else StorageAway.
    """

    def __init__(self, url: str, waits: Sequence[float] = WAITS) -> None:
        self.url = url
        self._waits = waits
        self._held: set[str] = set()
        self._replaced: set[str] = set()

    def refresh(self, folder: Path) -> None:
        """Download what `folder` lacks."""
        self._patiently(lambda: self._refresh(folder))

    def publish(self, folder: Path) -> None:
        """Upload what is not there yet, or was damaged; each file appears whole."""
        self._patiently(lambda: self._publish(folder))

    def _refresh(self, folder: Path) -> None:
        system, root = self._system()
        for name in sorted(self._there(system, root)):
            if not (folder / name).exists():
                write_bytes(folder / name, system.cat_file(f"{root}/{name}"))
            self._held.add(name)

    def _publish(self, folder: Path) -> None:
        system, root = self._system()
        here = {
            path.relative_to(folder).as_posix()
            for path in folder.rglob("*")
            if path.is_file() and is_of_jobs(path.relative_to(folder))
        }
        missing = here - self._held
        if missing:
            self._held |= self._there(system, root)
        # What was damaged and made again takes the place of what others have.
        again = {name for name in here - self._replaced if was_set_aside(folder / name)}
        self._replaced |= again
        for name in sorted((missing - self._held) | again):
            part = f"{root}/.{uuid.uuid4().hex}.part"
            system.makedirs(f"{root}/{name}".rpartition("/")[0], exist_ok=True)
            system.pipe_file(part, (folder / name).read_bytes())
            system.mv(part, f"{root}/{name}")
            self._held.add(name)

    def _patiently(self, copy: Callable[[], _T]) -> _T:
        for wait in (*self._waits, None):
            try:
                return copy()
            except SteersweepError:  # of the run folder, such as a full disk
                raise
            except (ImportError, ValueError, TypeError, *_FOR_GOOD) as error:
                raise InputError(f"storage {self.url}: cannot be used: {error}") from error
            except Exception as error:  # every kind of storage has exceptions of its own
                if wait is None:
                    raise StorageAway(
                        f"storage {self.url}: cannot be reached: {error}. Everything finished is "
                        f"kept where it is; the same command continues"
                    ) from error
                time.sleep(wait)
        raise AssertionError

    def _there(self, system: Any, root: str) -> set[str]:
        system.invalidate_cache()
        if not system.exists(root):
            return set()
        found = (Path(path[len(root) :].lstrip("/")) for path in system.find(root))
        return {path.as_posix() for path in found if is_of_jobs(path)}

    def _system(self) -> tuple[Any, str]:
        import fsspec

        system, root = fsspec.core.url_to_fs(self.url)
        system.makedirs(root, exist_ok=True)
        return system, root.rstrip("/")
