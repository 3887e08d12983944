"""When the difference of two means is only rounding, and so has no direction.

Where harmful and harmless prompts have the same activations, as at a template's token in the first
layers, computing them gives differences all the same: prompts lie at other positions, share a batch
with others, and numbers are rounded. Normalised, such a difference looks like any direction.
"""

from __future__ import annotations

import torch

from steersweep.core.errors import InputError
from steersweep.core.precision_labels import INT8_DYNAMIC, runs_as
from steersweep.model.chat_model import ChatModel

# Largest share of the residual stream's length that counts as rounding, by type of activations:
# about three times the largest seen in 25 architectures where the exact difference is 0 (1.6e-7 in
# float32, 4.6e-3 in bfloat16, 4.9e-4 in float16), which are 8, 2 and 2 units of their rounding.
_SHARES = {
    torch.float64: 2e-15,
    torch.float32: 1e-6,
    torch.bfloat16: 1.5e-2,
    torch.float16: 2e-3,
}
# Activations are rounded to eight bits, by what else is in the batch: 3e-3 was seen.
_EIGHT_BITS = ("int8", INT8_DYNAMIC, "fp8")
_EIGHT_BIT_SHARE = 1e-2


class NoDirection(InputError):
    """Harmful and harmless prompts differ by no more than rounding, so nothing can be added."""


def noise_share(chat: ChatModel) -> float:
    """Share of the residual stream's length up to which a difference of means is rounding."""
    share = _SHARES[chat.dtype]
    return max(share, _EIGHT_BIT_SHARE) if runs_as(chat.precision) in _EIGHT_BITS else share


def no_direction(layer: int, difference: float, residual_norm: float, share: float) -> str:
    """Why a layer has no direction, for people.

    Args:
        layer: its index.
        difference: length of the difference of means.
        residual_norm: length of the residual stream there.
        share: from `noise_share`.
    """
    seen = difference / residual_norm if residual_norm else 0.0
    return (
        f"layer {layer}: no direction: harmful and harmless prompts differ there by {seen:.1e} of "
        f"the residual stream's length, which is rounding (up to {share:.1e})"
    )
