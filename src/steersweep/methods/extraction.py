"""Directions by method, for the layers a sweep or a user asks for."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from steersweep.methods.method import METHODS, Found, Given
from steersweep.model.chat_model import ChatModel
from steersweep.prompts.prompts import ExtractionSet
from steersweep.run.label import Label
from steersweep.steer.activations import Backend


def extract_directions(
    chat: ChatModel,
    method: str,
    prompts: ExtractionSet,
    layers: Sequence[int],
    *,
    state: Mapping[str, Any] | None = None,
    max_rows: int = 256,
    backend: Backend = "hooks",
) -> Found:
    """The directions of `method` at each layer, and the method's own choice if it makes one.

    Args:
        chat: the model.
        method: name of a method.
        prompts: harmful and harmless extraction prompts.
        layers: decoder layers.
        state: what an earlier call with the same model and prompts found, if anything.
        max_rows: rows per forward pass.
        backend: what reads activations, where the method only reads.

    Raises:
        InputError: unknown method or backend, too few prompts, classes that differ at no layer.
        NumericalError: activations are NaN or infinite.
        SteersweepError: no COSMIC candidate at a layer asked for has a finite score.
    """
    found = METHODS.get(method).find(chat, prompts, layers, Given(state, max_rows, backend))
    if found.chosen is None:
        return found
    label = str(Label(method, chose_layer=True))
    return replace(found, chosen=replace(found.chosen, method=label))
