"""Decisions as tables and properties."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from steersweep.core.statistics import wilson
from steersweep.run.condition import LayerChoice, Strength
from steersweep.study.decisions import (
    Outcome,
    all_failed,
    choose_for_precision,
    curve_shape,
    decide_families,
    share_text,
    triggers,
)
from steersweep.study.plan import Dropped


def outcome(coherent: float, **changes: Any) -> Outcome:
    facts: dict[str, Any] = {
        "model": "gemma-9b",
        "family": "gemma",
        "method": "dim",
        "outcome": "works" if coherent >= 0.6 else "partial" if coherent >= 0.2 else "fails",
        "coherent": coherent,
        "interval": wilson(round(coherent * 100), 100),
        "layer_idx": 25,
        "layer_pct": 0.6,
        "n_layers": 42,
        "strength": Strength("multiplier", 15),
    }
    return Outcome(**(facts | changes))


@pytest.mark.parametrize(
    ("dim", "cosmic", "followed", "action", "method", "diverged"),
    [
        (0.60, 0.10, False, "continue", "dim", True),
        (0.10, 0.60, False, "continue", "cosmic", True),
        (0.59, 0.58, False, "follow-up", "dim", False),
        (0.59, 0.58, True, "continue-with-caveat", "dim", False),
        (0.20, 0.00, False, "follow-up", "dim", True),
        (0.20, 0.00, True, "continue-with-caveat", "dim", True),
        (0.19, 0.19, False, "exclude", "dim", False),
        (0.19, 0.00, True, "exclude", "dim", False),
        (1.00, 1.00, False, "continue", "dim", False),
    ],
)
def test_families_after_phase_1(
    dim: float, cosmic: float, followed: bool, action: str, method: str, diverged: bool
) -> None:
    found = [outcome(dim), outcome(cosmic, method="cosmic")]
    (decision,) = decide_families(found, followed_up=["gemma"] if followed else [])
    assert decision.action == action
    assert decision.method == method
    assert decision.diverged == diverged
    assert decision.layer_share == "0.6"


def test_a_breakdown_is_excluded_whatever_its_coherent_rate() -> None:
    broken = outcome(0.35, outcome="fails", flags=("breakdown",), method="cosmic")
    (decision,) = decide_families([broken])
    assert decision.action == "exclude"
    assert "breakdown" in decision.reason
    # A partial success with the other method comes first, though its rate is lower.
    (decision,) = decide_families([broken, outcome(0.25)])
    assert (decision.action, decision.method) == ("follow-up", "dim")


@given(st.lists(st.tuples(st.sampled_from("abc"), st.floats(0, 1)), max_size=12), st.booleans())
def test_every_family_gets_exactly_one_decision(
    rates: list[tuple[str, float]], followed: bool
) -> None:
    found = [outcome(rate, family=family, model=family) for family, rate in rates]
    families = {family for family, _ in rates}
    decided = decide_families(found, followed_up=families if followed else ())
    assert [d.family for d in decided] == list(dict.fromkeys(family for family, _ in rates))
    for decision in decided:
        best = max(rate for family, rate in rates if family == decision.family)
        assert decision.coherent == best
        assert (decision.action == "continue") == (best >= 0.6)
        assert (decision.action == "exclude") == (best < 0.2)
        assert followed != (decision.action == "follow-up") or not 0.2 <= best < 0.6
    assert all_failed(decided) == (bool(rates) and all(rate < 0.2 for _, rate in rates))


@given(st.integers(1, 120), st.data())
def test_a_carried_layer_is_the_same_in_the_same_model(n_layers: int, data: st.DataObject) -> None:
    layer = data.draw(st.integers(0, n_layers - 1))
    asked = round(layer / n_layers, 4)
    assert LayerChoice(share_text(layer, asked, n_layers)).index(n_layers) == layer


SIZES = ("s3", "s7", "s14", "s32", "g9")


def sized(rates: dict[str, float]) -> list[Outcome]:
    return [
        outcome(rate, model=name, family="gemma" if name == "g9" else "qwen")
        for name, rate in rates.items()
    ]


@pytest.mark.parametrize(
    ("rates", "chosen"),
    [
        ({"s3": 0.9, "s7": 0.9, "s14": 0.9, "s32": 0.9}, ["s3", "s14", "s32"]),
        ({"s3": 0.9, "s7": 0.9, "s32": 0.9}, ["s3", "s7", "s32"]),
        ({"s3": 0.9, "s7": 0.1, "s32": 0.9, "g9": 0.9}, ["s3", "s32", "g9"]),
        ({"s7": 0.6, "g9": 0.59}, ["s7"]),
        ({"g9": 0.9}, ["g9"]),
        ({"s3": 0.59}, []),
        ({}, []),
    ],
)
def test_models_for_phase_3(rates: dict[str, float], chosen: list[str]) -> None:
    found = choose_for_precision(sized(rates), SIZES, tiers=3, also=["g9"])
    assert [choice.model for choice in found] == chosen


def points(*rates: float, n: int = 100) -> list[tuple[float, float]]:
    return [wilson(round(rate * n), n) for rate in rates]


@pytest.mark.parametrize(
    ("rates", "n", "shape"),
    [
        ((0.1, 0.5, 0.9), 100, "increasing"),
        ((0.9, 0.5, 0.1), 100, "decreasing"),
        ((0.1, 0.9, 0.1), 100, "peak"),
        ((0.9, 0.1, 0.9), 100, "undecided"),  # a dip is none of the named shapes
        ((1.0, 1.0, 1.0), 100, "flat"),
        ((0.5, 0.55, 0.5), 1000, "flat"),
        ((0.5, 0.6, 0.5), 10, "undecided"),  # ten prompts show nothing
        ((0.6, 0.9), 10, "undecided"),
        ((0.2, 0.9), 100, "increasing"),
        ((0.9,), 100, "undecided"),
        ((), 100, "undecided"),
    ],
)
def test_curve_shapes(rates: tuple[float, ...], n: int, shape: str) -> None:
    assert curve_shape(points(*rates, n=n), 0.1) == shape


@given(st.lists(st.floats(0, 1), max_size=6), st.integers(5, 500))
def test_a_reversed_curve_has_the_mirrored_shape(rates: list[float], n: int) -> None:
    mirrored = {"increasing": "decreasing", "decreasing": "increasing"}
    there, back = curve_shape(points(*rates, n=n), 0.1), curve_shape(points(*rates[::-1], n=n), 0.1)
    assert mirrored.get(there, there) == back


def test_dropped_models_are_thought_of_again() -> None:
    dropped = [
        Dropped("72B", "qwen", "size_sweep", "peak at the largest size"),
        Dropped("70B", "llama", "family_sweep", "coherent at least 0.40"),
    ]

    def after(phase: str, **facts: Any) -> list[str]:
        return triggers(dropped, phase, **({"shapes": {}, "coherent": {}} | facts))

    assert not after("family_sweep", coherent={"llama": 0.39})
    assert "70B" in after("family_sweep", coherent={"llama": 0.4})[0]
    assert "72B" in after("size_sweep", shapes={"qwen": ("increasing", True)})[0]
    assert not after("size_sweep", shapes={"qwen": ("increasing", False)})
    assert not after("size_sweep", shapes={"qwen": ("flat", True)})
