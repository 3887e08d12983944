"""What lies in a model's folder or repository: weights that can be read, adapters, other kinds."""

from __future__ import annotations

import json
from collections.abc import Collection
from pathlib import Path
from typing import Any

from steersweep.core.errors import InputError

WEIGHTS = "model.safetensors"
INDEX = "model.safetensors.index.json"
ADAPTER = "adapter_config.json"
_ADAPTER_FILES = (ADAPTER, "adapter_model.safetensors", "adapter_model.bin", "adapters.safetensors")
# Other forms of weights, by the end of their names, the likeliest first.
_OTHERS = {
    ".bin": "PyTorch pickle",
    ".pt": "PyTorch pickle",
    ".pth": "PyTorch pickle",
    ".ckpt": "checkpoint pickle",
    ".gguf": "GGUF",
    ".h5": "TensorFlow",
    ".msgpack": "Flax",
    ".distcp": "distributed PyTorch",
    ".onnx": "ONNX",
    ".npz": "NumPy",
}
_NOT_WEIGHTS = ("training_args.bin", "optimizer", "scheduler", "rng_state", "tokenizer", "spiece")
_CONVERT = (
    "where you trust the source, convert them once: from_pretrained(FOLDER, use_safetensors=False) "
    "and save_pretrained(NEW) of transformers"
)


def check_adapters(names: Collection[str], where: str, adapter_config: Path | None) -> None:
    """Refuse a folder or repository that holds an adapter, alone or beside a model.

    What would run depends on libraries that happen to be installed, so it is never applied.

    Args:
        names: files there.
        where: folder or hub id, for the message.
        adapter_config: the file of that name, where it can be read.

    Raises:
        InputError: it does; the message names the adapter and its base.
    """
    found = [name for name in _ADAPTER_FILES if name in names]
    if not found:
        return
    facts = _read(adapter_config)
    kind = str(facts.get("peft_type") or facts.get("fine_tune_type") or "").upper()
    base = facts.get("base_model_name_or_path") or facts.get("model")
    what = " ".join(part for part in (kind, "adapter") if part)
    of = f" of {str(base)[:200]}" if base else ""
    merge = "merge it into its base (peft: merge_and_unload, then save_pretrained)"
    article = "an" if what[0] in "aAIO" else "a"
    if _has_weights(names):
        raise InputError(
            f"{where}: {found[0]} ({article} {what}{of}) lies beside a model's weights, and is "
            f"never applied here; {merge} and give the merged model, or move it away"
        )
    raise InputError(
        f"{where}: holds {article} {what}{of}, not a model's weights; {merge} and give the merged "
        f"model"
    )


def check_readable(names: Collection[str], where: str, named: str | None = None) -> None:
    """See that there are weights in the form that is read: safetensors, by their usual names.

    Args:
        names: files there.
        where: folder or hub id, for the message.
        named: the file or index that the model's config names instead of the usual ones.

    Raises:
        InputError: there are none; the message says what there is instead, and what to do.
    """
    if "config_sentence_transformers.json" in names or "modules.json" in names:
        raise InputError(
            f"{where}: an embedding model (sentence-transformers), which continues no text; give a "
            f"chat model"
        )
    shards = sorted(n for n in names if n.startswith("shard-") and n.endswith(".safetensors"))
    if shards:
        raise InputError(
            f"{where}: {shards[0]} is part of a distributed checkpoint; load it where it was made "
            f"and save it with save_pretrained"
        )
    if named is not None:
        if named not in names:
            raise InputError(
                f"{where}: config.json: transformers_weights names {named[:100]!r}, which is not "
                f"there"
            )
        return
    if _has_weights(names):
        return
    tensors = sorted(name for name in names if name.endswith(".safetensors"))
    if any("-of-" in name for name in tensors):
        raise InputError(
            f"{where}: {tensors[0]} is a part of the weights, and {INDEX}, which says what the "
            f"parts are, is not there; copy or download it too"
        )
    if tensors:
        raise InputError(
            f"{where}: the weights are in {tensors[0]}, and transformers reads {WEIGHTS}; give the "
            f"model in Hugging Face's format (a file that only has another name: rename it)"
        )
    for ending, kind in _OTHERS.items():
        others = sorted(n for n in names if n.endswith(ending) and not n.startswith(_NOT_WEIGHTS))
        if others:
            advice = name_gguf(names, where) if ending == ".gguf" else _advice(ending)
            raise InputError(
                f"{where}: the weights are in {others[0]} ({kind}), and of a folder only "
                f"safetensors files are read; {advice}"
            )
    raise InputError(f"{where}: holds no weights ({WEIGHTS} or {INDEX}); copy or download them too")


def no_config(names: Collection[str], where: str) -> InputError:
    """What a folder or repository without a config.json holds instead of a model."""
    if "model_index.json" in names:
        return InputError(
            f"{where}: no config.json; model_index.json says it is a diffusion pipeline, which "
            f"continues no text"
        )
    if "params.json" in names:
        return InputError(
            f"{where}: no config.json, so it holds no model in Hugging Face's format (params.json "
            f"is of its makers'); convert it, or give the model's Hugging Face version"
        )
    inside = sorted(name for name in names if name.startswith("checkpoint-"))
    hint = ""
    if any(name.endswith(".gguf") for name in names):
        hint = f"; {name_gguf(names, where)}"
    hint = f"; perhaps you mean {where.rstrip('/')}/{inside[-1]}" if inside else hint
    return InputError(f"{where}: the folder has no config.json, so it holds no model{hint}")


def name_gguf(names: Collection[str], where: str) -> str:
    """How to name one of the GGUF files of a folder or repository, for messages."""
    files = sorted(name for name in names if name.endswith(".gguf"))
    models = [name for name in files if not Path(name).name.startswith("mmproj")] or files
    separator = "/" if Path(where).expanduser().is_dir() else ":"
    first = f"{where.rstrip('/')}{separator}{models[0]}"
    others = f" (or {', '.join(models[1:4])}{', ...' if models[4:] else ''})" if models[1:] else ""
    return f"name its GGUF file: {first}{others}"


def _has_weights(names: Collection[str]) -> bool:
    return WEIGHTS in names or INDEX in names


def _advice(ending: str) -> str:
    if ending in (".bin", ".pt", ".pth", ".ckpt"):
        return f"loading pickles can run code, so {_CONVERT}"
    if ending in (".h5", ".msgpack"):
        return "transformers 4 converts it (from_tf=True or from_flax=True, then save_pretrained)"
    return "give the model's safetensors version"


def _read(file: Path | None) -> dict[str, Any]:
    try:
        facts = json.loads(file.read_text("utf-8")) if file is not None else {}
    except (OSError, ValueError):
        return {}
    return facts if isinstance(facts, dict) else {}
