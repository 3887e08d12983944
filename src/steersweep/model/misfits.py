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
    text = config.get_text_config()
    causes = (_by_names, _by_prefix, _by_layers, _by_shapes, _by_head)
    found = (cause(misfits, text) for cause in causes)
    return next(
        filter(None, found), "config.json belongs to another model, or the files are not complete"
    )


def _by_names(misfits: Misfits, _text: Any) -> str | None:
    if any(_ADAPTER.search(name) for name in misfits.unexpected):
        return (
            "the names are of an adapter's checkpoint that was not merged; merge it into its base "
            "(peft: merge_and_unload, then save_pretrained) and give the merged model"
        )
    if any(_CODED.search(name) for name in misfits.unexpected):
        return (
            "the weights are quantized otherwise than config.json says (quantization_config); use "
            "the config they were saved with, or the model's full checkpoint"
        )
    if any(_OTHER_TASK.search(name) for name in misfits.unexpected):
        return "the files are of a model for another task (a classifier or a reward model)"
    return None


def _by_prefix(misfits: Misfits, _text: Any) -> str | None:
    """Whether all names in the files are the missing ones behind a common beginning."""
    names, wanted = misfits.unexpected, set(misfits.missing)
    parts = names[0].split(".") if names else []
    for count in range(1, len(parts)):
        prefix = ".".join(parts[:count]) + "."
        bare = {name.removeprefix(prefix) for name in names if name.startswith(prefix)}
        if len(bare) == len(names) and wanted & bare:
            return (
                f"all names begin with {prefix!r}, as a wrapper for training leaves them; save the "
                f"model inside it with save_pretrained"
            )
    return None


def _by_layers(misfits: Misfits, text: Any) -> str | None:
    """Whether whole layers at the end are what does not fit."""
    expected = int(text.num_hidden_layers)
    lost = {int(m[1]) for name in misfits.missing if (m := _LAYER.search(name))}
    extra = {int(m[1]) for name in misfits.unexpected if (m := _LAYER.search(name))}
    said = f"config.json says num_hidden_layers {expected}, and the files hold "
    if not extra and lost and lost == set(range(min(lost), expected)) and min(lost) > 0:
        return f"{said}{min(lost)} whole layers; one of both is wrong, or files are missing"
    if not lost and extra and min(extra) >= expected:
        return f"{said}{max(extra) + 1}; config.json is not the one of these weights"
    return None


def _by_shapes(misfits: Misfits, text: Any) -> str | None:
    if not misfits.reshaped:
        return None
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


def _by_head(misfits: Misfits, _text: Any) -> str | None:
    if misfits.unexpected or not all(_HEAD.search(name) for name in misfits.missing):
        return None
    return (
        "config.json says that the output layer is not tied to the embedding "
        "(tie_word_embeddings), and the files hold none; a model without one answers nothing"
    )


def _singular(what: str, count: int) -> str:
    if count > 1:
        return what
    return what.replace("are not", "is not").replace("have ", "has ")


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:3]) + (f", ... {len(names) - 3} more" if len(names) > 3 else "")


def _by(shape: tuple[int, ...]) -> str:
    return " x ".join(map(str, shape))
