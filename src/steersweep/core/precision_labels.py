"""Labels of precisions, as results name them, and what a label says of size and arithmetic.

`fp32`, `bf16` and `fp16` are ordinary numbers; `int8` and `int4` a full checkpoint quantized as it
is loaded, and so is `int8-dynamic`, on a CPU. A checkpoint that is quantized already is called by
how its weights are stored, `gptq-int4` or `mxfp4`, and, where they are turned into ordinary numbers
as they are loaded, by what runs too: `mxfp4-as-fp32`. So is a GGUF file, by the type that most of
its weights have: `Q4_K-as-fp32`.
"""

from __future__ import annotations

import re

_AS = "-as-"
# Weights in eight bits by output, activations in eight bits by token, on a CPU.
INT8_DYNAMIC = "int8-dynamic"
# What a sweep may be asked for in place of a label: that which is fastest on a CPU.
FASTEST = "fastest"
# Bytes per weight by what is stored; scales of small blocks are included.
_STORED_BYTES = (
    (re.compile(r"(mxfp4|nf4|fp4)$"), 0.53),
    (re.compile(r"(fp|mxfp|float)8$"), 1.03),
    (re.compile(r"^bitnet"), 0.27),
)
_BITS = re.compile(r"int(\d+)")


def label(stored: str, runs_as: str | None) -> str:
    """A label in full."""
    return stored if runs_as is None else f"{stored}{_AS}{runs_as}"


def runs_as(precision: str) -> str:
    """What runs: `fp32` of `mxfp4-as-fp32`, else the precision itself."""
    return precision.rsplit(_AS, maxsplit=1)[-1]


def logit_tolerance(precision: str) -> float:
    """Largest difference of logits, as a share of the largest, of two ways to compute the same.

    Sixteen and fewer bits round by the batch's shape.
    """
    return 1e-3 if runs_as(precision) == "fp32" else 0.1


def shown_precision(precision: str) -> str:
    """A label for people: `Q4_1 → fp32` for `Q4_1-as-fp32`."""
    return precision.replace(_AS, " → ")


def running_as(precision: str, what: str) -> str:
    """The label of the same checkpoint where it runs as something else."""
    stored, mark, _ = precision.rpartition(_AS)
    return f"{stored}{mark}{what}"


def is_quantized(precision: str) -> bool:
    """Whether weights stay quantized while the model runs."""
    return runs_as(precision) not in ("fp32", "bf16", "fp16")


def rounds_activations_by_batch(precision: str) -> bool:
    """Whether a row's numbers depend on its neighbours: LLM.int8() looks at the whole batch."""
    return runs_as(precision) in ("int8", "bnb-int8")


def stored_bytes(precision: str) -> float:
    """Bytes per weight of the linear layers of a model that stays quantized."""
    bits = _BITS.search(precision)
    if bits:
        return int(bits[1]) / 8 + (0.01 if bits[1] == "8" else 0.03)
    return next((size for kind, size in _STORED_BYTES if kind.search(precision)), 1.0)
