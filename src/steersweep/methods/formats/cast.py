"""`.svec` files of IBM's activation-steering (conditional activation steering, CAST): JSON.

`directions` are vectors by layer, which counts from 0. They are read at the output of that layer
and, when used, added at its *input*, in float16, to the first row of a batch.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from steersweep.core.atomic import write_json
from steersweep.core.errors import InputError
from steersweep.core.text_files import shown
from steersweep.methods.formats.format import Held, Said, Use, inputs, only_add
from steersweep.methods.formats.opened import Opened
from steersweep.methods.formats.vectors import directions_of, layer_of, vector_of
from steersweep.run.direction import Direction
from steersweep.run.edit_settings import EditSettings


class Cast:
    """See the module."""

    name = "cast"
    suffix = ".svec"

    def recognises(self, file: Opened) -> bool:
        """See `Format`."""
        if file.path.suffix == self.suffix:
            return True
        return file.is_json and isinstance(file.json, dict) and "directions" in file.json

    def read(self, file: Opened, said: Said) -> Held:
        """See `Format`."""
        value: Any = file.json
        held = value.get("directions") if isinstance(value, dict) else None
        if not isinstance(held, dict):
            raise InputError(f"{file}: directions: must be an object of vectors by layer")
        hint = value.get("model_type", "")
        if not isinstance(hint, str):
            raise InputError(f"{file}: model_type: is {shown(str(hint))}, no text")
        vectors = {}
        for key, numbers in held.items():
            called = f"{file}: directions.{shown(key, 20)[1:-1]}"
            vectors[layer_of(called, key)] = vector_of(called, numbers)
        found = directions_of(
            file.path, vectors, said, method=self.name, site="resid_post", model=hint
        )
        return Held(
            found,
            tuple(vectors),
            EditSettings(site="resid_pre", span="one"),
            ("read at each layer's output; its own tool adds it at the same layer's input",),
        )

    def write(self, path: Path, direction: Direction, use: Use) -> list[str]:
        """See `Format`."""
        only_add(use, self.name)
        layers = inputs(direction, use, self.name)
        if path.suffix != self.suffix:
            raise InputError(f"{path}: its tool reads names that end in {self.suffix}")
        vector = direction.vector.detach().cpu().double().tolist()
        hint = use.target.model_type if use.target else direction.model_id
        directions = {str(layer): vector for layer in layers}
        write_json(path, {"model_type": hint, "directions": directions, "explained_variances": {}})
        return [
            f"vector = SteeringVector.load({str(path)!r})",
            f"model.steer(behavior_vector=vector, behavior_vector_strength={use.length}, "
            f"behavior_layer_ids=list(range({layers[0]}, {layers[-1] + 1})))  # at their inputs",
        ]
