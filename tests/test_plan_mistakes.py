"""Plan files with mistakes, and whatever else a user may hand in."""

from __future__ import annotations

import copy
import math
import time
import tracemalloc
from dataclasses import replace
from fractions import Fraction
from typing import Any

import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from helpers.plans import TEXT, V3
from steersweep import InputError
from steersweep.report.plan_table import planned
from steersweep.study.plan import layer_choice
from steersweep.study.plan_file import parse_plan
from steersweep.study.sweeps import Cuts


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("expect: 1.0", "expect: 100", "verification.expect: 100 is greater"),
        ("follow_up:", "folow_up:", "folow_up"),
        ("model: qwen-7b\n  layer: 16", "model: qwen-8b\n  layer: 16", "no model qwen-8b"),
        ("layer: 16", "layer: 28", "layers 0 to 27"),
        ("works: 0.6", "works: 0.1", "thresholds.partial: above works"),
        ("gpu: A10G", "gpu: TPU", "no price for GPU TPU"),
        ("name: gemma-2b", "name: gemma-9b", "given twice"),
        ("total: 100", "total: .nan", "budget.total"),
        ("total: 100", "total: -1", "budget.total: -1 is less"),
        ("seed: 42", "seed: 42\nseed: 43", "seed is given twice"),
        ("- cosmic\n", "- cosmos\n", "cosmos"),
    ],
)
def test_a_mistake_is_named_with_line_and_field(old: str, new: str, said: str) -> None:
    assert old in TEXT
    text = TEXT.replace(old, new, 1)
    with pytest.raises(InputError, match=r"x\.yaml: line [0-9]+: ") as caught:
        parse_plan(text, "x.yaml")
    assert said in str(caught.value)


def test_the_line_is_the_right_one() -> None:
    text = TEXT.replace("expect: 1.0", "expect: 7", 1)
    line = text.splitlines().index("  expect: 7") + 1
    with pytest.raises(InputError, match=f"line {line}: verification.expect"):
        parse_plan(text, "x.yaml")


SCALARS = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-10, 10**12),
    st.floats(),
    st.text(max_size=8),
    st.sampled_from(["dim", "cosmic", "qwen-7b", "fp16", "0.6", "A10G", {}, []]),
)


def places(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    found = [path] if path else []
    if isinstance(value, dict):
        for key, item in value.items():
            found += places(item, (*path, key))
    elif isinstance(value, list):
        for index, item in enumerate(value):
            found += places(item, (*path, index))
    return found


PLACES = places(dict(V3.written))


def changed(path: tuple[Any, ...], value: Any, *, drop: bool) -> Any:
    data = copy.deepcopy(dict(V3.written))
    holder = data
    for part in path[:-1]:
        holder = holder[part]
    if drop:
        del holder[path[-1]]
    else:
        holder[path[-1]] = value
    return data


def refused_or_expanded(path: tuple[Any, ...], value: Any, *, drop: bool) -> None:
    try:
        plan = parse_plan(yaml.safe_dump(changed(path, value, drop=drop)), "x.yaml")
        rows = planned(plan, Cuts.first(plan, 3))
    except InputError:
        return
    assert all(math.isfinite(row.usd) for row in rows)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.sampled_from(PLACES), SCALARS, st.booleans())
def test_no_changed_plan_ever_ends_in_a_traceback(
    path: tuple[Any, ...], value: Any, drop: bool
) -> None:
    """A plan is refused with a message, or it can be expanded."""
    refused_or_expanded(path, value, drop=drop)


@pytest.mark.slow
@settings(max_examples=10_000, deadline=None, suppress_health_check=list(HealthCheck))
@given(st.sampled_from(PLACES), SCALARS, st.booleans())
def test_ten_thousand_changed_plans(path: tuple[Any, ...], value: Any, drop: bool) -> None:
    refused_or_expanded(path, value, drop=drop)


@settings(max_examples=500, deadline=None)
@given(st.text(max_size=60))
def test_no_text_ever_ends_in_a_traceback(text: str) -> None:
    with pytest.raises(InputError):
        parse_plan(text, "x.yaml")


@pytest.mark.parametrize(
    "text",
    [
        "[" * 5000,
        "a: &a [*a]",
        "a: !!python/object/apply:os.system ['true']",
        "&a {a: *a}",
        "a: 2020-02-30",
        "? {b: 1}\n: 2",
        "0x: 1\n1: 2",
        "\t",
        "a: 1e999",
        "---\na: 1\n---\nb: 2",
    ],
)
def test_hostile_yaml_is_refused(text: str) -> None:
    with pytest.raises(InputError):
        parse_plan(text, "x.yaml")


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("rows: 256", "rows: 10.0", "decoding.rows: 10.0 is not a whole number; write 10"),
        ("rows: 256", "rows: 1e3", "decoding.rows: 1e3 is not a whole number"),
        ("rows: 256", "rows: true", "decoding.rows: True is not a whole number"),
        ("rows: 256", "rows: 010", "decoding.rows: '010' is no whole number in plain decimal"),
        ("rows: 256", "rows: 0x10", "decoding.rows: '0x10' is no whole number"),
        ("rows: 256", "rows: 4:16", "decoding.rows: '4:16' is no whole number"),
        ("rows: 256", "rows: 1000000000000", "decoding.rows: 1000000000000 is greater"),
        (
            "max_new_tokens: 100",
            "max_new_tokens: 1000000000",
            "decoding.max_new_tokens: 1000000000",
        ),
        ("seed: 42", f"seed: {'9' * 20}", "seed: 99999999999999999999 is too large"),
        ("seed: 42", f"seed: {'9' * 5000}", "is too large"),
        ("n_layers: 28", "n_layers: 28.0", "families.qwen.1.n_layers: 28.0 is not a whole number"),
        ("n_layers: 28", "n_layers: 1000000000", "families.qwen.1.n_layers: 1000000000 is greater"),
        ("layer: 16", "layer: 2.5", "verification.layer: 2.5 is not a share of the depth below 1"),
        ("layer: 16", "layer: 16.0", "verification.layer: 16.0 is not a share"),
        ("layer: 16", "layer: .inf", "verification.layer: inf is not a share"),
        ("layer: 16", "layer: -1", "verification.layer: -1 is not a share"),
        ("name: v3", "name: ../x", "name: '../x' is not a name: letters, digits"),
        ("name: v3", "name: ...", "name: '...' is not a name"),
        ("name: v3", 'name: "v3\\n"', r"name: 'v3\n' is not a name"),
        ("name: v3", 'name: "v\\0"', "name: holds the control character U+0000"),
        ("name: v3", 'name: "\\e[31m"', "name: holds the control character U+001B"),
        ("name: v3", f"name: {'v' * 65}", "at most 64"),
        ("name: v3", "name: 2024-01-01", "name: '2024-01-01' would be read as a date"),
        ("name: v3", "name: !!binary aGk=", "name: tag 'tag:yaml.org,2002:binary'"),
        (
            "  qwen:\n",
            "  ../../escaped:\n",
            "families.../../escaped: '../../escaped' is not a name",
        ),
        ("  qwen:\n", "  no:\n", "families: key 'no' would be read as no text"),
        ("name: qwen-7b", "name: a/b", "families.qwen.1.name: 'a/b' is not a name"),
        ("gpu: A10G", "gpu: ..", "families.qwen.0.gpu: '..' is not a name"),
        ("v3-family-sweep", "../v3", "tracking.projects.family_sweep: '../v3' is not a name"),
        ("model: qwen-7b", "model: &a [*a]", "model.0: an alias of what it stands in"),
        ("- dim\n", "- dim\n  - dim\n", '"dim" is given twice'),
    ],
)
def test_what_is_read_otherwise_than_written_is_refused(old: str, new: str, said: str) -> None:
    assert old in TEXT
    with pytest.raises(InputError, match=r"x\.yaml: line [0-9]+: ") as caught:
        parse_plan(TEXT.replace(old, new, 1), "x.yaml")
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)


def levels(form: str) -> str:
    """Seven levels of aliases, nine at each: nine to the seventh values."""
    pairs = zip("bcdefgh", "abcdefg", strict=True)
    lines = [f"{upper}: &{upper} " + form.format(",".join([f"*{low}"] * 9)) for upper, low in pairs]
    return "\n".join(["a: &a {x: 1, y: 2}", *lines])


LONG = "  - {name: m, model: a/b, n_layers: 9, billions: 1, gpu: L4}\n"
WIDE = (
    f"layers: [{','.join(map(str, range(2000)))}]\n  strengths: [{'{multiplier: 1},' * 1000}]\nx:"
)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (levels("{{<<: [{}]}}"), "line 5: e.<<: more than 10,000 values"),
        (levels("[{}]"), "line 5: e: more than 10,000 values"),
        ("a: [" + "1," * 100_000 + "]", "line 1: more than 10,000 values"),
        ("a: " + "x" * 10_000_000, "longer than 262,144 characters"),
        ("[" * 200_000, "line 1: nested too deeply"),
        ("{a: " * 50_000, "line 1: nested too deeply"),
        ("".join(" " * depth + "a:\n" for depth in range(600)), "line 41: nested too deeply"),
        ("".join(f"k{number}: 1\n" for number in range(4000)), "'k0'"),
        (TEXT.replace("families:\n", "families:\n  x:\n" + LONG * 3000, 1), "values"),
        (TEXT.replace("follow_up:\n", f"follow_up:\n  {WIDE}\n", 1), "line"),
    ],
    ids=[
        "merges",
        "aliases",
        "list",
        "10 MB",
        "lists",
        "maps",
        "blocks",
        "keys",
        "models",
        "cells",
    ],
)
def test_a_plan_that_grows_is_refused_in_no_time(text: str, said: str) -> None:
    with pytest.raises(InputError):
        parse_plan("name: warm\n", "x.yaml")  # imports are not what is measured
    tracemalloc.start()
    started = time.process_time()
    with pytest.raises(InputError, match=r"x\.yaml") as caught:
        parse_plan(text, "x.yaml")
    took = time.process_time() - started
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert said in str(caught.value)
    assert took < 10  # tracing costs most of it
    assert peak < 200e6


def test_conditions_are_counted_before_anything_runs() -> None:
    strengths = "".join(f"    - {{multiplier: {n}}}\n" for n in range(1, 400))
    layers = "".join(f"    - {n}\n" for n in range(400))
    text = yaml.safe_dump(
        {k: v for k, v in V3.written.items() if k != "follow_up"}, sort_keys=False
    )
    text += f"follow_up:\n  layers:\n{layers}  strengths:\n{strengths}"
    with pytest.raises(InputError, match=r"follow_up: asks for 1,276,800 conditions; 100,000 is"):
        parse_plan(text, "x.yaml")


def test_anchors_and_merges_that_people_write_are_read() -> None:
    row = "- {name: qwen-3b, model: a/b, n_layers: 36, billions: 3.1, gpu: A10G}"
    text = TEXT.replace(
        "families:\n", f"families:\n  extra:\n  {row.replace('- {', '- &row {')}\n", 1
    )
    text = text.replace("name: qwen-3b, model", "name: one, model", 1)
    text = text.replace("  gemma:\n", "  more:\n  - {<<: *row, name: two}\n  gemma:\n", 1)
    plan = parse_plan(text, "x.yaml")
    assert plan.models["two"] == replace(plan.models["one"], name="two", family="more")
    broken = text.replace("{<<: *row, name: two}", "{<<: *row, name: two, n_layers: 0}")
    line = next(n for n, row in enumerate(broken.split("\n"), 1) if "name: two" in row)
    with pytest.raises(InputError, match=f"line {line}: families.more.0.n_layers: 0 is less"):
        parse_plan(broken, "x.yaml")


@pytest.mark.parametrize("share", [0.29, 0.9999999, 0.00001, 0.1234567890123])
def test_a_share_is_read_as_it_is_written(share: float) -> None:
    """Not to six decimals: 0.9999999 would be 1, which is no layer."""
    choice = layer_choice(share)
    assert float(choice.text) == share
    assert choice.index(100) == int(Fraction(str(share)) * 100)
