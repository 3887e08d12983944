"""This machine: in this process on a CPU or one GPU; a process per GPU where there are several."""

from __future__ import annotations

from collections import deque
from pathlib import Path

from steersweep.catalog.gpus import LOCAL
from steersweep.engines.engine import Cancelled, Engine, Event, OnEvent, Work, carry_out


def local_engine(device: str = "auto") -> Engine:
    """The engine for this machine.

    Args:
        device: `auto`, or a torch device; `auto` uses every GPU there is.

    Raises:
        InputError: the device does not exist here.
    """
    import torch

    from steersweep.engines.processes import ProcessEngine
    from steersweep.model.device import resolve_device

    count = torch.cuda.device_count()
    if device == "auto" and count > 1:
        return ProcessEngine([f"cuda:{index}" for index in range(count)])
    return LocalEngine(resolve_device(device))


class LocalEngine:
    """Runs one piece of work after another in the calling process, inside `wait`."""

    def __init__(self, device: str) -> None:
        self._device = device
        self._folder = Path()
        self._waiting: deque[Work] = deque()
        self._cancelled: set[str] = set()

    def open(self, folder: Path) -> None:
        """Work in `folder`."""
        self._folder = folder

    def close(self) -> None:
        """Forget what has not begun."""
        self._waiting.clear()

    def kind(self, gpu: str) -> str:
        """This machine, whatever was planned."""
        return LOCAL

    def capacity(self, kind: str) -> int | None:
        """One at a time."""
        return 1

    def device(self, kind: str) -> str:
        """The device given."""
        return self._device

    def submit(self, work: Work) -> None:
        """Run it in `wait`."""
        self._cancelled.discard(work.name)
        self._waiting.append(work)

    def cancel(self, name: str) -> None:
        """End it at its next sign of progress."""
        self._cancelled.add(name)

    def wait(self, on_event: OnEvent) -> None:
        """Run the next piece of work to its end."""
        if not self._waiting:
            return
        work = self._waiting.popleft()
        seconds = 0.0

        def tell(event: Event) -> None:
            nonlocal seconds
            seconds = event.seconds
            on_event(event)
            if work.name in self._cancelled and not event.is_end:
                raise Cancelled(f"{work.name} was cancelled")

        try:
            carry_out(work, self._folder, tell)
        except Cancelled as error:
            on_event(Event(work.name, "failed", seconds, error=error))
