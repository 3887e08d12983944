"""Labels: texts are read back as what they stand for, whatever models and methods are called."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from helpers.results import result, samples, steered
from steersweep import InputError
from steersweep.report.figures.maps import line_of
from steersweep.run.label import RANDOM, UNSTEERED, Label
from steersweep.study.phases.families import FAMILIES
from steersweep.study.phases.transfer import TRANSFER
from steersweep.study.plan_file import load_plan, parse_plan

METHODS = st.from_regex(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}", fullmatch=True).filter(
    lambda name: name not in ("auto", "none", "random")
)
SOURCES = st.one_of(
    st.sampled_from(["fp16", "autocoder-7b", "auto-7b", "random", "none", "a@auto", "@"]),
    st.text(st.characters(categories=("L", "N", "P")), min_size=1).filter(lambda n: n != "auto"),
)
LABELS = st.one_of(
    st.sampled_from([UNSTEERED, RANDOM]),
    st.builds(Label, METHODS),
    st.builds(Label, METHODS, chose_layer=st.just(True)),
    st.builds(Label, METHODS, source=SOURCES),
    st.builds(Label, METHODS, role=st.just("random"), chose_layer=st.just(True)),
)


@pytest.mark.parametrize(
    ("text", "label"),
    [
        ("dim", Label("dim")),
        ("none", Label(role="unsteered")),
        ("random", Label(role="random")),
        ("cosmic@auto", Label("cosmic", chose_layer=True)),
        ("random@cosmic@auto", Label("cosmic", "random", chose_layer=True)),
        ("dim@fp16", Label("dim", source="fp16")),
        ("dim@qwen-7b", Label("dim", source="qwen-7b")),
        ("dim@autocoder-7b", Label("dim", source="autocoder-7b")),
        ("dim@x@auto", Label("dim", source="x@auto")),
        ("cosmic-study-2026", Label("cosmic-study-2026")),
    ],
)
def test_texts_stand_for(text: str, label: Label) -> None:
    assert Label.parse(text) == label
    assert str(label) == text


@given(LABELS)
def test_every_label_is_read_back_from_its_text(label: Label) -> None:
    assert Label.parse(str(label)) == label


@given(st.text())
def test_any_text_is_a_label_with_that_text_or_refused(text: str) -> None:
    try:
        label = Label.parse(text)
    except InputError:
        return
    assert str(label) == text


@pytest.mark.parametrize(
    "text",
    [
        *("", "@", "dim@", "@auto", "auto", "a b", "pkg.mod:Class", "../up", "dim\n", "dim@a\nb"),
        *("random@", "random@dim", "random@none", "random@random@auto", "none@x", "none@auto", "é"),
    ],
)
def test_other_texts_are_refused(text: str) -> None:
    with pytest.raises(InputError):
        Label.parse(text)


@pytest.mark.parametrize(
    "facts",
    [
        {},
        {"method": "dim", "role": "random"},
        {"method": "dim", "role": "unsteered"},
        {"role": "random", "chose_layer": True},
        {"method": "dim", "chose_layer": True, "source": "fp16"},
    ],
)
def test_combinations_that_do_not_exist(facts: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="no such label"):
        Label(**facts)


def test_what_a_label_says() -> None:
    swept = [text for text in TEXTS if Label.parse(text).is_swept]
    controls = [text for text in TEXTS if Label.parse(text).is_control]
    assert swept == ["dim", "cosmic"]
    assert controls == ["none", "random", "random@cosmic@auto"]
    assert [str(Label.parse(text).random_control) for text in ("dim", "cosmic@auto")] == [
        "random",
        "random@cosmic@auto",
    ]
    assert [str(Label.parse(text).at_given_layer) for text in TEXTS] == [
        *("none", "random", "random", "dim", "cosmic", "cosmic", "dim@fp16", "dim@autocoder-7b")
    ]


TEXTS = (
    *("none", "random", "random@cosmic@auto"),
    *("dim", "cosmic", "cosmic@auto", "dim@fp16", "dim@autocoder-7b"),
)


def test_a_borrowed_direction_is_no_choice_of_its_own_whatever_its_model_is_called() -> None:
    found = result([steered(samples("coherent"))])
    sweep = FAMILIES.sweeps(load_plan("v3-lab"))[0]
    (borrowed,) = sweep.borrowing({"autocoder-7b": [found]}).borrowed
    assert borrowed.label == Label("dim", source="autocoder-7b")
    assert TRANSFER.step.run_name("m", "fp16", str(borrowed.label)) == "m-dim-transfer"
    cell = steered(samples("coherent"), label=borrowed.label, layer=3)
    assert line_of(cell) == ("", 3)
    auto = replace(cell, label=Label.parse("random@cosmic@auto"))
    assert line_of(auto) == ("cosmic@auto", 3)


def test_no_model_of_a_plan_is_called_auto() -> None:
    plan = """
name: p
prompts: {test: benign-120, extraction: {dim: extract-dim-5}}
precision: fp16
strength: {multiplier: 15}
families:
  a:
    - {name: NAME, model: lab:qwen-3b, n_layers: 6, billions: 3, gpu: local}
family_sweep: {methods: [dim], models: [{model: NAME, layers: [0.5]}]}
thresholds: {works: 0.6, partial: 0.2}
"""
    assert "autocoder" in parse_plan(plan.replace("NAME", "autocoder"), "p.yaml").models
    with pytest.raises(InputError, match=r"p\.yaml: line 8: families\.a\.0\.name: auto: .*choose"):
        parse_plan(plan.replace("NAME", "auto"), "p.yaml")
