"""Prompts that share rows have the activations they have alone."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from conftest import bloom, gpt2, lab
from steersweep import ChatModel
from steersweep.model.batch import at_positions
from steersweep.steer.packing import layouts
from steersweep.steer.pair_masks import takes_pair_masks

PROMPTS = st.lists(
    st.lists(st.integers(1, 3), min_size=1, max_size=12), min_size=1, max_size=9
)  # few tokens: prompts begin alike, contain and repeat one another


@pytest.mark.parametrize("name", ["qwen", "gemma", "gpt2", "bloom"])
@settings(max_examples=25, deadline=None)
@given(prompts=PROMPTS, size=st.integers(1, 9))
def test_every_prompt_has_the_logits_it_has_alone(
    name: str, prompts: list[list[int]], size: int
) -> None:
    chat = _model(name)
    assert takes_pair_masks(chat) == (name != "bloom")
    seen: list[int] = []
    for layout in layouts(chat, prompts, size):
        batch = layout.copies(2)
        logits = chat.logits(
            batch.input_ids,
            batch.attention_mask,
            batch.position_ids,
            keep=batch.input_ids.shape[1],
        )
        of_all = layout.at_ends(logits)
        torch.testing.assert_close(layout.at_ends(at_positions(logits, layout.ends)), of_all)
        for copy in of_all:
            for prompt, found in zip(layout.prompts, copy, strict=True):
                alone = chat.pad([prompts[prompt]])
                expected = chat.logits(alone.input_ids, alone.attention_mask, alone.position_ids)
                torch.testing.assert_close(found, expected[0, 0], atol=2e-4, rtol=1e-4)
        seen += layout.prompts
    assert sorted(seen) == list(range(len(prompts)))


MODELS: dict[str, Callable[[], ChatModel]] = {
    "qwen": lambda: lab("qwen-7b"),
    "gemma": lambda: lab("gemma-9b"),
    "gpt2": gpt2,
    "bloom": bloom,
}
_loaded: dict[str, ChatModel] = {}


def _model(name: str) -> ChatModel:
    if name not in _loaded:
        _loaded[name] = MODELS[name]()
    return _loaded[name]


def test_a_shared_beginning_is_computed_once(qwen: ChatModel) -> None:
    texts = ("How do I bake a cake?", "How do I bake bread?", "How do I bake a pie?")
    prompts = [qwen.prompt_ids(text) for text in texts]
    (layout,) = layouts(qwen, prompts, 16)
    beginnings = {tuple(ids[:n]) for ids in prompts for n in range(1, len(ids) + 1)}
    assert layout.batch.input_ids.shape == (1, len(beginnings))


def test_prompts_longer_than_a_sliding_window_get_rows_of_their_own() -> None:
    chat = lab("mistral-7b")
    window = chat.model.config.sliding_window
    prompts = [[5] * window, [5] * (window + 1)]
    assert all(layout.batch.attention_mask.ndim == 2 for layout in layouts(chat, prompts, 16))
    assert all(layout.batch.attention_mask.ndim == 4 for layout in layouts(chat, prompts[:1], 16))


@pytest.mark.parametrize("layer", [0, 3])
def test_an_mlp_at_some_positions_adds_there_what_it_adds_to_all(
    family: ChatModel, layer: int
) -> None:
    batch = family.pad([family.prompt_ids(text) for text in ("Why?", "How do I bake a cake?")])
    last = batch.input_ids.shape[1] - 1
    positions = torch.tensor([[last - 1, last], [last - 2, last - 2]])  # of each row
    states: list[torch.Tensor] = []
    with family.layer_hooks(lambda _layer, hidden: states.append(hidden), [layer]):
        family.logits(batch.input_ids, batch.attention_mask, batch.position_ids)
        with family.mlp_at(layer, positions):
            family.logits(batch.input_ids, batch.attention_mask, batch.position_ids)
    whole, part = states
    there = [at_positions(states, positions) for states in (part, whole)]
    torch.testing.assert_close(*there, atol=1e-5, rtol=1e-5)
    assert not torch.allclose(part[:, last - 3], whole[:, last - 3])
