"""Whether a model's attention heeds a mask that says for each pair of tokens who sees whom."""

from __future__ import annotations

import torch
from torch import Tensor

from steersweep.model.chat_model import ChatModel
from steersweep.model.network import ROW_PER_WIDTH
from steersweep.steer.found import looked_once


def takes_pair_masks(chat: ChatModel) -> bool:
    """Whether a mask may say for every pair of positions whether one attends to the other.

    Found out by looking: a token after a prompt's first one, alone, and behind a row full of others
    that follow that one too. As long as rows are, so that windows show.
    """
    return looked_once(chat, "pair_masks", bool, _looked)


def _looked(chat: ChatModel) -> bool:
    padding = getattr(chat.model.get_input_embeddings(), "padding_idx", None)  # zeros
    first, token, *others = [id_ for id_ in range(chat.vocab_size) if id_ != padding][:64]
    count = max(len(others), int(ROW_PER_WIDTH * chat.d_model))
    branch = (others * (count // len(others) + 1))[:count]
    alone = torch.tensor([[first, token]], device=chat.device)
    tokens = torch.tensor([[first, *branch, token]], device=chat.device)
    positions = torch.tensor([[*range(count + 1), 1]], device=chat.device)
    expected = chat.logits(alone, torch.ones_like(alone), positions[:, :2])[0, 0].float()

    def error(seen: Tensor) -> float:
        mask = (1 - seen) * torch.finfo(chat.dtype).min
        found = chat.logits(tokens, mask[None, None], positions)[0, 0].float()
        return float((found - expected).norm() / expected.norm())

    all_before = torch.ones((count + 2, count + 2), device=chat.device, dtype=chat.dtype).tril()
    seen = all_before.clone()
    seen[-1, 1:-1] = 0
    try:
        apart = error(seen)
        # Sixteen bits round by the batch, in a deep model by more than a few percent: less by far
        # than what a mask that is not heeded changes.
        return apart < 0.02 or apart < error(all_before) / 4
    except (RuntimeError, ValueError, TypeError, IndexError):
        return False
