"""Reads directions from a file of any format, by what the file holds and not by its name."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from steersweep.core.errors import InputError, setting
from steersweep.methods.formats.format import FORMATS, NOTHING, Said
from steersweep.methods.formats.opened import Opened
from steersweep.run.direction import Direction
from steersweep.run.edit_settings import EditSettings


@dataclass(frozen=True, eq=False)
class DirectionFile:
    """The directions in a file.

    Attributes:
        path: of the file.
        format: its format's name.
        directions: by decoder layer, the first is 0.
        layers: that it has vectors for; see `Held`.
        used: what the tool whose format it is does with them; see `Held`.
        notes: what a user should know.
        said: what the user said of it.
    """

    path: Path
    format: str
    directions: Mapping[int, Direction]
    layers: tuple[int, ...]
    used: EditSettings | None
    notes: tuple[str, ...]
    said: Said = NOTHING

    def one(self, layer: int | None = None) -> Direction:
        """The only direction, or that of a layer where there are several.

        Raises:
            InputError: several, and no layer is given or none is of that one.
        """
        if len(self.directions) == 1:
            return next(iter(self.directions.values()))
        there = ", ".join(map(str, self.directions))
        if layer is None:
            raise InputError(
                f"{self.path}: holds a direction for each of the layers {there}; choose one with "
                f"{setting('layer')}"
            )
        if layer not in self.directions:
            raise InputError(f"{self.path}: holds no direction of layer {layer}; it has {there}")
        return self.directions[layer]

    def check_fits(self, model_id: str, n_layers: int, d_model: int) -> None:
        """See that a model is as wide and as deep as the file says.

        Raises:
            InputError: it is not; names the file.
        """
        for layer, direction in self.directions.items():
            of = f"{self.path}: a direction{_of(direction)}"
            if direction.vector.numel() != d_model:
                raise InputError(
                    f"{of}, {direction.vector.numel()} wide; the residual stream of {model_id} is "
                    f"{d_model} wide, so use a direction that was extracted from it"
                )
            if layer >= n_layers:
                raise InputError(f"{of}, layer {layer}; {model_id} has layers 0 to {n_layers - 1}")

    def as_there(self, direction: Direction) -> tuple[str, ...]:
        """How to do with a direction what its own tool does, if that is known."""
        if self.used is None:
            return ()
        edit, first, last = self.used, min(self.layers), max(self.layers)
        own = direction.raw_norm / (self.said.scale or 1.0) * (self.said.sign or 1)
        length = "" if edit.operation == "remove" else f" --multiplier {own:g}"
        where, span, others = f"layer {direction.layer}", edit.span, ""
        if len(self.directions) > 1 or (self.said.layer is not None and first < last):
            others = f"; it has others for {len(self.layers) - 1} more layers"
        elif first < last:
            where, span = f"layers {first} to {last}", "to-end"
        return (
            f"its own tool would, at {where}: --operation {edit.operation} --site {edit.site} "
            f"--span {span}{length}{others}",
        )


def read_direction_file(path: Path, said: Said = NOTHING) -> DirectionFile:
    """The directions in a file, whatever tool wrote it.

    Args:
        path: of the file.
        said: what the user says of it, where it does not say so itself.

    Raises:
        InputError: it cannot be read, is damaged, is of no known format, or does not say what has
            to be known; the message names the file and the field.
    """
    file = Opened(path)
    for name in FORMATS.names:
        one = FORMATS.get(name)
        if one.recognises(file):
            held = one.read(file, said)
            return DirectionFile(
                path, name, held.directions, held.layers, held.used, held.notes, said
            )
    raise InputError(
        f"{path}: is no file with a direction; {FORMATS} are read, and what they are is in "
        f"docs/exchange.md"
    )


def _of(direction: Direction) -> str:
    return f" of {direction.model_id}" if direction.model_id else ""
