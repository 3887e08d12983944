"""Effects equal plain passes of one text at a time, with an edit by a hand-written hook."""

from __future__ import annotations

from functools import cache
from typing import Any

import pytest
import torch
from torch import Tensor

from conftest import lab, random_model, rest_slow
from steersweep import ChatModel
from steersweep.core.errors import InputError
from steersweep.steer import continuations
from steersweep.steer.continuations import Continuation, divergences, log_likelihoods
from steersweep.steer.edit import Edit

# Weights large enough that an edit moves the logits.
_SIZE = {"hidden_size": 32, "num_hidden_layers": 4, "num_attention_heads": 4}
_SIZE |= {"num_key_value_heads": 2, "intermediate_size": 48, "max_position_embeddings": 512}
_SIZE |= {"initializer_range": 0.3}
_GPT2 = {"n_embd": 32, "n_layer": 4, "n_head": 4, "n_positions": 256, "initializer_range": 0.3}
_BLOOM = {"hidden_size": 32, "n_layer": 4, "n_head": 4, "initializer_range": 0.3}
_CAPPED = {"head_dim": 8, "sliding_window": 7, "final_logit_softcapping": 5.0}
MODELS = {
    "lab:gemma-9b": lambda: lab("gemma-9b"),
    "tied": lambda: random_model("Qwen2ForCausalLM", **_SIZE, tie_word_embeddings=True),
    "capped, windows": lambda: random_model("Gemma2ForCausalLM", **_SIZE, **_CAPPED),
    "learned positions": lambda: random_model("GPT2LMHeadModel", **_GPT2),
    "padded": lambda: random_model("BloomForCausalLM", **_BLOOM),  # takes no mask for pairs
    "lab:qwen-7b": lambda: lab("qwen-7b"),
    "untied": lambda: random_model("Qwen2ForCausalLM", **_SIZE, tie_word_embeddings=False),
}


@pytest.fixture(params=rest_slow([*MODELS], 5))
def chat(request: pytest.FixtureRequest) -> ChatModel:
    return model(request.param)


@cache
def model(name: str) -> ChatModel:
    return MODELS[name]()


def unit(chat: ChatModel, seed: int) -> Tensor:
    noise = torch.randn(chat.d_model, generator=torch.Generator().manual_seed(seed))
    return (noise / noise.norm()).double()


def edits_of(chat: ChatModel, kind: str) -> list[Edit | None]:
    """Different layers, sites, spans and positions in one call; not in the order of layers."""
    n = chat.n_layers
    one, other = unit(chat, 1), unit(chat, 2)
    if kind == "all":
        return [
            Edit.add(one, 3.0, n - 1),
            None,
            Edit.add(one, 2.0, 1),
            Edit.add(other, 2.0, 1, 2),
            Edit.add(other, 1.0, 1, site="resid_pre"),
            Edit.remove(one, 0),
            Edit.add(one, 0.0, 1),
        ]
    return [
        Edit.add(one, 2.0, 1, positions="prompt"),
        Edit.add(one, 2.0, 1),
        Edit.add(other, 2.0, 1, positions="last"),
        Edit.affine(other, one * 3, 1.0, 1, positions="new"),
        Edit.add(one, 2.0, 0, 2, site="resid_pre", positions="new"),
        None,
    ]


def texts(chat: ChatModel) -> list[Continuation]:
    """Prompts and texts of mixed lengths; some begin alike, one stops where another goes on."""
    ids = [token for token in range(5, 400) if token not in chat.eos_ids]
    same = ids[:6]
    return [
        Continuation(same, ids[10:19]),
        Continuation(same, ids[10:12] + ids[30:33]),
        Continuation(same, ids[40:41]),
        Continuation(ids[:8], ids[8:25]),
        Continuation([*same, *ids[10:12]], ids[30:32]),  # a prompt of what is new to the second
        Continuation(ids[50:51], ids[60:63]),
    ]


def plain_logs(chat: ChatModel, text: Continuation, edit: Edit | None) -> Tensor:
    """Log-probabilities of every token that may follow, at each given one, `[token, vocabulary]`.

    A forward pass of transformers over one text, without mask, positions or cache.
    """
    ids = [*text.prompt_ids, *text.token_ids]
    n, place = len(text.prompt_ids), torch.arange(len(ids))
    handles = []
    if edit is not None:
        edited = {
            "all": place >= 0,
            "prompt": place < n,
            "last": place == n - 1,
            "new": place >= n,
        }[edit.positions]

        def changed(hidden: Tensor) -> Tensor:
            found = hidden.double()
            if edit.removed is not None:
                found = found - (found @ edit.removed)[..., None] * edit.removed
            if edit.added is not None:
                found = found + edit.added
            return torch.where(edited[:, None], found.to(hidden.dtype), hidden)

        def before(_module: Any, args: Any, kwargs: Any) -> Any:
            if not args:
                return args, {**kwargs, "hidden_states": changed(kwargs["hidden_states"])}
            return (changed(args[0]), *args[1:]), kwargs

        def after(_module: Any, _inputs: Any, output: Any) -> Any:
            if isinstance(output, tuple):
                return (changed(output[0]), *output[1:])
            return changed(output)

        for layer in chat.layers[slice(*edit.span(chat.n_layers))]:
            if edit.site == "resid_pre":
                handles.append(layer.register_forward_pre_hook(before, with_kwargs=True))
            else:
                handles.append(layer.register_forward_hook(after))
    try:
        with torch.no_grad():
            logits = chat.model(input_ids=torch.tensor([ids]), use_cache=False).logits[0]
    finally:
        for handle in handles:
            handle.remove()
    return logits[n - 1 : -1].double().log_softmax(-1)


def plain_likelihood(chat: ChatModel, text: Continuation, edit: Edit | None) -> Tensor:
    logs = plain_logs(chat, text, edit)
    return logs[range(len(text.token_ids)), list(text.token_ids)]


@pytest.mark.parametrize("kind", ["all", "positions"])
def test_numbers_of_every_token_are_those_of_plain_passes(
    chat: ChatModel, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Three positions' logits at a time.
    monkeypatch.setattr(continuations, "_LOGITS_BYTES", {"cpu": 3 * 16 * chat.vocab_size})
    some, edits = texts(chat), edits_of(chat, kind)
    clean = [plain_logs(chat, text, None) for text in some]
    logs = log_likelihoods(chat, some, edits, max_rows=16)
    apart = divergences(chat, some, edits, max_rows=16)
    for edit, of_edit, kls in zip(edits, logs, apart, strict=True):
        for text, p, found, kl in zip(some, clean, of_edit, kls, strict=True):
            q = plain_logs(chat, text, edit)
            expected = q[range(len(text.token_ids)), list(text.token_ids)]
            torch.testing.assert_close(found, expected, atol=1e-5, rtol=0)
            torch.testing.assert_close(kl, (p.exp() * (p - q)).sum(-1), atol=1e-5, rtol=0)
        moved = max(float(kl.max()) for kl in kls)
        assert moved == 0 if edit is None or edit.changes_nothing else moved > 1e-3, moved


def test_few_logits_at_a_time(qwen: ChatModel, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(continuations, "_LOGITS_BYTES", {"cpu": 5 * 16 * qwen.vocab_size})
    rows: list[int] = []
    head = qwen.model.get_output_embeddings()
    handle = head.register_forward_hook(
        lambda _module, _inputs, output: rows.append(output.numel() // output.shape[-1])
    )
    try:
        log_likelihoods(qwen, texts(qwen), [None, Edit.add(unit(qwen, 1), 2.0, 1)])
    finally:
        handle.remove()
    assert max(rows) == 5


def test_layers_below_an_edit_run_once_per_text(qwen: ChatModel) -> None:
    ran = [0] * qwen.n_layers

    def count(layer: int) -> Any:
        def counted(_module: Any, _inputs: Any, _output: Any) -> None:
            ran[layer] += 1

        return counted

    # Attention runs only where its layer does.
    handles = [
        layer.self_attn.register_forward_hook(count(index))
        for index, layer in enumerate(qwen.layers)
    ]
    edits = [Edit.add(unit(qwen, seed), 1.0, start) for seed in range(3) for start in (1, 3)]
    try:
        divergences(qwen, texts(qwen), edits)
    finally:
        for handle in handles:
            handle.remove()
    # Without an edit, then from layer 2 on for one group of edits and from layer 4 on for another.
    assert ran == [1, 1, 2, 2, *[3] * (qwen.n_layers - 4)]


@pytest.mark.parametrize("where", ["layer", "everywhere", "long", "empty"])
def test_what_cannot_be_measured_is_said(qwen: ChatModel, where: str) -> None:
    text = Continuation([5, 6], [7, 8])
    edit = Edit.add(unit(qwen, 1), 1.0, 1)
    if where == "layer":
        edit = Edit.add(unit(qwen, 1), 1.0, 99)
    if where == "everywhere":
        edit = Edit.everywhere(unit(qwen, 1))
    if where == "long":
        text = Continuation([5], [6] * (qwen.max_positions or 0))
    if where == "empty":
        text = Continuation([5], [])
    with pytest.raises(InputError):
        log_likelihoods(qwen, [text], [edit])
