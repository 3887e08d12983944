"""Steps of fixed shape give what steps of any shape give; recordings of them are checked."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any

import pytest
import torch

from conftest import bloom, lab, rest_slow
from steersweep import ChatModel, generate
from steersweep.steer.decoding import Decoder, FixedDecoder
from steersweep.steer.regime_search import regime_of
from test_steering import mixed_rows, plain_greedy

FIXED = ("qwen-7b", "llama-8b", "phi-mini")  # the others' attention reaches back 64 tokens


@pytest.fixture
def fixed(monkeypatch: pytest.MonkeyPatch) -> list[FixedDecoder]:
    """Steps as a GPU makes them; those that were made, by their decoder."""
    made: list[FixedDecoder] = []
    step = FixedDecoder.step

    def seen(self: FixedDecoder, tokens: torch.Tensor) -> torch.Tensor:
        if self not in made:
            made.append(self)
        return step(self, tokens)

    monkeypatch.setattr("steersweep.steer.decoding.prefers_fixed", lambda _chat: True)
    monkeypatch.setattr(FixedDecoder, "step", seen)
    return made


@cache
def alone(name: str) -> list[list[int]]:
    """Forty tokens of every row, one row at a time."""
    chat = lab(name)
    return [plain_greedy(chat, row, 40) for row in mixed_rows(chat)]


@pytest.mark.parametrize("name", rest_slow(FIXED, fast=2))
def test_fixed_steps_equal_one_row_at_a_time(name: str, fixed: list[FixedDecoder]) -> None:
    chat = lab(name)
    rows = mixed_rows(chat)
    regime_of(chat)  # its own look at the model makes steps too
    fixed.clear()
    answers = generate(chat, rows, max_new_tokens=40, max_rows=17)
    assert [list(answer.token_ids) for answer in answers] == alone(name)
    assert len(fixed) == 2


def test_what_was_never_written_to_the_cache_does_not_matter(
    qwen: ChatModel, fixed: list[FixedDecoder], monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = mixed_rows(qwen)
    expected = generate(qwen, rows, max_new_tokens=20)
    empty = torch.Tensor.new_empty

    def dirty(self: torch.Tensor, *arguments: Any, **options: Any) -> torch.Tensor:
        return empty(self, *arguments, **options).fill_(float("nan"))

    monkeypatch.setattr(torch.Tensor, "new_empty", dirty)
    assert generate(qwen, rows, max_new_tokens=20) == expected
    assert fixed


@pytest.mark.parametrize("name", rest_slow(["mistral-7b", "bloom", "gemma-9b"], fast=2))
def test_models_that_cannot_have_fixed_steps_do_without(
    name: str, fixed: list[FixedDecoder]
) -> None:
    chat = bloom() if name == "bloom" else lab(name)
    rows = mixed_rows(chat)[:8]
    regime_of(chat)
    fixed.clear()
    answers = generate(chat, rows, max_new_tokens=50)
    assert [list(answer.token_ids) for answer in answers] == [
        plain_greedy(chat, row, 50) for row in rows
    ]
    assert not fixed


def test_rows_leave_when_several_have_ended_and_fixed_steps_when_many_have() -> None:
    assert not Decoder.is_worth_keeping(240, 256)
    assert Decoder.is_worth_keeping(230, 256)
    assert Decoder.is_worth_keeping(2, 3)
    assert not FixedDecoder.is_worth_keeping(230, 256)
    assert FixedDecoder.is_worth_keeping(128, 256)


class Recordings:
    """Stands in for CUDA graphs: a replay is the step made again, into the recorded tensor."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.made = 0
        self.replays = 0
        self.fault: Exception | None = None
        self.wrong = False
        outer = self

        class Graph:
            def replay(self) -> None:
                outer.replays += 1
                (decoder,) = [d for d in outer.decoders if d._graph in (None, self)][-1:]
                logits = decoder._forward()
                decoder._recorded.copy_(torch.zeros_like(logits) if outer.wrong else logits)

        @contextmanager
        def graph(_graph: Graph, pool: object) -> Iterator[None]:
            assert pool == "pool"
            outer.made += 1
            if outer.fault is not None:
                raise outer.fault
            yield

        self.decoders: list[FixedDecoder] = []
        monkeypatch.setattr(torch.cuda, "CUDAGraph", Graph)
        monkeypatch.setattr(torch.cuda, "graph", graph)
        monkeypatch.setattr(torch.cuda, "graph_pool_handle", lambda: "pool")


@pytest.fixture
def recordings(
    fixed: list[FixedDecoder], monkeypatch: pytest.MonkeyPatch
) -> tuple[ChatModel, Recordings]:
    chat = lab("qwen-7b")
    stand_in = Recordings(monkeypatch)
    stand_in.decoders = fixed
    monkeypatch.setattr(chat, "records_steps", True)
    monkeypatch.setattr(chat, "has_recorded", False)
    return chat, stand_in


def test_steps_are_recorded_once_for_each_shape_and_replayed(
    recordings: tuple[ChatModel, Recordings],
) -> None:
    chat, stand_in = recordings
    rows = mixed_rows(chat)
    answers = generate(chat, rows, max_new_tokens=40)
    assert [list(answer.token_ids) for answer in answers] == alone("qwen-7b")
    assert chat.has_recorded
    assert 1 <= stand_in.made <= 6
    assert stand_in.replays > 15


@pytest.mark.parametrize("fault", ["cannot be recorded", "gives other numbers"])
def test_a_recording_that_fails_is_not_used(
    recordings: tuple[ChatModel, Recordings], fault: str
) -> None:
    chat, stand_in = recordings
    if fault == "cannot be recorded":
        stand_in.fault = RuntimeError("operation not permitted when stream is capturing")
    stand_in.wrong = fault == "gives other numbers"
    rows = mixed_rows(chat)
    answers = generate(chat, rows, max_new_tokens=40)
    assert [list(answer.token_ids) for answer in answers] == alone("qwen-7b")
    assert not chat.records_steps
    assert stand_in.made == 1


def test_running_out_of_memory_while_recording_is_told(
    recordings: tuple[ChatModel, Recordings],
) -> None:
    chat, stand_in = recordings
    stand_in.fault = torch.OutOfMemoryError("CUDA out of memory")
    with pytest.raises(torch.OutOfMemoryError):
        generate(chat, mixed_rows(chat), max_new_tokens=40)
