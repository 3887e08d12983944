"""How likely a response is under the unsteered model, and from where on it counts as broken.

The unsteered model is an exact judge of what it would itself say: word soup costs it several nats a
token, a fluent refusal little after its first words. No second model is needed.
"""

from __future__ import annotations

import random
import statistics
from collections.abc import Sequence
from dataclasses import dataclass

import torch

from steersweep.chat_model import ChatModel
from steersweep.memory import free_bytes

# Tokens in the stretch of a response that is looked at; a soup of a few words inside fluent text
# hardly moves the mean of a whole response.
_STRETCH = 8
# Where between fluent (0) and shuffled (1) text a response counts as broken.
_BROKEN_FROM = 0.25
_LOGITS_BYTES = {"cpu": 1 << 27, "cuda": 1 << 31}


@dataclass(frozen=True)
class ResponseNll:
    """Negative log-likelihood of a response under the unsteered model, in nats per token.

    Attributes:
        mean: over all tokens.
        worst: mean of the worst eight tokens in a row (of all tokens, if there are fewer).
    """

    mean: float
    worst: float


@torch.inference_mode()
def response_nll(
    chat: ChatModel,
    prompts: Sequence[Sequence[int]],
    responses: Sequence[Sequence[int]],
    *,
    max_rows: int = 256,
) -> list[ResponseNll | None]:
    """How unlikely each response is after its prompt, without steering.

    Args:
        chat: the model; nothing may be hooked into it.
        prompts: prompt token ids, `[row][position]`.
        responses: response token ids, `[row][position]`, without the ending token.
        max_rows: responses per forward pass, at most.

    Returns:
        One entry per response; None for an empty one.
    """
    result: list[ResponseNll | None] = [None] * len(responses)
    # Equal lengths together waste nothing on padding; order does not matter to the caller.
    order = sorted(
        (i for i, ids in enumerate(responses) if ids),
        key=lambda i: (len(responses[i]), len(prompts[i])),
    )
    budget = _LOGITS_BYTES.get(chat.device.type, 1 << 27)
    free = free_bytes(str(chat.device))
    if free is not None:  # the loss holds a few copies of the logits
        budget = min(budget, free // 6)
    first = 0
    while first < len(order):
        # Logits in float32 are the largest tensor: bound them by the longest row of the batch.
        count = budget // (4 * chat.vocab_size * (len(responses[order[-1]]) + 1))
        count = max(1, min(max_rows, count))
        rows = order[first : first + count]
        first += count
        batch = chat.pad([[*prompts[i], *responses[i]] for i in rows])
        longest = max(len(responses[i]) for i in rows)
        logits = chat.logits(
            batch.input_ids, batch.attention_mask, batch.position_ids, keep=longest + 1
        )[:, :-1].float()
        targets = batch.input_ids[:, -longest:]
        losses = torch.nn.functional.cross_entropy(
            logits.transpose(1, 2), targets, reduction="none"
        ).double()
        for row, i in enumerate(rows):
            own = losses[row, longest - len(responses[i]) :]
            stretches = own.unfold(0, min(_STRETCH, len(own)), 1).mean(-1)
            result[i] = ResponseNll(float(own.mean()), float(stretches.max()))
    return result


def fluency_threshold(
    chat: ChatModel,
    prompts: Sequence[Sequence[int]],
    responses: Sequence[Sequence[int]],
    seed: int,
    *,
    max_rows: int = 256,
) -> float:
    """Worst-stretch NLL from which a response counts as broken, from unsteered responses.

    The model's own responses with their tokens shuffled are what soup costs it. The threshold
    lies a quarter of the way from the median of the responses as they are to that of the shuffled
    ones, so it moves with the model. A refusal the model would not give by itself costs it only
    the first words and stays below.

    Returns:
        Nats per token; infinity when the model gave no response of at least four tokens.
    """
    rng = random.Random(seed)
    usable = [i for i, ids in enumerate(responses) if len(ids) >= 4]
    if not usable:
        return float("inf")
    contexts = [prompts[i] for i in usable]
    fluent = [list(responses[i]) for i in usable]
    soups = [rng.sample(ids, len(ids)) for ids in fluent]
    fluent_nll, soup_nll = (
        statistics.median(nll.worst for nll in nlls if nll)
        for nlls in (
            response_nll(chat, contexts, texts, max_rows=max_rows) for texts in (fluent, soups)
        )
    )
    return fluent_nll + _BROKEN_FROM * (soup_nll - fluent_nll)
