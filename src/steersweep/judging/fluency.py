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
from torch import Tensor

from steersweep.model.chat_model import ChatModel
from steersweep.model.kv_cache import fill
from steersweep.model.memory import free_bytes
from steersweep.steer.activations import OnShare
from steersweep.steer.beginnings import is_worth_it, run_prompts, shared_beginning
from steersweep.steer.regime import Regime, regime_of

_Pair = tuple[tuple[int, ...], tuple[int, ...]]  # token ids of a prompt and of a response to it

# Tokens in the stretch of a response that is looked at; a soup of a few words inside fluent text
# hardly moves the mean of a whole response.
_STRETCH = 8
# Where between fluent (0) and shuffled (1) text a response counts as broken.
_BROKEN_FROM = 0.25
_NO_TOKEN = -1  # where a row of a batch has ended
_LOGITS_BYTES = {"cpu": 1 << 28, "cuda": 1 << 31}


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


@torch.inference_mode()
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
    result: list[ResponseNll | None] = [None] * len(responses)
    # Greedy answers repeat: weak steering changes nothing, and a broken model says one thing.
    places: dict[_Pair, list[int]] = {}
    for index, (prompt, response) in enumerate(zip(prompts, responses, strict=True)):
        if response:
            places.setdefault((tuple(prompt), tuple(response)), []).append(index)
    regime = regime_of(chat)
    pairs = sorted(places, key=_by_prompt if regime.continues else _by_length)
    budget = _LOGITS_BYTES.get(chat.device.type, 1 << 28)
    free = free_bytes(str(chat.device))
    if free is not None:  # the loss holds a few copies of the logits
        budget = min(budget, free // 6)
    lengths = [len(prompt) + len(response) for prompt, response in pairs]
    done = 0
    for group in regime.groups(lengths, len(pairs)):
        rest = [pairs[index] for index in group]
        while rest:
            # Logits in float32 are the largest tensor: bound them by the longest row of the batch.
            longest = max(len(response) for _, response in rest[:max_rows])
            count = budget // (4 * chat.vocab_size * (longest + 1))
            some = rest[: max(1, min(max_rows, count))]
            del rest[: len(some)]
            for pair, losses in zip(some, _losses(chat, regime, some), strict=True):
                stretches = losses.unfold(0, min(_STRETCH, len(losses)), 1).mean(-1)
                nll = ResponseNll(float(losses.mean()), float(stretches.max()), len(losses))
                for index in places[pair]:
                    result[index] = nll
            done += len(some)
            on_share(done / len(pairs))
    return result


def _by_prompt(pair: _Pair) -> tuple[object, ...]:
    """Each prompt runs once for the responses to it that share a pass."""
    return pair[0], len(pair[1])


def _by_length(pair: _Pair) -> tuple[object, ...]:
    """Equal lengths together waste nothing on padding."""
    return len(pair[1]), len(pair[0])


def _losses(chat: ChatModel, regime: Regime, pairs: Sequence[_Pair]) -> list[Tensor]:
    """Negative log-likelihood of every token of each response after its prompt, `[token]`."""
    longest = max(len(response) for _, response in pairs)
    if regime.continues:
        losses, targets = _after_shared_prompts(chat, regime, pairs)
    else:
        batch = chat.pad([[*prompt, *response] for prompt, response in pairs])
        logits = chat.logits(
            batch.input_ids, batch.attention_mask, batch.position_ids, keep=longest + 1
        )[:, :-1]
        targets = batch.input_ids[:, -longest:].clone()
        for row, (_, response) in enumerate(pairs):
            targets[row, : longest - len(response)] = _NO_TOKEN
        losses = _cross_entropy(logits, targets)
    return [row[wanted] for row, wanted in zip(losses.double(), targets != _NO_TOKEN, strict=True)]


def _cross_entropy(logits: Tensor, targets: Tensor) -> Tensor:
    """Of `[row, token, vocabulary]`, `[row, token]`: 0 where there is no token."""
    # Several times as fast with the vocabulary in the last dimension.
    losses = torch.nn.functional.cross_entropy(
        logits.flatten(0, 1).float(), targets.flatten(), ignore_index=_NO_TOKEN, reduction="none"
    )
    return losses.view(targets.shape)


def _after_shared_prompts(
    chat: ChatModel, regime: Regime, pairs: Sequence[_Pair]
) -> tuple[Tensor, Tensor]:
    """Negative log-likelihoods of the responses' tokens, `[row, token]`, and these tokens.

    Each different prompt runs once; the responses go on from its keys and values. Responses follow
    their prompts without a gap and are padded behind, so that windows of attention stay as they
    are.
    """
    longest = max(len(response) for _, response in pairs)
    numbers = {prompt: index for index, prompt in enumerate(dict.fromkeys(p for p, _ in pairs))}
    prompts = chat.pad([*numbers])
    width = prompts.input_ids.shape[1]
    held, cache = regime.cache(chat, width), regime.cache(chat, width + longest)
    shared = shared_beginning([*numbers])
    first, _ = run_prompts(
        chat, prompts, held, shared if is_worth_it(shared, len(numbers) - 1) else 0
    )
    of_row = torch.tensor([numbers[prompt] for prompt, _ in pairs], device=chat.device)
    fill(cache, slice(0, len(pairs)), len(pairs), [(held, of_row)] * chat.n_layers)

    targets = torch.tensor(
        [[*response, *[_NO_TOKEN] * (longest - len(response))] for _, response in pairs],
        device=chat.device,
    )
    losses = [_cross_entropy(first[of_row][:, None], targets[:, :1])]
    if longest > 1:
        given = targets[:, :-1]  # nothing is asked about what follows the last token
        real = given != _NO_TOKEN
        before = prompts.rows(of_row)
        after = chat.logits(
            given.masked_fill(~real, chat.pad_id),
            torch.cat([before.attention_mask, real.long()], dim=1),
            before.position_ids[:, -1:] + torch.arange(1, longest, device=chat.device),
            cache=cache,
            keep=longest - 1,
        )
        losses.append(_cross_entropy(after, targets[:, 1:]))
    return torch.cat(losses, dim=1), targets


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
