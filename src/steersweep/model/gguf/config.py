"""The config of the model in a GGUF file: transformers' reading, and what that leaves out."""

from __future__ import annotations

import copy
import math
import struct
import tempfile
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

from steersweep.core.errors import InputError
from steersweep.model.gguf.checks import main_type
from steersweep.model.gguf.header import MAGIC, Header, Place
from steersweep.model.gguf.tensors import numbers_of

_ENDINGS = ("eos_token_id", "eot_token_id", "eom_token_id")
# Fields that transformers leaves out, and what it calls them.
_UNREAD = {
    "attn_logit_softcapping": "attn_logit_softcapping",
    "final_logit_softcapping": "final_logit_softcapping",
    "expert_feed_forward_length": "moe_intermediate_size",
    "expert_shared_feed_forward_length": "shared_expert_intermediate_size",
}
# Layers of the Gemmas that divide attention's scores by another number than the width of a head; as
# llama.cpp tells them apart.
_27B = {"gemma2": 46, "gemma3_text": 62}
# How Llama 3.1 and later stretch positions: low and high frequency factor, and the positions that
# the model had before. Files hold the factors that these make.
_LLAMA3 = (1.0, 4.0, 8192)
_F32 = 0
_U32 = 4


def load_config(header: Header, called: str) -> Any:
    """A transformers config of the model in a file.

    Args:
        header: of the file.
        called: what messages call it.

    Raises:
        InputError: the file scales positions in a way that is not known here.
        Exception: whatever transformers raises where it cannot read the fields.
    """
    return copy.deepcopy(_load(header, called))


@lru_cache(maxsize=4)
def _load(header: Header, called: str) -> Any:
    import torch

    config = _read_by_transformers(header)
    config._name_or_path = str(header.path)
    text = config.get_text_config()
    text.vocab_size = header.by_name["token_embd.weight"].shape[0]
    if main_type(header) in ("F16", "F32"):
        config.dtype = {"F16": torch.float16, "F32": torch.float32}[main_type(header)]
    endings = [header.fields.get(f"tokenizer.ggml.{name}") for name in _ENDINGS]
    found = list(dict.fromkeys(int(token) for token in endings if token is not None))
    known = config.eos_token_id if isinstance(config.eos_token_id, list) else []
    found = list(dict.fromkeys([*known, *found]))
    config.eos_token_id = found[0] if len(found) == 1 else found or None
    for name, own in _UNREAD.items():
        value = header.of_architecture(name)
        if value is not None and hasattr(text, own):
            setattr(text, own, value)
    width = header.of_architecture("attention.key_length")
    if isinstance(width, int) and text.model_type in ("llama", "qwen3", "qwen3_moe"):
        text.head_dim = width
    if isinstance(width, int) and text.model_type in _27B:
        is_27b = text.num_hidden_layers == _27B[text.model_type]
        each = text.hidden_size // text.num_attention_heads
        text.query_pre_attn_scalar = each if is_27b else width
    _scale_positions(header, text, called)
    return config


def _read_by_transformers(header: Header) -> Any:
    from transformers import AutoConfig
    from transformers.integrations.gguf.gguf_config_mapping import GGUF_CONFIG_ARCHS

    if header.architecture in GGUF_CONFIG_ARCHS:
        return AutoConfig.from_pretrained(str(header.path.parent), gguf_file=header.path.name)
    with tempfile.TemporaryDirectory(prefix="steersweep-") as folder:
        (Path(folder) / "header.gguf").write_bytes(_without_arrays(header))
        return AutoConfig.from_pretrained(folder, gguf_file="header.gguf")


def _without_arrays(header: Header) -> bytes:
    """A GGUF file with the same fields but for vocabularies, and tensors of one number.

    transformers' older reading takes ten seconds for a vocabulary of 150,000 tokens, of which it
    only wants the number.
    """
    size = f"{header.architecture}.vocab_size"
    kept = [
        key
        for key, value in header.fields.items()
        if key != size and not (isinstance(value, Place) and key.startswith("tokenizer."))
    ]
    count = header.by_name["token_embd.weight"].shape[0]
    parts = [
        MAGIC + struct.pack("<IQQ", 3, len(header.tensors), len(kept) + 1),
        _text(size) + struct.pack("<II", _U32, count),
    ]
    with header.path.open("rb") as file:
        for key in kept:
            begin, end = header.raw[key]
            file.seek(begin)
            parts.append(file.read(end - begin))
    for tensor in header.tensors:
        parts.append(_text(tensor.name) + struct.pack("<IQIQ", 1, 1, _F32, 0))
    whole = b"".join(parts)
    alignment = int(header.fields.get("general.alignment", 32))
    return whole + bytes(-len(whole) % alignment + 4)


def _text(text: str) -> bytes:
    data = text.encode()
    return struct.pack("<Q", len(data)) + data


def _scale_positions(header: Header, text: Any, called: str) -> None:
    """Rotary positions: their scaling, and how much of a head they turn."""
    rope = getattr(text, "rope_parameters", None)
    if not isinstance(rope, dict):
        return
    rope = rope if "rope_theta" in rope else rope.get("full_attention", {})
    turned, heads = (
        header.of_architecture(name) for name in ("rope.dimension_count", "attention.head_count")
    )
    width = getattr(text, "head_dim", None) or (
        text.hidden_size // heads if isinstance(heads, int) and heads else None
    )
    if isinstance(turned, int) and width and turned < width:
        rope["partial_rotary_factor"] = turned / width
    kind = header.of_architecture("rope.scaling.type")
    factor = header.of_architecture("rope.scaling.factor")
    before = header.of_architecture("rope.scaling.original_context_length")
    if "rope_freqs.weight" in header.by_name:
        rope |= _like_llama3(header, rope, called)
    elif "rope_factors_long.weight" in header.by_name:
        rope |= {
            "rope_type": "longrope",
            "long_factor": _factors(header, "rope_factors_long.weight"),
            "short_factor": _factors(header, "rope_factors_short.weight"),
            "original_max_position_embeddings": before or text.max_position_embeddings,
        }
    elif kind in ("linear", "yarn") and factor and factor != 1:
        rope |= {"rope_type": kind, "factor": float(factor)}
        if before:
            rope["original_max_position_embeddings"] = before
    elif kind not in (None, "none", "linear", "yarn"):
        raise InputError(
            f"{called}: {header.architecture}.rope.scaling.type is {str(kind)[:40]!r}, which is "
            f"not read from GGUF files; use the model's safetensors version"
        )


def _factors(header: Header, name: str) -> list[float]:
    tensor = header.by_name.get(name)
    return [] if tensor is None else [float(n) for n in numbers_of(header, tensor).ravel()]


def _like_llama3(header: Header, rope: dict[str, Any], called: str) -> dict[str, Any]:
    """The scaling of which a file holds the factors of each frequency.

    Raises:
        InputError: they are not Llama 3's.
    """
    found = _factors(header, "rope_freqs.weight")
    factor = round(max(found), 4)
    if factor == min(found) == 1:
        return {}
    expected = _llama3_factors(len(found), float(rope["rope_theta"]), factor)
    if any(abs(a - b) > 1e-3 * b for a, b in zip(found, expected, strict=True)):
        raise InputError(
            f"{called}: rope_freqs.weight scales positions by other factors than Llama 3's, which "
            f"are not read from GGUF files; use the model's safetensors version"
        )
    low, high, before = _LLAMA3
    return {
        "rope_type": "llama3",
        "factor": factor,
        "low_freq_factor": low,
        "high_freq_factor": high,
        "original_max_position_embeddings": before,
    }


def _llama3_factors(count: int, theta: float, factor: float) -> Sequence[float]:
    low, high, before = _LLAMA3
    found = []
    for index in range(count):
        turns = before / (2 * math.pi * theta ** (index / count))
        smooth = min(1.0, max(0.0, (turns - low) / (high - low)))
        found.append(1 / ((1 - smooth) / factor + smooth))
    return found
