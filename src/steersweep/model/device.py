"""Which device a model runs on."""

from __future__ import annotations

from functools import cache
from pathlib import Path

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


def processor(device: torch.device) -> str:
    """What the processor is called that a model runs on, and for a CPU what it can do."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return cpu() if device.type == "cpu" else device.type


@cache
def cpu() -> str:
    """What this machine's CPU is called, and what torch uses of it."""
    facts, named = Path("/proc/cpuinfo"), ""
    if facts.exists():
        lines = facts.read_text("utf-8", "replace").splitlines()
        named = next((line for line in lines if line.startswith("model name")), "")
    return f"{named} {torch.backends.cpu.get_cpu_capability()}"
