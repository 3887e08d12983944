"""Directions from the residual stream at the last token of the prompt: what several methods share.

They read the same activations and differ in the vector that they make of them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor

from steersweep.core.errors import InputError
from steersweep.methods.candidates import same_everywhere
from steersweep.methods.method import ACTIVATIONS, ALONE, Found, Given, Tensors
from steersweep.methods.noise import no_direction, noise_share
from steersweep.model.chat_model import ChatModel
from steersweep.prompts.prompts import ExtractionSet
from steersweep.run.direction import Direction, unit_direction
from steersweep.steer.activations import residuals


@dataclass(frozen=True, eq=False)
class LastTokenStates:
    """`resid_post` at the last prompt token of every prompt, `[prompt, layer, d_model]`, float64.

    Attributes:
        harmful: of the harmful prompts, in order.
        harmless: of the harmless prompts, in order.
        residual_norms: mean length of the states of both classes, `[layer]`.
    """

    harmful: Tensor
    harmless: Tensor
    residual_norms: Tensor

    @property
    def paired_differences(self) -> Tensor:
        """Harmful minus harmless prompt of the same index, `[pair, layer, d_model]`.

        The longer class is cut to the length of the other.
        """
        n_pairs = min(len(self.harmful), len(self.harmless))
        return self.harmful[:n_pairs] - self.harmless[:n_pairs]


def last_token_states(
    chat: ChatModel, prompts: ExtractionSet, *, method: str, given: Given = ALONE
) -> LastTokenStates:
    """Read the states of both classes. Every layer comes from the same forward passes.

    Args:
        chat: the model.
        prompts: harmful and harmless extraction prompts.
        method: what to call the method in messages.
        given: what the method was given.

    Raises:
        InputError: fewer than two prompts in a class.
        NumericalError: activations are NaN or infinite.
    """
    for label, group in (("harmful", prompts.harmful), ("harmless", prompts.harmless)):
        if len(group) < 2:
            raise InputError(
                f"{prompts.name}: {len(group)} {label} prompts; {method} needs at least 2"
            )
    ids = [chat.prompt_ids(text) for text in (*prompts.harmful, *prompts.harmless)]

    def read() -> Tensors:
        states = residuals(
            chat,
            ids,
            max_rows=min(64, given.max_rows),
            backend=given.backend,
            on_share=lambda share: given.tell(ACTIVATIONS, share),
        )
        return {"states": states[:, 0]}

    states = given.kept("last-token", read)["states"].double()
    n_harmful = len(prompts.harmful)
    return LastTokenStates(states[:n_harmful], states[n_harmful:], states.norm(dim=-1).mean(0))


def found_along(
    vectors: Tensor,
    states: LastTokenStates,
    chat: ChatModel,
    prompts: ExtractionSet,
    layers: Sequence[int],
    *,
    method: str,
) -> Found:
    """Directions along vectors that were made of `states`; a vector that is only rounding has none.

    Args:
        vectors: one per layer of the model, `[layer, d_model]`, of any length.
        states: what they were made of.
        chat: the model.
        prompts: what the states are of.
        layers: those asked for.
        method: its name.

    Raises:
        InputError: every vector is only rounding, or they have another shape.
    """
    expected = (chat.n_layers, chat.d_model)
    if tuple(vectors.shape) != expected:
        raise InputError(f"vectors of shape {list(vectors.shape)}; this model's are {[*expected]}")
    vectors = vectors.detach().cpu().double()
    share = noise_share(chat)
    at_layer: dict[int, Direction] = {}
    missing: dict[int, str] = {}
    norms: list[float] = states.residual_norms.tolist()
    lengths: list[float] = vectors.norm(dim=-1).tolist()
    for layer, (length, norm) in enumerate(zip(lengths, norms, strict=True)):
        if length <= share * norm:
            missing[layer] = no_direction(layer, length, norm, share)
        elif layer in layers:
            at_layer[layer] = unit_direction(
                vectors[layer],
                method=method,
                layer=layer,
                position=-1,
                residual_norm=norm,
                model_id=chat.source.model_id,
                model_fingerprint=chat.fingerprint,
                precision=chat.precision,
                prompts=prompts.id,
            )
    if len(missing) == chat.n_layers:
        raise same_everywhere()
    return Found(at_layer, missing=missing)
