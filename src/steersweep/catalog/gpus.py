"""Kinds of GPU: memory, speed and price; sources are in the file."""

from __future__ import annotations

from functools import cache
from importlib import resources

import yaml

LOCAL = "local"  # this machine, as a kind of GPU; free unless a plan says otherwise


@cache
def gpu_catalog() -> dict[str, dict[str, float]]:
    """Each kind's dense 16-bit `tflops`, `memory_gb`, `bandwidth_gb_s` and `usd_per_hour`."""
    text = (resources.files("steersweep.catalog") / "gpus.yaml").read_text("utf-8")
    catalog: dict[str, dict[str, float]] = yaml.safe_load(text)["gpus"]
    return catalog
