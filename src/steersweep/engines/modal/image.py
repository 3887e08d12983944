"""What containers on Modal are made of: the pinned libraries, and this package as source."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from functools import cache
from importlib import metadata
from pathlib import Path
from typing import Any

import steersweep
from steersweep.core.errors import InputError
from steersweep.engines.modal.remote import HUB


def container_image(modal: Any) -> Any:
    """The libraries this project is tested with, and this package as source."""
    return (
        modal.Image.debian_slim(python_version=f"{sys.version_info.major}.{sys.version_info.minor}")
        .pip_install(*pinned_requirements(("gguf", "nnsight", "quant")))
        .env({"HF_HOME": HUB, "TOKENIZERS_PARALLELISM": "false"})
        .add_local_python_source("steersweep", ignore=["**/__pycache__"])  # with its data
    )


@cache
def pinned_requirements(extras: tuple[str, ...] = ()) -> tuple[str, ...]:
    """What an installation of this package with extras brings, in the versions it is tested with.

    Modal brings its own client into every container.

    Raises:
        InputError: the list of versions is not there.
    """
    pins = _locked_versions()
    found: dict[str, str] = {}
    waiting = [("steersweep", extras)]
    while waiting:
        name, wanted = waiting.pop()
        for requirement in metadata.requires(name) or []:
            required, wanted_here = _parsed(requirement, wanted)
            # What is not in the list comes with what is, in a version that this one chooses.
            if required in pins and required not in found and wanted_here:
                found[required] = pins[required]
                waiting.append((required, ()))
    return tuple(
        sorted(f"{name}=={version}" if version else name for name, version in found.items())
    )


def _parsed(requirement: str, extras: tuple[str, ...]) -> tuple[str, bool]:
    """Name of a requirement, and whether it is wanted on Linux with these extras."""
    from packaging.requirements import Requirement

    parsed = Requirement(requirement)
    environment = {"sys_platform": "linux", "platform_system": "Linux", "os_name": "posix"}
    name = parsed.name.lower().replace("_", "-")
    if parsed.marker is None:
        return name, True
    wanted = any(parsed.marker.evaluate({**environment, "extra": extra}) for extra in ("", *extras))
    return name, wanted


def _locked_versions() -> Mapping[str, str]:
    """The versions in `constraints.txt`, which lies in the package, or above it in a checkout."""
    package = Path(steersweep.__file__).parent
    for file in (package / "constraints.txt", package.parents[1] / "constraints.txt"):
        if file.is_file():
            lines = (line.strip() for line in file.read_text("utf-8").splitlines())
            pairs = (line.split("==") for line in lines if line and not line.startswith("#"))
            return {name.lower().replace("_", "-"): version for name, version in pairs}
    raise InputError("constraints.txt: not found in the package; install steersweep again")
