"""In which precision a model runs: 16 and 32 bits, 8 and 4, quantized checkpoints.

`int8` is LLM.int8() and `int4` is NF4, of bitsandbytes; both quantize the linear layers of a full
checkpoint as it is loaded and leave embeddings and the output layer alone. `int8-dynamic` is for
CPUs, and quantizes the output layer too; see `int8`. A checkpoint that is quantized already has a
label of its own; see `quantization`.
"""

from __future__ import annotations

import logging
from typing import Any

import torch

from steersweep.core.errors import InputError, setting
from steersweep.core.precision_labels import FASTEST, INT8_DYNAMIC, is_quantized, label, runs_as
from steersweep.model.int8 import Int8Linear, multiplies_bytes
from steersweep.model.quantization import (
    METHODS,
    check_libraries,
    method_of,
    quantization,
    stored_as,
)

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
BITSANDBYTES = ("int8", "int4")
QUANTIZED = (*BITSANDBYTES, INT8_DYNAMIC)
PRECISIONS = (*DTYPES, *QUANTIZED)

# GPUs whose kernels compute with the stored numbers, by compute capability.
_NATIVE = {"mxfp4": (7, 5), "fp8": (8, 9), "mxfp8": (8, 9)}


def resolve_precision(precision: str, config: Any, device: str) -> str:
    """`auto` made definite, and a precision that contradicts the checkpoint refused.

    `auto` is the checkpoint's own where it is quantized; else float32 on a CPU, and the
    checkpoint's 16-bit type (else bf16) on a GPU.

    Raises:
        InputError: unknown precision, one that the device does not have, another one than a
            quantized checkpoint has, or one quantized by a method that is not known.
    """
    if precision == FASTEST:
        raise InputError(
            f"{setting('precision')} {FASTEST}: only a sweep or a search of its own measures what "
            f"is fastest; name a precision here"
        )
    own = checkpoint_precision(config, device)
    if precision not in ("auto", own, *PRECISIONS):
        raise InputError(
            f"{setting('precision')} {precision}: choose one of auto, {', '.join(PRECISIONS)}"
        )
    if precision == INT8_DYNAMIC and torch.device(device).type != "cpu":
        raise InputError(f"{setting('precision')} {precision}: is for CPUs; on {device} use int8")
    if own is not None:
        if precision not in ("auto", own):
            raise InputError(
                f"{setting('precision')} {precision}: the checkpoint is already quantized "
                f"({own}); use {setting('precision')} auto, or its full checkpoint"
            )
        return own
    return _unquantized(config, device) if precision == "auto" else precision


def precision_of(network: Any, config: Any, device: str, model_id: str) -> str:
    """The label of a model that is loaded already, by its config or the type of its numbers.

    Raises:
        InputError: it computes in a type that is not supported.
    """
    own = checkpoint_precision(config, device)
    if own is not None:
        return own
    if any(isinstance(module, Int8Linear) for module in network.modules()):
        return INT8_DYNAMIC
    dtype = network.get_input_embeddings().weight.dtype
    for label_of, known in DTYPES.items():
        if dtype == known:
            return label_of
    raise InputError(f"{model_id}: is in memory in {dtype}; choose from {', '.join(DTYPES)}")


def checkpoint_precision(config: Any, device: str) -> str | None:
    """The label of a checkpoint that is quantized already, as it runs on a device; else None.

    Raises:
        InputError: by a method that is not known.
    """
    stored = stored_as(config)
    if stored is None:
        return None
    dense = _unquantized(config, device) if _is_dequantized(config, device) else None
    return label(stored, dense)


def check_usable(precision: str, config: Any, device: str) -> None:
    """Refuse a precision that cannot run on this machine, before anything is downloaded.

    Raises:
        InputError: a library or a GPU is missing; the message names it.
    """
    method = method_of(config)
    on_gpu = torch.device(device).type == "cuda"
    if runs_as(precision) == INT8_DYNAMIC and not multiplies_bytes():
        raise InputError(
            f"precision {precision}: this processor has no instructions for products of bytes "
            f"(VNNI); use fp32"
        )
    if method is None and runs_as(precision) in BITSANDBYTES:
        method = "bitsandbytes"
    if method is not None:
        check_libraries(method, precision, on_gpu=on_gpu)


def load_options(precision: str, config: Any, device: str) -> dict[str, Any]:
    """Options of `from_pretrained` for a precision."""
    method = method_of(config)
    runs = runs_as(precision)
    if method is None and runs not in BITSANDBYTES:
        return {"dtype": DTYPES.get(runs, torch.float32)}
    # Activations of quantized models stay in the type the device computes in.
    dtype = DTYPES[_unquantized(config, device)]
    if method is not None:
        only = METHODS[method].dtype
        options = {"dtype": DTYPES[only] if only else dtype}
        return options if is_quantized(precision) else options | _dequantizing(method)
    from transformers import BitsAndBytesConfig

    # It warns at every call that inputs are cast, which is what LLM.int8() does.
    logging.getLogger("bitsandbytes").setLevel(logging.ERROR)
    if runs == "int8":
        return {"dtype": dtype, "quantization_config": BitsAndBytesConfig(load_in_8bit=True)}
    settings = BitsAndBytesConfig(
        load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_compute_dtype=dtype
    )
    return {"dtype": dtype, "quantization_config": settings}


def check_label(network: Any, precision: str, model_id: str) -> None:
    """See that a loaded model runs as its label says.

    Raises:
        InputError: transformers decided otherwise as it loaded the weights.
    """
    quantizer = getattr(network, "hf_quantizer", None)
    settings = getattr(quantizer, "quantization_config", None)
    stays = quantizer is not None and not getattr(settings, "dequantize", False)
    # To bytes the package itself turns them, later.
    if stays != (is_quantized(precision) and runs_as(precision) != INT8_DYNAMIC):
        how = "kept its weights quantized" if stays else "did not keep its weights quantized"
        raise InputError(
            f"{model_id}: transformers {how}, so it does not run in {precision}; use the model's "
            f"full checkpoint"
        )


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


def _is_dequantized(config: Any, device: str) -> bool:
    """Whether weights become ordinary numbers as they are loaded: where no kernel reads them."""
    method = method_of(config)
    if method is None or not METHODS[method].can_dequantize:
        return False
    if quantization(config).get("dequantize") or method not in _NATIVE:
        return True
    if torch.device(device).type != "cuda":
        return True
    from transformers.utils.import_utils import is_kernels_available

    capability = torch.cuda.get_device_capability(device)
    return capability < _NATIVE[method] or not is_kernels_available()


def _dequantizing(method: str) -> dict[str, Any]:
    """Options that make transformers dequantize, whatever it would decide by itself."""
    from transformers.utils.quantization_config import (
        FineGrainedFP8Config,
        MetalConfig,
        Mxfp4Config,
    )

    settings: dict[str, Any] = {"mxfp4": Mxfp4Config, "metal": MetalConfig}
    return {"quantization_config": settings.get(method, FineGrainedFP8Config)(dequantize=True)}
