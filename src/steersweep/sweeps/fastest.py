"""A sweep that asks for the fastest precision: measured once, then part of its settings."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from steersweep.core.errors import InputError, setting
from steersweep.core.precision_labels import FASTEST
from steersweep.run.folder import RunFolder
from steersweep.sweeps.settings import SweepSettings


def with_precision(
    settings: SweepSettings,
    out: Path,
    device: str,
    on_note: Callable[[str], None],
    *,
    is_here: bool = True,
) -> SweepSettings:
    """The settings, with a precision in place of `fastest`.

    A run that is continued keeps the one it began in, on whatever machine. On a GPU it is what
    `auto` is. Of several models that differ, all run in float32: results are there to be compared.

    Args:
        settings: of the sweep.
        out: its run folder, which may not exist.
        device: the torch device it will run on.
        on_note: told what was chosen and what it costs.
        is_here: whether it runs on this machine.

    Raises:
        InputError: it runs on another machine, which cannot be measured here.
    """
    if settings.precision != FASTEST:
        return settings
    held = RunFolder(out, repairs=False).get_plan()
    if held is not None and "precision" in held:
        return replace(settings, precision=str(held["precision"]))
    if not is_here:
        raise InputError(
            f"{setting('precision')} {FASTEST}: is measured on the machine that a sweep runs on; "
            f"name a precision where it runs on another"
        )
    found = {_of_model(source, device, on_note) for source in settings.models}
    return replace(settings, precision=found.pop() if len(found) == 1 else "auto")


def _of_model(source: Any, device: str, on_note: Callable[[str], None]) -> str:
    from steersweep.model.fastest import fastest_precision
    from steersweep.model.loaded import LoadedSource
    from steersweep.model.quantization import method_of

    source = source.pinned()
    config = source.config()
    is_cpu = source.device(device).startswith("cpu")
    if not is_cpu or isinstance(source, LoadedSource) or method_of(config) is not None:
        return "auto"
    found = fastest_precision(config)
    on_note(f"{source.model_id}: {found.note}")
    return found.precision
