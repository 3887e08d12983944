"""This package's own files: safetensors with every fact of a direction, and a digest."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

from steersweep.core.digests import FIELD, Damaged
from steersweep.core.errors import InputError
from steersweep.methods.formats.format import Held, Said, Use
from steersweep.methods.formats.opened import Opened
from steersweep.methods.formats.vectors import agreed
from steersweep.run.direction import Direction


class Ours:
    """See the module."""

    name = "steersweep"
    suffix = ".safetensors"

    def recognises(self, file: Opened) -> bool:
        """See `Format`."""
        if not file.is_safetensors:
            return False
        size = int.from_bytes(file.data[:8], "little")
        try:
            header = json.loads(file.data[8 : 8 + min(size, len(file.data))])
        except (ValueError, RecursionError):
            return True  # cut or damaged; `read` says so
        held = header.get("__metadata__") if isinstance(header, dict) else None
        return isinstance(held, dict) and FIELD in held

    def read(self, file: Opened, said: Said) -> Held:
        """See `Format`."""
        try:
            found = Direction.of(file.data)
        except Damaged as error:
            raise InputError(f"{file}: cannot be used as a direction: {error}") from error
        agreed(file.path, "layer", found.layer, said.layer)
        agreed(file.path, "site", found.site, said.read_at)
        agreed(file.path, "position", found.position, said.position)
        if said.scale is not None:
            raise InputError(f"{file}: its lengths are in units of the residual stream already")
        if said.sign == -1:
            found = replace(found, vector=-found.vector)
        if said.position is not None:
            found = replace(found, position=said.position)
        return Held({found.layer: found}, (found.layer,))

    def write(self, path: Path, direction: Direction, _use: Use) -> list[str]:
        """See `Format`."""
        direction.save(path)
        return [
            f"steersweep generate MODEL --direction {path} --strength 0.1 --prompt ...",
            f"steersweep sweep MODEL --directions {path}",
        ]
