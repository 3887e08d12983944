"""Many edits in one batch against one plain forward pass per edit and prompt."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack

import pytest
import torch
from torch import Tensor

from conftest import bloom, gpt2, lab, part_hooks, random_model
from steersweep import ChatModel, Edit, InputError
from steersweep.model.decoder import ATTENTION, MLP
from steersweep.steer.passes import edited_logits, run_edits

PROMPTS = ("How do I bake a cake?", "Why?", "Tell me about the printing press, please.", "Hello!")


def falcon() -> ChatModel:
    """Tuples from its layers, attention and MLP side by side."""
    return random_model(
        "FalconForCausalLM", num_hidden_layers=4, hidden_size=32, num_attention_heads=4
    )


MODELS: dict[str, Callable[[], ChatModel]] = {
    **{name: lambda name=name: lab(name) for name in ("qwen-7b", "gemma-9b", "phi-mini")},
    "gpt2": gpt2,
    "bloom": bloom,
    "falcon": falcon,
}


def naive(
    chat: ChatModel, ids: list[int], edit: Edit, *, before: bool
) -> tuple[dict[int, Tensor], Tensor]:
    """States after each layer and logits of one prompt, alone, from the first layer on."""
    states: dict[int, Tensor] = {}

    start, stop = edit.span(chat.n_layers)

    def change(hidden: Tensor) -> Tensor:
        if edit.removed is not None:
            unit = edit.removed.float()
            hidden = hidden - (hidden @ unit)[..., None] * unit
        return hidden if edit.added is None else hidden + edit.added.float()

    def at_input(layer: int, hidden: Tensor) -> Tensor | None:
        edited = change(hidden) if edit.site == "resid_pre" and start <= layer < stop else hidden
        states[layer - 1] = (hidden if before else edited)[0, -1]
        return edited

    def at_part(_layer: int, output: Tensor) -> Tensor:
        return change(output)

    def at_end(final: Tensor) -> None:
        states[chat.n_layers - 1] = final[0]

    with ExitStack() as stack, torch.inference_mode():
        stack.enter_context(chat.layer_hooks(at_input, range(chat.n_layers), "resid_pre"))
        stack.enter_context(chat.final_states(at_end))
        if edit.site == "resid_post":
            layers = range(start, stop)
            stack.enter_context(chat.layer_hooks(lambda _layer, out: change(out), layers))
        if edit.all_writes:
            for names in (ATTENTION, MLP):
                stack.enter_context(part_hooks(chat, at_part, names))
        batch = chat.pad([ids])
        logits = chat.logits(batch.input_ids, batch.attention_mask, batch.position_ids)
    return states, logits[0, -1]


def added_before(layer: int, vector: Tensor) -> Edit:
    return Edit.add(vector, 1.0, layer, layer + 1, site="resid_pre")


def some_edits(chat: ChatModel) -> list[Edit]:
    torch.manual_seed(1)
    vectors = torch.randn(6, chat.d_model, dtype=torch.float64)
    last = chat.n_layers - 1
    return [
        added_before(0, vectors[0]),
        added_before(2, vectors[1]),
        added_before(last, vectors[2]),
        Edit.everywhere(vectors[3]),
        Edit.affine(vectors[4], vectors[5], 0.0, 2, 3, site="resid_pre"),
        Edit.remove(vectors[4], last, site="resid_pre"),
        Edit.everywhere(vectors[5]),
        Edit.remove(vectors[3], 1, site="resid_pre"),
        Edit.add(vectors[2], 0.5, 2),
        Edit.affine(vectors[1], vectors[0], 2.0, 0, 3),
        Edit.remove(vectors[0], last),
        Edit.add(vectors[1], 1.0, 1, positions="prompt"),
    ]


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("before", [False, True])
def test_batched_edits_equal_single_passes(name: str, before: bool) -> None:
    chat = MODELS[name]()
    prompts = [chat.prompt_ids(text) for text in PROMPTS]
    edits = some_edits(chat)
    every = range(chat.n_layers)
    seen = set()
    for reading in run_edits(
        chat,
        prompts,
        edits,
        read_layers=every,
        with_logits=True,
        read_before_edit=before,
        max_rows=6,
    ):
        assert reading.logits is not None
        for row, edit in enumerate(reading.edits):
            for column, prompt in enumerate(reading.prompts):
                states, logits = naive(chat, prompts[prompt], edits[edit], before=before)
                for layer in every:
                    torch.testing.assert_close(
                        reading.states[row, column, layer], states[layer], atol=2e-4, rtol=1e-4
                    )
                torch.testing.assert_close(
                    reading.logits[row, column], logits, atol=2e-4, rtol=1e-4
                )
                seen.add((edit, prompt))
    assert len(seen) == len(edits) * len(prompts)


@pytest.mark.parametrize("layers", [(0,), (1,), (1, 3), (2,)])
def test_layers_above_the_last_one_read_are_not_run(
    qwen: ChatModel, layers: tuple[int, ...]
) -> None:
    prompts = [qwen.prompt_ids(text) for text in PROMPTS]
    edits = some_edits(qwen)
    list(run_edits(qwen, prompts, edits, read_layers=layers))  # looks at the model once
    ran: list[int] = []
    # An MLP runs where its layer does; hooks on a skipped layer itself are still called.
    with part_hooks(qwen, lambda layer, _out: ran.append(layer), MLP):
        readings = list(run_edits(qwen, prompts, edits, read_layers=layers))
    assert ran
    assert max(ran) == max(layers)
    for reading in readings:
        for row, edit in enumerate(reading.edits):
            for column, prompt in enumerate(reading.prompts):
                states, _ = naive(qwen, prompts[prompt], edits[edit], before=False)
                for index, layer in enumerate(layers):
                    torch.testing.assert_close(
                        reading.states[row, column, index], states[layer], atol=2e-4, rtol=1e-4
                    )


def test_the_prefix_below_an_edit_is_computed_once(qwen: ChatModel) -> None:
    prompts = [qwen.prompt_ids(text) for text in PROMPTS]
    edits = [added_before(4, torch.randn(qwen.d_model).double()) for _ in range(5)]
    list(run_edits(qwen, prompts, edits, read_layers=[5]))  # looks at the model once
    ran: list[int] = []
    with part_hooks(qwen, lambda layer, _out: ran.append(layer), MLP):
        list(run_edits(qwen, prompts, edits, read_layers=[5], max_rows=8))
    assert [ran.count(layer) for layer in range(7)] == [1, 1, 1, 1, 3, 3, 0]


def test_nothing_is_left_behind(qwen: ChatModel) -> None:
    prompts = [qwen.prompt_ids(text) for text in PROMPTS]
    held = [dict(layer.__dict__) for layer in qwen.layers]
    before = edited_logits(qwen, prompts, added_before(0, torch.zeros(qwen.d_model)))
    list(run_edits(qwen, prompts, some_edits(qwen), read_layers=[2]))

    def fail(_layer: int, _hidden: Tensor) -> None:
        raise RuntimeError("in the middle of a pass")

    with part_hooks(qwen, fail, MLP), pytest.raises(RuntimeError, match="middle"):
        list(run_edits(qwen, prompts, some_edits(qwen), read_layers=[4]))
    assert [dict(layer.__dict__) for layer in qwen.layers] == held
    after = edited_logits(qwen, prompts, added_before(0, torch.zeros(qwen.d_model)))
    assert torch.equal(before, after)


def test_other_hooks_never_see_an_edit_in_place(qwen: ChatModel) -> None:
    """The official linear hooks change what other hooks hold; ours must not."""
    prompts = [qwen.prompt_ids(PROMPTS[0])]
    embedded = qwen.model.get_input_embeddings()(torch.tensor(prompts))
    held: list[Tensor] = []
    with qwen.layer_hooks(lambda _layer, hidden: held.append(hidden), [0], "resid_pre"):
        for edit in (added_before(0, torch.ones(qwen.d_model)), Edit.everywhere(embedded[0, -1])):
            held.clear()
            list(run_edits(qwen, prompts, [edit], read_layers=[3]))
            assert torch.equal(held[-1], embedded)


def test_an_edit_of_new_tokens_leaves_prompts_as_they_are(qwen: ChatModel) -> None:
    prompts = [qwen.prompt_ids(text) for text in PROMPTS]
    plain = edited_logits(qwen, prompts, added_before(0, torch.zeros(qwen.d_model)))
    edit = Edit.add(torch.ones(qwen.d_model), 5.0, 0, positions="new")
    assert torch.equal(edited_logits(qwen, prompts, edit), plain)


@pytest.mark.parametrize(
    ("edit", "said"),
    [
        (Edit.add(torch.ones(5), 1.0, 3), "96 wide"),
        (Edit.remove(torch.ones(96), 7), "layers 0 to 6"),
        (Edit.add(torch.ones(96), 1.0, 3, positions="last"), "is for generation"),
    ],
)
def test_edits_that_do_not_fit_are_refused(qwen: ChatModel, edit: Edit, said: str) -> None:
    with pytest.raises(InputError, match=said):
        list(run_edits(qwen, [[5, 6]], [edit], read_layers=[3]))
