"""Kinds of GPU: memory, speed and price; sources are in the file."""

from __future__ import annotations

import re
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


@cache
def prices_as_of() -> str:
    """The month that the catalog's prices are of."""
    text = (resources.files("steersweep.catalog") / "gpus.yaml").read_text("utf-8")
    return str(yaml.safe_load(text)["prices_as_of"])


def kind_of(device_name: str, memory_gb: float) -> str | None:
    """The catalog's kind of a GPU as the driver names it; None where it is not in the catalog.

    `NVIDIA A100-SXM4-80GB` and `NVIDIA A100 80GB PCIe` are `A100-80GB`; memory decides between
    kinds of one chip.
    """
    words = {*re.split(r"[\s-]+", device_name.upper())}
    if "A10" in words:  # sold as A10 and A10G
        words.add("A10G")
    same_chip = [kind for kind in gpu_catalog() if kind.split("-", maxsplit=1)[0] in words]
    return min(
        same_chip,
        key=lambda kind: abs(gpu_catalog()[kind]["memory_gb"] - memory_gb),
        default=None,
    )
