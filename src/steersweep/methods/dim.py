"""DIM: difference of means (Arditi et al. 2024, arXiv 2406.11717), as the sweep uses it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from steersweep.methods.method import Found, Given
from steersweep.prompts.prompts import DIM_EXTRACTION_SET, ExtractionSet

if TYPE_CHECKING:
    from steersweep.model.chat_model import ChatModel
    from steersweep.run.direction import Direction
    from steersweep.steer.activations import Backend


class Dim:
    """Mean(harmful) − mean(harmless) of `resid_post` at the last prompt token."""

    name = "dim"
    chooses_layer = False
    default_prompts = DIM_EXTRACTION_SET

    def find(
        self, chat: ChatModel, prompts: ExtractionSet, layers: Sequence[int], given: Given
    ) -> Found:
        """The direction of each layer; see `Method.find`. Means are taken in float64."""
        from steersweep.methods.last_token import found_along, last_token_states

        states = last_token_states(chat, prompts, method="DIM", given=given)
        difference = states.harmful.mean(0) - states.harmless.mean(0)  # [layer, d_model]
        return found_along(difference, states, chat, prompts, layers, method=self.name)


def dim_directions(
    chat: ChatModel,
    prompts: ExtractionSet,
    *,
    layers: Sequence[int] | None = None,
    backend: Backend = "hooks",
) -> list[Direction]:
    """DIM's direction of each layer, in order.

    The unit vector is returned with the difference's length as `raw_norm`.

    Args:
        chat: the model.
        prompts: harmful and harmless extraction prompts.
        layers: which layers to return; all of them by default.
        backend: what reads activations; see `residuals`.

    Raises:
        InputError: fewer than two prompts in a class, or classes that differ at no layer.
        NoDirection: the classes differ by no more than rounding at one of these layers.
        NumericalError: activations are NaN or infinite.
    """
    from steersweep.methods.noise import NoDirection

    wanted = range(chat.n_layers) if layers is None else layers
    found = Dim().find(chat, prompts, wanted, Given(backend=backend))
    for layer in wanted:
        if layer in found.missing:
            raise NoDirection(f"{prompts.name}, {found.missing[layer]}; leave that layer out")
    return [found.at_layer[layer] for layer in wanted]
