"""Every edit in one mixed batch, against a plain loop over one row with hooks of its own."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import product
from typing import Any, get_args

import pytest
import torch
from torch import Tensor

from conftest import FAMILIES, rest_slow
from steersweep import ChatModel, Edit, InputError, Row, generate, residuals
from steersweep.run.edit_settings import Positions, Site
from steersweep.steer.row_edits import RowEdits
from steersweep.steer.steering import Generation
from test_architectures import tiny

PROMPTS = (
    "How do I bake a cake?",
    "Hi",
    "Write a short poem about the ocean and the stars above it, please.",
)
OPERATIONS = ("add", "remove", "affine")
SPANS = ("one", "to-end")
COMBINATIONS = tuple(product(OPERATIONS, get_args(Site), SPANS, get_args(Positions)))
TIE = 0.05  # of the largest logit, which 16 bits cannot tell


def edit_of(chat: ChatModel, kind: tuple[str, str, str, str], layer: int, states: Tensor) -> Edit:
    """`states`: of some prompts at their ends, `[prompt, layer, d_model]`."""
    operation, site, span, positions = kind
    stop = layer + 1 if span == "one" else None
    where: dict[str, Any] = {"site": site, "positions": positions}
    noise = torch.randn(chat.d_model, generator=torch.Generator().manual_seed(layer))
    length = float(states[:, layer].norm(dim=-1).mean())
    # What the stream is made of: without it answers change.
    mean = states[:, max(0, layer - 1)].mean(0)
    if operation == "add":
        return Edit.add(noise / noise.norm(), length, layer, stop, **where)
    if operation == "remove":
        return Edit.remove(mean, layer, stop, **where)
    return Edit.affine(mean, noise, 0.4 * length, layer, stop, **where)


def mixed_rows(chat: ChatModel, prompts: Sequence[Sequence[int]]) -> list[Row]:
    """Every operation, site, span and kind of positions, at layers from first to last."""
    states = residuals(chat, prompts)[:, 0]
    edits = [
        edit_of(chat, kind, number * 5 % chat.n_layers, states)
        for number, kind in enumerate(COMBINATIONS)
    ]
    rows = [Row(prompts[n % len(prompts)], edit) for n, edit in enumerate(edits)]
    return [*rows, *(Row(ids) for ids in prompts)]


class Hooked:
    """Hooks of one row, written out."""

    def __init__(self, chat: ChatModel, row: Row) -> None:
        self.prompt_length = len(row.prompt_ids)
        self.edit = row.edit
        self.handles: list[Any] = []
        if row.edit is None:
            return
        last = chat.n_layers if row.edit.stop is None else row.edit.stop
        for layer in chat.layers[row.edit.start : last]:
            if row.edit.site == "resid_pre":
                handle = layer.register_forward_pre_hook(self.before, with_kwargs=True)
            else:
                handle = layer.register_forward_hook(self.after)
            self.handles.append(handle)

    def change(self, x: Tensor) -> Tensor:
        """`x`: `[1, position, d_model]`, from the prompt's first token on."""
        edit = self.edit
        assert edit is not None
        changed = x
        if edit.removed is not None:
            unit = edit.removed.to(x.dtype)
            changed = changed - (changed @ unit)[..., None] * unit
        if edit.added is not None:
            changed = changed + edit.added.to(x.dtype)
        place = torch.arange(x.shape[1])
        chosen = {
            "all": place >= 0,
            "prompt": place < self.prompt_length,
            "new": place >= self.prompt_length,
            "last": place == self.prompt_length - 1,
        }[edit.positions]
        return torch.where(chosen[None, :, None], changed, x)

    def before(self, _module: Any, args: Any, kwargs: Any) -> Any:
        if args:
            return (self.change(args[0]), *args[1:]), kwargs
        return args, {**kwargs, "hidden_states": self.change(kwargs["hidden_states"])}

    def after(self, _module: Any, _args: Any, output: Any) -> Any:
        if isinstance(output, tuple):
            return (self.change(output[0]), *output[1:])
        return self.change(output)


@torch.inference_mode()
def plainly(chat: ChatModel, row: Row, count: int) -> tuple[list[int], list[float]]:
    """Greedy tokens, each from a pass over everything before it, and by how much each won."""
    tokens: list[int] = []
    margins: list[float] = []
    hooked = Hooked(chat, row)
    try:
        for _ in range(count):
            ids = torch.tensor([[*row.prompt_ids, *tokens]])
            logits = chat.model(ids, use_cache=False).logits[0, -1].float()
            best, second = logits.topk(2).values.tolist()
            margins.append((best - second) / float(logits.abs().max()))
            if int(logits.argmax()) in chat.eos_ids:
                break
            tokens.append(int(logits.argmax()))
    finally:
        for handle in hooked.handles:
            handle.remove()
    return tokens, margins


def see_that_all_is_in_it(rows: Sequence[Row], answers: Sequence[Generation]) -> None:
    """The comparison is worth something only if each kind changes answers, and lengths differ."""
    plain = {tuple(row.prompt_ids): answer.text for row, answer in zip(rows, answers, strict=True)}
    changed = {
        value
        for kind, row, answer in zip(COMBINATIONS, rows, answers, strict=False)
        for value in kind
        if answer.text != plain[tuple(row.prompt_ids)]
    }
    assert changed == {*OPERATIONS, *get_args(Site), *SPANS, *get_args(Positions)}
    assert len({len(answer.token_ids) for answer in answers}) > 1


@pytest.mark.parametrize("family", rest_slow(FAMILIES, 2), indirect=True)
def test_a_batch_of_mixed_edits_equals_one_row_at_a_time(family: ChatModel) -> None:
    rows = mixed_rows(family, [family.prompt_ids(text) for text in PROMPTS])
    answers = generate(family, rows, max_new_tokens=12)
    for kind, row, answer in zip([*COMBINATIONS, *PROMPTS], rows, answers, strict=True):
        assert [*answer.token_ids] == plainly(family, row, 12)[0], kind
    see_that_all_is_in_it(rows, answers)


@pytest.mark.slow
def test_every_edit_of_every_prompt_at_every_layer(family: ChatModel) -> None:
    prompts = [family.prompt_ids(text) for text in PROMPTS]
    states = residuals(family, prompts)[:, 0]
    rows = [
        Row(ids, edit_of(family, kind, layer, states))
        for kind in COMBINATIONS
        for layer in range(family.n_layers)
        for ids in prompts
    ]
    answers = generate(family, rows, max_new_tokens=30)
    for row, answer in zip(rows, answers, strict=True):
        assert [*answer.token_ids] == plainly(family, row, 30)[0], row.edit


def agrees(answer: Generation, plain: tuple[list[int], list[float]]) -> bool:
    """Equal up to a step where two tokens are as likely as 16 bits can tell."""
    tokens, margins = plain
    for step, margin in enumerate(margins):
        ours = answer.token_ids[step] if step < len(answer.token_ids) else None
        if ours != (tokens[step] if step < len(tokens) else None):
            return margin < TIE
    return len(answer.token_ids) == len(tokens)


def test_in_16_bits_up_to_a_tie() -> None:
    chat = ChatModel.load("lab:qwen-7b", precision="bf16", device="cpu")
    rows = mixed_rows(chat, [chat.prompt_ids(text) for text in PROMPTS])
    answers = generate(chat, rows, max_new_tokens=8)
    for row, answer in [*zip(rows, answers, strict=True)][::2]:
        assert agrees(answer, plainly(chat, row, 8)), row.edit


@pytest.mark.parametrize(
    "name", rest_slow(["qwen3_next", "bloom", "recurrent_gemma", "gemma4_text"], fast=2)
)
def test_in_models_with_states_and_other_caches(name: str) -> None:
    """With states no prompt may be padded; some leave positions out or return tuples."""
    chat = tiny(name)
    prompts = [list(range(5 + 3 * n, 5 + 3 * n + length)) for n, length in enumerate((4, 9, 4))]
    rows = mixed_rows(chat, prompts)
    answers = generate(chat, rows, max_new_tokens=5)
    for row, answer in zip(rows, answers, strict=True):
        tokens, margins = plainly(chat, row, 5)
        assert [*answer.token_ids] == tokens or min(margins) < 1e-4, row.edit


def test_additions_alone_make_no_product(qwen: ChatModel, monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(*_arguments: Any, **_options: Any) -> None:
        raise AssertionError("a product for a batch in which nothing is removed")

    rows = [row for row in mixed_rows(qwen, [qwen.prompt_ids("Hi")]) if is_addition(row.edit)]
    monkeypatch.setattr(torch, "baddbmm", refused)
    assert len(generate(qwen, rows, max_new_tokens=4)) == len(rows) > 16


def is_addition(edit: Edit | None) -> bool:
    return edit is None or edit.removed is None


def test_an_addition_is_the_same_beside_rows_that_remove(qwen: ChatModel) -> None:
    """To the last bit: what is not removed is not rounded."""
    hidden = torch.randn(3, 1, qwen.d_model)
    add = Edit.add(torch.randn(qwen.d_model), 2.0, 2)
    alone = RowEdits(qwen, [add]).edited("resid_post", 2, hidden[1:2])
    mixed = RowEdits(qwen, [Edit.remove(hidden[0, 0], 0), add, None])
    assert torch.equal(mixed.edited("resid_post", 2, hidden)[1:2], alone)
    assert torch.equal(mixed.edited("resid_post", 2, hidden)[2], hidden[2])


@pytest.mark.parametrize(("site", "ran"), [("resid_pre", 4), ("resid_post", 5)])
def test_prompts_run_once_below_the_first_edited_layer(
    qwen: ChatModel, site: Site, ran: int
) -> None:
    """The input of layer 4 is what layer 3 gives, and the output of 4 needs layer 4."""
    ids = qwen.prompt_ids(PROMPTS[0])
    edits = [Edit.remove(torch.randn(qwen.d_model), 4, site=site) for _ in range(3)]
    count = dict.fromkeys(range(qwen.n_layers), 0)
    generate(qwen, [Row(ids)], max_new_tokens=1)  # looks at the model once

    def seen(layer: int) -> Any:
        return lambda _module, args: count.update({layer: count[layer] + len(args[0])})

    handles = [layer.mlp.register_forward_pre_hook(seen(i)) for i, layer in enumerate(qwen.layers)]
    try:
        generate(qwen, [Row(ids, edit) for edit in edits], max_new_tokens=1)
    finally:
        for handle in handles:
            handle.remove()
    assert [*count.values()] == [1] * ran + [3] * (qwen.n_layers - ran)


def test_an_edit_of_new_tokens_takes_the_whole_prompt_as_it_is(qwen: ChatModel) -> None:
    ids = qwen.prompt_ids(PROMPTS[0])
    edits = [Edit.add(torch.ones(qwen.d_model), 9.0, 0, site="resid_pre", positions="new")] * 3
    passes: list[int] = []
    with qwen.head_input(lambda hidden: passes.append(len(hidden))):
        answers = generate(qwen, [Row(ids, edit) for edit in edits], max_new_tokens=2)
    assert passes == [1, 3]
    plain = generate(qwen, [Row(ids)], max_new_tokens=2)[0]
    assert {answer.token_ids[0] for answer in answers} == {plain.token_ids[0]}


def test_arithmetic_of_the_operations(qwen: ChatModel) -> None:
    vector, reference, x = torch.randn(
        (3, qwen.d_model), generator=torch.Generator().manual_seed(0)
    )
    unit = vector / vector.norm()

    def done(edit: Edit) -> Tensor:
        return RowEdits(qwen, [edit]).edited("resid_post", 0, x[None, None])[0, 0]

    assert torch.equal(done(Edit.add(unit, 2.0, 0)), x + 2 * unit)
    removed = done(Edit.remove(vector, 0))
    assert abs(float(removed @ unit)) < 1e-6
    affine = done(Edit.affine(vector, reference, 2.0, 0))
    assert float(affine @ unit) == pytest.approx(float(reference @ unit) + 2.0, abs=1e-5)
    for left in (removed, affine):  # what lies across the direction stays
        assert torch.allclose(left - (left @ unit) * unit, x - (x @ unit) * unit, atol=1e-6)


def test_what_is_no_edit_is_refused(qwen: ChatModel) -> None:
    one = torch.ones(qwen.d_model)
    with pytest.raises(InputError, match="remove a direction or to add"):
        Edit(0)
    with pytest.raises(InputError, match="choose from resid_pre, resid_post"):
        Edit.add(one, 1.0, 0, site="mlp")
    with pytest.raises(InputError, match="choose from all, prompt, new, last"):
        Edit.add(one, 1.0, 0, positions="first")
    with pytest.raises(InputError, match="finite"):
        Edit.affine(one, one * float("nan"), 1.0, 0)
    with pytest.raises(InputError, match="passes of prompts"):
        generate(qwen, [Row([5], Edit.everywhere(one))])
