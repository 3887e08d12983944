"""How likely a response is under the unsteered model, and from where on it counts as broken.

The unsteered model is an exact judge of what it would itself say: word soup costs it several nats a
token, a fluent refusal little after its first words. No second model is needed.
"""

from __future__ import annotations

import random
import statistics
from collections.abc import Sequence
from dataclasses import dataclass

from steersweep.model.chat_model import ChatModel
from steersweep.steer.activations import OnShare
from steersweep.steer.continuations import Continuation, log_likelihoods

_Pair = tuple[tuple[int, ...], tuple[int, ...]]  # token ids of a prompt and of a response to it

# Tokens in the stretch of a response that is looked at; a soup of a few words inside fluent text
# hardly moves the mean of a whole response.
_STRETCH = 8
# Where between fluent (0) and shuffled (1) text a response counts as broken.
_BROKEN_FROM = 0.25


@dataclass(frozen=True)
class ResponseNll:
    """Negative log-likelihood of a response under the unsteered model, in nats per token.

    Attributes:
        mean: over all tokens that were given.
        worst: mean of the worst eight tokens in a row (of all tokens, if there are fewer).
        n_tokens: how many were given.
    """

    mean: float
    worst: float
    n_tokens: int


def response_nll(
    chat: ChatModel,
    prompts: Sequence[Sequence[int]],
    responses: Sequence[Sequence[int]],
    *,
    max_rows: int = 256,
    on_share: OnShare = lambda _share: None,
) -> list[ResponseNll | None]:
    """How unlikely each response is after its prompt, without steering.

    Args:
        chat: the model; nothing may be hooked into it.
        prompts: prompt token ids, `[row][position]`.
        responses: response token ids, `[row][position]`, without the ending token.
        max_rows: responses per forward pass, at most.
        on_share: told of the share of responses that is done, 0 to 1.

    Returns:
        One entry per response; None for an empty one.
    """
    # Greedy answers repeat: weak steering changes nothing, and a broken model says one thing.
    places: dict[_Pair, list[int]] = {}
    for index, (prompt, response) in enumerate(zip(prompts, responses, strict=True)):
        if response:
            places.setdefault((tuple(prompt), tuple(response)), []).append(index)
    result: list[ResponseNll | None] = [None] * len(responses)
    if not places:
        return result
    asked = [Continuation(*pair) for pair in places]
    (found,) = log_likelihoods(chat, asked, [None], max_rows=max_rows, on_share=on_share)
    for indices, logs in zip(places.values(), found, strict=True):
        losses = -logs
        stretches = losses.unfold(0, min(_STRETCH, len(losses)), 1).mean(-1)
        nll = ResponseNll(float(losses.mean()), float(stretches.max()), len(losses))
        for index in indices:
            result[index] = nll
    return result


def fluency_threshold(
    chat: ChatModel,
    prompts: Sequence[Sequence[int]],
    responses: Sequence[Sequence[int]],
    nlls: Sequence[ResponseNll | None],
    seed: int,
    *,
    max_rows: int = 256,
) -> float:
    """Worst-stretch NLL from which a response counts as broken, from unsteered responses.

    The model's own responses with their tokens shuffled are what soup costs it. The threshold
    lies a quarter of the way from the median of the responses as they are to that of the shuffled
    ones, so it moves with the model. A refusal the model would not give by itself costs it only
    the first words and stays below.

    Args:
        chat: the model.
        prompts: prompt token ids.
        responses: the model's unsteered answers to them.
        nlls: of these answers, from `response_nll`.
        seed: for the shuffling.
        max_rows: responses per forward pass, at most.

    Returns:
        Nats per token; infinity when the model gave no response of at least four tokens.
    """
    rng = random.Random(seed)
    usable = [i for i, ids in enumerate(responses) if len(ids) >= 4]
    if not usable:
        return float("inf")
    soups = [rng.sample(list(responses[i]), len(responses[i])) for i in usable]
    of_soups = response_nll(chat, [prompts[i] for i in usable], soups, max_rows=max_rows)
    fluent, soup = (
        statistics.median(nll.worst for nll in found if nll)
        for found in ([nlls[i] for i in usable], of_soups)
    )
    return fluent + _BROKEN_FROM * (soup - fluent)
