"""Steer files of lm-evaluation-harness's model `steered`: modules, and what is done with each.

`add` adds `steering_coefficient * steering_vector` to a module's output; `clamp` sets the component
along the vector to the coefficient. Modules are named as seen from `model.base_model`.
"""

from __future__ import annotations

import math
import re
from pathlib import Path
from typing import Any

from steersweep.core.errors import InputError, setting
from steersweep.core.text_files import shown
from steersweep.methods.formats.format import Held, Said, Use, all_tokens, outputs
from steersweep.methods.formats.opened import Opened
from steersweep.methods.formats.torch_files import save
from steersweep.methods.formats.vectors import directions_of, layer_of, vector_of
from steersweep.run.direction import Direction
from steersweep.run.edit_settings import EditSettings, Operation

_VECTOR, _COEFFICIENT, _ACTION = "steering_vector", "steering_coefficient", "action"
_BLOCK = re.compile(r"(?:[A-Za-z_]+\.)*(?:layers|h|blocks)\.(\d{1,6})")
_OTHER_PARTS = re.compile("vision|visual|image|audio|speech|encoder")
_FEATURES = (b"loader,", b"sparse_model", b"feature_index")


class LmEval:
    """See the module."""

    name = "lm-eval"
    suffix = ".pt"

    def recognises(self, file: Opened) -> bool:
        """See `Format`."""
        first = file.data[:1000].partition(b"\n")[0]
        if all(column in first for column in _FEATURES):
            return True
        if not (file.is_torch and isinstance(file.torch, dict)):
            return False
        return any(isinstance(v, dict) and _VECTOR in v for v in file.torch.values())

    def read(self, file: Opened, said: Said) -> Held:
        """See `Format`."""
        if not file.is_torch:
            raise InputError(
                f"{file}: names features of sparse autoencoders, and holds no vectors; let "
                f"lm-evaluation-harness derive its steer config, and save that as .pt"
            )
        vectors, operations = {}, set()
        for name, entry in file.torch.items():
            called = f"{file}: {shown(str(name))}"
            layer = _layer(called, name)
            if layer in vectors:
                raise InputError(f"{called}: layer {layer} is there twice")
            operation, vectors[layer] = _entry(called, entry)
            operations.add(operation)
        if len(operations) > 1:
            raise InputError(f"{file}: adds in some modules and clamps in others")
        found = directions_of(file.path, vectors, said, method=self.name, site="resid_post")
        return Held(found, tuple(vectors), EditSettings(operation=operations.pop(), span="one"))

    def write(self, path: Path, direction: Direction, use: Use) -> list[str]:
        """See `Format`."""
        all_tokens(use, self.name)
        target = use.target
        if target is None:
            raise InputError(f"{self.name}: names modules of a model; give {setting('model')}")
        if use.edit.operation == "affine":
            raise InputError(
                f"{self.name}: {setting('operation')} affine cannot be said in it: what is put "
                f"back rests on prompts"
            )
        removes = use.edit.operation == "remove"
        if use.multiplier is None and not removes:
            raise InputError(
                f"{self.name}: holds the length of the addition; give {setting('multiplier')}"
            )
        if set(str(path)) & set(",="):
            raise InputError(f"{path}: lm_eval takes a name apart at ',' and '='; choose another")
        entry = {
            _VECTOR: direction.vector.detach().cpu(),
            _COEFFICIENT: 0.0 if removes else float(use.multiplier or 0.0),
            _ACTION: "clamp" if removes else "add",
            "bias": None,
            "head_index": None,
        }
        layers, place = outputs(direction, use, self.name), target.layers()
        save(path, {f"{place}.{layer}": entry for layer in layers})
        model = target.source.model_id
        return [
            f"lm_eval --model steered --model_args pretrained={model},steer_path={path} --tasks ..."
        ]


def _layer(called: str, name: Any) -> int:
    block = _BLOCK.fullmatch(name) if isinstance(name, str) else None
    if block is None or _OTHER_PARTS.search(name):
        raise InputError(
            f"{called}: is no decoder layer such as layers.12; what other modules give is not the "
            f"residual stream"
        )
    return layer_of(called, block[1])


def _entry(called: str, entry: Any) -> tuple[Operation, Any]:
    """What is done in a module, and the vector: of an addition, all that is added."""
    if not isinstance(entry, dict) or _VECTOR not in entry or _ACTION not in entry:
        raise InputError(f"{called}: must have {_VECTOR} and {_ACTION}")
    vector = vector_of(f"{called}: {_VECTOR}", entry[_VECTOR])
    coefficient = entry.get(_COEFFICIENT, 1.0)
    if type(coefficient) not in (int, float) or not math.isfinite(coefficient):
        raise InputError(f"{called}: {_COEFFICIENT} is {coefficient!r}, no finite number")
    if entry.get("head_index") is not None:
        raise InputError(f"{called}: head_index: is of an attention head")
    action = entry[_ACTION]
    if action == "add":
        if entry.get("bias") is not None:
            raise InputError(f"{called}: bias: goes with the action clamp alone")
        if not coefficient:
            raise InputError(f"{called}: {_COEFFICIENT} is 0, so nothing is added")
        return "add", vector * coefficient
    if action != "clamp":
        raise InputError(f"{called}: {_ACTION} is {shown(str(action))}; it is add or clamp")
    if coefficient or entry.get("bias") is not None:
        raise InputError(
            f"{called}: clamps a component to a value of its own, which no edit here does; only "
            f"clamping to 0 without a bias is the same as {setting('operation')} remove"
        )
    return "remove", vector
