"""Whether a GGUF file is a whole model that can be read here, known from its header alone."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from functools import cache
from importlib.util import find_spec

from steersweep.core.errors import InputError
from steersweep.model.gguf.header import Header

_PART = re.compile(r"(?P<stem>.+)-(?P<number>\d{5})-of-(?P<count>\d{5})(?P<ending>\.gguf)?$")
_LAYER = re.compile(r"blk\.(\d+)\.")

# What a file of another kind is for, by `general.type` and by architecture.
_OTHER_KINDS = {
    "adapter": "a LoRA adapter, not a model; merge it into its base (llama-export-lora) and give "
    "the merged model",
    "imatrix": "an importance matrix, which only helps to quantize; give the model's file",
    "mmproj": "the part of a model that sees or hears (mmproj); give the model's own file, which "
    "lies beside it",
    "controlvector": "a control vector, not a model; give the model's file",
}
_OTHER_ARCHITECTURES = {"clip": "mmproj", "controlvector": "controlvector", "imatrix": "imatrix"}

# transformers' keys that GGUF files spell otherwise, and those that are encoder-decoders.
_SPELT = {
    "qwen2_moe": "qwen2moe",
    "qwen3_moe": "qwen3moe",
    "gpt_oss": "gpt-oss",
    "minimax_m2": "minimax-m2",
}
_NO_DECODERS = ("general", "tokenizer", "t5", "umt5", "mistral")  # Mistral's files say llama


def check_model(header: Header, called: str) -> None:
    """See that a file holds a whole model of a kind that can be read.

    Args:
        header: of the file.
        called: what messages call it.

    Raises:
        InputError: it does not, or the `gguf` package is missing; the message says what to do.
    """
    _check_kind(header, called)
    _check_parts(header, called)
    check_package(called)
    _check_architecture(header, called)
    _check_tensors(header, called)
    _check_layers(header, called)


def check_package(called: str) -> None:
    """See that the `gguf` package is there.

    Raises:
        InputError: it is not.
    """
    if find_spec("gguf") is None:
        raise InputError(
            f"{called}: reading GGUF files needs the gguf package: pip install 'steersweep[gguf]'"
        )


@cache
def readable_architectures() -> tuple[str, ...]:
    """What transformers reads from GGUF files, as those call it."""
    from transformers.integrations.ggml import GGUF_CONFIG_MAPPING
    from transformers.integrations.gguf.gguf_config_mapping import GGUF_CONFIG_ARCHS

    known = {_SPELT.get(name, name) for name in GGUF_CONFIG_MAPPING if name not in _NO_DECODERS}
    return tuple(sorted(known | set(GGUF_CONFIG_ARCHS)))


def main_type(header: Header) -> str:
    """The type that most weights of the decoder layers are stored in: `Q4_K`, `F16`."""
    from gguf import GGMLQuantizationType

    sizes: Counter[int] = Counter()
    for tensor in header.tensors:
        if len(tensor.shape) > 1 and _LAYER.match(tensor.name):
            sizes[tensor.kind] += tensor.count
    for tensor in () if sizes else header.tensors:
        sizes[tensor.kind] += tensor.count
    return GGMLQuantizationType(max(sizes, key=lambda kind: sizes[kind])).name


def byte_count(kind: int, count: int) -> int:
    """Bytes that `count` elements of a type take."""
    from gguf import GGML_QUANT_SIZES, GGMLQuantizationType

    block, size = GGML_QUANT_SIZES[GGMLQuantizationType(kind)]
    return count // block * size


def _check_kind(header: Header, called: str) -> None:
    kind = str(header.fields.get("general.type") or "model")
    kind = _OTHER_ARCHITECTURES.get(header.architecture, kind)
    if "adapter.type" in header.fields:
        kind = "adapter"
    if kind in _OTHER_KINDS:
        raise InputError(f"{called}: is {_OTHER_KINDS[kind]}")
    if not header.architecture:
        raise InputError(
            f"{called}: general.architecture is missing, so it does not say what model it holds; "
            f"convert the model anew with llama.cpp"
        )
    if not header.tensors:
        raise InputError(
            f"{called}: holds a vocabulary and no weights; give the file with the model's weights"
        )


def _check_parts(header: Header, called: str) -> None:
    """A model in several files: transformers reads none such."""
    count = header.fields.get("split.count")
    named = _PART.match(header.path.name)
    if not (isinstance(count, int) and count > 1) and not (named and int(named["count"]) > 1):
        return
    total = count if isinstance(count, int) and count > 1 else int(named["count"]) if named else 0
    merge = "llama-gguf-split --merge"
    if named is None:
        raise InputError(
            f"{called}: is one of {total} parts of a model, and parts are not read; merge them: "
            f"{merge} FIRST_PART MERGED.gguf, and give that file"
        )
    names = [
        f"{named['stem']}-{number:05d}-of-{total:05d}{named['ending'] or ''}"
        for number in range(1, total + 1)
    ]
    missing = [name for name in names if not (header.path.parent / name).exists()]
    if missing:
        raise InputError(
            f"{called}: is one of {total} parts of a model, and {_some(missing)} "
            f"{'is' if len(missing) == 1 else 'are'} not beside it; download the missing parts, "
            f"then merge all: {merge} {names[0]} {named['stem']}.gguf"
        )
    raise InputError(
        f"{called}: is one of {total} parts of a model, and parts are not read; merge them: "
        f"{merge} {names[0]} {named['stem']}.gguf, and give that file"
    )


def _check_architecture(header: Header, called: str) -> None:
    known = readable_architectures()
    if header.architecture not in known:
        raise InputError(
            f"{called}: transformers does not read the architecture {header.architecture[:40]!r} "
            f"from GGUF files, only {', '.join(known)}; use the model's safetensors version"
        )


def _check_tensors(header: Header, called: str) -> None:
    """Types that can be read, and every tensor's end within the file."""
    for tensor in header.tensors:
        if not _is_readable(tensor.kind):
            raise InputError(
                f"{called}: {tensor.name} is stored as {_type_name(tensor.kind)}, which the gguf "
                f"package does not read; use a file of another quantization"
            )
        block = _block(tensor.kind)
        if not tensor.shape or tensor.shape[-1] % block:
            raise InputError(
                f"{called}: its header is damaged: {tensor.name} has the shape {tensor.shape} and "
                f"blocks of {block}; download it again"
            )
    end = max(tensor.start + byte_count(tensor.kind, tensor.count) for tensor in header.tensors)
    if end > header.size:
        raise InputError(
            f"{called}: is cut: {header.size} bytes of {end} ({header.size / end:.1%}) are there; "
            f"download it again"
        )


def _check_layers(header: Header, called: str) -> None:
    count = header.of_architecture("block_count")
    if not isinstance(count, int) or count < 1:
        raise InputError(
            f"{called}: {header.architecture}.block_count is {count!r}, so it does not say how "
            f"many layers it has; download it again, or convert the model anew"
        )
    there = {int(match[1]) for tensor in header.tensors if (match := _LAYER.match(tensor.name))}
    missing = sorted(set(range(count)) - there)
    if missing:
        raise InputError(
            f"{called}: has {count} layers by its header, and no tensors of "
            f"{'layer' if len(missing) == 1 else 'layers'} {_some(list(map(str, missing)))}; "
            f"download it again"
        )
    if "token_embd.weight" not in header.by_name:
        raise InputError(f"{called}: holds no embedding (token_embd.weight); download it again")


@cache
def _is_readable(kind: int) -> bool:
    import numpy as np
    from gguf import GGML_QUANT_SIZES, GGMLQuantizationType, dequantize

    try:
        of = GGMLQuantizationType(kind)
        dequantize(np.zeros((1, GGML_QUANT_SIZES[of][1]), dtype=np.uint8), of)
    except (ValueError, KeyError, NotImplementedError):
        return False
    return True


def _type_name(kind: int) -> str:
    from gguf import GGMLQuantizationType

    try:
        return GGMLQuantizationType(kind).name
    except ValueError:
        return f"type {kind}"


def _block(kind: int) -> int:
    from gguf import GGML_QUANT_SIZES, GGMLQuantizationType

    return int(GGML_QUANT_SIZES[GGMLQuantizationType(kind)][0])


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")
