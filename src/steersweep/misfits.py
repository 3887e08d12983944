"""Tensors of a model's files that do not fit the network its config describes, and why."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

_ADAPTER = re.compile(
    r"^base_model\.|\.base_layer\.|\.lora_|\.modules_to_save\.|\.original_module\.|\.ia3_|\.vera_"
)
_CODED = re.compile(
    r"\.(qweight|qzeros|g_idx|scales|weight_scale(_inv|_2)?|weight_packed|weight_shape|absmax"
    r"|quant_map|SCB|weight_format|input_scale|codebooks|codes|W_q)$|(_blocks|_scales)$|quant_state"
)
_LAYER = re.compile(r"(?:^|\.)(?:layers|h|blocks|block|decoder_layers)\.(\d+)\.")
_HEAD = re.compile(r"(^|\.)(lm_head|embed_out|output|output_layer)\.(weight|bias)$")
_EMBEDDING = re.compile(r"(^|\.)(lm_head|embed_out|embed_tokens|wte|embed_in|word_embeddings)\.")
_OTHER_TASK = re.compile(r"(^|\.)(score|classifier|v_head|value_head|reward_head|pooler|cls)\.")


@dataclass(frozen=True)
class Misfits:
    """What does not fit; names of transformers' network, or of the files where unexpected.

    Attributes:
        missing: in the network, not in the files.
        unexpected: in the files, not in the network.
        reshaped: in both: name, shape in the files, shape in the network.
    """

    missing: Sequence[str] = ()
    unexpected: Sequence[str] = ()
    reshaped: Sequence[tuple[str, tuple[int, ...], tuple[int, ...]]] = field(default=())

    def __bool__(self) -> bool:
        return bool(self.missing or self.unexpected or self.reshaped)

    def __str__(self) -> str:
        shapes = [
            f"{name} ({_by(stored)} instead of {_by(made)})" for name, stored, made in self.reshaped
        ]
        parts = [
            (self.missing, "that the model needs are not in its files"),
            (self.unexpected, "of its files have no place in the model"),
            (shapes, "of its files have another shape than config.json says"),
        ]
        return "; ".join(
            f"{len(names)} tensor{'s' * (len(names) > 1)} {_singular(what, len(names))} "
            f"({_some(names)})"
            for names, what in parts
            if names
        )


def why(misfits: Misfits, config: Any) -> str:
    """The likeliest cause, and what to do."""
    missing, unexpected = misfits.missing, misfits.unexpected
    text = config.get_text_config()
    if any(_ADAPTER.search(name) for name in unexpected):
        return (
            "the names are of an adapter's checkpoint that was not merged; merge it into its base "
            "(peft: merge_and_unload, then save_pretrained) and give the merged model"
        )
    if any(_CODED.search(name) for name in unexpected):
        return (
            "the weights are quantized otherwise than config.json says (quantization_config); use "
            "the config they were saved with, or the model's full checkpoint"
        )
    if prefix := _added_prefix(missing, unexpected):
        return (
            f"all names begin with {prefix!r}, as a wrapper for training leaves them; save the "
            f"model inside it with save_pretrained"
        )
    if layers := _layers(misfits, int(text.num_hidden_layers)):
        return layers
    if misfits.reshaped:
        return _shapes(misfits, text)
    if missing and all(_HEAD.search(name) for name in missing) and not unexpected:
        return (
            "config.json says that the output layer is not tied to the embedding "
            "(tie_word_embeddings), and the files hold none; a model without one answers nothing"
        )
    if any(_OTHER_TASK.search(name) for name in unexpected):
        return "the files are of a model for another task (a classifier or a reward model)"
    return "config.json belongs to another model, or the files are not complete"


def _added_prefix(missing: Sequence[str], unexpected: Sequence[str]) -> str | None:
    """What all names in the files begin with, if without it they are the missing ones."""
    wanted = set(missing)
    for name in unexpected[:1]:
        parts = name.split(".")
        for count in range(1, len(parts)):
            prefix = ".".join(parts[:count]) + "."
            bare = [other.removeprefix(prefix) for other in unexpected if other.startswith(prefix)]
            if len(bare) == len(unexpected) and wanted & set(bare):
                return prefix
    return None


def _layers(misfits: Misfits, expected: int) -> str | None:
    """Whether whole layers at the end are what does not fit."""
    lost = {int(m[1]) for name in misfits.missing if (m := _LAYER.search(name))}
    extra = {int(m[1]) for name in misfits.unexpected if (m := _LAYER.search(name))}
    said = f"config.json says num_hidden_layers {expected}, and the files hold "
    if not extra and lost and lost == set(range(min(lost), expected)) and min(lost) > 0:
        return f"{said}{min(lost)} whole layers; one of both is wrong, or files are missing"
    if not lost and extra and min(extra) >= expected:
        return f"{said}{max(extra) + 1}; config.json is not the one of these weights"
    return None


def _shapes(misfits: Misfits, text: Any) -> str:
    if all(_EMBEDDING.search(name) for name, _, _ in misfits.reshaped):
        rows = misfits.reshaped[0][1][0]
        return (
            f"config.json says vocab_size {text.vocab_size}, and the files hold {rows} rows; use "
            f"the config and tokenizer that belong to these weights"
        )
    return (
        "config.json belongs to another model: its widths (hidden_size, num_attention_heads, "
        "num_key_value_heads, head_dim, intermediate_size, num_experts) are not those of the files"
    )


def _singular(what: str, count: int) -> str:
    if count > 1:
        return what
    return what.replace("are not", "is not").replace("have ", "has ").replace("need", "need")


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:3]) + (f", ... {len(names) - 3} more" if len(names) > 3 else "")


def _by(shape: tuple[int, ...]) -> str:
    return " x ".join(map(str, shape))
