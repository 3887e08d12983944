"""Small checkpoints in folders, and ways to change them."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file

from steersweep import ChatModel, InputError
from steersweep.lab.models import lab_model

Tensors = dict[str, torch.Tensor]
TOKENIZER = ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja")
PROMPTS = ("How do I bake a cake?", "Hi", "What is the capital of France, and who lives there now?")
TEXT_CONFIG = {
    "vocab_size": 1024, "hidden_size": 64, "num_hidden_layers": 3, "num_attention_heads": 4,
    "num_key_value_heads": 2, "intermediate_size": 96, "head_dim": 16, "initializer_range": 0.15,
    "max_position_embeddings": 512, "eos_token_id": [1, 2], "pad_token_id": 2, "bos_token_id": None,
}  # fmt: skip


def small_llama(where: Path, **changes: Any) -> Path:
    shape = {
        "vocab_size": 1024, "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 3,
        "num_attention_heads": 4, "num_key_value_heads": 2, "tie_word_embeddings": False,
        "bos_token_id": None, "eos_token_id": 1, "pad_token_id": 2, "initializer_range": 0.15,
    }  # fmt: skip
    config = transformers.LlamaConfig(**{**shape, **changes})
    torch.manual_seed(0)
    return saved(transformers.LlamaForCausalLM(config), where)


def saved(network: Any, where: Path) -> Path:
    network.save_pretrained(where)
    for name in TOKENIZER:
        shutil.copy(lab_model("qwen-7b").folder / name, where)
    return where


def rewrite(folder: Path, change: Callable[[Tensors], Tensors | None]) -> None:
    """Change the tensors in a folder, in place or for others."""
    tensors = load_file(folder / "model.safetensors")
    save_file(change(tensors) or tensors, folder / "model.safetensors", {"format": "pt"})


def configure(folder: Path, **changes: Any) -> None:
    file = folder / "config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), **changes}))


def refusal(folder: Path) -> str:
    with pytest.raises(InputError) as caught:
        ChatModel.load(str(folder), device="cpu")
    message = str(caught.value)
    assert str(folder) in message
    assert "\n" not in message
    return message


def without(part: str) -> Callable[[Tensors], Tensors]:
    return lambda tensors: {name: value for name, value in tensors.items() if part not in name}


def logits(chat: ChatModel) -> torch.Tensor:
    batch = chat.pad([chat.prompt_ids(text) for text in PROMPTS])
    return chat.logits(batch.input_ids, batch.attention_mask, batch.position_ids)[:, 0]
