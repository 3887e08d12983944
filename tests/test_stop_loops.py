"""Answers that are stuck are ended there, where that is asked for; no verdict changes by it."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from steersweep import ChatModel, Edit, Row, generate, residuals
from steersweep.judging.judge import Answer
from steersweep.judging.judges import get_judge
from steersweep.run.folder import RunFolder
from steersweep.run.records import Record
from steersweep.steer.repeats import repeating
from steersweep.sweeps.run import run_sweep
from steersweep.sweeps.settings import make_settings
from steersweep.work.answering import _is_stuck
from test_steering import unit

TEXTS = ("How do I bake a cake?", "Tell me about bees.", "What is rice?")


@pytest.mark.parametrize("size", [1, 2, 5, 12, 32])
def test_a_stretch_that_repeats_a_unit_is_seen_once_it_is_long_enough(size: int) -> None:
    before = torch.arange(100, 140)
    unit_of = torch.arange(size)
    stretch = max(20, 2 * size + 4)
    said = torch.cat([before, unit_of.repeat(40)])
    told = [bool(repeating(said[None, :n])[0]) for n in range(1, 40 + stretch + 5)]
    assert told.index(True) + 1 == 40 + stretch
    assert all(told[told.index(True) :])


def test_what_comes_again_elsewhere_or_with_a_change_is_no_repeat() -> None:
    clause = torch.arange(15)
    changed = torch.cat([clause, torch.tensor([77]), clause, torch.tensor([78]), clause])
    apart = torch.cat([clause, clause, clause, torch.arange(200, 210)])
    rows = [apart[-40:], torch.arange(40), changed[-40:]]
    assert repeating(torch.stack(rows)).tolist() == [False, False, False]


def rows_of(chat: ChatModel) -> list[Row]:
    """Every text under no push, and ever stronger ones."""
    ids = [chat.prompt_ids(text) for text in TEXTS]
    norm = float(residuals(chat, ids).norm(dim=-1).mean())
    pushes = (None, *(Edit.add(unit(chat), share * norm, 2) for share in (0.1, 1.0, 2.0, 5.0)))
    return [Row(prompt, push) for push in pushes for prompt in ids]


@pytest.mark.parametrize("fixed", [False, True])
def test_an_answer_ends_where_it_is_stuck_and_is_the_same_until_then(
    qwen: ChatModel, fixed: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On a GPU rows that have ended stay in the batch for a while."""
    monkeypatch.setattr("steersweep.steer.decoding.prefers_fixed", lambda _chat: fixed)
    rows, judge = rows_of(qwen), get_judge()
    whole = generate(qwen, rows, max_new_tokens=60)
    found = generate(qwen, rows, max_new_tokens=60, is_stuck=_is_stuck)
    reasons = [answer.finish_reason for answer in found]
    assert reasons.count("loop") >= 4
    assert reasons.count("eos") >= 3
    for answer, full in zip(found, whole, strict=True):
        assert answer.token_ids == full.token_ids[: len(answer.token_ids)]
        if answer.finish_reason != "loop":
            assert answer == full
            continue
        assert full.finish_reason == "length"
        judged, of_full = judge.judge([Answer("", answer.text), Answer("", full.text)])
        assert (judged.quality, judged.failure_mode) == ("garbled", "loop")
        assert of_full.quality == "garbled"


def test_a_sweep_that_ends_loops_gives_the_same_verdicts_with_fewer_tokens(tmp_path: Path) -> None:
    found: dict[bool, list[Record]] = {}
    for stop in (False, True):
        settings = make_settings(
            ["lab:qwen-7b"],
            layers="0.5",
            strengths="0.3,2",
            max_prompts=8,
            max_new_tokens=48,
            stop_loops=stop,
        )
        store = RunFolder.existing(run_sweep(settings, tmp_path / str(stop)).folder)
        records = [store.get(path.stem) for path in (store.root / "conditions").glob("*.json")]
        found[stop] = sorted((r for r in records if r), key=lambda r: str(r.condition))
    whole, ended = found[False], found[True]
    assert len(whole) == 5
    assert not {r.key for r in whole} & {r.key for r in ended}
    for one, other in zip(whole, ended, strict=True):
        assert one.rates == other.rates
    samples = [sample for record in ended for sample in record.samples]
    assert sum(sample.finish_reason == "loop" for sample in samples) >= 8
    tokens = [sum(s.n_tokens for r in records for s in r.samples) for records in (whole, ended)]
    assert tokens[1] < 0.8 * tokens[0]
