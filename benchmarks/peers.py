"""A layer x strength sweep as others do it: each way gives the new token ids of every row.

Rows are conditions x prompts in that order. The study asked one prompt at a time. steering-vectors
and repeng steer all rows of a batch alike, so a batch is one condition with all its prompts;
nnsight and steersweep have rows of many conditions in a batch.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from importlib.metadata import version
from importlib.util import find_spec
from typing import Any

import numpy
import torch
from torch import Tensor

from steersweep import ChatModel, Edit, Row, generate

Condition = Edit | None  # an addition
Prompts = Sequence[Sequence[int]]
Answers = list[list[int]]
Way = Callable[[ChatModel, Prompts, Sequence[Condition], int], Answers]


def transformers_generate(model: Any, chat: ChatModel, prompts: Prompts, tokens: int) -> Answers:
    """Greedy `generate` of transformers on one batch, up to each row's first ending token."""
    batch = chat.pad(prompts)
    with torch.inference_mode():
        output: Any = model.generate(
            input_ids=batch.input_ids,
            attention_mask=batch.attention_mask,
            do_sample=False,
            max_new_tokens=tokens,
            pad_token_id=chat.pad_id,
        )
    return answers_of(chat, output[:, batch.input_ids.shape[1] :])


def answers_of(chat: ChatModel, new_tokens: Tensor) -> Answers:
    """Rows of new token ids, each up to its first ending token."""
    found = []
    for ids in new_tokens.tolist():
        end = next((i for i, token in enumerate(ids) if token in chat.eos_ids), len(ids))
        found.append(ids[:end])
    return found


def added(condition: Edit) -> Tensor:
    """What an addition adds, `[d_model]`."""
    assert condition.added is not None
    return condition.added


def hooked(chat: ChatModel, condition: Condition) -> AbstractContextManager[None]:
    """Hooks of one condition on every layer from its start on."""
    if condition is None:
        return nullcontext()
    push = added(condition).to(chat.device, chat.dtype)

    def add(_layer: int, hidden: Tensor) -> Tensor:
        return hidden + push

    return chat.layer_hooks(add, range(condition.start, chat.n_layers))


def study(
    chat: ChatModel, prompts: Prompts, conditions: Sequence[Condition], tokens: int
) -> Answers:
    """One prompt at a time, hooks put on and off for each; one of the five repeats."""
    found = []
    for condition in conditions:
        for ids in prompts:
            with hooked(chat, condition):
                found += transformers_generate(chat.model, chat, [ids], tokens)
    return found


def batched(
    chat: ChatModel, prompts: Prompts, conditions: Sequence[Condition], tokens: int
) -> Answers:
    """Plain hooks on all prompts of one condition; they steer padding too."""
    found = []
    for condition in conditions:
        with hooked(chat, condition):
            found += transformers_generate(chat.model, chat, prompts, tokens)
    return found


def steering_vectors(
    chat: ChatModel, prompts: Prompts, conditions: Sequence[Condition], tokens: int
) -> Answers:
    """The package steering-vectors, on all prompts of one condition; it steers padding too."""
    from steering_vectors import SteeringVector

    found = []
    for condition in conditions:
        applied: AbstractContextManager[Any] = nullcontext()
        if condition is not None:
            layers = range(condition.start, chat.n_layers)
            vector = SteeringVector(dict.fromkeys(layers, added(condition).to(chat.dtype)))
            applied = vector.apply(chat.model, multiplier=1.0)
        with applied:
            found += transformers_generate(chat.model, chat, prompts, tokens)
    return found


def repeng(
    chat: ChatModel, prompts: Prompts, conditions: Sequence[Condition], tokens: int
) -> Answers:
    """The package repeng, on all prompts of one condition; it spares padding."""
    vars(numpy)["float_"] = numpy.float64  # repeng 0.4.0 is written for numpy 1
    from repeng import ControlModel

    found = []
    with attributes_of_layers():
        control = ControlModel(chat.model, range(chat.n_layers))
        try:
            for condition in conditions:
                control.reset()
                if condition is not None:
                    push = added(condition).to(chat.dtype)
                    none = torch.zeros_like(push)
                    control.set_raw_control(
                        {
                            layer: push if layer >= condition.start else none
                            for layer in range(chat.n_layers)
                        }
                    )
                found += transformers_generate(control, chat, prompts, tokens)
        finally:
            control.unwrap()
    return found


@contextmanager
def attributes_of_layers() -> Iterator[None]:
    """Gives repeng's layers the attributes that transformers 5 asks its own layers for."""
    from repeng.control import ControlModule

    def from_block(self: Any, name: str) -> Any:
        try:
            return torch.nn.Module.__getattr__(self, name)
        except AttributeError:
            if name == "block":
                raise
            return getattr(self.block, name)

    ControlModule.__getattr__ = from_block
    try:
        yield
    finally:
        del ControlModule.__getattr__


def nnsight(
    chat: ChatModel, prompts: Prompts, conditions: Sequence[Condition], tokens: int
) -> Answers:
    """The package nnsight: an invoke per condition, all in one batch, as it can."""
    import nnsight as package

    model = package.TransformersModel(chat.model, tokenizer=chat.tokenizer, task="text-generation")
    batch = chat.pad(prompts)
    inputs = {"input_ids": batch.input_ids, "attention_mask": batch.attention_mask}
    settings = {"max_new_tokens": tokens, "do_sample": False, "pad_token_id": chat.pad_id}
    with warnings.catch_warnings(), torch.inference_mode():
        warnings.simplefilter("ignore")  # an open loop ends with a warning, by design
        with model.generate(**settings) as tracer:
            for condition in conditions:
                with tracer.invoke(inputs):
                    if condition is not None:  # a loop in which nothing is asked for never ends
                        push = added(condition).to(chat.dtype)
                        for _step in tracer.iter[:]:
                            for layer in model.model.layers[condition.start :]:
                                layer.output = layer.output + push
            with tracer.invoke():
                output = tracer.result.save()
    return answers_of(chat, output[:, batch.input_ids.shape[1] :])


def ours(
    chat: ChatModel, prompts: Prompts, conditions: Sequence[Condition], tokens: int
) -> Answers:
    """All conditions together."""
    rows = [Row(ids, condition) for condition in conditions for ids in prompts]
    return [list(answer.token_ids) for answer in generate(chat, rows, max_new_tokens=tokens)]


PACKAGES = {
    "steering-vectors": ("steering_vectors", steering_vectors),
    "repeng": ("repeng", repeng),
    "nnsight": ("nnsight", nnsight),
}


def installed() -> dict[str, Way]:
    """The packages that are here, by name and version."""
    return {
        f"{name} {version(name)}": way
        for name, (module, way) in PACKAGES.items()
        if find_spec(module) is not None
    }
