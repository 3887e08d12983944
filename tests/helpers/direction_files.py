"""Files with directions as other tools write them."""

from __future__ import annotations

import json
import sys
import types
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import torch
from torch import Tensor

from conftest import lab
from steersweep import Direction
from steersweep.run.direction import unit_direction

MODEL = "lab:qwen-7b"
LAYERS, WIDTH = 7, lab("qwen-7b").d_model


def direction(layer: int = 3, site: str = "resid_post", seed: int = 0) -> Direction:
    vector = torch.randn(WIDTH, generator=torch.Generator().manual_seed(seed))
    return unit_direction(
        vector,
        method="dim",
        layer=layer,
        position=-1,
        residual_norm=30.0,
        model_id=MODEL,
        model_fingerprint="",
        precision="fp32",
        prompts="p@sha256:0",
        site=site,
    )


def vectors(count: int = 2) -> dict[int, np.ndarray[Any, Any]]:
    made = np.random.default_rng(1).normal(size=(count, WIDTH)).astype(np.float32)
    return {layer + 2: made[layer] for layer in range(count)}


def write_control_vector(
    path: Path,
    tensors: Mapping[str, np.ndarray[Any, Any]],
    *,
    architecture: str = "controlvector",
    fields: Mapping[str, str | int] | None = None,
) -> Path:
    writer = gguf.GGUFWriter(path, architecture)
    for key, value in (fields or {}).items():
        (writer.add_uint32 if isinstance(value, int) else writer.add_string)(key, value)
    for name, numbers in tensors.items():
        writer.add_tensor(name, numbers)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def by_layer(numbers: Mapping[int, np.ndarray[Any, Any]]) -> dict[str, np.ndarray[Any, Any]]:
    return {f"direction.{layer}": vector for layer, vector in numbers.items()}


def easysteer(component: str | None) -> dict[str, str | int]:
    native = {"version": 1, "component": component, "metadata": {"mapping": []}}
    fields = {"controlvector.model_hint": "qwen2", "controlvector.method": "diffmean"}
    return {**fields, "controlvector.easysteer": json.dumps(native)}


@dataclass
class SteeringVector:
    """The fields of the package's class."""

    layer_activations: dict[int, Tensor]
    layer_type: str = "decoder_block"


def pickled_steering_vector(path: Path, made: SteeringVector) -> Path:
    """As `torch.save(steering_vector)` writes it where the package is installed."""
    module = types.ModuleType("steering_vectors.steering_vector")
    where = {"__module__": module.__name__, "__qualname__": "SteeringVector"}
    named = type("SteeringVector", (SteeringVector,), where)
    module.SteeringVector = named
    names = ("steering_vectors", module.__name__)
    sys.modules.update(dict.fromkeys(names, module))
    try:
        torch.save(named(made.layer_activations, made.layer_type), path)
    finally:
        for name in names:
            del sys.modules[name]
    return path


def tensors_of(numbers: Mapping[int, np.ndarray[Any, Any]]) -> dict[int, Tensor]:
    return {layer: torch.from_numpy(vector) for layer, vector in numbers.items()}
