"""Tokens drawn at random, the same whatever else is in the batch.

Each row has a stream of random numbers of its own, one for a step. It follows from a seed, the
prompt's tokens and the number of the repeat alone: neither the rows beside it, nor the size of the
batch, nor the device has any part in it.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from steersweep.run.decoding_settings import DecodingSettings

_LOGITS_AT_ONCE = 1 << 23  # of a few copies of them
_LIKELY = 512  # tokens among which those of top-p are looked for first, on a CPU


@dataclass(frozen=True)
class Sampling:
    """How a token is drawn from the logits.

    Attributes:
        temperature: what logits are divided by; above 0.
        top_p: only the likeliest tokens that together have this probability; 1: all.
        top_k: only so many of the likeliest tokens; 0: all. Equally likely ones stay together.
    """

    temperature: float
    top_p: float = 1.0
    top_k: int = 0


def sampling_of(decoding: DecodingSettings) -> Sampling | None:
    """How tokens are drawn by settings; None: they are not."""
    if not decoding.samples:
        return None
    return Sampling(decoding.temperature, decoding.top_p, decoding.top_k)


def stream_key(seed: int, prompt_ids: Sequence[int], repeat: int) -> int:
    """The key of a row's stream, 128 bits.

    Rows that answer the same prompt under different edits draw the same numbers: what differs
    between their answers is not chance alone.
    """
    text = f"{seed} {repeat} {' '.join(map(str, prompt_ids))}"
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=16).digest(), "little")


def uniforms(keys: Sequence[int], n_steps: int) -> Tensor:
    """The first numbers of streams, `[stream, step]`, float64 in [0, 1).

    Philox, a generator that counts: the number of a step is the same however many are asked for.
    """
    from numpy import empty
    from numpy.random import Philox

    found = empty((len(keys), n_steps))
    for row, key in enumerate(keys):
        found[row] = (Philox(key=key).random_raw(n_steps) >> 11) * 2.0**-53
    return torch.from_numpy(found)


class Sampler:
    """Draws the tokens of rows.

    Args:
        sampling: how.
        keys: of the rows' streams.
        n_steps: steps at most.
        device: where logits are.
    """

    def __init__(
        self, sampling: Sampling, keys: Sequence[int], n_steps: int, device: torch.device
    ) -> None:
        self._sampling = sampling
        self._uniforms = uniforms(keys, n_steps).to(device)

    def tokens(self, logits: Tensor, rows: Tensor, step: int) -> Tensor:
        """Tokens of some rows, `[row in batch]`.

        Args:
            logits: `[row in batch, vocabulary]`.
            rows: which rows these are, `[row in batch]`.
            step: tokens that came before.
        """
        return drawn(logits, self._uniforms[rows, step], self._sampling)


def drawn(logits: Tensor, uniform: Tensor, sampling: Sampling) -> Tensor:
    """The token of each row in whose share of the probability a number falls, `[row]`.

    Shares lie in the order of the vocabulary, so what moves logits by a little moves bounds of
    shares by a little.

    Args:
        logits: `[row, vocabulary]`.
        uniform: `[row]`, float64 in [0, 1).
        sampling: how.
    """
    at_once = max(1, _LOGITS_AT_ONCE // logits.shape[-1])
    parts = (slice(first, first + at_once) for first in range(0, len(logits), at_once))
    return torch.cat([_drawn(logits[part], uniform[part], sampling) for part in parts])


def _drawn(logits: Tensor, uniform: Tensor, sampling: Sampling) -> Tensor:
    logits = logits.float() / sampling.temperature
    size = logits.shape[-1]
    if 0 < sampling.top_k < size:
        lowest = logits.topk(sampling.top_k).values[:, -1:]
        logits = logits.masked_fill(logits < lowest, -torch.inf)
    shares = logits.softmax(-1)
    if sampling.top_p < 1:
        shares = torch.where(shares < _least_of_top(shares, sampling.top_p), 0, shares)
    bounds = shares.cumsum(-1, dtype=torch.float64)
    total = bounds[:, -1]
    target = torch.minimum(uniform * total, torch.nextafter(total, torch.zeros_like(total)))
    found = torch.searchsorted(bounds, target[:, None], right=True)[:, 0]
    return found.clamp(max=size - 1)  # of logits that are no numbers


def _least_of_top(shares: Tensor, top_p: float) -> Tensor:
    """Probability of the least likely token that is drawn from, `[row, 1]`."""
    if shares.device.type != "cpu" or shares.shape[-1] <= _LIKELY:
        return _least_of(shares.sort(-1, descending=True).values, top_p)
    likely = shares.topk(_LIKELY).values
    least = _least_of(likely, top_p)
    flat = likely.sum(-1, dtype=torch.float64) < top_p  # few rows have more that count
    if flat.any():
        least[flat] = _least_of(shares[flat].sort(-1, descending=True).values, top_p)
    return least


def _least_of(falling: Tensor, top_p: float) -> Tensor:
    before = falling.cumsum(-1, dtype=torch.float64) - falling
    last = (before < top_p).sum(-1, keepdim=True) - 1
    return falling.gather(-1, last.clamp(min=0))
