"""What all prompts of a batch begin with is run once; the numbers are those of whole prompts."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import pytest
import torch
from torch import Tensor

from conftest import lab, random_model, rest_slow
from steersweep import ChatModel, Edit, Row, generate
from steersweep.steer.beginnings import Beginning, is_worth_it, padding, shared_beginning

BEGINNING = [*range(20, 60)]  # as long as a system prompt
# Of different lengths, down to two tokens after the beginning.
PROMPTS = [[*BEGINNING, *range(100 + n, 102 + n + 3 * n)] for n in range(4)]


def vectors(chat: ChatModel, count: int) -> list[Tensor]:
    torch.manual_seed(1)
    return [*torch.nn.functional.normalize(torch.randn(count, chat.d_model), dim=-1)]


def mixed(chat: ChatModel) -> list[Edit | None]:
    """Edits that begin everywhere, of all kinds but those of a last token."""
    top, half = chat.n_layers - 1, chat.n_layers // 2
    one, two, three, four, five = vectors(chat, 5)
    return [
        None,
        Edit.add(one, 2.0, 1),
        Edit.add(two, 3.0, half),
        Edit.add(two, 3.0, half),  # the same once more is another condition
        Edit.remove(three, half),
        Edit.add(four, 1.0, 0, site="resid_pre"),
        Edit.add(four, 3.0, top),
        Edit.add(five, 2.0, half, positions="new"),
        Edit.add(five, 2.0, half, positions="prompt"),
    ]


@contextmanager
def tokens_run(chat: ChatModel) -> Iterator[list[int]]:
    """Tokens that each pass begins with."""
    found: list[int] = []
    embedding = chat.model.get_input_embeddings()
    handle = embedding.register_forward_hook(
        lambda _m, _a, states: found.append(states[..., 0].numel())
    )
    try:
        yield found
    finally:
        handle.remove()


def texts(chat: ChatModel, rows: Sequence[Row], tokens: int = 8) -> list[tuple[int, ...]]:
    return [answer.token_ids for answer in generate(chat, rows, max_new_tokens=tokens)]


def test_how_many_tokens_are_shared() -> None:
    assert shared_beginning([[1, 2, 3, 4], [1, 2, 5]]) == 2
    assert shared_beginning([[1, 2, 3], [1, 2, 3, 4]]) == 2, "something is left to run"
    assert shared_beginning([[1, 2, 3]]) == 2
    assert shared_beginning([[1], [2]]) == 0
    assert not is_worth_it(20, 6)
    assert is_worth_it(20, 7)
    assert not is_worth_it(20, 7, passes=2)


@pytest.mark.parametrize("name", rest_slow(["gemma-9b", "qwen-7b", "phi-mini"]))
def test_a_batch_gives_the_texts_of_one_row_at_a_time(name: str) -> None:
    chat = lab(name)
    rows = [Row(prompt, edit) for edit in mixed(chat) for prompt in PROMPTS]
    with tokens_run(chat) as once:
        found = texts(chat, rows)
    assert found == [texts(chat, [row])[0] for row in rows]
    # The unsteered pass and those from each of the first layers: a beginning in one row for each
    # edit, and what is left in every row.
    assert sum(once[:2]) == len(BEGINNING) + len(PROMPTS) * (
        max(map(len, PROMPTS)) - len(BEGINNING)
    )


def test_rows_of_a_layer_may_all_be_shorter_than_others() -> None:
    chat = lab("qwen-7b")
    one, two = vectors(chat, 2)
    edits = [Edit.add(one, 3.0, 2), Edit.add(two, 3.0, 3)]
    rows = [Row(prompt, edits[0]) for prompt in PROMPTS[:3] * 2]
    rows += [Row(prompt, edits[1]) for prompt in PROMPTS[3:] * 2]
    assert texts(chat, rows) == [texts(chat, [row])[0] for row in rows]


def test_windows_of_attention_reach_as_far_as_in_whole_prompts() -> None:
    chat = random_model(
        "MistralForCausalLM",
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=3,
        num_attention_heads=4,
        num_key_value_heads=2,
        sliding_window=9,
    )
    rows = [Row(prompt, edit) for edit in mixed(chat) for prompt in PROMPTS]
    assert texts(chat, rows) == [texts(chat, [row])[0] for row in rows]


def test_an_edit_of_the_last_token_edits_no_beginning() -> None:
    chat = lab("qwen-7b")
    last = Edit.add(vectors(chat, 1)[0], 5.0, 2, positions="last")
    rows = [Row(prompt, edit) for edit in (last, None) for prompt in PROMPTS * 2]
    assert texts(chat, rows) == [texts(chat, [row])[0] for row in rows]


def test_the_beginning_is_found_in_a_row_with_padding() -> None:
    chat = lab("qwen-7b")
    batch = chat.pad(PROMPTS).rows([0, 1])  # neither is the longest
    assert padding(batch).tolist() == [9, 6]
    begin = Beginning(batch, len(BEGINNING))
    assert begin.copies(2).input_ids.tolist() == [BEGINNING] * 2
    assert begin.copies(1).position_ids.tolist() == [[*range(len(BEGINNING))]]
