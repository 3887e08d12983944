"""Copies of a lab model with one thing changed."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from importlib import resources
from pathlib import Path
from typing import Any

Make = Callable[[Path], None]
"""Puts the folder `model` into a case's folder."""

LAYER = "model.layers.4"


def good(folder: Path) -> Path:
    """An undamaged copy in `folder`; returns its folder."""
    source = resources.files("steersweep.lab") / "zoo" / "qwen-3b"
    return Path(shutil.copytree(str(source), folder / "model"))


def with_json(file: str, change: Callable[[dict[str, Any]], object]) -> Make:
    """With a JSON file changed."""

    def make(folder: Path) -> None:
        path = good(folder) / file
        content = json.loads(path.read_text("utf-8"))
        change(content)
        path.write_text(json.dumps(content), "utf-8")

    return make


def with_config(**values: Any) -> Make:
    """With values in `config.json`."""
    return with_json("config.json", lambda config: config.update(values))


def with_bytes(file: str, change: Callable[[bytes], bytes]) -> Make:
    """With the bytes of a file changed; of a new file, made."""

    def make(folder: Path) -> None:
        path = good(folder) / file
        path.write_bytes(change(path.read_bytes() if path.exists() else b""))

    return make


def with_text(file: str, text: str) -> Make:
    """With a file of this text."""
    return with_bytes(file, lambda _old: text.encode("utf-8", "surrogatepass"))


def without(*files: str) -> Make:
    """With files missing."""

    def make(folder: Path) -> None:
        model = good(folder)
        for file in files:
            (model / file).unlink()

    return make


def with_thing(file: str, put: Callable[[Path], object]) -> Make:
    """With something else where a file was."""

    def make(folder: Path) -> None:
        path = good(folder) / file
        path.unlink(missing_ok=True)
        put(path)

    return make


def with_tensors(change: Callable[[dict[str, Any]], object]) -> Make:
    """With the weights changed."""

    def make(folder: Path) -> None:
        from safetensors.torch import load_file, save_file

        path = good(folder) / "model.safetensors"
        tensors = load_file(path)
        change(tensors)
        save_file(
            {name: tensor.contiguous() for name, tensor in tensors.items()},
            path,
            metadata={"format": "pt"},
        )

    return make


def with_weights_as(file: str, make_bytes: Callable[[Path], bytes]) -> Make:
    """With the weights in a file of another name and form alone."""

    def make(folder: Path) -> None:
        model = good(folder)
        data = make_bytes(model / "model.safetensors")
        (model / "model.safetensors").unlink()
        (model / file).write_bytes(data)

    return make


def with_adapter(folder: Path) -> None:
    """With an adapter of rank 2 beside the weights."""
    import torch
    from safetensors.torch import save_file

    model = good(folder)
    config = {"peft_type": "LORA", "r": 2, "lora_alpha": 4, "target_modules": ["q_proj"]}
    config["base_model_name_or_path"] = "somebody/base"
    (model / "adapter_config.json").write_text(json.dumps(config))
    stem = f"base_model.{LAYER.replace('model', 'model.model', 1)}.self_attn.q_proj"
    tensors = {
        f"{stem}.lora_A.weight": torch.ones(2, 64),
        f"{stem}.lora_B.weight": torch.ones(64, 2),
    }
    save_file(tensors, model / "adapter_model.safetensors")


def only_adapter(folder: Path) -> None:
    """An adapter without its model."""
    with_adapter(folder)
    (folder / "model" / "model.safetensors").unlink()
    (folder / "model" / "config.json").unlink()
