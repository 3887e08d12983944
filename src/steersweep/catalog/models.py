"""Shapes of the models that shipped plans name."""

from __future__ import annotations

from functools import cache
from importlib import resources
from typing import Any

import yaml


@cache
def model_shapes() -> dict[str, dict[str, Any]]:
    """By hub id: `n_layers`, `d_model`, `n_heads`, `kv_heads`, `head_dim`, `mlp_width`,
    `vocab_size` and `tied`; of some `instead_of_fp16`.
    """
    text = (resources.files("steersweep.catalog") / "models.yaml").read_text("utf-8")
    shapes: dict[str, dict[str, Any]] = yaml.safe_load(text)
    return shapes


def instead_of_fp16(model_id: str) -> str | None:
    """The precision that a model needs in place of fp16, in which it overflows; None: fp16 does."""
    found = model_shapes().get(model_id, {}).get("instead_of_fp16")
    return None if found is None else str(found)
