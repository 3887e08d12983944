"""Checkpoints that are quantized already: what they are called, and what they need to run."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any

from steersweep.core.errors import InputError


@dataclass(frozen=True)
class Method:
    """A method that quantizes checkpoints.

    Attributes:
        modules: what must be importable beside transformers.
        install: how pip calls that.
        on_gpu_only: whether its kernels exist for CUDA devices alone.
        can_dequantize: whether the weights become ordinary numbers where there is no kernel.
        dtype: the only type that activations may have, or None.
    """

    modules: tuple[str, ...] = ()
    install: str = ""
    on_gpu_only: bool = False
    can_dequantize: bool = False
    dtype: str | None = None


# By `quant_method`, for all that transformers loads. Supporting a new one is a line here.
METHODS = {
    "aqlm": Method(("aqlm",), "aqlm[gpu,cpu]"),
    "auto-round": Method(("auto_round",), "auto-round"),
    "awq": Method(("gptqmodel",), "gptqmodel", on_gpu_only=True),
    "bitnet": Method(),
    "bitsandbytes": Method(("bitsandbytes",), "'steersweep[quant]'"),
    "compressed-tensors": Method(("compressed_tensors",), "compressed-tensors"),
    "eetq": Method(("kernels",), "kernels", on_gpu_only=True, dtype="fp16"),
    "fbgemm_fp8": Method(("fbgemm_gpu",), "fbgemm-gpu", on_gpu_only=True, dtype="bf16"),
    "fouroversix": Method(("fouroversix",), "fouroversix", on_gpu_only=True),
    "fp8": Method(can_dequantize=True),
    "fp_quant": Method(("fp_quant",), "fp_quant", on_gpu_only=True),
    "gemma": Method(),
    "gptq": Method(("gptqmodel", "optimum"), "gptqmodel optimum", on_gpu_only=True),
    "higgs": Method(
        ("flute", "fast_hadamard_transform"),
        "flute-kernel fast_hadamard_transform",
        on_gpu_only=True,
    ),
    "hqq": Method(("hqq",), "hqq", on_gpu_only=True),
    "metal": Method(can_dequantize=True),
    "mxfp4": Method(can_dequantize=True),
    "mxfp8": Method(can_dequantize=True),
    "quanto": Method(("optimum.quanto",), "optimum-quanto"),
    "quark": Method(("quark",), "amd-quark"),
    "sinq": Method(("sinq",), "sinq"),
    "spqr": Method(("spqr_quant",), "spqr_quant[gpu]", on_gpu_only=True, dtype="fp16"),
    "torchao": Method(("torchao",), "torchao"),
    "vptq": Method(("vptq",), "vptq", on_gpu_only=True),
}


def quantization(config: Any) -> dict[str, Any]:
    """What a model's config says of how its weights are quantized; empty where they are not."""
    for part in (config, _text_part(config)):
        facts = getattr(part, "quantization_config", None)
        if facts:
            return dict(facts if isinstance(facts, Mapping) else facts.to_dict())
    return {}


def method_of(config: Any) -> str | None:
    """How a checkpoint is quantized, a key of `METHODS`; None where it is not.

    Raises:
        InputError: by a method that is not named, not known, or that transformers cannot load.
    """
    facts = quantization(config)
    if not facts:
        return None
    method = facts.get("quant_method")
    if method is None and (facts.get("load_in_8bit") or facts.get("load_in_4bit")):
        method = "bitsandbytes"
    if method is None:
        raise InputError(
            f"config.json: quantization_config names no quant_method ({_short(facts)}); such "
            f"weights, of MLX for example, cannot be loaded: use the model's full checkpoint"
        )
    name = str(getattr(method, "value", method)).lower()
    if name.startswith("bitsandbytes"):
        name = "bitsandbytes"
    if name not in METHODS:
        raise InputError(
            f"config.json: quantization_config.quant_method is {name[:60]!r}, which transformers "
            f"cannot load; use the model's full checkpoint, or one of {', '.join(sorted(METHODS))}"
        )
    return name


def stored_as(config: Any) -> str | None:
    """The first part of a label: `gptq-int4`, `bnb-nf4`, `fp8`; None where nothing is quantized."""
    method = method_of(config)
    if method is None:
        return None
    facts = quantization(config)
    name = "bnb" if method == "bitsandbytes" else method.replace("_", "-")
    kinds = sorted({re.sub(r"[^a-z0-9]", "", kind.lower()) for kind in _kinds(method, facts)})
    return "-".join((name, *filter(None, kinds)))


def check_libraries(method: str, label: str, *, on_gpu: bool) -> None:
    """See that what a method needs is there.

    Raises:
        InputError: a library or a GPU is missing; the message names it.
    """
    facts = METHODS[method]
    if any(not _is_there(module) for module in facts.modules):
        raise InputError(
            f"precision {label}: needs {facts.install} ({method}), which is not installed: pip "
            f"install {facts.install}"
        )
    if facts.on_gpu_only and not on_gpu:
        raise InputError(f"precision {label}: {method} checkpoints need a CUDA device")


def _kinds(method: str, facts: Mapping[str, Any]) -> Iterator[str]:
    if method == "bitsandbytes":
        if facts.get("load_in_4bit"):
            yield str(facts.get("bnb_4bit_quant_type") or "fp4")
        else:
            yield "int8"
    elif method == "compressed-tensors":
        for group in (facts.get("config_groups") or {}).values():
            weights = group.get("weights") if isinstance(group, Mapping) else None
            if weights:
                prefix = "fp" if weights.get("type") == "float" else "int"
                yield f"{prefix}{weights.get('num_bits')}"
    elif method == "torchao":
        found = re.search(r"(Int|Float|UInt)(\d+)", str(facts.get("quant_type")))
        if found:
            yield ("fp" if found[1] == "Float" else "int") + found[2]
    elif method in ("quanto", "eetq"):
        yield str(facts.get("weights", "int8")).replace("float", "fp")
    elif METHODS[method].can_dequantize or method in ("bitnet", "fbgemm_fp8"):
        return  # the name says it
    elif (bits := _find_bits(facts)) is not None:
        yield f"int{bits}"


def _find_bits(facts: Any) -> int | None:
    if not isinstance(facts, Mapping):
        return None
    for name in ("bits", "nbits", "w_bit", "num_bits", "weight_bits"):
        if isinstance(facts.get(name), int):
            return int(facts[name])
    return next((bits for part in facts.values() if (bits := _find_bits(part)) is not None), None)


def _text_part(config: Any) -> Any:
    return config.get_text_config() if hasattr(config, "get_text_config") else None


def _is_there(module: str) -> bool:
    try:
        return find_spec(module) is not None
    except ModuleNotFoundError:  # of the package that it is part of
        return False


def _short(facts: Mapping[str, Any]) -> str:
    return ", ".join(f"{name}: {value}" for name, value in [*facts.items()][:3])[:80]
