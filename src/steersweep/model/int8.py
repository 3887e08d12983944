"""Linear layers in eight bits on a CPU: weights per output, activations per token as they come.

Products are of whole numbers, so they are exact, whatever the batch: a token's result depends on no
other token. What is rounded is each weight, to 1/127 of the largest of its output, and each
activation, to 1/127 of the largest of its token.
"""

from __future__ import annotations

import hashlib
from typing import Any

import torch
from torch import Tensor, nn

from steersweep.core.errors import InputError

_STEPS = 127  # of a scale, on each side of zero
_ZERO = 128  # what activations, which are unsigned, have in place of zero
_SMALLEST = 1e-30  # of a token's largest number, so that a token of zeros stays one


class Int8Linear(nn.Module):
    """What `linear` computes, with its weights and its inputs in eight bits.

    Args:
        linear: in float32; it is not changed.
    """

    scale: Tensor
    bias: Tensor | None

    def __init__(self, linear: nn.Linear) -> None:
        super().__init__()
        self.in_features, self.out_features = linear.in_features, linear.out_features
        weight = linear.weight.detach().float()
        scale = weight.abs().amax(1).clamp_(min=_SMALLEST) / _STEPS
        whole = (weight / scale[:, None]).round_().to(torch.int8)
        bias = None if linear.bias is None else linear.bias.detach().float()
        self.register_buffer("scale", scale)
        self.register_buffer("bias", bias)
        self.digest = hashlib.sha256(whole.numpy().tobytes()).hexdigest()
        # In the layout that the processor multiplies in; nothing else can read it.
        self._packed = torch.ops.onednn.qlinear_prepack(whole, None)
        self._zeros = torch.zeros(self.out_features, dtype=torch.int32)

    def forward(self, inputs: Tensor) -> Tensor:
        """`[..., in_features]` to `[..., out_features]`, in float32."""
        tokens = inputs.reshape(-1, self.in_features)
        largest = torch.maximum(tokens.amax(1, keepdim=True), tokens.amin(1, keepdim=True).neg_())
        largest = largest.clamp_(min=_SMALLEST)
        whole = (tokens * (_STEPS / largest)).round_().to(torch.int8)
        # Whole numbers from -127 on, 128 added: the highest bit turned over.
        unsigned = whole.view(torch.uint8).bitwise_xor_(_ZERO)
        outputs: Tensor = torch.ops.onednn.qlinear_pointwise(
            unsigned,
            1.0,
            _ZERO,
            self._packed,
            self.scale,
            self._zeros,
            None,
            1.0,
            0,
            torch.float32,
            "none",
            [],
            "",
        )
        outputs.mul_(largest.div_(_STEPS))
        if self.bias is not None:
            outputs.add_(self.bias)
        return outputs.view(*inputs.shape[:-1], self.out_features)

    def get_extra_state(self) -> Any:
        """What tells these weights from others."""
        return self.digest

    def set_extra_state(self, state: Any) -> None:
        """Nothing: weights are taken from a linear layer alone."""


def multiplies_bytes() -> bool:
    """Whether this processor has instructions for products of bytes, which are summed exactly.

    Without them sums of two products are kept in 16 bits, where they may not fit.
    """
    return bool(torch._C._has_mkldnn and torch.cpu._is_vnni_supported())


def to_int8(network: Any, model_id: str) -> None:
    """Put eight bits in place of every linear layer of a network in float32, the output layer too.

    What is no linear layer stays as it is: embeddings, norms, experts that lie in one tensor.

    Raises:
        InputError: it has none beside the output layer, so that little would run in eight bits.
    """
    head = network.get_output_embeddings()
    places = [
        (parent, name, child)
        for parent in network.modules()
        for name, child in parent.named_children()
        if type(child) is nn.Linear
    ]
    if all(child is head for _, _, child in places):
        raise InputError(
            f"{model_id}: has no linear layers that int8-dynamic could run in eight bits; use fp32"
        )
    for parent, name, child in places:
        setattr(parent, name, Int8Linear(child))
