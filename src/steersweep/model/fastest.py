"""In which precision a model's matrix products are fastest on this CPU, by measuring them.

Only products are timed, of random numbers in the shapes that the model's linear layers have: they
are most of a step, and the rest takes no longer in any of these precisions. So nothing of the model
needs to be loaded, and the same machine gives the same answer, which is kept.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from steersweep.core.precision_labels import INT8_DYNAMIC
from steersweep.core.user_cache import keep, kept
from steersweep.model.architectures import auto_class
from steersweep.model.device import cpu
from steersweep.model.int8 import Int8Linear, multiplies_bytes
from steersweep.model.precision import DTYPES
from steersweep.run.condition import content_key

REFERENCE = "fp32"
_ROWS = 128  # of a batch, which is the usual size in a sweep
_TIMES = 3
# Of a layer with more outputs, such as the output layer, so many are timed.
_MOST_OUTPUTS = 8192
# How much faster another precision must be: of less, what is not measured could take it back.
_WORTH = 1.25
_EXACTNESS = {
    "bf16": "three digits in each number",
    INT8_DYNAMIC: "weights and activations in 255 steps",
}

Shapes = Mapping[tuple[int, int], int]


@dataclass(frozen=True)
class Fastest:
    """What a measurement came to.

    Attributes:
        precision: the fastest, or `fp32` where no other is worth its rounding.
        seconds: of all the model's products for one token of each of 128 rows, by precision.
    """

    precision: str
    seconds: Mapping[str, float]

    @property
    def note(self) -> str:
        """What was chosen, why, and what it costs, for people."""
        whole = self.seconds[REFERENCE]
        others = ", ".join(
            f"{name} {whole / seconds:.1f} ×"
            for name, seconds in self.seconds.items()
            if name != REFERENCE
        )
        measured = (
            f"matrix products here, against fp32: {others}" if others else "nothing else here"
        )
        if self.precision == REFERENCE:
            return f"precision fastest: fp32 ({measured})"
        return (
            f"precision fastest: {self.precision} ({measured}). It rounds to "
            f"{_EXACTNESS[self.precision]}: some answers differ from those of fp32, which stays "
            f"the reference"
        )


def fastest_precision(config: Any) -> Fastest:
    """The fastest of `fp32`, `bf16` and `int8-dynamic` for a model on this machine's CPU.

    Takes some seconds the first time; then it is read from the user's cache.

    Args:
        config: of the model, whose weights are not quantized.
    """
    shapes = linear_shapes(config)
    if not shapes:
        return Fastest(REFERENCE, {REFERENCE: 0.0})
    found = [[*shape, count] for shape, count in sorted(shapes.items())]
    can = f"{cpu()} {multiplies_bytes()}"
    key = content_key([can, torch.get_num_threads(), torch.__version__, found])
    file = f"precisions/{key}.json"
    seconds = kept(file)
    if not isinstance(seconds, dict) or not seconds.get(REFERENCE):
        seconds = measured(shapes)
        keep(file, seconds)
    return Fastest(chosen(seconds), seconds)


def chosen(seconds: Mapping[str, float]) -> str:
    """The fastest precision, if it is worth its rounding."""
    best = min(seconds, key=seconds.__getitem__)
    return best if seconds[REFERENCE] > _WORTH * seconds[best] else REFERENCE


def linear_shapes(config: Any) -> Counter[tuple[int, int]]:
    """How many linear layers a model has of each shape, outputs by inputs.

    None where only its output layer is one, and others are of kinds that are not measured.
    """
    with torch.device("meta"):
        network = auto_class(config, config.name_or_path).from_config(config)
    layers = [module for module in network.modules() if type(module) is nn.Linear]
    if all(layer is network.get_output_embeddings() for layer in layers):
        return Counter()
    return Counter((layer.out_features, layer.in_features) for layer in layers)


@torch.inference_mode()
def measured(shapes: Shapes) -> dict[str, float]:
    """Seconds of a step's products in each precision that this machine has."""
    total: dict[str, float] = {}
    for (outputs, inputs), count in shapes.items():
        timed = min(outputs, _MOST_OUTPUTS)
        layer = nn.Linear(inputs, timed, bias=False)
        tokens = torch.randn(_ROWS, inputs)
        for name, seconds in _of_layer(layer, tokens).items():
            total[name] = total.get(name, 0.0) + count * seconds * outputs / timed
    return total


def _of_layer(layer: nn.Linear, tokens: Tensor) -> dict[str, float]:
    """Seconds of one layer, the ways in turn, so that a busy machine is as busy for each."""
    half = nn.Linear(layer.in_features, layer.out_features, bias=False, dtype=DTYPES["bf16"])
    ways: dict[str, tuple[nn.Module, Tensor]] = {
        REFERENCE: (layer, tokens),
        "bf16": (half, tokens.to(DTYPES["bf16"])),
    }
    if multiplies_bytes():
        ways[INT8_DYNAMIC] = (Int8Linear(layer), tokens)
    best = dict.fromkeys(ways, float("inf"))
    for turn in range(_TIMES + 1):
        for name, (module, inputs) in ways.items():
            started = time.perf_counter()
            module(inputs)
            if turn:  # the first one sets up
                best[name] = min(best[name], time.perf_counter() - started)
    return best
