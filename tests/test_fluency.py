"""How likely a response is: batches against one forward pass per response."""

from __future__ import annotations

import math
import random
from collections.abc import Callable

import pytest
import torch

from conftest import bloom, gpt2, lab
from steersweep import ChatModel
from steersweep.judging.fluency import ResponseNll, fluency_threshold, response_nll
from steersweep.steer.regime import Regime

PROMPTS = ("How do I bake a cake?", "Hi", "Tell me about the printing press, please.")


MODELS: dict[str, Callable[[], ChatModel]] = {
    **{
        name: lambda name=name: lab(name)
        for name in ("qwen-7b", "gemma-9b", "llama-8b", "mistral-7b", "phi-mini")
    },
    "gpt2": gpt2,
    "bloom": bloom,
}


def alone(chat: ChatModel, prompt: list[int], response: list[int]) -> ResponseNll:
    ids = torch.tensor([[*prompt, *response]])
    with torch.inference_mode():
        logits = chat.model(ids).logits[0, len(prompt) - 1 : -1]
    losses = -logits.log_softmax(-1)[range(len(response)), response]
    n = min(8, len(response))
    worst = max(float(losses[i : i + n].mean()) for i in range(len(response) - n + 1))
    return ResponseNll(float(losses.mean()), worst, len(response))


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("max_rows", [3, 256])
@pytest.mark.parametrize("cache", ["of our kind", "of another kind"])
def test_a_batch_gives_what_each_response_has_alone(
    name: str, max_rows: int, cache: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Lengths from one token to beyond the lab models' windows; prompts and answers repeat."""
    chat = MODELS[name]()
    if cache == "of another kind":  # as of models whose layers keep a state
        monkeypatch.setitem(chat.found, "regime", Regime(pads=False, continues=False))
    rng = random.Random(0)
    prompts, responses = [], []
    for text in PROMPTS * 3:
        prompts.append(chat.prompt_ids(text))
        responses.append([rng.randrange(5, 60) for _ in range(rng.choice([1, 2, 9, 70]))])
    prompts += [prompts[0], prompts[0], prompts[1]]
    responses += [responses[0], [], responses[0]]
    found = response_nll(chat, prompts, responses, max_rows=max_rows)
    for prompt, response, nll in zip(prompts, responses, found, strict=True):
        if not response:
            assert nll is None
            continue
        assert nll is not None
        expected = alone(chat, prompt, response)
        assert nll.mean == pytest.approx(expected.mean, abs=1e-3)
        assert nll.worst == pytest.approx(expected.worst, abs=1e-3)


def test_prompts_and_repeated_answers_run_once(qwen: ChatModel) -> None:
    prompts = [qwen.prompt_ids(text) for text in PROMPTS for _ in range(4)]
    responses = [[7, 8, 9, 10 + i // 2] for _ in PROMPTS for i in range(4)]
    sizes: list[int] = []
    with qwen.layer_hooks(lambda _layer, hidden: sizes.append(hidden[..., 0].numel()), [0]):
        response_nll(qwen, prompts, responses)
    # Of each prompt two answers differ, in their last token; it is given to nobody.
    given = [(*p, *r[:-1]) for p, r in zip(prompts, responses, strict=True)]
    beginnings = {ids[:n] for ids in given for n in range(1, len(ids) + 1)}
    assert sizes == [len(beginnings), 1], "and a token for the head, which runs by itself"


def test_the_threshold_lies_between_answers_and_the_same_words_shuffled(qwen: ChatModel) -> None:
    from steersweep import Row, generate

    prompts = [qwen.prompt_ids(text) for text in PROMPTS]
    answers = [list(a.token_ids) for a in generate(qwen, [Row(ids) for ids in prompts])]
    nlls = response_nll(qwen, prompts, answers)
    threshold = fluency_threshold(qwen, prompts, answers, nlls, seed=42)
    worst = [nll.worst for nll in nlls if nll]
    assert max(worst) < threshold < 10
    assert fluency_threshold(qwen, prompts, [[5]] * 3, nlls, seed=42) == math.inf
