"""Which device a model runs on."""

from __future__ import annotations

import torch

from steersweep.core.errors import InputError, setting
from steersweep.core.printing import first_line


def resolve_device(device: str) -> str:
    """`auto` becomes the first GPU or the CPU; anything else must be a device that exists here."""
    if device == "auto":
        return "cuda:0" if torch.cuda.is_available() else "cpu"
    try:
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        raise InputError(
            f"{setting('device')} {device}: not available on this machine ({first_line(error)})"
        ) from error
    return device
