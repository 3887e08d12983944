"""Rows of every kind of cache against plain transformers, and ablation against what is left."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from torch import Tensor

from conftest import lab, part_hooks, random_model, rest_slow
from steersweep import ChatModel, InputError, Row, generate, residuals
from steersweep.judging.fluency import response_nll
from steersweep.methods.cosmic import Cosmic, CosmicAffine
from steersweep.methods.cosmic_scoring import what_ablation_leaves
from steersweep.model.kv_cache import _BufferedLayer, keep_rows, make_cache
from steersweep.model.source import ModelSource
from steersweep.steer.edit import Edit
from steersweep.steer.everywhere import ablation_sites_of
from steersweep.steer.passes import run_edits
from steersweep.steer.regime import Regime
from steersweep.steer.regime_search import regime_of
from steersweep.steer.row_edits import RowEdits
from steersweep.verification.architectures import (
    CHECKS,
    ArchitectureResult,
    Found,
    as_table,
    verify_architectures,
)
from steersweep.verification.tiny_models import ARCHITECTURES, build

# One of every kind of cache and of every way a batch may be run, and others like them.
_KINDS = (
    "mistral",
    "llama4_text",
    "gemma4_text",
    "deepseek_v3",
    "bloom",
    "qwen3_next",
    "falcon_h1",
)
_MORE = ("llama", "granitemoeshared", "granitemoehybrid", "lfm2", "recurrent_gemma")
# Nothing of these is computed: what they need is not there for a batch.
_REFUSED = {
    "gemma3n_text": "one residual stream",
    "falcon_mamba": "takes no key-value cache",
    "mamba": "takes no key-value cache",
    "mamba2": "takes no key-value cache",
    "minimax": "cache of its own",
    "mllama": "do not run once for a text alone",
    "rwkv": "takes no key-value cache",
    "xlstm": "decoder layers",
}


def tiny(name: str) -> ChatModel:
    return ChatModel(build(name), lab("qwen-7b").tokenizer, source=ModelSource(name, "."))


def verdicts(name: str) -> dict[str, str]:
    return {check: found.verdict for check, found in verify_architectures([name])[0].checks.items()}


@pytest.mark.parametrize("name", rest_slow([*_KINDS, *_MORE], fast=len(_KINDS)))
def test_texts_directions_and_likelihoods_are_the_plain_ones(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        "steersweep.verification.architectures.CHECKS",
        ("texts", "directions", "likelihood", "ablation"),
    )
    assert set(verdicts(name).values()) == {"right"}


@pytest.mark.parametrize("name", ["gemma3n_text", "mamba", "minimax"])
def test_what_cannot_be_run_is_refused_before_anything_is_computed(name: str) -> None:
    chat = tiny(name)
    ids = [5, 6, 7, 8]
    asked: tuple[Callable[[], Any], ...] = (
        lambda: generate(chat, [Row(ids)], max_new_tokens=2),
        lambda: residuals(chat, [ids]),
        lambda: response_nll(chat, [ids], [[9, 10]]),
        lambda: list(run_edits(chat, [ids], [Edit.everywhere(torch.ones(64))], read_layers=[0])),
    )
    for ask in asked:
        with pytest.raises(InputError, match=f"{name}.*{_REFUSED[name]}"):
            ask()


@pytest.mark.slow
@pytest.mark.parametrize("name", ARCHITECTURES)
def test_every_architecture_is_right_or_refused(name: str) -> None:
    found = verify_architectures([name])[0]
    expected = "refused" if name in _REFUSED else "right"
    assert {check.verdict for check in found.checks.values()} == {expected}, found.checks


def test_models_with_states_never_see_padding() -> None:
    chat = tiny("qwen3_next")
    assert not regime_of(chat).pads
    masks: list[Tensor] = []
    handle = chat.model.register_forward_pre_hook(
        lambda _module, _args, kwargs: masks.append(kwargs["attention_mask"]), with_kwargs=True
    )
    prompts = [list(range(5, 5 + length)) for length in (4, 9, 4, 17)]
    try:
        generate(chat, [Row(ids) for ids in prompts], max_new_tokens=3)
        residuals(chat, prompts)
        response_nll(chat, prompts, [[9, 10], [11], [12, 13, 14], [15]])
        list(run_edits(chat, prompts, [Edit.everywhere(torch.ones(64))], read_layers=[1]))
    finally:
        handle.remove()
    assert masks
    assert all(bool(mask.all()) for mask in masks)


def test_a_cache_that_forgets_is_found_out(monkeypatch: pytest.MonkeyPatch) -> None:
    """Were rows to leave a cache wrongly, no way of keeping them would pass unless they stay."""

    def keep_others(cache: Any, rows: Tensor) -> None:
        for layer in cache.layers:
            layer.reorder_cache(rows.flip(0))

    monkeypatch.setattr("steersweep.steer.decoding.keep_rows", keep_others)
    regime = regime_of(tiny("qwen3_next"))
    assert not regime.leaves


def edits_that_stay(_chat: ChatModel, patch: pytest.MonkeyPatch) -> None:
    keep = RowEdits.keep_rows
    patch.setattr(RowEdits, "keep_rows", lambda self, rows: keep(self, torch.arange(len(rows))))


def prompts_of_other_rows(_chat: ChatModel, patch: pytest.MonkeyPatch) -> None:
    put = _BufferedLayer.put
    patch.setattr(
        _BufferedLayer,
        "put",
        lambda self, rows, count, keys, values: put(self, rows, count, keys, values.flip(0)),
    )


def half_of_the_mlp(_chat: ChatModel, patch: pytest.MonkeyPatch) -> None:
    @contextmanager
    def halved(self: ChatModel, layer: int, _positions: Tensor) -> Iterator[None]:
        with part_hooks(self, lambda at, out: out * (0.5 if at == layer else 1.0), ["mlp"]):
            yield

    patch.setattr(ChatModel, "mlp_at", halved)


def a_changed_forward(change: Callable[..., None]) -> Callable[..., None]:
    """Plants what `change` does with the inputs of a pass before it, or with its output after."""

    def plant(chat: ChatModel, patch: pytest.MonkeyPatch) -> None:
        forward = chat.model.forward

        def changed(**inputs: Any) -> Any:
            cache = inputs.get("past_key_values")
            held = 0 if cache is None else cache.get_seq_length()
            change(inputs, None, held)
            output = forward(**inputs)
            change(inputs, output, held)
            return output

        patch.setattr(chat.model, "forward", changed)

    return plant


def several_tokens_after_a_cache(inputs: Any, output: Any, held: int) -> None:
    if output is not None and held and inputs["input_ids"].shape[1] > 1:
        output.logits = output.logits.flip(-1)


def padding_without_a_cache(inputs: Any, output: Any, _held: int) -> None:
    if output is None and inputs.get("past_key_values") is None and "attention_mask" in inputs:
        inputs["attention_mask"] = torch.ones_like(inputs["attention_mask"])


def tokens_that_see_what_follows(_inputs: Any, output: Any, _held: int) -> None:
    if output is not None:
        output.logits = output.logits + output.logits.mean(1, keepdim=True).flip(-1)


def the_first_padding_stays(kept: list[Tensor]) -> Callable[..., None]:
    """A model that keeps something of an earlier call."""

    def change(inputs: Any, output: Any, _held: int) -> None:
        if output is None and inputs.get("past_key_values") is not None:
            mask = inputs["attention_mask"]
            kept.append(mask)
            if bool(kept[0].all()):
                inputs["attention_mask"] = torch.ones_like(mask)

    return change


@pytest.mark.parametrize(
    ("plant", "lost"),
    [
        (edits_that_stay, {"buffered", "pads", "leaves"}),
        (prompts_of_other_rows, {"resumes"}),
        (half_of_the_mlp, {"narrows"}),
        (a_changed_forward(several_tokens_after_a_cache), {"continues"}),
        (a_changed_forward(padding_without_a_cache), {"pads"}),
        (a_changed_forward(the_first_padding_stays([])), {"pads"}),
        (a_changed_forward(tokens_that_see_what_follows), None),
    ],
)
def test_a_look_at_a_model_finds_what_is_wrong(
    plant: Callable[..., None], lost: set[str] | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    chat = tiny("llama")
    plant(chat, monkeypatch)
    if lost is None:
        with pytest.raises(InputError, match="their logits differ"):
            regime_of(chat)
        return
    missing = {name for name, is_there in vars(regime_of(chat)).items() if not is_there}
    # What follows from what is not there: only padded rows in buffers continue.
    assert missing == lost | ({"continues"} if lost & {"buffered", "pads"} else set())


def test_a_model_that_none_of_the_ways_suits_is_refused() -> None:
    chat = random_model("GPT2LMHeadModel", n_layer=2, n_embd=32, n_head=4, n_positions=256)
    forward = chat.model.forward

    def noisy(*args: Any, use_cache: bool = False, **kwargs: Any) -> Any:
        output = forward(*args, use_cache=use_cache, **kwargs)
        if use_cache:  # wrong whenever there is a cache
            output.logits = output.logits.flip(-1)
        return output

    chat.model.forward = noisy
    with pytest.raises(InputError, match="GPT2LMHeadModel: their logits differ"):
        generate(chat, [Row([5, 6, 7])], max_new_tokens=2)


def test_a_look_at_a_model_does_not_see_others_hooks() -> None:
    chat = tiny("llama")
    # Of a kind that makes a row depend on the others of its batch.
    with chat.layer_hooks(lambda _layer, hidden: hidden + len(hidden), [1]):
        hooked = regime_of(chat)
    assert hooked == regime_of(tiny("llama"))


def test_plain_attention_takes_the_fast_way(family: ChatModel) -> None:
    assert regime_of(family) == Regime()


@pytest.mark.parametrize("name", ["qwen3_next", "falcon_h1", "gemma4_text"])
def test_every_kind_of_layer_keeps_the_rows_it_is_told(name: str) -> None:
    chat = tiny(name)
    config = chat.model.config.get_text_config()
    tokens = torch.tensor([[5, 6, 7, 8], [9, 10, 11, 12], [13, 14, 15, 16]])
    mask = torch.ones_like(tokens)
    cache, fewer = (make_cache(config, 6, buffered=False) for _ in range(2))
    positions = torch.arange(4).expand(3, -1)
    chat.logits(tokens, mask, positions, cache=cache)
    chat.logits(tokens[[0, 2]], mask[:2], positions[:2], cache=fewer)
    keep_rows(cache, torch.tensor([0, 2]))
    following = torch.tensor([[20], [21]])
    step = torch.ones((2, 5), dtype=torch.long), torch.full((2, 1), 4)
    torch.testing.assert_close(
        chat.logits(following, *step, cache=cache), chat.logits(following, *step, cache=fewer)
    )


# -- ablation ------------------------------------------------------------------------------------


def test_every_writer_is_found() -> None:
    def names(name: str) -> set[str]:
        chat = tiny(name)
        return {*ablation_sites_of(chat).writers[1]}

    assert names("granitemoeshared") == {"self_attn", "block_sparse_moe", "shared_mlp"}
    assert names("falcon_h1") == {"self_attn", "mamba", "feed_forward"}
    assert names("olmo2") == {
        "self_attn",
        "mlp",
        "post_attention_layernorm",
        "post_feedforward_layernorm",
    }
    assert names("bloom") == {"self_attention", "mlp"}


def test_where_the_official_code_leaves_something_it_is_said() -> None:
    """Norms after attention and MLP bring some back; the official code's places are kept."""
    gemma, rules = tiny("gemma2"), Cosmic.rules
    assert not ablation_sites_of(gemma).complete
    (note,) = what_ablation_leaves(gemma, rules)
    assert "as in the official code" in note
    assert what_ablation_leaves(gemma, CosmicAffine.rules) == ()
    assert what_ablation_leaves(tiny("llama"), rules) == ()


def test_what_a_layers_own_code_writes_is_found_at_its_output_or_refused() -> None:
    bias = torch.randn(64, generator=torch.Generator().manual_seed(0))
    at_end = tiny("qwen3")
    plain = at_end.layers[2].forward
    at_end.layers[2].forward = lambda *args, **kwargs: plain(*args, **kwargs) + bias
    sites = ablation_sites_of(at_end)
    assert sites.outputs
    assert sites.left <= 1e-6

    between = tiny("qwen3")
    layer = between.layers[2]

    def forward(hidden_states: Tensor, **kwargs: Any) -> Tensor:
        attended, _ = layer.self_attn(layer.input_layernorm(hidden_states), **kwargs)
        hidden: Tensor = hidden_states + attended + bias  # what the MLP reads through its norm
        return hidden + layer.mlp(layer.post_attention_layernorm(hidden))

    layer.forward = forward
    with pytest.raises(InputError, match=r"qwen3: .* before post_attention_layernorm of layer 2"):
        what_ablation_leaves(between, Cosmic.rules)


# -- the table -----------------------------------------------------------------------------------


def test_the_table_says_what_is_refused_and_why() -> None:
    checks = dict.fromkeys(CHECKS, Found("right"))
    wrong = {**checks, "texts": Found("wrong", "3 of 16 texts differ")}
    refused = dict.fromkeys(CHECKS, Found("refused", "b: no cache"))
    results = [ArchitectureResult("a", "dense", wrong), ArchitectureResult("b", "states", refused)]
    table = as_table(results)
    assert "| a | dense | **WRONG** | right |" in table
    assert table.count("b: no cache") == 1
    assert [result.wrong for result in results] == [True, False]


def test_an_unknown_architecture_is_named() -> None:
    with pytest.raises(InputError, match="architecture lama: not known here"):
        verify_architectures(["lama"])
