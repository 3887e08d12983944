"""Facts about the code and machine behind a result."""

from __future__ import annotations

import datetime
import functools
import os
import platform
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch

_FACTS = (".dist-info", ".egg-info")


def utc_now() -> str:
    """The time in UTC, to the second: `2026-02-13T10:00:00Z`."""
    return datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def facts(device: torch.device) -> dict[str, Any]:
    """Versions, commit and hardware that produced a result."""
    import torch
    import transformers

    import steersweep

    return {
        "steersweep": steersweep.__version__,
        "git_commit": git_commit(),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "transformers": transformers.__version__,
        "device": device_name(device),
        "threads": torch.get_num_threads() if device.type == "cpu" else None,
    }


def device_name(device: torch.device) -> str:
    """The GPU's name, or `cpu`."""
    import torch

    return torch.cuda.get_device_name(device) if device.type == "cuda" else device.type


@functools.cache
def packages() -> list[str]:
    """Every package that this Python finds, with its version: names of the folders of their facts.

    Libraries may use others where these are there, so any of them may change what a model computes.
    """
    found = set()
    for place in sys.path:
        try:
            found |= {name for name in os.listdir(place or ".") if name.endswith(_FACTS)}
        except OSError:
            continue  # an archive, or a place that is not there
    return sorted(found)


@functools.cache
def git_commit() -> str | None:
    """Commit of the checkout this package runs from, `-dirty` if edited; None when installed."""
    folder = Path(__file__).resolve().parent

    def git(*arguments: str) -> str:
        command = ["git", "-C", str(folder), *arguments]
        done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=10)
        return done.stdout.strip()

    try:
        # An installed copy may lie inside somebody else's repository: it must track this file.
        git("ls-files", "--error-unmatch", Path(__file__).name)
        return git("rev-parse", "HEAD") + ("-dirty" if git("status", "--porcelain", ".") else "")
    except (OSError, subprocess.SubprocessError):
        return None
