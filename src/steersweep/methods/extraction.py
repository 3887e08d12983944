"""Directions by method, for the layers a sweep or a user asks for."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch

from steersweep.core.errors import InputError
from steersweep.core.own import Own
from steersweep.methods.method import ALONE, METHODS, Found, Given, Method
from steersweep.model.chat_model import ChatModel
from steersweep.model.memory import is_out_of_memory
from steersweep.prompts.prompts import ExtractionSet
from steersweep.run.direction import Direction
from steersweep.run.label import Label

_UNIT = 1e-4  # how far rounding to float32 may take a length from 1
_SITES = ("resid_pre", "resid_post")


def extract_directions(
    chat: ChatModel,
    method: str,
    prompts: ExtractionSet,
    layers: Sequence[int],
    *,
    given: Given = ALONE,
) -> Found:
    """The directions of `method` at each layer, and the method's own choice if it makes one.

    Args:
        chat: the model.
        method: name of a method, or where one of your own is: `package.module:Class` or
            `FILE.py:Class`.
        prompts: harmful and harmless extraction prompts.
        layers: decoder layers.
        given: what else the method may use.

    Raises:
        InputError: unknown method or backend, too few prompts, classes that differ at no layer; a
            method of your own that fails, or gives what is no direction of this model.
        NumericalError: activations are NaN or infinite.
        SteersweepError: no COSMIC candidate at a layer asked for has a finite score.
    """
    (name,) = METHODS.named([method])
    finder = METHODS.get(name)
    own = METHODS.own_of([name]).get(name)
    if not isinstance(own, Own):
        found = finder.find(chat, prompts, layers, given)
    else:
        found = _found_by_own(own, finder, chat, prompts, layers, given)
    if found.chosen is None:
        return found
    label = str(Label(name, chose_layer=True))
    return replace(found, chosen=replace(found.chosen, method=label))


def _found_by_own(
    own: Own,
    method: Method,
    chat: ChatModel,
    prompts: ExtractionSet,
    layers: Sequence[int],
    given: Given,
) -> Found:
    """What a method of a user's own finds, checked; too little memory stays what it is."""
    too_large: list[BaseException] = []

    def find() -> Any:
        try:
            return method.find(chat, prompts, layers, given)
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
            too_large.append(error)

    try:
        found = own.running("find failed", find)
    except InputError as error:
        said = str(error)
        raise InputError(said if said.startswith(str(own)) else f"{own}: {said}") from error
    if too_large:
        raise too_large[0]
    for fault in _faults(found, method, chat, prompts, layers):
        raise InputError(f"{own}: {fault}")
    checked: Found = found
    return checked


def _faults(
    found: Any, method: Method, chat: ChatModel, prompts: ExtractionSet, layers: Sequence[int]
) -> Iterator[str]:
    """What is wrong with what a method found."""
    if not isinstance(found, Found):
        yield f"find must give a Found, not {type(found).__name__}"
        return
    for name, kind in (("at_layer", Mapping), ("missing", Mapping), ("notes", tuple)):
        value: Any = getattr(found, name)
        if not isinstance(value, kind):
            yield f"{name} of what it found is a {type(value).__name__}, no {kind.__name__}"
            return
    for layer in found.at_layer:
        if layer not in layers:
            yield f"it gave a direction at layer {layer!r}, which was not asked for"
    for layer in layers:
        if layer not in found.at_layer and layer not in found.missing:
            yield f"it gave no direction at layer {layer}, and no reason in `missing`"
    for layer, why in found.missing.items():
        if type(layer) is not int or not 0 <= layer < chat.n_layers or not isinstance(why, str):
            yield f"missing must give a reason by layer, not {layer!r}: {why!r}"
    for layer, direction in found.at_layer.items():
        for fault in _direction_faults(direction, layer, method, chat, prompts):
            yield f"layer {layer}: {fault}"
    yield from _choice_faults(found, method, chat, prompts)
    try:
        json.dumps(found.state, allow_nan=False)
    except (TypeError, ValueError) as error:
        yield f"its state is no plain JSON data: {error}"


def _choice_faults(
    found: Found, method: Method, chat: ChatModel, prompts: ExtractionSet
) -> Iterator[str]:
    if not all(type(note) is str for note in found.notes):
        yield "its notes must be texts"
    if found.chosen is not None:
        if not method.chooses_layer:
            yield "it says that it chooses no layer, and chose one"
        layer = getattr(found.chosen, "layer", None)
        for fault in _direction_faults(found.chosen, layer, method, chat, prompts):
            yield f"its choice: {fault}"
    elif method.chooses_layer and not found.notes:
        yield "it chose no layer, and no note says why"


def _direction_faults(
    direction: Any, layer: Any, method: Method, chat: ChatModel, prompts: ExtractionSet
) -> Iterator[str]:
    if not isinstance(direction, Direction) or not isinstance(direction.vector, torch.Tensor):
        yield f"must be a Direction, not {type(direction).__name__}"
        return
    vector = direction.vector
    if tuple(vector.shape) != (chat.d_model,):
        yield (
            f"its vector has shape {list(vector.shape)}; this model's residual stream is "
            f"{chat.d_model} wide"
        )
        return
    if vector.dtype != torch.float32 or vector.device.type != "cpu" or vector.requires_grad:
        yield "its vector must be float32, on the CPU and without gradient"
    if not bool(torch.isfinite(vector).all()):
        yield "its vector has NaN or infinity"
    elif not abs((length := float(vector.double().norm())) - 1) < _UNIT:
        yield f"its vector has length {length:.4g}; it must be 1 (found_along makes it so)"
    for name in ("raw_norm", "residual_norm"):
        value = getattr(direction, name)
        if not isinstance(value, float) or not 0 < value < math.inf:
            yield f"its {name} is {value!r}; it must be a positive number"
    expected = {
        "layer": layer,
        "method": method.name,
        "model_fingerprint": chat.fingerprint,
        "precision": chat.precision,
        "prompts": prompts.id,
    }
    for name, value in expected.items():
        if getattr(direction, name) != value:
            yield f"its {name} is {getattr(direction, name)!r}; it must be {value!r}"
    if type(direction.layer) is not int or not 0 <= direction.layer < chat.n_layers:
        yield f"its layer is {direction.layer!r}; this model has {chat.n_layers} layers"
    if type(direction.position) is not int or direction.position >= 0:
        yield f"its position is {direction.position!r}; they count from the end: -1, -2, ..."
    if direction.site not in _SITES:
        yield f"its site is {direction.site!r}; it must be one of {', '.join(_SITES)}"
