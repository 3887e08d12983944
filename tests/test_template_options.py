"""Variables that chat templates take, such as `enable_thinking`, from settings and plans."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import yaml
from typer.testing import CliRunner

from conftest import lab
from steersweep import ChatModel, InputError
from steersweep.cli.app import app
from steersweep.model.template_options import parse_template_options, shown_options, variables_of
from steersweep.run.folder import RunFolder
from steersweep.study.phases.families import FAMILIES
from steersweep.study.plan_file import parse_plan
from steersweep.study.settings import settings_of
from steersweep.study.sweeps import Cuts
from steersweep.sweeps.settings import make_job, make_settings

CHATML = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n"
)
# Qwen3: reasons unless told not to, and then an empty pair of tags stands before the answer.
QWEN3 = (
    CHATML + "{% if enable_thinking is defined and enable_thinking is false %}"
    "<think>\n\n</think>\n\n{% endif %}{% endif %}"
)
# Granite, DeepSeek: does not reason unless told to, and then opens the reasoning itself.
OPENS = CHATML + "{% if thinking %}<think>\n{% endif %}{% endif %}"
EFFORT = (
    "{% if reasoning_effort is not defined %}{% set reasoning_effort = 'medium' %}{% endif %}"
    "<|im_start|>system\nReasoning: {{ reasoning_effort }}<|im_end|>\n" + CHATML + "{% endif %}"
)
SWEEP = (
    "--layers=0.5", "--strengths=0.3", "--max-prompts=3", "--max-new-tokens=8", "--quiet"
)  # fmt: skip


def model(folder: Path, template: str) -> str:
    """A lab model with another chat template."""
    shutil.copytree(lab("qwen-3b").source.location, folder)
    (folder / "chat_template.jinja").write_text(template)
    return str(folder)


def run(*arguments: str) -> Any:
    return CliRunner().invoke(app, list(arguments), catch_exceptions=False)


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("", {}),
        ("enable_thinking=false", {"enable_thinking": False}),
        ("enable_thinking=False, effort = low", {"enable_thinking": False, "effort": "low"}),
        ("a=true,b=TRUE,c=null,d=None", {"a": True, "b": True, "c": None, "d": None}),
        ("n=3,x=-0.5,v=1e3,t=007", {"n": 3, "x": -0.5, "v": "1e3", "t": "007"}),
        ("a='off',b=\"x, y=1\",c=''", {"a": "off", "b": "x, y=1", "c": ""}),
        ("budget=a=b", {"budget": "a=b"}),
    ],
)
def test_options_have_types(text: str, found: dict[str, Any]) -> None:
    read = parse_template_options(text, "--template-options")
    assert read == found
    assert [type(value) for value in read.values()] == [type(value) for value in found.values()]
    assert parse_template_options(shown_options(read), "again") == found


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("enable_thinking", "write NAME=VALUE"),
        ("a=1,,b=2", "write NAME=VALUE"),
        ("enable_thinking=off", "write true or false"),
        ("enable_thinking='false'", "without quotes"),
        ("a=", "has no value"),
        ("a=1,a=2", "a is given twice"),
        ("enable-thinking=false", "not the name of a template's variable"),
        ("messages=x", "given this anyway"),
        ("bos_token=x", "given this anyway"),
        ("add_generation_prompt=false", "given this anyway"),
    ],
)
def test_options_that_cannot_be(text: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        parse_template_options(text, "--template-options")


def test_variables_that_a_template_reads() -> None:
    assert variables_of(QWEN3) == ["enable_thinking"]
    assert variables_of(EFFORT) == ["reasoning_effort"]
    marked = "{% for m in messages %}{% generation %}{{ m }}{% endgeneration %}{% break %}{% endfor"
    assert variables_of(marked + " %}{% macro f(x) %}{{ x }}{{ deep }}{% endmacro %}") == ["deep"]


def test_the_switch_changes_what_the_model_reads_and_the_conditions_key(tmp_path: Path) -> None:
    path = model(tmp_path / "m", QWEN3)
    off = {"enable_thinking": False}
    plain = ChatModel.load(path, device="cpu")
    quiet = ChatModel.load(path, device="cpu", template_options=off)
    ending = plain.token_ids("<think>\n\n</think>\n\n")
    assert quiet.prompt_ids("Hello") == [*plain.prompt_ids("Hello"), *ending]
    assert quiet.opened_thought == ""
    jobs = [
        make_job(make_settings([path], strengths="0.3", template_options=t), plain.source, "cpu", d)
        for t, d in (("", "2026-11-25"), ("enable_thinking=false", "2026-11-25"))
    ]
    keys = [{condition.key for condition in job.conditions} for job in jobs]
    assert len(keys[0]) == len(keys[1])
    assert not keys[0] & keys[1]


def test_a_variable_that_the_template_has_not_is_refused_by_name(tmp_path: Path) -> None:
    path = model(tmp_path / "m", QWEN3)
    with pytest.raises(InputError, match=r"chat_template.jinja: template option enable_thinkin: "):
        ChatModel.load(path, device="cpu", template_options={"enable_thinkin": False})
    with pytest.raises(InputError, match=r"it reads enable_thinking$"):
        ChatModel.load(path, device="cpu", template_options={"thinking": True})
    with pytest.raises(InputError, match="reads none that can be set"):
        ChatModel.load("lab:qwen-3b", device="cpu", template_options={"enable_thinking": False})
    for command in (
        ("sweep", path, *SWEEP, "--out", str(tmp_path / "run")),
        ("extract", path, "--layer=0.5", "-o", str(tmp_path / "d.safetensors")),
    ):
        done = CliRunner().invoke(app, [*command, "--template-options=thinking=true"])
        assert isinstance(done.exception, InputError)
        assert "template option thinking" in str(done.exception)
    assert not (tmp_path / "run").exists()


def test_a_value_that_changes_nothing_is_said(tmp_path: Path) -> None:
    path = model(tmp_path / "m", QWEN3)
    loaded = ChatModel.load(path, device="cpu", template_options={"enable_thinking": "fasle"})
    (note,) = loaded.renderer.notes()
    assert "is told enable_thinking=fasle, which changes nothing in a prompt" in note
    loaded = ChatModel.load(path, device="cpu", template_options={"enable_thinking": False})
    (note,) = loaded.renderer.notes()
    assert note.endswith("the template is told enable_thinking=false")


def test_a_sweep_with_the_switch_end_to_end(tmp_path: Path) -> None:
    path = model(tmp_path / "m", OPENS)
    out = tmp_path / "run"
    assert run("sweep", path, *SWEEP, f"--out={out}").exit_code == 0
    asked = ("sweep", path, *SWEEP, "--template-options=thinking=true")
    with pytest.raises(InputError, match=r"holds another run.*template_options"):
        run(*asked, f"--out={out}")
    assert run(*asked, f"--out={tmp_path / 'thinks'}").exit_code == 0
    results = {}
    for name in ("run", "thinks"):
        (file,) = (tmp_path / name / "results").glob("*.json")
        results[name] = json.loads(file.read_text())[0]
    told = results["thinks"]["provenance"]["template_options"]
    assert told == {"thinking": True}
    assert "template_options" not in results["run"]["provenance"]
    assert RunFolder.existing(tmp_path / "thinks").plan["template_options"] == {"thinking": True}
    for name, opening in (("run", ""), ("thinks", "<think>\n")):
        samples = results[name]["controls"]["unsteered"]["samples"]
        assert all(sample["response"].startswith(opening) for sample in samples)
        modes = results[name]["controls"]["unsteered"]["failure_modes"]
        assert ("no-answer" in modes) is (name == "thinks")  # the model never ends its reasoning
    again = run(*asked, f"--out={tmp_path / 'thinks'}", "--json")
    assert again.exit_code == 0


def test_extract_and_generate_take_the_switch(tmp_path: Path) -> None:
    path = model(tmp_path / "m", OPENS)
    told = ("--template-options", "thinking=true")
    file = str(tmp_path / "d.safetensors")
    made = run("extract", path, "--layer=0.5", "-o", file, "--json", *told)
    assert "is told thinking=true" in "".join(json.loads(made.stdout)["notes"])
    asked = ("generate", path, "--direction", file, "--strength=0.1", "--prompt=Hi", "--json")
    answers = [json.loads(run(*asked, "--max-new-tokens=4", *t).stdout)[0] for t in ((), told)]
    assert not answers[0]["unsteered"].startswith("<think>")
    assert answers[1]["unsteered"].startswith("<think>\n")


def test_plans_give_options_to_all_models_or_to_one(tmp_path: Path) -> None:
    path = model(tmp_path / "m", QWEN3)
    rows = [
        {"name": "a", "model": path, "n_layers": 4, "billions": 1, "gpu": "local"},
        {
            "name": "b", "model": path, "n_layers": 4, "billions": 1, "gpu": "local",
            "template_options": {"enable_thinking": True},
        },
    ]  # fmt: skip
    plan: dict[str, Any] = {
        "name": "p",
        "prompts": {
            "test": "benign-120",
            "extraction": {"dim": "extract-dim-5"},
            "template_options": {"enable_thinking": False},
        },
        "precision": "fp32",
        "strength": {"relative": 0.3},
        "families": {"f": rows},
        "family_sweep": {
            "methods": ["dim"],
            "models": [{"model": name, "layers": [0.5]} for name in "ab"],
        },
        "thresholds": {"works": 0.6, "partial": 0.2},
    }
    parsed = parse_plan(yaml.safe_dump(plan), "plan.yaml")
    told = [settings_of(parsed, s, Cuts()).template_options for s in FAMILIES.sweeps(parsed)]
    assert told == [{"enable_thinking": False}, {"enable_thinking": True}]
    rows[1]["template_options"] = {"enable_thinking": "false"}
    with pytest.raises(InputError, match=r"line \d+: families.f.1.template_options.*without quot"):
        parse_plan(yaml.safe_dump(plan), "plan.yaml")
    rows[1]["template_options"] = {"messages": "x"}
    with pytest.raises(InputError, match=r"template_options.*given this anyway"):
        parse_plan(yaml.safe_dump(plan), "plan.yaml")
    rows[1]["template_options"] = {"x": [1]}
    with pytest.raises(InputError, match=r"template_options.x"):
        parse_plan(yaml.safe_dump(plan), "plan.yaml")
