"""Decisions as tables and properties."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from steersweep import InputError
from steersweep.core import typed
from steersweep.core.statistics import wilson
from steersweep.run.condition import LayerChoice, Strength
from steersweep.study.choices import choose_for_precision
from steersweep.study.curves import SizeCurve, curve_shape, triggers
from steersweep.study.decisions import (
    NotRun,
    Outcome,
    best_outcome,
    decide_families,
    fallback_models,
    family_notes,
    none_goes_on,
    share_text,
    untested_families,
)
from steersweep.study.phases.precisions import sensitive
from steersweep.study.plan import Dropped
from steersweep.study.rows import LayerCosines, PrecisionRow, rows_of


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


def test_of_equals_the_method_counts_that_the_plan_names_first() -> None:
    for first, second in (("caa", "pca"), ("pca", "caa"), ("cosmic", "dim")):
        found = [outcome(0.7, method=first), outcome(0.7, method=second)]
        assert best_outcome(found).method == first
        assert decide_families(found)[0].method == first


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
    assert none_goes_on(decided) == (bool(rates) and all(rate < 0.2 for _, rate in rates))


def gone(model: str, family: str, **changes: Any) -> NotRun:
    facts: dict[str, Any] = {"precision": "fp16", "step": "family_sweep", "reason": "no weights"}
    return NotRun(model, family, **(facts | changes))


def test_what_could_not_run_is_no_negative_result_and_is_counted_nowhere() -> None:
    found = [outcome(0.0, model="llama-8b", family="llama")]
    known = decide_families([outcome(1.0, model="qwen-7b", family="qwen")])
    missing = [gone("gemma-9b", "gemma")]
    decided = decide_families(found, not_run=missing)
    assert [d.family for d in decided] == ["llama"]
    assert none_goes_on(decided)
    assert not none_goes_on([])
    assert family_notes(decided, known, missing) == [
        "no family that was tested goes on: llama",
        "a negative result, at the layers and strengths tried, for: llama",
        "confirmed before the study and not tested in it: qwen",
        "gemma was not tested: gemma-9b could not run",
    ]
    (row,) = untested_families(decided, known, missing)
    assert row == {
        "family": "gemma",
        "model": "gemma-9b",
        "action": "not-run",
        "reason": "no weights",
    }
    # Nothing is said of all families where none was tested.
    assert family_notes([], known, missing)[0].startswith("confirmed before")


def test_a_family_of_which_one_model_could_not_run_says_so() -> None:
    (decision,) = decide_families([outcome(0.0)], not_run=[gone("gemma-27b", "gemma")])
    assert decision.action == "exclude"
    assert decision.reason.endswith("gemma-27b of this family could not run and says nothing")


def test_a_sweep_that_did_not_end_is_no_negative_result() -> None:
    cut = gone("gemma-9b", "gemma", finished_some=True, reason="its timeout of 60 s is reached")
    (decision,) = decide_families([outcome(0.0)], not_run=[cut])
    assert decision.action == "undecided"
    assert "negative" not in decision.reason
    assert "timeout" in decision.reason
    (decision,) = decide_families([outcome(0.9)], not_run=[cut])
    assert decision.action == "continue"


def test_a_follow_up_that_could_not_run_is_not_said_to_have_run() -> None:
    cut = gone("gemma-9b", "gemma", step="follow-up", finished_some=True, reason="out of memory")
    (decision,) = decide_families([outcome(0.5)], followed_up=["gemma"], not_run=[cut])
    assert decision.action == "continue-with-caveat"
    assert decision.reason.endswith("the follow-up did not run to its end: out of memory")


def test_the_fallback_moves_to_the_next_model_that_runs() -> None:
    swept = ["gemma-9b", "phi-mini", "llama-8b"]
    found = [outcome(0.0, model="llama-8b"), outcome(0.0, model="phi-mini")]
    missing = [gone("gemma-9b", "gemma")]
    assert fallback_models("gemma-9b", swept, found, missing) == ["phi-mini", "llama-8b"]
    assert fallback_models("phi-mini", swept, found, missing) == ["phi-mini", "llama-8b"]
    # A model that the sweep did not try may run.
    assert fallback_models("qwen-7b", swept, found, missing)[0] == "qwen-7b"
    assert fallback_models("gemma-9b", swept, [], missing) == []


def test_a_push_too_weak_is_no_negative_result() -> None:
    facts = {"flags": ("too-weak",), "relative_range": (0.01, 0.02), "multiplier": 15.0}
    weak = outcome(0.0, relative_strength=0.011, **facts)
    (decision,) = decide_families([weak])
    assert decision.action == "undecided"
    assert "multiplier 15 = 0.011 of the residual norm" in decision.reason
    assert "0.01 to 0.02 of the residual norm was too weak to conclude from" in decision.reason
    assert "negative" not in decision.reason
    assert family_notes([decision], [], [])[-1] == (
        "tested, but nothing can be concluded yet for: gemma"
    )
    assert none_goes_on([decision])  # so that the fallback pushes harder
    # The other method did change something, and failed.
    (decision,) = decide_families([weak, outcome(0.0, method="cosmic")])
    assert decision.action == "exclude"
    assert decision.reason.endswith("a negative result, but for dim, pushed too weakly")


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


@pytest.mark.parametrize(
    ("rates", "chosen"),
    [
        # The plan's own three, where a fourth works too; the nearest other where one does not.
        ({"s3": 0.9, "s7": 0.9, "s14": 0.9, "s32": 0.9}, ["s3", "s7", "s32"]),
        ({"s3": 0.9, "s7": 0.9, "s14": 0.9, "s32": 0.1}, ["s3", "s7", "s14"]),
        ({"s3": 0.1, "s7": 0.9, "s14": 0.9, "s32": 0.9}, ["s7", "s14", "s32"]),
        ({"s7": 0.9, "s32": 0.9}, ["s7", "s32"]),
        # The best of a second family, though no list names it.
        ({"s7": 0.9, "s32": 0.9, "g9": 0.6}, ["s7", "s32", "g9"]),
        ({"s7": 0.6, "g9": 0.9}, ["g9", "s7"]),
    ],
)
def test_sizes_for_phase_3_are_those_that_the_plan_names(
    rates: dict[str, float], chosen: list[str]
) -> None:
    named = {"qwen": ["s3", "s7", "s32"]}
    found = choose_for_precision(sized(rates), SIZES, tiers=3, named=named)
    assert [choice.model for choice in found] == chosen


def test_a_model_goes_on_to_phase_3_with_the_methods_that_worked_for_it() -> None:
    found = [
        outcome(0.9, model="s3", method="cosmic"),
        outcome(0.1, model="s3"),
        outcome(0.7, model="s7"),
        outcome(0.8, model="s7", method="cosmic"),
    ]
    choices = choose_for_precision(found, SIZES)
    assert {choice.model: choice.methods for choice in choices} == {
        "s3": ("cosmic",),
        "s7": ("cosmic", "dim"),
    }


def points(*rates: float, n: int = 100) -> list[tuple[float, float]]:
    return [wilson(round(rate * n), n) for rate in rates]


@pytest.mark.parametrize(
    ("rates", "n", "shape"),
    [
        ((0.1, 0.5, 0.9), 100, "rises throughout"),
        ((0.9, 0.5, 0.1), 100, "falls throughout"),
        ((0.1, 0.9, 0.1), 100, "peak"),
        ((0.9, 0.1, 0.9), 100, "not monotone"),
        ((1.0, 1.0, 1.0), 100, "flat within intervals"),
        ((0.5, 0.55, 0.5), 1000, "flat within intervals"),
        ((0.5, 0.6, 0.5), 10, "undecided"),  # ten prompts show nothing
        ((0.6, 0.9), 10, "undecided"),
        ((0.2, 0.9), 100, "rises throughout"),
        ((0.9,), 100, "undecided"),
        ((), 100, "undecided"),
        # 77/53/77/87: what thirty prompts allow, and what a hundred and ten do.
        ((0.77, 0.53, 0.77, 0.87), 30, "rises over all, not monotone"),
        ((0.77, 0.53, 0.77, 0.87), 100, "not monotone"),
        ((0.77, 0.53, 0.77, 0.87), 10, "undecided"),
        ((0.5, 0.1, 0.9, 0.4), 10, "not monotone"),
        ((0.9, 0.95, 0.5, 0.6), 30, "falls over all, not monotone"),
    ],
)
def test_curve_shapes(rates: tuple[float, ...], n: int, shape: str) -> None:
    assert curve_shape(rates, points(*rates, n=n), 0.1) == shape


@given(st.lists(st.floats(0, 1), max_size=6), st.integers(5, 500))
def test_a_reversed_curve_has_the_mirrored_shape(rates: list[float], n: int) -> None:
    there = curve_shape(rates, points(*rates, n=n), 0.1)
    back = curve_shape(rates[::-1], points(*rates[::-1], n=n), 0.1)
    swap = {"rises": "falls", "falls": "rises"}
    first, *rest = there.split(" ")
    assert " ".join([swap.get(first, first), *rest]) == back


def test_dropped_models_are_thought_of_again() -> None:
    dropped = [
        Dropped("72B", "size_sweep", "peak at the largest size", "qwen"),
        Dropped("70B", "family_sweep", "coherent at least 0.40", "llama"),
        Dropped("GPTQ and AWQ", "precision_sweep", "precision matters and budget remains"),
    ]

    def after(phase: str, **facts: Any) -> list[str]:
        return triggers(dropped, phase, **facts)

    assert not after("family_sweep", coherent={"llama": 0.39})
    assert not after("family_sweep", coherent={})  # not tested
    assert "70B" in after("family_sweep", coherent={"llama": 0.4})[0]

    def curve(*rates: float, has_largest: bool = True) -> dict[str, SizeCurve]:
        shape = curve_shape(rates, points(*rates), 0.1)
        return {"qwen": SizeCurve(shape, rates, has_largest)}

    (said,) = after("size_sweep", curves=curve(0.77, 0.53, 0.77, 0.87))
    assert said.startswith("72B: the qwen rates are not monotone")
    assert not after("size_sweep", curves=curve(0.77, 0.53, 0.77, 0.87, has_largest=False))
    assert not after("size_sweep", curves=curve(0.1, 0.5, 0.9))  # monotone
    assert not after("size_sweep", curves=curve(0.5, 0.9, 0.7))  # another size is the best
    assert not after("size_sweep", curves=curve(0.9, 0.5, 0.9))  # no better than the smallest
    assert not after("precision_sweep", left_usd=5.0)
    assert not after("precision_sweep", sensitive=["q in int4"], left_usd=0.0)
    (said,) = after("precision_sweep", sensitive=["q in int4"], left_usd=5.0)
    assert said == "GPTQ and AWQ: precision matters (q in int4); 5.00 USD left"
    assert after("precision_sweep", sensitive=["q in int4"])


def test_precision_matters_where_a_rate_or_a_direction_changed() -> None:
    row = PrecisionRow(
        model="q",
        method="dim",
        precisions=("fp16", "int8", "int4"),
        layer_idx=4,
        coherent_refusal_rates=(0.9, 0.8, 0.5),
        p_vs_first=(0.2, 0.02),
        direction_norms=(1.0, 1.0, 1.0),
        perplexities=(None, None, None),
        cosines=((1.0, 0.9), (0.9, 1.0)),
        cosines_by_layer=(),
        preserved_from=0.9,
        preserved=True,
        borrowed=(),
        p_vs_first_holm=(1.0, 0.2, 0.04),
    )
    assert sensitive([row]) == ["q refuses otherwise in int4"]
    assert sensitive([replace(row, p_vs_first_holm=(1.0, 1.0, 1.0))]) == []
    assert sensitive([replace(row, p_vs_first_holm=(1.0,), precisions=("fp16",))]) == []
    (said,) = sensitive([replace(row, p_vs_first_holm=(1.0, 1.0, 1.0), preserved=False)])
    assert said == "q: the direction is not preserved"


def test_a_decision_that_another_version_wrote_is_named_by_its_field() -> None:
    row = {"model": "q", "method": "dim", "layers": [2, 4], "cosines": [[1.0, 0.5], [0.5, 1.0]]}
    decision = {"phase": "family_sweep", "layer_cosines": [row, row | {"layers": [2, "4"]}]}
    (held,) = rows_of(LayerCosines, decision | {"layer_cosines": [row]}, "layer_cosines")
    assert typed.plain(held) == row
    assert rows_of(LayerCosines, {}, "layer_cosines") == []
    said = r"decisions/family_sweep\.json: layer_cosines\.1\.layers\.1: must be a whole number\. If"
    with pytest.raises(InputError, match=said):
        rows_of(LayerCosines, decision, "layer_cosines")
