"""`direction.pt` and `direction_metadata.json`, of Arditi et al.'s and of COSMIC's code.

A raw difference of means, harmful minus harmless, at a position of the prompt (`pos`) and at the
input of a decoder layer (`layer`), which counts from 0. Their code adds it there, as long as it
is, or takes it out of everything that any layer reads or writes.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from steersweep.core.atomic import write_json
from steersweep.core.errors import InputError, setting
from steersweep.methods.formats.format import Held, Said, Use
from steersweep.methods.formats.opened import Opened
from steersweep.methods.formats.torch_files import save
from steersweep.methods.formats.vectors import directions_of, layer_of, vector_of
from steersweep.run.direction import Direction
from steersweep.run.edit_settings import EditSettings

_MOST_BACK = -10_000


class Arditi:
    """See the module."""

    name = "arditi"
    suffix = ".pt"

    def recognises(self, file: Opened) -> bool:
        """See `Format`."""
        return file.is_torch and os.path.lexists(_metadata(file.path))

    def read(self, file: Opened, said: Said) -> Held:
        """See `Format`."""
        beside = Opened(_metadata(file.path))
        facts = beside.json
        if not isinstance(facts, dict):
            raise InputError(f"{beside}: is a {type(facts).__name__}, no object with pos and layer")
        if missing := {"pos", "layer"} - facts.keys():
            raise InputError(f"{beside}: {sorted(missing)[0]} is missing")
        position = facts["pos"]
        if type(position) is not int or not _MOST_BACK <= position < 0:
            raise InputError(
                f"{beside}: pos is {position!r}; positions count from the end: -1, -2, ..."
            )
        layer = layer_of(str(beside), facts["layer"] if type(facts["layer"]) is int else None)
        vector = vector_of(str(file), file.torch)
        found = directions_of(
            file.path,
            {layer: vector},
            said,
            method=self.name,
            site="resid_pre",
            position=position,
        )
        return Held(found, (layer,), EditSettings(site="resid_pre", span="one"))

    def write(self, path: Path, direction: Direction, use: Use) -> list[str]:
        """See `Format`."""
        if use.edit.operation == "affine" or use.edit.positions != "all":
            raise InputError(f"{self.name}: its code adds or removes, at all tokens; no {use.edit}")
        if direction.position is None:
            raise InputError(
                f"{self.name}: holds the prompt position that a direction was read at, which is "
                f"not known of this one; give {setting('position')}"
            )
        layer = _input(direction, use)
        raw = direction.vector.double() * direction.raw_norm
        facts: dict[str, Any] = {"pos": direction.position, "layer": layer}
        save(path, raw)
        write_json(_metadata(path), facts)
        shown = "MULTIPLIER / " if use.multiplier is None else f"{use.multiplier:g} / "
        return [
            f"{_metadata(path)}: beside it, pos {direction.position} and layer {layer}, at whose "
            f"input it was read",
            f"there: (model_base.model_block_modules[{layer}], "
            f"get_activation_addition_input_pre_hook(vector=direction, "
            f"coeff={shown}{direction.raw_norm:g}))",
            f"the same here: --layer {layer} --site resid_pre --span one",
        ]


def _metadata(path: Path) -> Path:
    return path.with_name(f"{path.stem}_metadata.json")


def _input(direction: Direction, use: Use) -> int:
    """The layer at whose input a direction was read."""
    if direction.site == "resid_pre":
        return direction.layer
    if use.target is None:
        raise InputError(
            f"arditi: holds directions of layers' inputs, and this one is of the output of layer "
            f"{direction.layer}; give {setting('model')}, so that it is seen that a layer follows"
        )
    if direction.layer + 1 >= use.target.n_layers:
        raise InputError(
            "arditi: holds directions of layers' inputs, and this one is of the last layer's output"
        )
    return direction.layer + 1
