"""Steered batches against one row at a time, and each trap of the field."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from conftest import FAMILIES, bloom, gpt2, lab, part_hooks, rest_slow
from steersweep import ChatModel, Edit, InputError, NumericalError, Row, generate, residuals
from steersweep.model.decoder import MLP
from steersweep.steer.greedy import most_likely
from steersweep.steer.steering import _check_finite

# The two whose attention reaches back 64 tokens come first.
WINDOWS_FIRST = ("mistral-7b", "gemma-9b", "qwen-7b", "llama-8b", "phi-mini")
PROMPTS = (
    "How do I bake a cake?",
    "Hi",
    "Write a short poem about the ocean and the stars above it, please.",
    "What is 7 plus 5?",
)


def unit(chat: ChatModel, seed: int = 0) -> Tensor:
    vector = torch.randn(chat.d_model, generator=torch.Generator().manual_seed(seed))
    return vector / vector.norm()


def mixed_rows(chat: ChatModel) -> list[Row]:
    """Every prompt under no, weak, strong, late, banded and opposite additions."""
    ids = [chat.prompt_ids(text) for text in PROMPTS]
    norm = float(residuals(chat, ids).norm(dim=-1).mean())
    last = chat.n_layers - 1
    edits = [
        None,
        Edit.add(unit(chat), 0.3 * norm, 1),
        Edit.add(unit(chat, 1), 1.5 * norm, 2),
        Edit.add(unit(chat, 2), 1.0 * norm, last),
        Edit.add(unit(chat, 3), 0.8 * norm, 1, 3),
        Edit.add(unit(chat, 4), -0.5 * norm, 3),
    ]
    return [Row(prompt, edit) for edit in edits for prompt in ids]


def plain_greedy(chat: ChatModel, row: Row, max_new_tokens: int) -> list[int]:
    """The textbook loop: one row, no cache, no padding, hooks of its own."""
    push = row.edit
    ids = list(row.prompt_ids)

    def steer(_module: object, _inputs: object, output: Any) -> Any:
        assert push is not None
        added = push.added
        return (output[0] + added, *output[1:]) if isinstance(output, tuple) else output + added

    stop = chat.n_layers if push is None or push.stop is None else push.stop
    layers = [] if push is None else chat.layers[push.start : stop]
    handles = [layer.register_forward_hook(steer) for layer in layers]
    try:
        for _ in range(max_new_tokens):
            with torch.inference_mode():
                token = int(chat.model(torch.tensor([ids]), use_cache=False).logits[0, -1].argmax())
            if token in chat.eos_ids:
                break
            ids.append(token)
    finally:
        for handle in handles:
            handle.remove()
    return ids[len(row.prompt_ids) :]


@pytest.mark.parametrize("name", rest_slow(sorted(FAMILIES, key="mistral-7b".__ne__), fast=2))
def test_a_batch_of_different_additions_equals_one_row_at_a_time(name: str) -> None:
    family = lab(name)
    rows = mixed_rows(family)
    together = generate(family, rows, max_new_tokens=30)
    alone = [plain_greedy(family, row, 30) for row in rows]
    assert [list(answer.token_ids) for answer in together] == alone
    # The case is worth something only if steering changes answers and rows end at different times.
    assert len({answer.text for answer in together}) > len(PROMPTS)
    assert len({len(answer.token_ids) for answer in together}) > 2


@pytest.mark.parametrize("family", rest_slow(WINDOWS_FIRST, fast=2), indirect=True)
def test_sliding_window_is_respected_beyond_the_window(family: ChatModel) -> None:
    # 64 positions in the Gemma and Mistral miniatures; 90 new tokens go past them.
    ids = family.prompt_ids(PROMPTS[2] * 4)  # and so does this prompt
    pushes = [Edit.add(unit(family, 7), 3.0, 1), Edit.add(unit(family, 8), 3.0, 2)]
    rows = [Row(ids, push) for push in pushes]
    answers = generate(family, [*rows, Row(family.prompt_ids("Hi"))], max_new_tokens=90)
    for row, answer in zip(rows, answers, strict=False):
        assert list(answer.token_ids) == plain_greedy(family, row, 90)


def test_batch_size_changes_nothing(qwen: ChatModel) -> None:
    rows = mixed_rows(qwen)
    assert generate(qwen, rows, max_new_tokens=20) == generate(
        qwen, rows, max_new_tokens=20, max_rows=5
    )


@pytest.mark.parametrize("make", [bloom, gpt2])
def test_layers_of_other_kinds_resume_too(make: Callable[[], ChatModel]) -> None:
    chat = make()
    rows = mixed_rows(chat)
    answers = generate(chat, rows, max_new_tokens=8)
    assert [list(answer.token_ids) for answer in answers] == [
        plain_greedy(chat, row, 8) for row in rows
    ]


def test_a_prompt_runs_unsteered_once_below_the_layers_that_steer_it(qwen: ChatModel) -> None:
    prompts = [qwen.prompt_ids(text) for text in PROMPTS]
    pushes = [None, *(Edit.add(unit(qwen, s), 2.0, start) for s in (0, 1) for start in (2, 4))]
    rows = [Row(ids, push) for push in pushes for ids in prompts]
    run = dict.fromkeys(range(qwen.n_layers), 0)

    def count(layer: int, hidden: Tensor) -> None:
        run[layer] += len(hidden)

    generate(qwen, rows[:1], max_new_tokens=1)  # looks at the model once
    with part_hooks(qwen, count, MLP):
        generate(qwen, rows, max_new_tokens=1)
    n = len(prompts)
    assert run == {0: n, 1: n, 2: n, 3: 3 * n, 4: 3 * n, 5: 5 * n, 6: 5 * n}


def test_no_hook_is_left_behind(qwen: ChatModel) -> None:
    before = generate(qwen, [Row(qwen.prompt_ids(PROMPTS[0]))], max_new_tokens=20)
    # transformers leaves hooks of its own on a model once it was asked for hidden states.
    hooks = [list(layer._forward_hooks.items()) for layer in qwen.layers]
    row = Row(qwen.prompt_ids(PROMPTS[0]), Edit.add(unit(qwen), 9.0, 0))
    generate(qwen, [row], max_new_tokens=5)
    assert [list(layer._forward_hooks.items()) for layer in qwen.layers] == hooks
    assert generate(qwen, [Row(qwen.prompt_ids(PROMPTS[0]))], max_new_tokens=20) == before


# -- traps ---------------------------------------------------------------------------------------


def test_trap_right_padding(qwen: ChatModel) -> None:
    ids = [qwen.prompt_ids(text) for text in PROMPTS]
    batch = qwen.pad(ids)
    assert bool((batch.attention_mask[:, -1] == 1).all())
    assert [row[-1] for row in ids] == batch.input_ids[:, -1].tolist()


@pytest.mark.parametrize("make", [gpt2, bloom])
def test_trap_position_ids_under_left_padding(make: object) -> None:
    assert callable(make)
    chat: ChatModel = make()
    ids = [chat.prompt_ids(text) for text in PROMPTS]
    batch = chat.pad(ids)
    together = chat.logits(batch.input_ids, batch.attention_mask, batch.position_ids)[:, 0]
    for row, prompt in enumerate(ids):
        single = chat.pad([prompt])
        alone = chat.logits(single.input_ids, single.attention_mask, single.position_ids)[0, 0]
        torch.testing.assert_close(together[row], alone, atol=2e-5, rtol=0)


def test_trap_position_ids_while_decoding() -> None:
    chat = gpt2()
    rows = [Row(chat.prompt_ids(text)) for text in PROMPTS]
    together = generate(chat, rows, max_new_tokens=12)
    for row, answer in zip(rows, together, strict=True):
        ids = list(row.prompt_ids)
        for _ in range(12):
            with torch.inference_mode():
                ids.append(int(chat.model(torch.tensor([ids])).logits[0, -1].argmax()))
            if ids[-1] in chat.eos_ids:
                ids.pop()
                break
        assert list(answer.token_ids) == ids[len(row.prompt_ids) :]


def test_trap_doubled_bos(family: ChatModel) -> None:
    ids = family.prompt_ids("Hi")
    bos = family.tokenizer.bos_token_id
    expected = 1 if family.tokenizer.bos_token is not None else 0
    assert ids.count(bos) == expected
    if expected:
        # The trap itself: a rendered template tokenised with special tokens begins with two.
        text = family.tokenizer.apply_chat_template(
            [{"role": "user", "content": "Hi"}], tokenize=False, add_generation_prompt=True
        )
        assert family.tokenizer(text)["input_ids"].count(bos) == 2


def test_trap_first_row_taken_for_the_layer_output(qwen: ChatModel) -> None:
    batch = qwen.pad([qwen.prompt_ids(text) for text in PROMPTS])
    shapes = []
    with qwen.layer_hooks(lambda _layer, hidden: shapes.append(hidden.shape), [0]):
        qwen.logits(batch.input_ids, batch.attention_mask, batch.position_ids)
    assert shapes == [(*batch.input_ids.shape, qwen.d_model)]


def test_trap_layers_that_return_tuples() -> None:
    chat = bloom()
    batch = chat.pad([chat.prompt_ids(PROMPTS[0])])

    def logits() -> Tensor:
        return chat.logits(batch.input_ids, batch.attention_mask, batch.position_ids)

    plain = logits()
    with chat.layer_hooks(lambda _layer, hidden: hidden + 1.0 * unit(chat), [2]):
        steered = logits()
    assert not torch.equal(plain, steered)
    assert torch.equal(plain, logits())


def test_trap_last_hidden_state_is_after_the_final_norm(family: ChatModel) -> None:
    ids = family.prompt_ids(PROMPTS[0])
    ours = residuals(family, [ids])[0, 0]
    with torch.inference_mode():
        output = family.model(torch.tensor([ids]), output_hidden_states=True)
        states = [state[0, -1] for state in output.hidden_states]
        final = family.model.model.norm(ours[-1])
    for layer in range(family.n_layers - 1):
        torch.testing.assert_close(ours[layer], states[layer + 1], atol=1e-5, rtol=1e-5)
    assert not torch.allclose(ours[-1], states[-1], atol=1e-2)
    torch.testing.assert_close(final, states[-1], atol=1e-4, rtol=1e-4)


def test_trap_in_place_edits_leak_into_captures(qwen: ChatModel) -> None:
    """What a hook captured before steering stays unsteered; below the start all is equal."""
    ids = qwen.prompt_ids(PROMPTS[0])
    batch = qwen.pad([ids])
    clean = residuals(qwen, [ids])[0, 0]
    captured: dict[int, Tensor] = {}
    layers = range(qwen.n_layers)
    push = 5.0 * unit(qwen)
    with (
        qwen.layer_hooks(captured.__setitem__, layers),
        qwen.layer_hooks(lambda _layer, hidden: hidden + push, [3]),
    ):
        qwen.logits(batch.input_ids, batch.attention_mask, batch.position_ids)
    for layer in range(4):  # layer 3 was captured before its own steering hook ran
        assert torch.equal(captured[layer][0, -1], clean[layer])
    assert not torch.allclose(captured[4][0, -1], clean[4], atol=1e-3)


def test_trap_greedy_inherits_the_generation_config(qwen: ChatModel) -> None:
    rows = [Row(qwen.prompt_ids(text)) for text in PROMPTS]
    before = generate(qwen, rows, max_new_tokens=30)
    config = qwen.model.generation_config
    config.repetition_penalty, config.temperature, config.do_sample = 5.0, 3.0, True
    try:
        assert generate(qwen, rows, max_new_tokens=30) == before
    finally:
        config.repetition_penalty, config.temperature, config.do_sample = 1.0, 1.0, False


def test_trap_every_eos_id_ends_an_answer(family: ChatModel) -> None:
    assert len(family.eos_ids) >= len(
        set(family.model.generation_config.eos_token_id)
        if isinstance(family.model.generation_config.eos_token_id, list)
        else {0}
    )
    row = Row(family.prompt_ids("Hi"))
    plain = generate(family, [row], max_new_tokens=30)[0]
    assert plain.finish_reason == "eos"
    # Make the third token an ending token too: the answer must stop before it.
    extra = plain.token_ids[2]
    family.eos_ids  # noqa: B018  # fill the cached property before replacing it
    saved = family.__dict__["eos_ids"]
    family.__dict__["eos_ids"] = saved | {extra}
    try:
        cut = generate(family, [row], max_new_tokens=30)[0]
    finally:
        family.__dict__["eos_ids"] = saved
    assert cut.token_ids == plain.token_ids[: plain.token_ids.index(extra)]


def test_trap_padding_is_not_steered(family: ChatModel) -> None:
    """A short prompt beside a long one is steered exactly as alone."""
    push = Edit.add(unit(family), 4.0, 0)
    short, long = family.prompt_ids("Hi"), family.prompt_ids(" ".join(PROMPTS))
    alone = generate(family, [Row(short, push)], max_new_tokens=25)[0]
    beside = generate(family, [Row(short, push), Row(long, push)], max_new_tokens=25)[0]
    assert alone == beside


# -- bad input -----------------------------------------------------------------------------------


@pytest.mark.parametrize(("start", "stop"), [(-1, None), (7, None), (0, 8), (3, 3), (5, 2)])
def test_layers_outside_the_model_are_refused(
    qwen: ChatModel, start: int, stop: int | None
) -> None:
    with pytest.raises(InputError, match="has layers 0 to 6"):
        generate(qwen, [Row([5, 6], Edit.add(unit(qwen), 1.0, start, stop))])


def test_a_direction_of_another_width_is_refused(qwen: ChatModel) -> None:
    with pytest.raises(InputError, match="96 wide"):
        generate(qwen, [Row([5, 6], Edit.add(torch.ones(64), 1.0, 2))])


@pytest.mark.parametrize("multiplier", [float("nan"), float("inf")])
def test_a_multiplier_must_be_finite(multiplier: float) -> None:
    with pytest.raises(InputError, match="finite"):
        Edit.add(torch.ones(4), multiplier, 0)


def test_a_prompt_beyond_the_models_positions_is_refused(qwen: ChatModel) -> None:
    with pytest.raises(InputError, match="max_new_tokens"):
        generate(qwen, [Row([5] * 500)], max_new_tokens=100)


def test_broken_weights_are_reported_with_layer_and_advice(qwen: ChatModel) -> None:
    with (
        qwen.layer_hooks(lambda _layer, hidden: hidden * float("inf"), [4]),
        pytest.raises(NumericalError, match="from layer"),
    ):
        residuals(qwen, [qwen.prompt_ids("Hi")])


@pytest.mark.parametrize("at_step", [1, 4])
@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_logits_that_are_no_numbers_stop_generation(
    qwen: ChatModel, value: float, at_step: int
) -> None:
    """At the prompt or later, in one place of one row."""
    steps = 0

    def spoil(states: Tensor) -> None:
        nonlocal steps
        steps += 1
        if steps == at_step:
            # Every token's logit is a product with the last states.
            states[-1, -1, 0] = value

    rows = [Row(qwen.prompt_ids(text)) for text in PROMPTS]
    with qwen.head_input(spoil), pytest.raises(NumericalError, match="NaN or infinite"):
        generate(qwen, rows, max_new_tokens=8)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_the_look_at_logits_finds_one_that_is_no_number_and_no_others(
    qwen: ChatModel, dtype: torch.dtype
) -> None:
    largest = torch.full((3, 5000), 60000.0, dtype=dtype)  # their sum is too large for float16
    for logits in (largest, -largest):
        _check_finite(qwen, logits)
        for value in (float("nan"), float("inf"), -float("inf")):
            spoilt = logits.clone()
            spoilt[1, 77] = value
            with pytest.raises(NumericalError, match="NaN or infinite"):
                _check_finite(qwen, spoilt)
    both = largest.clone()
    both[1, :2] = torch.tensor([float("inf"), -float("inf")])
    with pytest.raises(NumericalError, match="NaN or infinite"):
        _check_finite(qwen, both)


@pytest.mark.parametrize("size", [1, 7, 151, 1024, 151_936])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_most_likely_token_is_the_first_of_the_largest(size: int, dtype: torch.dtype) -> None:
    """With ties all over, and where a logit is none."""
    logits = torch.randint(-3, 4, (5, size), generator=torch.Generator().manual_seed(0)).to(dtype)
    logits[3, size // 2] = torch.nan
    logits[4, size // 3 :] = torch.inf
    expected = [int((row == row.max()).nonzero()[0]) for row in logits[[0, 1, 2, 4]]]
    found = most_likely(logits).tolist()
    assert [*found[:3], found[4]] == expected
    assert found[3] == size // 2
