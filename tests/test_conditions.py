"""Layers, strengths, keys and batches."""

from __future__ import annotations

from dataclasses import fields, replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from steersweep import InputError
from steersweep.run.condition import Condition, LayerChoice, Strength, in_batches
from steersweep.run.decoding_settings import DecodingSettings
from steersweep.run.edit_settings import EditSettings
from steersweep.run.label import Label

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


def test_batches_hold_whole_conditions_or_equal_parts_of_one() -> None:
    conditions = [replace(CONDITION, seed=seed) for seed in range(10)]
    batches = [*in_batches(conditions, n_prompts=40, max_rows=256)]
    assert [len(batch.conditions) for batch in batches] == [6, 4]
    assert {batch.parts for batch in batches} == {((0, 40),)}
    batches = [*in_batches(conditions, n_prompts=10, max_rows=4)]
    assert [len(batch.conditions) for batch in batches] == [1] * 10
    assert {batch.parts for batch in batches} == {((0, 3), (3, 6), (6, 10))}
