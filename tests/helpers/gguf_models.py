"""What models of GGUF files compute, and how files are refused."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from steersweep import ChatModel
from steersweep.core.errors import InputError
from steersweep.model.find import find_model

TEXTS = (
    "How do I bake a cake?",
    "你好，世界！今天天气怎么样？",
    "emoji 😀👩‍👩‍👧‍👦🇩🇪 and naïve cafés, a\u0301",
    "  leading\n\n\n  many   spaces\t\ttabs \r\n",
    "def f(x):\n    return x ** 2  # 12345 is 3.14",
    "CAN'T we've <|im_start|> [INST] <s>",
)


def logits(chat: ChatModel, text: str) -> torch.Tensor:
    batch = chat.pad([chat.prompt_ids(text)])
    return chat.logits(batch.input_ids, batch.attention_mask, batch.position_ids)


def weights(path: Path | str, dtype: torch.dtype = torch.float32) -> dict[str, torch.Tensor]:
    """What loading reads of a file, by transformers' names."""
    source = find_model(str(path))
    with source.weights(source.config(), dtype) as stored:
        held = load_file(Path(stored.location) / "model.safetensors")
        return {name: tensor.clone() for name, tensor in held.items()}  # not the file's pages


def refusal(path: Path | str) -> str:
    with pytest.raises(InputError) as caught:
        ChatModel.load(str(path), device="cpu")
    message = str(caught.value)
    assert "\n" not in message
    assert Path(str(path)).name.split(":")[0] in message
    return message
