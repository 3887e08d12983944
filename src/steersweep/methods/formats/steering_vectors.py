"""Files of the package steering-vectors: its `SteeringVector`, pickled or as its fields.

`layer_activations` are vectors by layer, which counts from 0 and, where negative, from the end;
`layer_type` says of which part of a layer. Each is added to that part's output.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from steersweep.core.errors import InputError
from steersweep.core.text_files import shown
from steersweep.methods.formats.format import Held, Said, Use, only_add, outputs
from steersweep.methods.formats.opened import Opened
from steersweep.methods.formats.torch_files import save
from steersweep.methods.formats.vectors import directions_of, layer_of, vector_of
from steersweep.run.direction import Direction
from steersweep.run.edit_settings import EditSettings

_LAYERS, _TYPE, _BLOCK = "layer_activations", "layer_type", "decoder_block"


class SteeringVectors:
    """See the module."""

    name = "steering-vectors"
    suffix = ".pt"

    def recognises(self, file: Opened) -> bool:
        """See `Format`."""
        return file.is_torch and isinstance(file.torch, dict) and _LAYERS in file.torch

    def read(self, file: Opened, said: Said) -> Held:
        """See `Format`."""
        fields: dict[Any, Any] = file.torch
        kind = fields.get(_TYPE)
        if kind != _BLOCK:
            raise InputError(
                f"{file}: {_TYPE} is {shown(str(kind))}; only those of a {_BLOCK} are directions "
                f"of the residual stream"
            )
        held = fields[_LAYERS]
        if not isinstance(held, dict):
            raise InputError(f"{file}: {_LAYERS} is a {type(held).__name__}, no vectors by layer")
        vectors = {}
        for key, value in held.items():
            called = f"{file}: {_LAYERS}[{shown(str(key), 20)[1:-1]}]"
            vectors[layer_of(called, key if type(key) is int else None)] = vector_of(called, value)
        found = directions_of(file.path, vectors, said, method=self.name, site="resid_post")
        return Held(found, tuple(vectors), EditSettings(span="one"))

    def write(self, path: Path, direction: Direction, use: Use) -> list[str]:
        """See `Format`."""
        only_add(use, self.name)
        layers = outputs(direction, use, self.name)
        vector = direction.vector.detach().cpu()
        save(path, {_LAYERS: {layer: vector.clone() for layer in layers}, _TYPE: _BLOCK})
        return [
            f"vector = SteeringVector(**torch.load({str(path)!r}, weights_only=True))",
            f"with vector.apply(model, multiplier={use.length}): model.generate(...)",
        ]
