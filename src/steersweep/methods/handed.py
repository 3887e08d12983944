"""Directions that somebody hands in: they stand for a method, with its controls."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

from steersweep.core.errors import InputError, setting
from steersweep.methods.formats.reading import DirectionFile, read_direction_file
from steersweep.methods.method import Found, Given
from steersweep.prompts.prompts import DIM_EXTRACTION_SET, ExtractionSet
from steersweep.run.condition import content_key
from steersweep.run.edit_settings import EditSettings

if TYPE_CHECKING:
    from steersweep.model.chat_model import ChatModel
    from steersweep.run.direction import Direction

_NO_NAME = re.compile(r"[^A-Za-z0-9._-]+")
_LONGEST = 64


@dataclass(frozen=True)
class Handed:
    """The directions of a file, which go to where a job runs with it.

    Attributes:
        name: what results call it, after its file.
        file: where it lies.
        code: hash of the directions.
        held: what the file holds.
    """

    name: str
    file: str
    code: str
    held: DirectionFile = field(compare=False, repr=False)

    def __str__(self) -> str:
        return self.file

    def load(self) -> HandedIn:
        """What stands for a method."""
        return HandedIn(self.name, self.file, self.held.directions)

    def check_edit(self, edit: EditSettings) -> None:
        """See that an edit can be made with these directions.

        Raises:
            InputError: an affine one, and the file does not say where in a prompt they were read.
        """
        unknown = any(one.position is None for one in self.held.directions.values())
        if edit.operation == "affine" and unknown:
            raise InputError(
                f"{self.file}: does not say at which prompt position it was read, which "
                f"{setting('operation')} affine needs; steersweep convert takes it with "
                f"{setting('position')}"
            )

    @property
    def notes(self) -> tuple[str, ...]:
        """What a user should know."""
        notes = [*self.held.notes]
        if len(self.held.directions) == 1:
            one = self.held.one()
            notes.append(f"its direction, of layer {one.layer}, is tried at every layer asked for")
            notes += self.held.as_there(one)
        return tuple(f"{self.file}: {note}" for note in notes)


@dataclass(frozen=True, eq=False)
class HandedIn:
    """See `Method`; the prompts are of use to affine edits alone."""

    name: str
    file: str
    directions: Mapping[int, Direction]
    chooses_layer: bool = False
    default_prompts: str = DIM_EXTRACTION_SET

    def find(
        self, _chat: ChatModel, _prompts: ExtractionSet, layers: Sequence[int], _given: Given
    ) -> Found:
        """Each layer's direction, where there are several; or the only one at every layer."""
        if len(self.directions) == 1:
            one = next(iter(self.directions.values()))
            found = {layer: replace(one, layer=layer, method=self.name) for layer in layers}
            return Found(found)
        there = {
            layer: replace(self.directions[layer], method=self.name)
            for layer in layers
            if layer in self.directions
        }
        missing = {
            layer: f"layer {layer}: {self.file} holds no direction of it"
            for layer in layers
            if layer not in there
        }
        return Found(there, missing=missing)


def handed_in(files: Sequence[str | Path]) -> tuple[Handed, ...]:
    """The directions of files, each named after its file; after its folder too where others clash.

    Raises:
        InputError: a file cannot be read, or does not say what has to be known; a file is given
            twice.
    """
    paths = [Path(file) for file in files]
    stems = [_name(path.stem) for path in paths]
    names = [
        name if stems.count(name) == 1 else _name(f"{path.absolute().parent.name}-{path.stem}")
        for name, path in zip(stems, paths, strict=True)
    ]
    for index, name in enumerate(names):
        if name in names[:index]:
            first = paths[names.index(name)]
            raise InputError(
                f"{paths[index]}: would be called {name} in results, as {first} is; give it once, "
                f"or give it another name"
            )
    found = []
    for name, path in zip(names, paths, strict=True):
        held = read_direction_file(path)
        code = content_key([[layer, one.key] for layer, one in held.directions.items()])
        found.append(Handed(name, str(path), code, held))
    return tuple(found)


def _name(text: str) -> str:
    """A text as a method may be called."""
    return (_NO_NAME.sub("-", text).lstrip("._-") or "direction")[:_LONGEST]
