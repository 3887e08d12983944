"""TERM and HUP end a command as Ctrl+C does: every `finally` runs, so reservations are settled."""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from types import FrameType

_ENDING = tuple(
    number for name in ("SIGTERM", "SIGHUP") if (number := getattr(signal, name, None)) is not None
)
# A service manager sends both at once, and one must not break off what the other began.
_AGAIN_AFTER = 5.0  # seconds


def end_on_signals(say: str = "") -> None:
    """Let TERM and HUP raise `SystemExit` with code 128 + number in the main thread.

    A signal that is ignored stays so: `nohup` asks for that. For processes of our own only: where a
    platform runs our code (a Ray or Modal worker), it ends it in its own way.

    Args:
        say: a line for standard error when a signal comes.
    """
    if threading.current_thread() is not threading.main_thread():
        return
    on_terminal = [stream.fileno() for stream in (sys.stdout, sys.stderr) if stream.isatty()]

    last = -_AGAIN_AFTER

    def end(number: int, _frame: FrameType | None) -> None:
        nonlocal last
        if time.monotonic() - last < _AGAIN_AFTER:
            return
        last = time.monotonic()
        if number != signal.SIGTERM:  # the terminal is gone; writing to it would fail
            _point_to_nowhere(on_terminal)
        if say:
            os.write(2, f"{say}\n".encode())
        raise SystemExit(128 + number)

    for number in _ENDING:
        if signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, end)


def _point_to_nowhere(descriptors: list[int]) -> None:
    nowhere = os.open(os.devnull, os.O_WRONLY)
    for descriptor in descriptors:
        os.dup2(nowhere, descriptor)
    os.close(nowhere)
