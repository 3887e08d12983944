"""How a command ends that could not do its work: one line on stderr and an exit code."""

from __future__ import annotations

import errno
import os
import sys
import tempfile
import traceback
from collections.abc import Sequence
from pathlib import Path
from types import FrameType

from steersweep.core.atomic import DISK_FULL
from steersweep.core.errors import SteersweepError
from steersweep.core.printing import printable
from steersweep.core.redaction import redact, redacted_traceback
from steersweep.core.text_files import lone_surrogate

VARIABLE = "STEERSWEEP_TRACEBACK"
STOPPED = 130  # exit code after Ctrl+C
# Settings that are called otherwise there.
_OPTIONS = {"accept": "accept_change"}
# No fault of the file that was named.
_MACHINE = (*DISK_FULL, errno.EIO, errno.EMFILE, errno.ENFILE, errno.ENOMEM)
_PRINTERS = ("typer", "click", "rich")
_READERS = ("json", "yaml", "codecs", "encodings", "csv")


def report(error: BaseException, arguments: Sequence[str]) -> int:
    """Say in one line why a command ended.

    Secrets are taken out. The traceback is shown too where the environment variable
    STEERSWEEP_TRACEBACK is 1, unless the error was raised on purpose.

    Args:
        error: what ended it.
        arguments: the command's own, to name it.

    Returns:
        The exit code: the error's own; 2 where a file that was given, or what it holds, is at
        fault; 130 after Ctrl+C; else 1.
    """
    if isinstance(error, KeyboardInterrupt):
        print("stopped; the same command again continues", file=sys.stderr)
        return STOPPED
    if isinstance(error, SteersweepError):
        message, code = error.told(_option), error.exit_code
    else:
        command = _command(arguments)
        if os.environ.get(VARIABLE) == "1":
            print(redacted_traceback(error), file=sys.stderr)
        message, code = _known(error, command) or (_own_fault(error, command), 1)
    print(f"error: {printable(redact(' '.join(message.split())))}", file=sys.stderr)
    return code


def is_end_of_output(error: BaseException | None) -> bool:
    """Whether what reads this process's output has ended, as in `steersweep plan v3 | head -1`.

    A broken pipe to a process that steersweep started is something else.
    """
    if not isinstance(error, BrokenPipeError) or error.__traceback__ is None:
        return False
    return _prints(_frames(error))


def _option(setting: str) -> str:
    """What the command line calls a setting that a message names."""
    return "--" + _OPTIONS.get(setting, setting).replace("_", "-")


def _command(arguments: Sequence[str]) -> str:
    words = list(arguments[: 2 if arguments[:1] in (["lab"], ["verify"]) else 1])
    return " ".join(["steersweep", *(word for word in words if not word.startswith("-"))])


def _known(error: BaseException, command: str) -> tuple[str, int] | None:
    """Message and exit code of an error that is the input's or the machine's, or None."""
    if isinstance(error, MemoryError):
        return f"{command}: out of memory. Everything finished is kept", 1
    if isinstance(error, OSError):
        return _of_system(error)
    if isinstance(error, UnicodeEncodeError):
        if half := lone_surrogate(error.object):
            return f"{command}: a text holds {half}, half a character without its other half", 2
        return (
            f"{command}: cannot print U+{ord(error.object[error.start]):04X} as {error.encoding}; "
            f"set PYTHONIOENCODING=utf-8",
            2,
        )
    frames = _frames(error)
    reads = isinstance(error, UnicodeDecodeError) or _package(frames[-1]) in _READERS
    file = _file_in_hand(frames) if reads else None
    if file is None:
        return None
    what = "nested too deeply" if isinstance(error, RecursionError) else _one_line(error)
    return f"{file}: cannot be read: {what}", 2


def _of_system(error: OSError) -> tuple[str, int] | None:
    frames = _frames(error)
    file = error.filename
    if file is None:
        file = "standard output" if _prints(frames) else _file_in_hand(frames)
    if file is None:
        return None
    if isinstance(file, bytes):
        file = os.fsdecode(file)
    if error.filename2 is not None:
        file = f"{file} or {error.filename2}"
    reason = error.strerror or _one_line(error)
    if error.errno in DISK_FULL:
        reason += ". Everything finished is kept; free some space and run the same command again"
        return f"{file}: cannot be written: {reason}", 1
    return f"{file}: cannot be read or written: {reason}", 1 if error.errno in _MACHINE else 2


def _file_in_hand(frames: Sequence[FrameType]) -> Path | None:
    """The file that the innermost of the calls that hold one held, else the folder."""
    held = [v for frame in reversed(frames) for v in frame.f_locals.values() if isinstance(v, Path)]
    return next(filter(os.path.isfile, held), None) or next(filter(os.path.isdir, held), None)


def _frames(error: BaseException) -> list[FrameType]:
    return [frame for frame, _ in traceback.walk_tb(error.__traceback__)]


def _prints(frames: Sequence[FrameType]) -> bool:
    """Whether the innermost of these calls prints something, and writes no file."""
    module = str(frames[-1].f_globals.get("__name__", ""))
    return _package(frames[-1]) in _PRINTERS or module.startswith("steersweep.cli")


def _package(frame: FrameType) -> str:
    return str(frame.f_globals.get("__name__", "")).split(".", maxsplit=1)[0].lstrip("_")


def _own_fault(error: BaseException, command: str) -> str:
    """An error that nobody foresaw: where its traceback was written, without secrets."""
    text = f"{command}: a fault of steersweep itself: {type(error).__name__}: {_one_line(error)}"
    try:
        file = Path(tempfile.mkdtemp(prefix="steersweep-")) / "traceback.txt"  # private
        file.write_text(redacted_traceback(error), "utf-8", errors="backslashreplace")
    except OSError:
        return f"{text}; {VARIABLE}=1 shows where"
    return f"{text}; the traceback is in {file} ({VARIABLE}=1 shows it)"


def _one_line(error: BaseException) -> str:
    text = " ".join(str(error).split())
    return text if len(text) <= 300 else text[:300] + "..."
