"""The shipped plans: their tables and numbers, and plans that are based on them."""

from __future__ import annotations

import io
import re
from dataclasses import replace
from pathlib import Path

import pytest
import yaml
from rich.console import Console

from helpers.plans import TEXT, V3
from steersweep import InputError
from steersweep.cli.plans import named_plan
from steersweep.core.statistics import detectable_difference, wilson
from steersweep.model.find import find_model
from steersweep.model.precision import QUANTIZED
from steersweep.report.plan_table import planned, print_plan
from steersweep.study.away.apps import app_name
from steersweep.study.choices import SizeChoice
from steersweep.study.phases.families import FAMILIES, FamilySweep
from steersweep.study.phases.precisions import PRECISIONS
from steersweep.study.phases.verification import Reproduced
from steersweep.study.plan import Budget, Plan, Thresholds, strength_of
from steersweep.study.plan_file import load_plan, parse_plan, shipped_plans
from steersweep.study.settings import planned_prompts
from steersweep.study.sweeps import Cuts


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


def test_cuts_apply_in_the_plans_order() -> None:
    one, two, three = (Cuts.first(V3, count) for count in (1, 2, 3))
    assert one.families == {"llama", "mistral"}
    assert one.prompts is None
    assert two.prompts == 6
    assert len(planned_prompts(V3, two).prompts) == 6
    assert three.models == {"gemma-27b", "mistral-24b"}
    assert "gemma-27b" not in {row.model for row in planned(V3, three)}


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
