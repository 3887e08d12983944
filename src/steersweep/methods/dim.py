"""DIM: difference of means (Arditi et al. 2024, arXiv 2406.11717), as the sweep uses it."""

from __future__ import annotations

from collections.abc import Sequence

from steersweep.core.errors import InputError
from steersweep.methods.noise import NoDirection, no_direction, noise_share
from steersweep.model.chat_model import ChatModel
from steersweep.prompts.prompts import ExtractionSet
from steersweep.run.direction import Direction, unit_direction
from steersweep.steer.activations import Backend, residuals


def dim_directions(
    chat: ChatModel,
    prompts: ExtractionSet,
    *,
    layers: Sequence[int] | None = None,
    backend: Backend = "hooks",
) -> list[Direction]:
    """Mean(harmful) − mean(harmless) of `resid_post` at the last prompt token, for each layer.

    The unit vector is returned with the difference's length as `raw_norm`.

    Args:
        chat: the model.
        prompts: harmful and harmless extraction prompts.
        layers: which layers to return; all of them by default.
        backend: what reads activations; see `residuals`.

    Raises:
        InputError: fewer than two prompts in a class.
        NoDirection: the classes differ by no more than rounding at one of these layers.
        NumericalError: activations are NaN or infinite.
    """
    found, missing = find_dim(chat, prompts, backend=backend)
    wanted = range(chat.n_layers) if layers is None else layers
    for layer in wanted:
        if layer in missing:
            raise NoDirection(f"{prompts.name}, {missing[layer]}; leave that layer out")
    return [found[layer] for layer in wanted]


def find_dim(
    chat: ChatModel, prompts: ExtractionSet, *, backend: Backend = "hooks"
) -> tuple[dict[int, Direction], dict[int, str]]:
    """DIM's direction of every layer that has one, and of the other layers why not.

    One forward pass per batch of prompts gives every layer. Means are taken in float64.

    Raises:
        InputError: fewer than two prompts in a class.
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
    residual_norms = activations.norm(dim=-1).mean(0).tolist()
    lengths = difference.norm(dim=-1).tolist()
    share = noise_share(chat)
    found: dict[int, Direction] = {}
    missing: dict[int, str] = {}
    for layer, (length, norm) in enumerate(zip(lengths, residual_norms, strict=True)):
        if length <= share * norm:
            missing[layer] = no_direction(layer, length, norm, share)
            continue
        found[layer] = unit_direction(
            difference[layer],
            method="dim",
            layer=layer,
            position=-1,
            residual_norm=norm,
            model_id=chat.source.model_id,
            model_fingerprint=chat.fingerprint,
            precision=chat.precision,
            prompts=prompts.id,
        )
    return found, missing
