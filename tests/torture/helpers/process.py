"""`steersweep` commands, each in a fork of this process, so that torch is imported only once.

A command sees the same as in a shell: its own arguments, folder, standard streams, cache folder,
and the rights of an ordinary user even where the tests run as root.
"""

from __future__ import annotations

import contextlib
import ctypes
import faulthandler
import importlib
import io
import json
import os
import select
import signal
import sys
import time
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

MEMORY_LIMIT_MB = 2048
_LOOK_EVERY_MS = 50
_STOPPED_S = 2.0  # between two looks


@dataclass(frozen=True)
class Ended:
    """How a command ended.

    Attributes:
        code: its exit code; negative: the signal that ended it.
        out: what it wrote to standard output.
        err: the same of standard error.
        seconds: it took, without the time it waited for a core.
        memory_mb: the most memory it held.
        hung: it was ended because it took too long.
    """

    code: int
    out: str
    err: str
    seconds: float
    memory_mb: int
    hung: bool

    @property
    def text(self) -> str:
        """Both streams."""
        return self.out + self.err


def command(
    arguments: Sequence[str],
    folder: Path,
    *,
    cache: Path,
    limit_s: float = 10,
    before: Callable[[], None] = lambda: None,
) -> Ended:
    """Run a command in `folder` and wait for its end.

    Args:
        arguments: after the word `steersweep`.
        folder: where it runs.
        cache: the user's cache folder.
        limit_s: it is killed after this time, not counting waits for a core.
        before: called in the new process first.
    """
    streams = [os.memfd_create(name) for name in ("out", "err")]
    child = os.fork()
    if child == 0:
        _become_command(arguments, folder, cache, streams, before)
    code, seconds, memory_mb, hung = _wait(child, limit_s)
    texts = []
    for stream in streams:
        os.lseek(stream, 0, os.SEEK_SET)
        with os.fdopen(stream, "rb") as file:
            texts.append(file.read().decode("utf-8", errors="replace"))
    return Ended(code, texts[0], texts[1], seconds, memory_mb, hung)


def _become_command(
    arguments: Sequence[str],
    folder: Path,
    cache: Path,
    streams: Sequence[int],
    before: Callable[[], None],
) -> None:
    """Never returns."""
    code = 1
    try:
        os.setsid()
        faulthandler.disable()  # a crash is told by the exit code
        for signum in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            signal.signal(signum, signal.SIG_DFL)
        signal.signal(signal.SIGINT, signal.default_int_handler)
        os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
        os.dup2(streams[0], 1)
        os.dup2(streams[1], 2)
        sys.stdout = io.TextIOWrapper(io.FileIO(1, "w", closefd=False), "utf-8")
        sys.stderr = io.TextIOWrapper(io.FileIO(2, "w", closefd=False), "utf-8", "backslashreplace")
        os.chdir(folder)
        os.environ["STEERSWEEP_CACHE"] = str(cache)
        os.environ["COLUMNS"] = "200"
        sys.argv = ["steersweep", *arguments]
        _be_an_ordinary_user()
        before()
        code = _call_main()
        sys.stdout.flush()
        sys.stderr.flush()
    finally:
        os._exit(code)


def _call_main() -> int:
    from steersweep.cli import main

    try:
        main()
    except SystemExit as end:
        if end.code is None or isinstance(end.code, int):
            return end.code or 0
        print(end.code, file=sys.stderr)
        return 1
    except BaseException:
        traceback.print_exc()
        return 1
    return 0


def _be_an_ordinary_user() -> None:
    """Root reads and writes everything; without these two rights, only what its modes allow."""
    if os.geteuid() != 0:
        return
    libc = ctypes.CDLL(None, use_errno=True)
    header = (ctypes.c_uint32 * 2)(0x20080522, 0)  # version 3, this process
    held = (ctypes.c_uint32 * 6)()
    if libc.capget(header, held) != 0:
        return
    held[0] &= ~0b110  # effective: CAP_DAC_OVERRIDE, CAP_DAC_READ_SEARCH
    libc.capset(header, held)


def _wait(child: int, limit_s: float) -> tuple[int, float, int, bool]:
    """Exit code, seconds, most memory in MB, and whether it was killed for taking too long."""
    began, hung, memory = time.monotonic(), False, 0
    seconds = 0.0
    watcher = os.pidfd_open(child)
    poll = select.poll()
    poll.register(watcher, select.POLLIN)
    looked, stopped = began, 0.0
    while not poll.poll(_LOOK_EVERY_MS):
        now = time.monotonic()
        # Long past the next look, the whole run was stopped from outside, the case with it.
        stopped += now - looked if now - looked > _STOPPED_S else 0
        looked = now
        seconds = now - began - stopped - _waited_for_a_core(child)
        memory = max(memory, _memory_mb(child))
        hung = seconds > limit_s
        if hung or memory > MEMORY_LIMIT_MB:
            os.killpg(child, signal.SIGKILL)
            break
    os.close(watcher)
    _, status, used = os.wait4(child, 0)
    if not seconds:
        seconds = time.monotonic() - began
    code = os.waitstatus_to_exitcode(status)
    return code, seconds, max(memory, used.ru_maxrss // 1024), hung


def _waited_for_a_core(child: int) -> float:
    """Seconds in which the process could have run but other programs did."""
    try:
        return int(Path(f"/proc/{child}/schedstat").read_text().split()[1]) / 1e9
    except (OSError, IndexError):
        return 0.0


def _memory_mb(child: int) -> int:
    try:
        pages = int(Path(f"/proc/{child}/statm").read_text().split()[1])
    except (OSError, IndexError):
        return 0
    return pages * os.sysconf("SC_PAGE_SIZE") // 2**20


def note_modules(file: Path) -> None:
    """Write the names of all imported modules, for `warm_up` in another process."""
    file.write_text(json.dumps(sorted(sys.modules)))


def warm_up(file: Path) -> None:
    """Import here what a command imported, so that forks need not."""
    for name in json.loads(file.read_text()):
        if name not in sys.modules and not name.startswith(("torture", "__")):
            # Some names are aliases, and cannot be imported by themselves.
            with contextlib.suppress(ImportError, AttributeError, ValueError, RuntimeError):
                importlib.import_module(name)
