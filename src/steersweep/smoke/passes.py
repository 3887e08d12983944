"""Passes of a model that checks compare with each other, and how far apart they may be."""

from __future__ import annotations

import torch
from torch import Tensor

from steersweep.core.precision_labels import INT8_DYNAMIC, rounds_activations_by_batch, runs_as
from steersweep.model.chat_model import ChatModel
from steersweep.steer.activations import residuals
from steersweep.steer.edit import Edit
from steersweep.steer.parity import PROBES, TOLERANCES
from steersweep.steer.steering import Row, generate

STRENGTH = 0.3  # of the residual norm
_INT8 = 0.05
# As in bfloat16: 0.13 was seen on a real model of 30 layers where no fault was, 0.04 on another.
_INT8_DYNAMIC = 0.2
# A fault shows as at least this share of what it would change if it were there in full.
_SHARE_OF_FAULT = 0.25


def tolerance_of(chat: ChatModel) -> float:
    """Largest relative difference of two ways to compute the same.

    LLM.int8() rounds activations, and keeps columns in 16 bits by what it sees in the whole batch:
    a row's numbers depend a little on its neighbours. In `int8-dynamic` they do not, but where a
    number is rounded to the other side a layer later, two ways part by whole steps.
    """
    if runs_as(chat.precision) == INT8_DYNAMIC:
        return _INT8_DYNAMIC
    return _INT8 if rounds_activations_by_batch(chat.precision) else 20 * TOLERANCES[chat.dtype]


def is_apart(chat: ChatModel, difference: float, fault: float) -> bool:
    """Whether two passes differ by more than rounding.

    A tolerance that suits every model in 16 bits is blind on some: so a difference also counts if
    it is much of what the fault in question changes on this model.

    Args:
        chat: the model.
        difference: relative difference of the passes.
        fault: relative difference that the fault makes if it is put in on purpose.
    """
    tolerance = tolerance_of(chat)
    seen = difference > tolerance / 20 and difference > _SHARE_OF_FAULT * fault
    return not difference <= tolerance or seen


def relative(found: Tensor, expected: Tensor) -> float:
    """Largest difference over the largest value; infinite where a number is none."""
    found, expected = found.float().cpu(), expected.float().cpu()
    apart = (found - expected).abs().max() / expected.abs().max().clamp(min=1e-9)
    return float(apart.nan_to_num(nan=torch.inf))


def push_of(chat: ChatModel) -> Tensor:
    """A fixed vector of the residual stream's own size, `[d_model]`."""
    noise = torch.randn(chat.d_model, generator=torch.Generator().manual_seed(0))
    states = residuals(chat, [chat.prompt_ids(PROBES[0])])[0, 0, chat.n_layers // 2]
    push: Tensor = (noise / noise.norm() * states.norm() * STRENGTH).to(chat.dtype)
    return push


def addition_of(chat: ChatModel, share: float = 1.0) -> Edit:
    """A share of it, added from the middle of the model on; a layer follows where it starts."""
    return Edit.add(push_of(chat).float(), share, start=(chat.n_layers - 1) // 2)


def steered_states(chat: ChatModel, prompts: list[list[int]], step: Edit | None) -> Tensor:
    """Final states after each prompt, `[row, d_model]`, in the first step of `generate`."""
    found: list[Tensor] = []
    with chat.final_states(lambda states: found.append(states.float().cpu())):
        generate(chat, [Row(ids, step) for ids in prompts], max_new_tokens=1)
    return found[0]
