"""DIM: difference of means (Arditi et al. 2024, arXiv 2406.11717), as the sweep uses it."""

from __future__ import annotations

from collections.abc import Sequence

from steersweep.activations import Backend, residuals
from steersweep.chat_model import ChatModel
from steersweep.directions.direction import Direction, unit_direction
from steersweep.errors import InputError
from steersweep.prompts.prompts import ExtractionSet


def dim_directions(
    chat: ChatModel,
    prompts: ExtractionSet,
    *,
    layers: Sequence[int] | None = None,
    backend: Backend = "hooks",
) -> list[Direction]:
    """Mean(harmful) − mean(harmless) of `resid_post` at the last prompt token, for each layer.

    One forward pass per batch of prompts gives every layer. Means are taken in float64. The unit
    vector is returned with the difference's length as `raw_norm`.

    Args:
        chat: the model.
        prompts: harmful and harmless extraction prompts.
        layers: which layers to return; all of them by default.
        backend: what reads activations; see `residuals`.

    Raises:
        InputError: fewer than two prompts in a class, or identical classes.
        NumericalError: activations are NaN or infinite.
    """
    for label, group in (("harmful", prompts.harmful), ("harmless", prompts.harmless)):
        if len(group) < 2:
            raise InputError(f"{prompts.name}: {len(group)} {label} prompts; DIM needs at least 2")
    texts = [*prompts.harmful, *prompts.harmless]
    ids = [chat.prompt_ids(text) for text in texts]
    activations = residuals(chat, ids, backend=backend)[:, 0].double()
    n_harmful = len(prompts.harmful)
    # [layer, d_model]
    difference = activations[:n_harmful].mean(0) - activations[n_harmful:].mean(0)
    residual_norms = activations.norm(dim=-1).mean(0)
    return [
        unit_direction(
            difference[layer],
            method="dim",
            layer=layer,
            position=-1,
            residual_norm=float(residual_norms[layer]),
            model_id=chat.source.model_id,
            model_fingerprint=chat.fingerprint,
            precision=chat.precision,
            prompts=prompts.id,
        )
        for layer in (range(chat.n_layers) if layers is None else layers)
    ]
