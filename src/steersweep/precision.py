"""In which precision a model runs: 16 and 32 bits, bitsandbytes' 8 and 4, quantized checkpoints.

`int8` is LLM.int8(), `int4` is NF4; both quantize the linear layers of a full checkpoint as it is
loaded and leave embeddings and the output layer alone.
"""

from __future__ import annotations

import logging
from importlib.util import find_spec
from typing import Any

import torch

from steersweep.errors import InputError

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
QUANTIZED = ("int8", "int4")
PRECISIONS = (*DTYPES, *QUANTIZED)

# What transformers needs beside itself for checkpoints that are quantized already.
_LIBRARIES = {"gptq": "gptqmodel", "awq": "gptqmodel", "bitsandbytes": "bitsandbytes"}


def resolve_precision(precision: str, config: Any, device: str) -> str:
    """`auto` made definite, and a precision that contradicts the checkpoint refused.

    `auto` is the checkpoint's own where it is quantized; else float32 on a CPU, and the
    checkpoint's 16-bit type (else bf16) on a GPU.

    Raises:
        InputError: unknown precision, or another one than a quantized checkpoint has.
    """
    if precision not in ("auto", *PRECISIONS):
        raise InputError(f"--precision {precision}: choose one of auto, {', '.join(PRECISIONS)}")
    own = checkpoint_precision(config)
    if own is not None:
        if precision not in ("auto", own):
            raise InputError(
                f"--precision {precision}: the checkpoint is already quantized "
                f"({_method(config)}, {own}); use --precision auto, or its full checkpoint"
            )
        return own
    return _unquantized(config, device) if precision == "auto" else precision


def checkpoint_precision(config: Any) -> str | None:
    """`int8` or `int4` where a checkpoint is quantized already, else None.

    Raises:
        InputError: it is quantized to another number of bits.
    """
    facts = _quantization(config)
    if not facts:
        return None
    bits = facts.get("bits") or (4 if facts.get("load_in_4bit") else 8)
    if f"int{bits}" not in QUANTIZED:
        raise InputError(f"the checkpoint is quantized to {bits} bits; 8 and 4 are supported")
    return f"int{bits}"


def check_usable(precision: str, config: Any, device: str) -> None:
    """Refuse a precision that cannot run on this machine, before anything is downloaded.

    Raises:
        InputError: a library is missing; the message names it.
    """
    if precision not in QUANTIZED:
        return
    method = _method(config) if _quantization(config) else "bitsandbytes"
    library = _LIBRARIES.get(method)
    if library is not None and find_spec(library) is None:
        extra = "'steersweep[quant]'" if library == "bitsandbytes" else library
        raise InputError(
            f"--precision {precision}: needs {library} ({method}), which is not installed: "
            f"pip install {extra}"
        )
    kind = torch.device(device).type
    if method in ("gptq", "awq") and kind == "cpu":
        raise InputError(f"--precision {precision}: {method} checkpoints need a CUDA device")


def load_options(precision: str, config: Any, device: str) -> dict[str, Any]:
    """Options of `from_pretrained` for a precision."""
    if precision not in QUANTIZED:
        return {"dtype": DTYPES[precision]}
    # Activations of quantized models stay in the type the device computes in.
    dtype = DTYPES[_unquantized(config, device)]
    if _quantization(config):
        return {"dtype": dtype}
    from transformers import BitsAndBytesConfig

    # It warns at every call that inputs are cast, which is what LLM.int8() does.
    logging.getLogger("bitsandbytes").setLevel(logging.ERROR)
    if precision == "int8":
        return {"dtype": dtype, "quantization_config": BitsAndBytesConfig(load_in_8bit=True)}
    settings = BitsAndBytesConfig(
        load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_compute_dtype=dtype
    )
    return {"dtype": dtype, "quantization_config": settings}


def settle(network: Any) -> None:
    """Make a loaded model's arithmetic the same on every CPU.

    bitsandbytes repacks 4-bit weights on processors with AVX512-BF16 at their first use, for widths
    divisible by 64 alone; without that, results do not depend on the processor.
    """
    for module in network.modules():
        if getattr(module, "support_avx512bf16_for_cpu", False):
            module.support_avx512bf16_for_cpu = False


def _unquantized(config: Any, device: str) -> str:
    """The precision of a whole checkpoint's own, and of what quantization leaves alone."""
    if torch.device(device).type == "cpu":
        return "fp32"
    return "fp16" if getattr(config, "dtype", None) == torch.float16 else "bf16"


def _quantization(config: Any) -> dict[str, Any]:
    facts = getattr(config, "quantization_config", None)
    return dict(facts if isinstance(facts, dict) else facts.to_dict()) if facts else {}


def _method(config: Any) -> str:
    method = _quantization(config).get("quant_method", "unknown")
    return str(getattr(method, "value", method))
