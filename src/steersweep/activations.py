"""Residual-stream activations of prompts, read with hooks.

transformers' `output_hidden_states` is not used: its last entry lies after the final norm, and in
version 5 it may miss a steering hook.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from steersweep.chat_model import ChatModel
from steersweep.errors import InputError, NumericalError


@torch.inference_mode()
def residuals(
    chat: ChatModel,
    prompts: Sequence[Sequence[int]],
    *,
    positions: Sequence[int] = (-1,),
    max_rows: int = 64,
) -> Tensor:
    """`resid_post` of every layer at the given positions, one forward pass per batch of prompts.

    Args:
        chat: the model.
        prompts: token ids per prompt, as from `ChatModel.prompt_ids`.
        positions: negative positions counted from the end of the prompt; -1 is its last token.
        max_rows: prompts per forward pass.

    Returns:
        float32 on the CPU, `[prompt, position, layer, d_model]`.

    Raises:
        InputError: no prompts, or a prompt shorter than a position asked for.
        NumericalError: an activation is NaN or infinite.
    """
    if not prompts:
        raise InputError("no prompts to extract activations from")
    if any(position >= 0 for position in positions):
        raise InputError("positions count from the end of the prompt: -1, -2, ...")
    shortest = min(len(ids) for ids in prompts)
    if shortest < -min(positions):
        raise InputError(f"position {min(positions)} asked for, but a prompt has {shortest} tokens")

    shape = (len(prompts), len(positions), chat.n_layers, chat.d_model)
    result = torch.empty(shape, dtype=torch.float32)
    index = torch.tensor(positions, device=chat.device)
    for first in range(0, len(prompts), max_rows):
        batch = chat.pad(prompts[first : first + max_rows])
        target = result[first : first + max_rows]

        def read(layer: int, hidden: Tensor, target: Tensor = target) -> None:
            # Left padding puts every prompt's last token at the end of the batch.
            target[:, :, layer] = hidden[:, index % hidden.shape[1]].float().cpu()

        with chat.layer_hooks(read, range(chat.n_layers)):
            chat.logits(batch.input_ids, batch.attention_mask, batch.position_ids)
    _check_finite(chat, result)
    return result


def _check_finite(chat: ChatModel, activations: Tensor) -> None:
    finite = torch.isfinite(activations).all(dim=-1)
    if bool(finite.all()):
        return
    layer = int((~finite.all(dim=(0, 1))).nonzero()[0])
    if chat.precision == "fp16":
        advice = "float16 overflows on this model; use --precision bf16"
    else:
        advice = "the weights may be damaged; check the files or try another precision"
    raise NumericalError(
        f"{chat.source.model_id}: activations are NaN or infinite from layer {layer} on, in "
        f"{chat.precision}: {advice}"
    )
