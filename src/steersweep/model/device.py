"""Which device a model runs on."""

from __future__ import annotations

import ctypes
import sys
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

from steersweep.catalog.gpus import kind_of
from steersweep.core.errors import InputError, setting
from steersweep.core.printing import first_line

if TYPE_CHECKING:
    import torch


def resolve_device(device: str) -> str:
    """`auto` becomes the first GPU or the CPU; anything else must be a device that exists here."""
    if device == "cpu" or (device == "auto" and _is_without_gpu()):
        return "cpu"  # said without torch, whose import takes a second and more
    import torch

    if device == "auto":
        return "cuda:0" if torch.cuda.is_available() else "cpu"
    try:
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        raise InputError(
            f"{setting('device')} {device}: not available on this machine ({first_line(error)})"
        ) from error
    return device


@cache
def _is_without_gpu() -> bool:
    """Whether this is a Linux machine without a driver of a GPU that torch could use."""
    if sys.platform != "linux" or Path("/dev/kfd").exists():
        return False
    try:
        ctypes.CDLL("libcuda.so.1")
    except OSError:
        return True
    return False


def processor(device: torch.device) -> str:
    """What the processor is called that a model runs on, and for a CPU what it can do."""
    if device.type == "cuda":
        import torch

        return torch.cuda.get_device_name(device)
    return cpu() if device.type == "cpu" else device.type


def kind_here(device: str) -> str | None:
    """The catalog's kind of a GPU of this machine; None if there is none, or another."""
    import torch

    if torch.device(device).type != "cuda" or not torch.cuda.is_available():
        return None
    facts = torch.cuda.get_device_properties(device)
    return kind_of(facts.name, facts.total_memory / 1e9)


@cache
def cpu() -> str:
    """What this machine's CPU is called, and what torch uses of it."""
    import torch

    facts, named = Path("/proc/cpuinfo"), ""
    if facts.exists():
        lines = facts.read_text("utf-8", "replace").splitlines()
        named = next((line for line in lines if line.startswith("model name")), "")
    return f"{named} {torch.backends.cpu.get_cpu_capability()}"
