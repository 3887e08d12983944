"""Sampled tokens: of the right distribution, and the same whatever else is in the batch."""

from __future__ import annotations

import math
from collections import Counter

import numpy as np
import pytest
import torch
from torch import Tensor

from conftest import lab
from steersweep import ChatModel
from steersweep.steer.edit import Edit
from steersweep.steer.sampling import Sampler, Sampling, drawn, stream_key, uniforms
from steersweep.steer.steering import Row, generate

KNOWN = [0.4296336974195146, 0.4758493854879342, 0.18367441853090782]
LOGITS = torch.tensor([1.0, -torch.inf, 2.0, 0.5, 2.0, -3.0])


def plainly(logits: Tensor, sampling: Sampling) -> list[float]:
    """The distribution by its definition, token by token."""
    weights = [math.exp(x / sampling.temperature) for x in logits.tolist()]
    order = sorted(range(len(weights)), key=lambda i: -weights[i])
    if sampling.top_k:
        least = weights[order[min(sampling.top_k, len(order)) - 1]]
        weights = [w if w >= least else 0.0 for w in weights]
    shares = [w / sum(weights) for w in weights]
    reached, least = 0.0, 0.0
    for share in (shares[i] for i in order):
        if reached < sampling.top_p:
            least = share
        reached += share
    kept = [share if share >= least else 0.0 for share in shares]
    return [share / sum(kept) for share in kept]


@pytest.mark.parametrize(
    "sampling",
    [
        Sampling(1.0),
        Sampling(0.5),
        Sampling(2.0, top_p=0.8),
        Sampling(1.0, top_p=0.35),
        Sampling(1.0, top_k=1),
        Sampling(1.5, top_k=3, top_p=0.9),
        Sampling(1.0, top_p=1e-9),
        Sampling(1.0, top_k=100),
    ],
)
def test_tokens_have_the_distribution_of_the_definition(sampling: Sampling) -> None:
    # Numbers at even distances: each token gets its share of them, to one.
    n = 20_000
    uniform = (torch.arange(n, dtype=torch.float64) + 0.5) / n
    found = Counter(drawn(LOGITS.expand(n, -1), uniform, sampling).tolist())
    for token, share in enumerate(plainly(LOGITS, sampling)):
        assert found[token] / n == pytest.approx(share, abs=2 / n)
        assert found[token] == 0 or share > 0


def test_the_last_number_below_one_draws_a_token_that_can_be() -> None:
    uniform = torch.tensor([0.0, 1 - 2.0**-53], dtype=torch.float64)
    logits = torch.full((2, 50_000), -torch.inf)
    logits[:, 1000:40_000] = torch.rand(39_000, generator=torch.Generator().manual_seed(0))
    first, last = drawn(logits, uniform, Sampling(0.3)).tolist()
    assert (first, last) == (1000, 39_999)


def test_many_tokens_are_cut_as_few_are() -> None:
    """Where the likeliest few are not enough, all are sorted."""
    logits = torch.rand(3, 5000, generator=torch.Generator().manual_seed(1))
    uniform = torch.tensor([0.1, 0.5, 0.9], dtype=torch.float64)
    sampling = Sampling(1.0, top_p=0.7)
    shares = logits.double().softmax(-1)
    order = shares.argsort(descending=True)
    for row, token in enumerate(drawn(logits, uniform, sampling).tolist()):
        before = shares[row, order[row]].cumsum(-1) - shares[row, order[row]]
        kept = order[row][before < 0.7].sort().values
        bounds = shares[row, kept].cumsum(-1)
        assert token == kept[int((bounds <= uniform[row] * bounds[-1]).sum())]


def test_streams_rest_on_seed_prompt_and_repeat_alone() -> None:
    keys = [stream_key(1, [5, 6], 0), stream_key(2, [5, 6], 0), stream_key(1, [5, 6], 1)]
    keys += [stream_key(1, [56], 0), stream_key(1, [6, 5], 0)]
    assert len({*keys}) == 5
    found = uniforms(keys, 500).numpy()
    assert (uniforms(keys[1:2], 3).numpy() == found[1:2, :3]).all()
    assert ((found >= 0) & (found < 1)).all()
    assert abs(found.mean(1) - 0.5).max() < 0.07
    assert abs(np.corrcoef(found) - np.eye(5)).max() < 0.2
    # Known numbers: other versions and machines must draw the same.
    assert found[0, :3].tolist() == KNOWN


def test_a_row_draws_the_same_whatever_is_beside_it(qwen: ChatModel) -> None:
    texts = ("How do I boil an egg?", "Name three trees.", "Write about rain, please.")
    ids = [qwen.prompt_ids(text) for text in texts]
    direction = torch.zeros(qwen.d_model)
    direction[3] = 1
    push = Edit.add(direction, 4.0, 2)
    rows = [
        Row(prompt, edit, stream_key(7, prompt, repeat))
        for prompt in ids
        for edit in (None, push)
        for repeat in range(3)
    ]
    sampling = Sampling(1.0, top_p=0.95)
    together = generate(qwen, rows, max_new_tokens=12, sampling=sampling)
    alone = [generate(qwen, [row], max_new_tokens=12, sampling=sampling)[0] for row in rows]
    assert together == alone
    assert together == generate(qwen, rows, max_new_tokens=12, max_rows=4, sampling=sampling)
    backwards = generate(qwen, rows[::-1], max_new_tokens=12, sampling=sampling)
    assert backwards[::-1] == together
    longer = generate(qwen, rows, max_new_tokens=16, sampling=sampling)
    assert all(b.token_ids[:12] == a.token_ids for a, b in zip(together, longer, strict=True))
    repeats = [answer.token_ids for answer in together[:3]]
    assert len({*repeats}) > 1
    greedy = generate(qwen, rows[::3], max_new_tokens=12)
    cold = generate(qwen, rows[::3], max_new_tokens=12, sampling=Sampling(1e-4))
    assert cold == greedy


def test_a_step_draws_with_its_own_number() -> None:
    keys = [stream_key(0, [row], 0) for row in range(64)]
    sampler = Sampler(Sampling(1.0), keys, 2, torch.device("cpu"))
    logits = torch.zeros(64, 1000)
    every = torch.arange(64)
    first, second = (sampler.tokens(logits, every, step) for step in (0, 1))
    assert (first != second).float().mean() > 0.9
    assert (sampler.tokens(logits[:5], every[7:12], 1) == second[7:12]).all()
    assert (first == (uniforms(keys, 1)[:, 0] * 1000).long()).float().mean() > 0.98


def test_lab_models_sample_their_own_distribution() -> None:
    """The first token's frequencies under many seeds are the softmax of the logits."""
    chat = lab("qwen-3b")
    ids = chat.prompt_ids("How do I boil an egg?")
    batch = chat.pad([ids])
    with torch.inference_mode():
        logits = chat.logits(batch.input_ids, batch.attention_mask, batch.position_ids)[0, -1]
    n = 2000
    rows = [Row(ids, None, stream_key(seed, ids, 0)) for seed in range(n)]
    found = generate(chat, rows, max_new_tokens=1, max_rows=n, sampling=Sampling(3.0))
    counts = Counter(answer.token_ids or ("end",) for answer in found)
    shares = (logits.double() / 3).softmax(-1)
    for token in shares.topk(5).indices.tolist():
        share = float(shares[token])
        seen = counts[("end",) if token in chat.eos_ids else (token,)]
        assert abs(seen / n - share) < 5 * math.sqrt(share / n)
