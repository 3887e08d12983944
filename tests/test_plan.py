"""Plan files: the shipped ones, their tables, and whatever a user may hand in."""

from __future__ import annotations

import copy
import io
import math
import re
import time
import tracemalloc
from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from rich.console import Console

from steersweep import InputError
from steersweep.budget.estimate import Workload, calibration, stage_seconds
from steersweep.budget.shapes import ModelShape
from steersweep.budget.timing import CPU, Machine
from steersweep.catalog.gpus import kind_of
from steersweep.catalog.models import model_shapes
from steersweep.cli.plans import named_plan
from steersweep.core.statistics import detectable_difference, wilson
from steersweep.model.find import find_model
from steersweep.model.memory import model_shape
from steersweep.model.precision import QUANTIZED
from steersweep.report.plan_table import planned, print_plan
from steersweep.run.condition import Borrowed, Condition
from steersweep.run.label import Label
from steersweep.study.away.apps import app_name
from steersweep.study.choices import SizeChoice
from steersweep.study.costs import estimate, shape_of
from steersweep.study.decisions import Outcome
from steersweep.study.phases.families import FAMILIES, FamilySweep
from steersweep.study.phases.precisions import PRECISIONS
from steersweep.study.phases.transfer import TRANSFER
from steersweep.study.phases.verification import Reproduced
from steersweep.study.plan import Budget, Plan, Thresholds, layer_choice, strength_of
from steersweep.study.plan_file import load_plan, parse_plan, shipped_plans, with_prices
from steersweep.study.settings import planned_prompts, settings_of
from steersweep.study.sweeps import Cuts, Sweep
from steersweep.sweeps.settings import make_job

V3 = load_plan("v3")
LAB = load_plan("v3-lab")
QWEN_HALF = ModelShape(494_032_768, 136_134_656, 24, 896, 14, 896, 128, 4864, 151_936)
TEXT = yaml.safe_dump(dict(V3.written), sort_keys=False)


def layers(phase: str) -> dict[str, list[int]]:
    rows = [row for row in planned(V3, Cuts()) if row.phase == phase]
    return {row.model: list(row.layers.values()) for row in rows}


def test_the_plans_own_layer_tables_come_out() -> None:
    assert layers("1") == {
        "gemma-9b": [8, 16, 21, 25, 33],
        "phi-35": [6, 12, 16, 19, 25],
        "llama-8b": [16, 19, 22],
        "mistral-7b": [16, 19, 22],
    }
    assert layers("2 validation") == {
        "qwen-3b": [18, 21, 25],
        "qwen-14b": [24, 28, 33],
        "qwen-32b": [32, 38, 44],
    }
    sixty = layers("2")
    assert {name: sixty[name] for name in ("gemma-2b", "gemma-9b", "gemma-27b")} == {
        "gemma-2b": [15],
        "gemma-9b": [25],
        "gemma-27b": [27],
    }
    assert sixty["phi-medium"] == [24]
    assert sixty["qwen-7b"] == [16]


def test_trackers_are_told_the_plans_projects_and_run_names() -> None:
    rows = planned(V3, Cuts())
    names: dict[str, set[str]] = {}
    for row in rows:
        names.setdefault(row.tracking.project, set()).update(row.tracking.runs)
    assert {"gemma-9b-dim-layer-sweep", "mistral-7b-cosmic-layer-sweep"} <= names["v3-family-sweep"]
    assert {"phi-35-dim-layer-sweep", "phi-35-cosmic-layer-sweep"} <= names["v3-family-sweep"]
    assert {"qwen-3b-layer-validation", "qwen-3b-dim", "qwen-3b-cosmic"} <= names["v3-size-sweep"]
    choice = SizeChoice("qwen-3b", "qwen", "small", 20, V3.strength, "", ("dim",))
    sweep = PRECISIONS.sweeps(V3, [choice])[0]
    assert sweep.run_names == ("qwen-3b-fp16",)


def test_a_model_runs_in_its_own_precision_over_the_plans() -> None:
    assert {name for name, model in V3.models.items() if model.precision == "bf16"} == {
        "gemma-2b",
        "gemma-9b",
        "gemma-27b",
    }
    assert {sweep.model.name: sweep.precision for sweep in FAMILIES.sweeps(V3)} == {
        "gemma-9b": "bf16",
        "phi-35": "fp16",
        "llama-8b": "fp16",
        "mistral-7b": "fp16",
    }
    choice = SizeChoice("gemma-9b", "gemma", "", 25, V3.strength, "", ("dim",))
    sweeps = PRECISIONS.sweeps(V3, [choice])
    assert [(s.precision, s.reference) for s in sweeps] == [
        ("bf16", "bf16"),
        ("int8", "bf16"),
        ("int4", "bf16"),
    ]
    # The catalog knows it too, where a plan asks for fp16 and says nothing of the model.
    text = TEXT.replace("    precision: bf16\n", "")
    assert parse_plan(text, "x.yaml").models["gemma-2b"].precision == "bf16"
    text = TEXT.replace("precision: bf16", "precision: fp32")
    assert parse_plan(text, "x.yaml").models["gemma-2b"].precision == "fp32"


def test_a_model_runs_in_phase_3_with_what_worked_for_it() -> None:
    choice = SizeChoice("qwen-3b", "qwen", "", 21, V3.strength, "", ("cosmic",))
    assert {sweep.methods for sweep in PRECISIONS.sweeps(V3, [choice])} == {("cosmic",)}
    both = replace(choice, methods=("cosmic", "dim"))
    assert {sweep.methods for sweep in PRECISIONS.sweeps(V3, [both])} == {("dim",)}


def test_the_plans_numbers_are_in_it() -> None:
    assert V3.budget == Budget(
        100, {"verification": 1, "family_sweep": 30, "size_sweep": 45, "precision_sweep": 35}
    )
    assert V3.thresholds == Thresholds(works=0.6, partial=0.2)
    rows = {row.model: row for row in planned(V3, Cuts()) if row.phase == "1"}
    assert rows["gemma-9b"].timeout_s == 2400
    assert V3.price("A100-80GB") == 3.73
    assert len(V3.models) == 13
    assert set(shipped_plans()) >= {"v3", "v3-120", "v3-lab", "v3-small"}


def test_estimates_grow_with_work_and_never_hide_what_does_not_fit() -> None:
    sweeps = {sweep.model.name: sweep for sweep in FAMILIES.sweeps(V3)}
    big, small = sweeps["gemma-9b"], sweeps["phi-35"]
    assert estimate(V3, big, 40).seconds > estimate(V3, big, 10).seconds
    # Beside nine billion parameters an A10G has room for few rows, as the plan itself fears.
    assert estimate(V3, big, 40).fits
    assert estimate(V3, big, 40).rows < estimate(V3, small, 40).rows
    assert estimate(V3, big, 40).rows < estimate(V3, big, 40, gpu="A100-80GB").rows == 256
    assert estimate(V3, big, 40).memory_gb <= 24
    assert estimate(V3, small, 10, factor=2).usd == pytest.approx(2 * estimate(V3, small, 10).usd)
    assert estimate(V3, small, 10, gpu="local").usd == 0
    assert calibration([]) == 1
    assert calibration([(20, 10), (30, 10), (10, 10)]) == 2
    assert calibration([(1e9, 1)]) == 10


def test_other_precisions_of_a_cpu_change_products_and_what_is_read() -> None:
    shape = ModelShape(1000, 200, 2, 10, 2, 10, 10, 40, 20)  # its embeddings are tied
    machine = Machine(1.0, 1.0, 10.0, 100.0, 0.5, products={"int8-dynamic": 4.0, "bf16": 0.5})
    assert machine.step(shape, "fp32", 3, 7) == 0.5 * 2 + 4000 / 100 + 3 * 2000 / 10
    assert machine.step(shape, "bf16", 3, 7) == 0.5 * 2 + 2000 / 100 + 3 * 2000 / 5
    assert machine.step(shape, "fp16", 3, 7) == 0.5 * 2 + 2000 / 100 + 3 * 2000 / 10
    for precision in ("int8-dynamic", "Q4_1-as-int8-dynamic"):
        assert machine.step(shape, precision, 3, 7) == 0.5 * 2 + 1010 / 100 + 3 * 2000 / 40
        assert machine.tokens(shape, precision, 9) == 9 * 2000 / 40
    # The input embedding stays in float32 beside the output layer in eight bits.
    assert shape.weights("int8-dynamic") == 1010 + 4 * 200
    assert replace(shape, embeddings=400).read("int8-dynamic") == 1.01 * 800


@pytest.mark.parametrize(
    ("rows", "int8", "bf16"), [(8, 3.9, 1.8), (64, 2.8, 0.8), (190, 2.4, None)]
)
def test_steps_in_other_precisions_are_as_much_faster_as_was_measured(
    rows: int, int8: float, bf16: float | None
) -> None:
    """Of Qwen2.5-0.5B on the processor that the rates are of (docs/performance.md)."""
    shape = QWEN_HALF
    whole = CPU.step(shape, "fp32", rows, 60)
    assert whole / CPU.step(shape, "int8-dynamic", rows, 60) == pytest.approx(int8, rel=0.3)
    if bf16 is not None:
        assert whole / CPU.step(shape, "bf16", rows, 60) == pytest.approx(bf16, rel=0.35)


def test_a_sweep_in_eight_bits_is_as_much_faster_as_was_measured() -> None:
    sweep = Workload(QWEN_HALF, "fp32", 19, 20, 40, 190, 0)
    seconds = [
        sum(stage_seconds(replace(sweep, precision=precision), CPU).values())
        for precision in ("fp32", "int8-dynamic")
    ]
    assert seconds[0] / seconds[1] == pytest.approx(2.3, rel=0.03)


def test_a_sweep_counts_the_directions_it_borrows() -> None:
    """Not only those of another precision: a transfer tries one of every other model."""
    held = [
        Outcome(name, model.family, "dim", "works", 1.0, (0.5, 1.0), 3, 0.5, 8, LAB.strength)
        for name, model in LAB.models.items()
    ]
    sweep = TRANSFER.sweeps(LAB, held)[0]
    alone = ["none", "dim", "random"]
    assert [str(condition.label) for condition in conditions(sweep)] == alone
    assert sweep.n_conditions == 3
    borrowed = tuple(
        Borrowed(Label("dim", source=name), 3, "0" * 16, "p@1") for name in ("q3", "q14")
    )
    sweep = replace(sweep, borrowed=borrowed)
    assert [str(c.label) for c in conditions(sweep)] == [*alone, "dim@q3", "dim@q14"]
    assert sweep.n_conditions == 5
    shares = [estimate(LAB, s, 30).seconds for s in (replace(sweep, borrowed=()), sweep)]
    assert shares[1] > shares[0]


def conditions(sweep: Sweep) -> tuple[Condition, ...]:
    """Those of the job that a sweep of the lab plan becomes."""
    made = settings_of(LAB, sweep, Cuts())
    return make_job(made, made.models[0], "cpu", "2026-11-25").conditions


MODEL_TYPES = {"Qwen": "qwen2", "google": "gemma2", "meta-llama": "llama", "mistralai": "mistral"}


@pytest.mark.parametrize("name", V3.models)
def test_the_catalogs_shapes_give_the_parameters_that_the_plan_says(name: str) -> None:
    """Counted by transformers on a model without weights."""
    from transformers import AutoConfig

    model = V3.models[name]
    shape = model_shapes()[model.model]
    config = AutoConfig.for_model(
        MODEL_TYPES.get(model.model.split("/")[0], "phi3"),
        num_hidden_layers=shape["n_layers"],
        hidden_size=shape["d_model"],
        num_attention_heads=shape["n_heads"],
        num_key_value_heads=shape["kv_heads"],
        head_dim=shape["head_dim"],
        intermediate_size=shape["mlp_width"],
        vocab_size=shape["vocab_size"],
        tie_word_embeddings=shape["tied"],
        pad_token_id=0,
    )
    counted = model_shape(config)
    assert counted.parameters == pytest.approx(model.billions * 1e9, rel=0.005)
    assert replace(counted, parameters=0) == replace(shape_of(model), parameters=0)
    assert shape["n_layers"] == model.n_layers


def test_a_model_on_this_machine_is_estimated_from_its_config(tmp_path: Path) -> None:
    model = replace(V3.models["llama-8b"], model="lab:llama-8b")
    config = find_model("lab:llama-8b").config()
    assert shape_of(model) == model_shape(config)
    broken = tmp_path / "model"
    broken.mkdir()
    (broken / "config.json").write_text('{"model_type": "no such type"}')
    guessed = shape_of(replace(model, model=str(broken)))
    assert guessed == shape_of(replace(model, model="somebody/else"))


def test_a_model_out_of_the_catalog_is_estimated_from_its_parameters() -> None:
    model = V3.models["llama-8b"]
    known, guessed = shape_of(model), shape_of(replace(model, model="somebody/else"))
    for precision in ("bf16", "int4"):
        assert guessed.weights(precision) == pytest.approx(known.weights(precision), rel=0.15)
    assert guessed.row("bf16", 40, 100) == pytest.approx(known.row("bf16", 40, 100), rel=0.5)


@pytest.mark.parametrize(
    ("device", "gigabytes", "kind"),
    [
        ("NVIDIA A10G", 23.7, "A10G"),
        ("NVIDIA A10", 23.7, "A10G"),
        ("NVIDIA A100-SXM4-80GB", 85.1, "A100-80GB"),
        ("NVIDIA A100 80GB PCIe", 85.1, "A100-80GB"),
        ("NVIDIA A100-SXM4-40GB", 42.3, "A100-40GB"),
        ("NVIDIA L4", 23.6, "L4"),
        ("NVIDIA L40S", 47.7, "L40S"),
        ("NVIDIA H100 80GB HBM3", 85.0, "H100"),
        ("NVIDIA H200", 150.7, "H200"),
        ("Quadro of old", 4.0, None),
    ],
)
def test_gpus_are_known_by_what_the_driver_calls_them(
    device: str, gigabytes: float, kind: str | None
) -> None:
    assert kind_of(device, gigabytes) == kind


def test_prices_of_a_file_go_before_the_plans_and_the_catalogs(tmp_path: Path) -> None:
    file = tmp_path / "prices.yaml"
    file.write_text("A10G: 0.5\nL4: 0\n")
    cheap = with_prices(V3, file)
    assert [cheap.price(gpu) for gpu in ("A10G", "L4", "A100-80GB")] == [0.5, 0, 3.73]
    before, after = (
        sum(row.usd for row in planned(plan, Cuts()) if row.gpu == "A10G") for plan in (V3, cheap)
    )
    assert after == pytest.approx(before * 0.5 / 1.10, rel=0.01)
    assert {row.cheapest.gpu for row in planned(cheap, Cuts()) if row.model == "phi-35"} == {"L4"}


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("[1]", "must be a mapping"),
        ("A10G: cheap", "A10G: 'cheap' is no price"),
        ("A10G: -1", "A10G: -1 is no price"),
        ("A10G: .nan", "A10G: nan is no price"),
        ("A10G: true", "A10G: True is no price"),
        ("Z9: 1", "Z9: no such GPU"),
        ("a: b: c", "not valid YAML"),
    ],
)
def test_bad_prices_name_the_file_and_the_gpu(text: str, said: str, tmp_path: Path) -> None:
    file = tmp_path / "prices.yaml"
    file.write_text(text)
    with pytest.raises(InputError, match=re.escape(said)) as caught:
        with_prices(V3, file)
    assert "prices.yaml" in str(caught.value)


def test_a_model_that_does_not_fit_is_sent_where_it_does() -> None:
    plan = parse_plan(TEXT.replace("gpu: A100-80GB", "gpu: A100-40GB"), "v3.yaml")
    rows = {row.model: row for row in planned(plan, Cuts()) if row.phase == "2"}
    assert rows["qwen-32b"].fits is False
    assert rows["qwen-32b"].cheapest.gpu in ("A100-80GB", "H100", "H200")
    for row in rows.values():
        if row.fits:
            assert row.cheapest.usd <= row.usd * 1.5


def test_cuts_apply_in_the_plans_order() -> None:
    one, two, three = (Cuts.first(V3, count) for count in (1, 2, 3))
    assert one.families == {"llama", "mistral"}
    assert one.prompts is None
    assert two.prompts == 6
    assert len(planned_prompts(V3, two).prompts) == 6
    assert three.models == {"gemma-27b", "mistral-24b"}
    assert "gemma-27b" not in {row.model for row in planned(V3, three)}


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


# -- a plan that is based on another -------------------------------------------------------------


def test_v3_120_is_v3_with_other_prompts_and_names() -> None:
    more = load_plan("v3-120")
    assert more.written["prompts"] == V3.written["prompts"] | {"test": "benign-120"}
    changed = {
        field
        for field in {**V3.written, **more.written}
        if V3.written.get(field) != more.written.get(field)
    }
    assert changed == {
        "name", "description", "prompts", "timeouts", "cuts", "modal", "tracking", "verification",
        "follow_up", "fallback",
    }  # fmt: skip
    assert more.models == V3.models
    expect = more.section(Reproduced).expect
    assert expect == pytest.approx(wilson(10, 10)[0], abs=0.005)
    # Where v3 has fixed multipliers, strengths are looked for.
    families = V3.section(FamilySweep)
    assert families.follow_up is not None
    assert families.fallback is not None
    assert {**more.sections} == {
        **V3.sections,
        "verification": replace(V3.section(Reproduced), expect=expect),
        "family_sweep": replace(
            families,
            follow_up=replace(families.follow_up, strengths=()),
            fallback=replace(families.fallback, strengths=()),
        ),
    }
    assert len(planned_prompts(more, Cuts()).prompts) == 120
    # Nothing of it gets in the way of v3.
    assert not {app_name(more, phase) for phase in more.phases} & {
        app_name(V3, phase) for phase in V3.phases
    }
    assert not {more.project(phase) for phase in more.phases} & {
        V3.project(phase) for phase in V3.phases
    }
    # What a run keeps needs no other plan.
    again = parse_plan(yaml.safe_dump(dict(more.written)), "kept.yaml")
    assert again == more


def test_no_job_of_a_shipped_plan_is_expected_to_reach_its_timeout() -> None:
    for name in shipped_plans():
        for row in planned(load_plan(name), Cuts()):
            assert row.timeout_s is None or 1.5 * row.seconds < row.timeout_s, row


def test_plan_v3_says_what_the_one_to_run_costs_and_finds() -> None:
    def said(plan: Plan) -> str:
        stream = io.StringIO()
        print_plan(plan, Cuts(), console=Console(file=stream, width=200))
        return stream.getvalue()

    more = load_plan("v3-120")
    usd = sum(row.usd for row in planned(more, Cuts()))
    rise = detectable_difference(120, baseline=0.05, compared=5)
    assert rise is not None
    assert f"Run v3-120 instead: the same study with 120 unique prompts, at most {usd:.2f}" in said(
        V3
    )
    assert f"a rise of {100 * rise:.0f} points or more in one of 5" in said(V3)
    assert "Run v3-120 instead" not in said(more)


def test_study_plan_md_says_what_both_can_find_and_cost() -> None:
    page = Path(__file__).parent.parent / "docs" / "study-plan.md"
    text = " ".join(page.read_text().split())
    few, many = (detectable_difference(n, baseline=0.05, compared=5) for n in (10, 120))
    assert few is not None
    assert many is not None
    assert f"a rise of about {100 * few:.0f} points" in text
    assert f"against {100 * many:.0f} with 120" in text
    costs = [sum(row.usd for row in planned(load_plan(n), Cuts())) for n in ("v3-120", "v3")]
    assert round(costs[0] / costs[1]) == 2
    assert "It costs about twice as much" in text


def based(folder: Path, text: str, name: str = "mine.yaml") -> Plan:
    (folder / name).write_text(text)
    return load_plan(str(folder / name))


def test_a_plan_may_be_based_on_a_shipped_one_or_a_file(tmp_path: Path) -> None:
    mine = based(
        tmp_path,
        "extends: v3\nname: mine\nstrength: {relative: 0.3}\nfallback: null\n"
        "budget: {total: 5}\nverification: {expect: 0.5}\n",
    )
    assert str(mine.strength) == str(strength_of({"relative": 0.3}))
    assert mine.budget == Budget(5.0, V3.budget.phases)
    assert mine.section(FamilySweep) == replace(V3.section(FamilySweep), fallback=None)
    assert mine.section(Reproduced) == replace(V3.section(Reproduced), expect=0.5)
    (tmp_path / "sub").mkdir()
    yours = based(tmp_path / "sub", "extends: ../mine.yaml\nname: yours\nseed: 7\n")
    assert yours.written == mine.written | {"name": "yours", "seed": 7}


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("extends: v9", r"mine\.yaml: line 1: extends: plan .*v9: not one of v3, v3-120, v3-lab"),
        ("name: mine\nextends: none.yaml", r"line 2: extends: .*none\.yaml: cannot be read"),
        ("extends: mine.yaml", r"line 1: extends: .*mine\.yaml is based on this plan"),
        ("extends: other.yaml", r"line 1: extends: .*other\.yaml: line 1: .* is based on this"),
        ("extends: ../here/mine.yaml", r"line 1: extends: .*mine\.yaml is based on this plan"),
        ("extends: chain0.yaml", r"extends: .*more than 8 plans are based on one another"),
        ("extends: folder.yaml", r"line 1: extends: .*folder\.yaml: "),
        ('extends: ""', r"line 1: extends: "),
        ("extends: /dev/null", r"line 1: extends: plan /dev/null: not one of"),
        ('extends: "a\\x1b[2J.yaml"', r"line 1: "),
        ("extends: [v3]", r"line 1: extends: give the name of a shipped plan, or a \.yaml file"),
        ("extends: v3\nseed: x", r"line 2: seed: x is not a whole number"),
        ("extends: v3\nname: a\nfamilies: {phi: null}", r"with what v3 has: family_sweep.models.1"),
        ("extends: v3\nprompts: null", r"the plan: 'prompts' is a required property"),
    ],
)
def test_what_is_wrong_with_a_plan_based_on_another_is_named(
    text: str, said: str, tmp_path: Path
) -> None:
    folder = tmp_path / "here"
    (folder / "folder.yaml").mkdir(parents=True)
    (folder / "other.yaml").write_text("extends: mine.yaml\n")
    for i in range(20):
        (folder / f"chain{i}.yaml").write_text(f"extends: chain{i + 1}.yaml\n")
    with pytest.raises(InputError, match=said) as caught:
        based(folder, text)
    assert "\x1b" not in str(caught.value)


def test_unknown_plans_and_files_are_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="v3-lab"):
        load_plan("v4")
    with pytest.raises(InputError, match="cannot be read"):
        load_plan(str(tmp_path / "none.yaml"))
    binary = tmp_path / "b.yaml"
    binary.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(InputError, match=r"b\.yaml"):
        load_plan(str(binary))


def test_a_plan_names_a_precision() -> None:
    """Any that a model can be loaded in, and none that depends on the machine."""
    for name in QUANTIZED:
        assert parse_plan(f"extends: v3-lab\nprecision: {name}", "p.yaml").precision == name
    for name in ("fastest", "auto"):
        why = (
            rf"p.yaml: line 2: precision: {name} depends on the machine, .*: name what they run "
            rf"in, one of fp32, bf16, fp16, int8, int4, int8-dynamic \(a sweep of one model with"
        )
        with pytest.raises(InputError, match=why):
            parse_plan(f"extends: v3-lab\nprecision: {name}", "p.yaml")
    phase = "extends: v3-lab\nprecision_sweep: {precisions: [fp32, fastest]}"
    with pytest.raises(InputError, match=r"line 2: precision_sweep.precisions.1: fastest depends"):
        parse_plan(phase, "p.yaml")


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


# -- models that are elsewhere ---------------------------------------------------------------------


def test_a_plans_models_are_found_where_the_user_says(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    small = load_plan("v3-small")
    here = Path(find_model("lab:qwen-3b").location)
    (tmp_path / "coder").symlink_to(here)
    monkeypatch.chdir(tmp_path)
    asked = ["qwen-coder-0.5b=coder", "smollm2-135m=lab:llama-3b"]
    plan = named_plan("v3-small", asked)
    assert plan.models["qwen-coder-0.5b"].model == str(here)  # also from another folder
    assert plan.models["smollm2-135m"].model == "lab:llama-3b"
    assert plan.models["qwen-coder-1.5b"] == small.models["qwen-coder-1.5b"]
    again = parse_plan(yaml.safe_dump(plan.written), "plan.yaml")  # as a run keeps it
    assert again == plan


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        ("qwen-coder-0.5b", "--models qwen-coder-0.5b: give NAME=PLACE"),
        ("qwen-7b=lab:qwen-7b", "'qwen-7b': no such model; there are qwen-coder-0.5b"),
    ],
)
def test_a_model_that_the_plan_has_not_is_named(asked: str, said: str) -> None:
    with pytest.raises(InputError, match=re.escape(said)):
        named_plan("v3-small", [asked])
