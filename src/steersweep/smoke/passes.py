"""Passes of a model that checks compare with each other, and how far apart they may be."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from steersweep.core.precision_labels import INT8_DYNAMIC, rounds_activations_by_batch, runs_as
from steersweep.model.chat_model import ChatModel
from steersweep.steer.edit import Edit
from steersweep.steer.parity import PROBES, TOLERANCES
from steersweep.steer.steering import Row, generate

STRENGTH = 0.3  # of the residual norm
STEPS = 2  # positions at the end of a probe whose logits are kept
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


def is_apart(chat: ChatModel, difference: float, share: float) -> bool:
    """Whether two passes differ by more than rounding.

    A tolerance that suits every model in 16 bits is blind on some: so a difference also counts if
    it is much of what the fault in question changes on this model.

    Args:
        chat: the model.
        difference: relative difference of the passes.
        share: of the fault that shows in it; see `share_of_fault`.
    """
    tolerance = tolerance_of(chat)
    seen = difference > tolerance / 20 and share > _SHARE_OF_FAULT
    return not difference <= tolerance or seen


def share_of_fault(chat: ChatModel, change: Tensor, fault: Tensor) -> float:
    """How much of a fault shows in a change, 0 to about 1.

    By size; in `int8-dynamic` along the fault alone, since what is rounded there may be as large as
    a small fault and goes elsewhere.

    Args:
        chat: the model.
        change: what one way to compute gave less what the other did, `[..., width]`.
        fault: the same with the fault put in on purpose.
    """
    change, fault = change.float().cpu().flatten(), fault.float().cpu().flatten()
    if runs_as(chat.precision) == INT8_DYNAMIC:
        return float(change @ fault / (fault @ fault).clamp(min=1e-18))
    return float(change.abs().max() / fault.abs().max().clamp(min=1e-9))


def relative(found: Tensor, expected: Tensor) -> float:
    """Largest difference over the largest value; infinite where a number is none."""
    found, expected = found.float().cpu(), expected.float().cpu()
    apart = (found - expected).abs().max() / expected.abs().max().clamp(min=1e-9)
    return float(apart.nan_to_num(nan=torch.inf))


@dataclass(frozen=True)
class PlainPass:
    """A prompt by itself, without a cache.

    Attributes:
        ids: its tokens.
        logits: at its last positions, `[position, vocabulary]`; at most `STEPS` of them.
        length: of the residual stream after the middle layer, at the last token.
    """

    ids: list[int]
    logits: Tensor
    length: float


class PlainPasses:
    """The probes as plain passes have them; each is made once for all checks of a round.

    Args:
        chat: the model.
    """

    def __init__(self, chat: ChatModel) -> None:
        self._chat = chat

    @cached_property
    def short(self) -> PlainPass:
        """Of the first probe."""
        return self._of(PROBES[0])

    @cached_property
    def long(self) -> PlainPass:
        """Of the second."""
        return self._of(PROBES[1])

    @torch.inference_mode()
    def _of(self, text: str) -> PlainPass:
        chat, lengths = self._chat, []

        def read(_layer: int, hidden: Tensor) -> None:
            lengths.append(float(hidden[0, -1].float().norm()))

        ids = chat.prompt_ids(text)
        batch = chat.pad([ids])
        keep = min(STEPS, len(ids))
        with chat.layer_hooks(read, [chat.n_layers // 2]):
            logits = chat.logits(
                batch.input_ids, batch.attention_mask, batch.position_ids, keep=keep
            )
        return PlainPass(ids, logits[0].float(), lengths[0])

    @cached_property
    def push(self) -> Tensor:
        """A fixed vector of the residual stream's own size, `[d_model]`."""
        noise = torch.randn(self._chat.d_model, generator=torch.Generator().manual_seed(0))
        push: Tensor = (noise / noise.norm() * self.short.length * STRENGTH).to(self._chat.dtype)
        return push

    def addition(self, share: float = 1.0) -> Edit:
        """A share of it, added from the middle of the model on; a layer follows where it starts."""
        return Edit.add(self.push.float(), share, start=(self._chat.n_layers - 1) // 2)


def steered_states(chat: ChatModel, prompts: list[list[int]], step: Edit | None) -> Tensor:
    """Final states after each prompt, `[row, d_model]`, in the first step of `generate`."""
    found: list[Tensor] = []
    with chat.final_states(lambda states: found.append(states.float().cpu())):
        generate(chat, [Row(ids, step) for ids in prompts], max_new_tokens=1)
    return found[0]
