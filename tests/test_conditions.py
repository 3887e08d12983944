"""Layers, strengths, keys and batches."""

from __future__ import annotations

from dataclasses import fields, replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from steersweep import InputError
from steersweep.run.condition import Condition, LayerChoice, Strength
from steersweep.run.decoding_settings import DecodingSettings
from steersweep.run.edit_settings import EditSettings
from steersweep.run.label import Label
from steersweep.work.batches import in_batches

CONDITION = Condition(
    model_id="lab:qwen-7b",
    model_fingerprint="sha256:0",
    precision="fp32",
    label=Label("dim"),
    layer=4,
    layer_pct=0.6,
    strength=Strength("relative", 0.5),
    extraction_prompts="a@sha256:1",
    test_prompts="b@sha256:2",
    max_new_tokens=100,
    judge="default@1",
    seed=42,
    test_rendered="2",
    extraction_rendered="1",
)


@pytest.mark.parametrize(
    ("n_layers", "layers"),
    [(42, [8, 16, 21, 25, 33]), (32, [6, 12, 16, 19, 25])],
)
def test_the_plans_layer_tables(n_layers: int, layers: list[int]) -> None:
    shares = ("0.2", "0.4", "0.5", "0.6", "0.8")
    assert [LayerChoice(share).index(n_layers) for share in shares] == layers


def test_shares_are_floored_exactly() -> None:
    assert int(0.29 * 100) == 28  # what floats do
    assert LayerChoice("0.29").index(100) == 29
    assert LayerChoice("0.7").index(36) == 25  # the plan's 25.2, not rounded up


def test_an_index_is_itself() -> None:
    assert LayerChoice("25").index(42) == 25
    assert LayerChoice("0").index(42) == 0


@pytest.mark.parametrize("text", ["1.0", "42", "-1", "-0.1", "middle", "1/0", "nan", ""])
def test_layers_outside_the_model_are_refused(text: str) -> None:
    with pytest.raises(InputError):
        LayerChoice(text).index(42)


@given(st.integers(1, 200), st.integers(0, 999))
def test_every_share_below_one_is_a_layer(n_layers: int, thousandths: int) -> None:
    assert 0 <= LayerChoice(f"0.{thousandths:03d}").index(n_layers) < n_layers


def test_everything_that_can_change_a_result_is_in_the_key() -> None:
    other = {
        str: "other",
        int: 7,
        float: 0.7,
        Strength: Strength("multiplier", 0.5),
        Label: Label("cosmic"),
        EditSettings: EditSettings(span="one"),
        DecodingSettings: DecodingSettings(stop_loops=True),
        type(None): "other",
    }
    borrowed = replace(CONDITION, label=Label("dim", source="fp16"), direction="a direction's key")
    assert borrowed.key != CONDITION.key
    assert replace(borrowed, direction="another").key != borrowed.key
    # Whoever found it, and whatever they are called.
    assert replace(borrowed, label=Label("cosmic", source="qwen-7b")).key == borrowed.key
    for field in fields(Condition):
        if field.name == "direction":
            continue
        value = getattr(CONDITION, field.name)
        changed = replace(CONDITION, **{field.name: other[type(value)]}).key != CONDITION.key
        # What things are called, and how the layer was asked for.
        names = ("model_id", "layer_pct", "extraction_prompts", "test_prompts")
        assert changed == (field.name not in names), field.name
    assert replace(CONDITION).key == CONDITION.key


def test_strength_units() -> None:
    assert Strength("multiplier", 15).multiplier(71.4) == 15
    assert Strength("relative", 0.5).multiplier(71.4) == pytest.approx(35.7)


CONDITIONS = [replace(CONDITION, seed=seed) for seed in range(10)]


def spans(asked: list[tuple[Condition, int]], max_rows: int) -> list[list[tuple[int, int, int]]]:
    batches = [*in_batches(asked, max_rows)]
    return [[(part.condition.seed, part.start, part.stop) for part in batch] for batch in batches]


def test_batches_hold_whole_conditions_where_these_fill_them() -> None:
    found = spans([(condition, 40) for condition in CONDITIONS], 256)
    assert [len(batch) for batch in found] == [6, 4]
    assert {(start, stop) for batch in found for _, start, stop in batch} == {(0, 40)}


def test_a_condition_goes_on_in_the_next_batch_where_whole_ones_would_leave_room() -> None:
    assert spans([(condition, 60) for condition in CONDITIONS[:4]], 84) == [
        [(0, 0, 60), (1, 0, 20)],
        [(1, 20, 60), (2, 0, 40)],
        [(2, 40, 60), (3, 0, 60)],
    ]
    assert spans([(CONDITIONS[0], 10)], 4) == [[(0, 0, 3)], [(0, 3, 6)], [(0, 6, 10)]]


@given(st.lists(st.integers(1, 40), min_size=1, max_size=10), st.integers(1, 50))
def test_batches_hold_every_row_once_in_order(sizes: list[int], max_rows: int) -> None:
    asked = [*zip(CONDITIONS, sizes, strict=False)]
    batches = [*in_batches(asked, max_rows)]
    parts = [part for batch in batches for part in batch]
    rows = [(part.condition.seed, i) for part in parts for i in range(part.start, part.stop)]
    assert rows == [(condition.seed, i) for condition, size in asked for i in range(size)]
    assert all(0 < sum(p.stop - p.start for p in batch) <= max_rows for batch in batches)
    assert len(batches) <= max(1.25 * -(-sum(sizes) // max_rows), 1)
