"""Models of the shape of released ones with random weights: as slow, and with nothing to download.

    python benchmarks/shapes.py qwen2.5-0.5b FOLDER

The shapes are those of the models' published configurations. Prompts are the lab's, in its small
tokenizer; of the vocabulary only the size matters for time.
"""

from __future__ import annotations

import argparse
import copy
import shutil
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM, Gemma2Config, PretrainedConfig, Qwen2Config

from steersweep.lab.models import lab_model

SHAPES: dict[str, PretrainedConfig] = {
    "qwen2.5-0.5b": Qwen2Config(
        vocab_size=151_936, hidden_size=896, intermediate_size=4864, num_hidden_layers=24,
        num_attention_heads=14, num_key_value_heads=2, tie_word_embeddings=True,
    ),
    "qwen2.5-7b": Qwen2Config(
        vocab_size=152_064, hidden_size=3584, intermediate_size=18_944, num_hidden_layers=28,
        num_attention_heads=28, num_key_value_heads=4, tie_word_embeddings=False,
    ),
    "gemma-2-9b": Gemma2Config(
        vocab_size=256_000, hidden_size=3584, intermediate_size=14_336, num_hidden_layers=42,
        num_attention_heads=16, num_key_value_heads=8, head_dim=256,
    ),
}  # fmt: skip


def make(name: str, folder: Path, dtype: torch.dtype | None = None) -> Path:
    """Save a model of a shape with random weights; kept if it is there already.

    In bfloat16 where there is a GPU, unless a type is given.
    """
    if (folder / "config.json").exists():
        return folder
    if dtype is None:
        dtype = torch.bfloat16 if torch.cuda.is_available() else torch.float32
    return save(copy.deepcopy(SHAPES[name]), folder, dtype)


def save(config: PretrainedConfig, folder: Path, dtype: torch.dtype = torch.float32) -> Path:
    """Save a model of a config with random weights and a lab model's tokenizer."""
    lab = lab_model("gemma-9b" if config.model_type.startswith("gemma") else "qwen-7b")
    lab.card()  # says how to make it if it is missing
    folder.mkdir(parents=True, exist_ok=True)
    for file in lab.folder.iterdir():
        if "token" in file.name or "template" in file.name:
            shutil.copy(file, folder)
    torch.manual_seed(0)
    tokens = AutoModelForCausalLM.from_pretrained(lab.folder).generation_config
    config.dtype = dtype
    config.bos_token_id, config.eos_token_id = tokens.bos_token_id, tokens.eos_token_id
    config.pad_token_id = tokens.pad_token_id
    with torch.device("cuda" if torch.cuda.is_available() else "cpu"):  # a GPU draws faster
        model = AutoModelForCausalLM.from_config(config, dtype=dtype)
    model.generation_config = tokens
    model.save_pretrained(folder)
    return folder


def main() -> None:
    """Make one."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("shape", choices=SHAPES)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--bf16", action="store_true", help="save in bfloat16")
    asked = parser.parse_args()
    make(asked.shape, asked.folder, torch.bfloat16 if asked.bf16 else torch.float32)
    print(asked.folder)


if __name__ == "__main__":
    main()
