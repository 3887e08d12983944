"""Versions of what results depend on, and how two machines differ in them."""

from __future__ import annotations

import platform
from collections.abc import Mapping
from importlib import metadata

# Each that both machines have must be the same; the first ones must be there.
_NEEDED = ("torch", "transformers", "tokenizers", "safetensors", "numpy")
_IF_BOTH = ("accelerate", "bitsandbytes")


def versions() -> dict[str, str]:
    """Versions on this machine by name; nothing is imported for it."""
    import steersweep

    found = {"python": ".".join(platform.python_version_tuple()[:2])}
    found["steersweep"] = steersweep.__version__
    for name in (*_NEEDED, *_IF_BOTH):
        try:
            # torch 2.9.0+cpu and 2.9.0+cu128 are one version for two kinds of machine.
            found[name] = metadata.version(name).split("+")[0]
        except metadata.PackageNotFoundError:
            continue
    return found


def differences(there: Mapping[str, str], here: Mapping[str, str]) -> list[str]:
    """What differs, in words such as `torch 2.8.0 there, 2.9.0 here`."""
    return [
        f"{name} {there.get(name, 'missing')} there, {here.get(name, 'missing')} here"
        for name in ("python", "steersweep", *_NEEDED, *_IF_BOTH)
        if there.get(name) != here.get(name)
        and (name not in _IF_BOTH or (name in there and name in here))
    ]
