"""Engines by the options of `run` and `smoke --all`."""

from __future__ import annotations

from typing import TYPE_CHECKING

from steersweep.core.errors import InputError

if TYPE_CHECKING:
    from steersweep.engines.engine import Engine


def check_engine(name: str, ray_address: str | None, ray_storage: str | None) -> None:
    """See that there is such an engine, and that Ray's options go with it."""
    if name not in ("local", "ray", "modal"):
        raise InputError(f"--engine {name}: choose local, ray or modal")
    if name != "ray" and (ray_address or ray_storage):
        raise InputError("--ray-address and --ray-storage go with --engine ray")


def check_budget(usd: float | None) -> None:
    """See that a hard stop is an amount of money."""
    if usd is not None and not 0 <= usd < float("inf"):
        raise InputError(f"--budget {usd}: must be 0 or more USD")


def engine_here(name: str, device: str, address: str | None, storage: str | None) -> Engine:
    """The engine that this process leads: `local` or `ray`."""
    from steersweep.engines.local import local_engine
    from steersweep.engines.ray import RayEngine

    return local_engine(device) if name == "local" else RayEngine(address, storage)
