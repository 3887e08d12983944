"""Every write of a command, one after the other: counted, or disturbed at a chosen one.

A write is what changes the file system below a folder: opening a file to write, renaming, making
or removing something, and flushing to the disk. Python tells of each before it happens, whatever
code asks for it, so that nothing here knows how the product writes.
"""

from __future__ import annotations

import errno
import os
import re
import signal
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torture.helpers.cases import void

_CHANGING = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_TRUNC
_EVENTS = {"open": 0, "os.rename": 1, "os.mkdir": 0, "os.remove": 0, "os.truncate": 0}

OnWrite = Callable[[str, int | None], None]
"""Called before a write with what it is, and the file's handle where it is a flush."""


def on_every_write(root: Path, told: OnWrite) -> None:
    """Have `told` called before every write below `root` of this process, for the rest of it."""
    busy = False

    def tell(what: str, path: Any, handle: int | None = None) -> None:
        nonlocal busy
        if busy or not isinstance(path, str | bytes | os.PathLike):
            return
        busy = True
        try:
            place = os.path.abspath(os.fsdecode(path))
            if place.startswith(f"{root}{os.sep}"):
                told(f"{what} {_plain(place[len(str(root)) + 1 :])}", handle)
        finally:
            busy = False

    def audit(event: str, values: tuple[Any, ...]) -> None:
        if event not in _EVENTS:
            return
        if event == "open" and not (isinstance(values[2], int) and values[2] & _CHANGING):
            return
        tell(event.removeprefix("os."), values[_EVENTS[event]])

    flush = os.fsync

    def fsync(handle: Any) -> None:
        number = handle if isinstance(handle, int) else handle.fileno()
        tell("fsync", os.readlink(f"/proc/self/fd/{number}"), number)
        flush(handle)

    os.fsync = fsync
    sys.addaudithook(audit)


def _plain(name: str) -> str:
    """A name without what differs from run to run: random parts and moments."""
    name = re.sub(r"\.[a-z0-9_]{8}\.tmp$", ".tmp", name)
    return re.sub(r"_\d{8}T\d{6}Z", "", name)


def count_writes(root: Path, log: Path) -> Callable[[], None]:
    """For `process.command`: append what each write is to `log`, a line each."""

    def begin() -> None:
        handle = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        on_every_write(root, lambda what, _file: void(os.write(handle, f"{what}\n".encode())))

    return begin


@dataclass(frozen=True)
class Disturbance:
    """What happens at a write.

    Attributes:
        name: of it.
        act: does it; raises where the write fails.
        may_end_with: exit codes that it alone explains.
    """

    name: str
    act: Callable[[int | None], None]
    may_end_with: tuple[int, ...] = ()

    def at(self, root: Path, number: int) -> Callable[[], None]:
        """For `process.command`: do it at the `number`-th write (from 0) below `root`, once."""

        def begin() -> None:
            seen = 0

            def told(_what: str, handle: int | None) -> None:
                nonlocal seen
                seen += 1
                if seen == number + 1:
                    self.act(handle)

            on_every_write(root, told)

        return begin


def _failing(code: int) -> Callable[[int | None], None]:
    def fail(_handle: int | None) -> None:
        raise OSError(code, os.strerror(code))

    return fail


def _cut_and_die(handle: int | None) -> None:
    """As after a power cut: of what was to be flushed, the last bytes never arrived."""
    if handle is not None:
        size = os.fstat(handle).st_size
        os.ftruncate(handle, max(0, size - 20))
    os.kill(os.getpid(), signal.SIGKILL)


def _signal(name: str) -> Disturbance:
    number = signal.Signals[f"SIG{name}"]
    return Disturbance(name, lambda _handle: signal.raise_signal(number), (-number,))


KILLS = (
    Disturbance("kill", lambda _handle: os.kill(os.getpid(), signal.SIGKILL), (-9,)),
    Disturbance("exit", lambda _handle: os._exit(1), (1,)),
    Disturbance("cut", _cut_and_die, (-9,)),
)
FAILURES = tuple(
    Disturbance(name, _failing(getattr(errno, name))) for name in ("ENOSPC", "EIO", "EACCES")
)
ENDINGS = (_signal("TERM"), _signal("HUP"), _signal("INT"))
