"""Small GGUF files, written from a model's folder as llama.cpp's converter does."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import gguf
import numpy as np
from safetensors.torch import load_file

from steersweep.model.find import find_model

# Families of the lab: what their files call the architecture.
ARCHITECTURES = {
    "qwen-7b": "qwen2",
    "llama-8b": "llama",
    "gemma-9b": "gemma2",
    "mistral-7b": "llama",
    "phi-mini": "phi3",
}
Array = np.ndarray[Any, Any]
Kind = gguf.GGMLQuantizationType


def write_gguf(
    model: str,
    path: Path,
    kind: str = "F32",
    *,
    fields: Mapping[str, Any] | None = None,
    tensors: Mapping[str, Array | None] | None = None,
    kind_of: Callable[[str], str] | None = None,
    splits_as: str | None = None,
) -> Path:
    """A GGUF file of a lab model.

    Args:
        model: `qwen-7b`, ...
        path: of the file.
        kind: what its matrices are stored as.
        fields: other values for some fields; None leaves one out.
        tensors: other numbers for some tensors, by llama.cpp's name; None leaves one out.
        kind_of: what each matrix is stored as, by its name, instead of `kind`.
        splits_as: `tokenizer.ggml.pre`, where it is not the family's.
    """
    source = find_model(f"lab:{model}")
    architecture = ARCHITECTURES[model]
    writer = gguf.GGUFWriter(path, architecture)
    values = _fields(source, architecture, splits_as) | dict(fields or {})
    for key, value in values.items():
        if value is not None and key != "general.architecture":
            _add(writer, key, value)
    if "general.architecture" in values:
        writer.kv_data[0]["general.architecture"].value = values["general.architecture"]
    stored = _tensors(source, architecture) | dict(tensors or {})
    for name, numbers in stored.items():
        if numbers is None:
            continue
        of = Kind[(kind_of(name) if kind_of else kind) if numbers.ndim > 1 else "F32"]
        writer.add_tensor(name, gguf.quantize(numbers, of), raw_dtype=of)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def _add(writer: gguf.GGUFWriter, key: str, value: Any) -> None:
    if isinstance(value, bool):
        writer.add_bool(key, value)
    elif isinstance(value, int):
        writer.add_uint32(key, value)
    elif isinstance(value, float):
        writer.add_float32(key, value)
    elif isinstance(value, str):
        writer.add_string(key, value)
    else:
        writer.add_array(key, value)


def _fields(source: Any, architecture: str, splits_as: str | None) -> dict[str, Any]:
    config, tokenizer = source.config(), source.load_tokenizer()
    state = json.loads(tokenizer.backend_tokenizer.to_str())
    added = {token["content"]: token["special"] for token in state["added_tokens"]}
    names = sorted(tokenizer.get_vocab().items(), key=lambda item: item[1])
    types = [(3 if added[name] else 4) if name in added else 1 for name, _ in names]
    ends = config.eos_token_id if isinstance(config.eos_token_id, list) else [config.eos_token_id]
    found = {
        "general.name": "a small one",
        "context_length": config.max_position_embeddings,
        "embedding_length": config.hidden_size,
        "block_count": config.num_hidden_layers,
        "feed_forward_length": config.intermediate_size,
        "attention.head_count": config.num_attention_heads,
        "attention.head_count_kv": config.num_key_value_heads,
        "attention.layer_norm_rms_epsilon": float(config.rms_norm_eps),
        "attention.key_length": config.hidden_size // config.num_attention_heads,
        "rope.freq_base": float(config.rope_parameters["rope_theta"]),
        "rope.dimension_count": config.hidden_size // config.num_attention_heads,
        "tokenizer.ggml.model": "gpt2",
        "tokenizer.ggml.pre": splits_as or ("qwen2" if architecture == "qwen2" else "gpt-2"),
        "tokenizer.ggml.tokens": [name for name, _ in names],
        "tokenizer.ggml.token_type": types,
        "tokenizer.ggml.merges": [" ".join(pair) for pair in state["model"]["merges"]],
        "tokenizer.ggml.bos_token_id": tokenizer.bos_token_id,
        "tokenizer.ggml.eos_token_id": ends[0],
        "tokenizer.ggml.eot_token_id": ends[1] if len(ends) > 1 else None,
        "tokenizer.ggml.padding_token_id": tokenizer.pad_token_id,
        "tokenizer.ggml.unknown_token_id": None,
        "tokenizer.chat_template": tokenizer.chat_template,
    }
    if architecture == "gemma2":
        found |= {
            "attention.sliding_window": config.sliding_window,
            "attn_logit_softcapping": float(config.attn_logit_softcapping),
            "final_logit_softcapping": float(config.final_logit_softcapping),
        }
    known = ("general.", "tokenizer.")
    return {
        key if key.startswith(known) else f"{architecture}.{key}": value
        for key, value in found.items()
    }


def _tensors(source: Any, architecture: str) -> dict[str, Array]:
    config = source.config()
    arch = next(key for key, name in gguf.MODEL_ARCH_NAMES.items() if name == architecture)
    names = gguf.get_tensor_name_map(arch, config.num_hidden_layers)
    heads, shared = config.num_attention_heads, config.num_key_value_heads
    found = {}
    for name, tensor in load_file(Path(source.location) / "model.safetensors").items():
        numbers = tensor.float().numpy()
        if architecture == "llama" and ".q_proj." in name:
            numbers = _interleaved(numbers, heads)
        if architecture == "llama" and ".k_proj." in name:
            numbers = _interleaved(numbers, shared)
        if architecture == "gemma2" and name.endswith("norm.weight"):
            numbers = numbers + 1
        own = names.get_name(name, try_suffixes=(".weight", ".bias"))
        assert own is not None
        found[own] = numbers
    return found


def _interleaved(numbers: Array, heads: int) -> Array:
    """Rows as llama.cpp turns them: the halves of each head take turns."""
    halves = numbers.reshape(heads, 2, len(numbers) // heads // 2, *numbers.shape[1:])
    return halves.swapaxes(1, 2).reshape(numbers.shape)
