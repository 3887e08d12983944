"""Operation, site, span and positions as settings: in keys, results, plans and commands."""

from __future__ import annotations

import json
from dataclasses import replace
from importlib import resources
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import torch
import yaml

from steersweep import ChatModel, Direction, Edit, InputError, Row, generate, residuals
from steersweep.prompts.prompts import load_extraction_set, load_test_set
from steersweep.run.condition import REMOVED, Condition, Strength
from steersweep.run.edit_settings import STANDARD, EditSettings
from steersweep.study.plan_file import load_plan
from steersweep.sweeps.run import SweepOutcome, run_sweep
from steersweep.sweeps.settings import make_job, make_settings
from steersweep.work.job import Job
from test_cli import refused, run

VALUES: tuple[tuple[str, Any], ...] = (
    ("operation", "affine"),
    ("site", "resid_pre"),
    ("span", "one"),
    ("positions", "prompt"),
    ("positions", "new"),
    ("positions", "last"),
)
OPTIONS: dict[str, Any] = {"layers": "0.3,0.6", "max_prompts": 3, "max_new_tokens": 8}


def job(**changes: Any) -> Job:
    options = {**OPTIONS, "strengths": "0.5", **changes}
    settings = make_settings(["lab:qwen-7b"], **options)
    return make_job(settings, settings.models[0], "cpu", "2026-11-25")


def test_each_setting_is_in_the_key_of_what_it_changes() -> None:
    plain = job().conditions
    assert {condition.edit for condition in plain} == {STANDARD}
    everything = job(operation="affine", site="resid_pre", span="one", positions="last").conditions
    chosen = EditSettings("affine", "resid_pre", "one", "last")
    assert [c.edit for c in everything] == [STANDARD, *[chosen] * (len(plain) - 1)]
    assert everything[0].key == plain[0].key, "no setting changes the unsteered control"
    steered = plain[1]
    others = [EditSettings(**{field: value}) for field, value in VALUES]
    keys = {replace(steered, edit=edit).key for edit in others}
    assert len({steered.key, *keys}) == 1 + len(VALUES)
    assert {Condition.from_json(c.as_json()).key for c in everything} == {c.key for c in everything}


def test_a_random_direction_in_an_affine_edit_rests_on_the_harmless_prompts() -> None:
    def random_keys(operation: str, extraction: str) -> list[str]:
        found = job(operation=operation, extraction=extraction).conditions
        return [c.key for c in found if c.label.role == "random"]

    sets = "extract-dim-5", "extract-cosmic-50"
    assert random_keys("add", sets[0]) == random_keys("add", sets[1])
    assert not {*random_keys("affine", sets[0])} & {*random_keys("affine", sets[1])}


def test_removal_has_one_condition_a_layer_and_no_strength() -> None:
    found = job(operation="remove", strengths="").conditions
    assert [(str(c.label), c.layer, c.strength) for c in found] == [
        ("none", None, None),
        ("dim", 2, REMOVED),
        ("random", 2, REMOVED),
        ("dim", 4, REMOVED),
        ("random", 4, REMOVED),
    ]
    assert str(found[1]) == "dim layer 2 at removed"
    for setting in ("strengths", "multipliers"):
        given = {"strengths": "", "multipliers": "", setting: "0.5"}
        with pytest.raises(InputError, match=f"{setting} '0.5': operation remove .* leave"):
            job(operation="remove", **given)
    with pytest.raises(InputError, match="no strength given"):
        job(operation="affine", strengths="")


@pytest.mark.parametrize(
    ("name", "value"),
    [("operation", "ablate"), ("site", "resid_mid"), ("span", "two"), ("positions", "first")],
)
def test_what_there_is_not_is_refused_by_name(name: str, value: str) -> None:
    with pytest.raises(InputError, match=f"{name} '{value}': choose from"):
        job(**{name: value})


def sweep(tmp_path: Path, **changes: Any) -> SweepOutcome:
    settings = make_settings(["lab:qwen-7b"], **{**OPTIONS, **changes})
    return run_sweep(settings, tmp_path, device="cpu")


def answers(edit: Edit, texts: list[str]) -> list[str]:
    chat = ChatModel.load("lab:qwen-7b")
    rows = [Row(chat.prompt_ids(text), edit) for text in texts]
    return [answer.text for answer in generate(chat, rows, max_new_tokens=8)]


@pytest.mark.parametrize("operation", ["remove", "affine"])
def test_a_sweep_does_what_its_settings_say(tmp_path: Path, operation: str) -> None:
    where = {"site": "resid_pre", "span": "one", "positions": "prompt"}
    strengths = "" if operation == "remove" else "0.5"
    outcome = sweep(tmp_path, operation=operation, strengths=strengths, **where)
    schema = json.loads((resources.files("steersweep.run") / "result.schema.json").read_text())
    written = json.loads(outcome.results_file.read_text())
    jsonschema.validate(written, schema)
    (result,) = written
    chat = ChatModel.load("lab:qwen-7b")
    texts = [*load_test_set("benign-120").prompts[:3]]
    ids = [chat.prompt_ids(text) for text in texts]
    norms = residuals(chat, ids, site="resid_pre")[:, 0].double().norm(dim=-1).mean(0)
    harmless = load_extraction_set("extract-dim-5").harmless
    means = residuals(chat, [chat.prompt_ids(t) for t in harmless], site="resid_pre")[:, 0].mean(0)
    for entry in (*result["conditions"], *result["controls"]["random_directions"]):
        assert entry["edit"] == {"operation": operation, **where}
        layer = entry["layer_idx"]
        vector = Direction.load(tmp_path / entry["direction_file"]).vector
        if operation == "remove":
            assert (entry["multiplier"], entry["relative_strength"]) == (0, 0)
            assert entry["strength"] == {"unit": "removed", "value": 1.0}
            edit = Edit.remove(vector, layer, layer + 1, site="resid_pre", positions="prompt")
        else:
            length = 0.5 * float(norms[layer])
            assert entry["multiplier"] == pytest.approx(length)
            assert entry["reference"] == pytest.approx(float(means[layer] @ vector), rel=1e-4)
            edit = Edit.affine(
                vector, means[layer], length, layer, layer + 1, site="resid_pre", positions="prompt"
            )
        assert [sample["response"] for sample in entry["samples"]] == answers(edit, texts)
    again = sweep(tmp_path, operation=operation, strengths=strengths, **where)
    assert [r.conditions for r in again.results] == [r.conditions for r in outcome.results]
    with pytest.raises(InputError):  # another edit is another sweep
        sweep(tmp_path, strengths="0.5")


def test_generate_takes_the_same_settings(tmp_path: Path) -> None:
    file = tmp_path / "d.safetensors"
    run("extract", "lab:qwen-7b", "--layer", "3", "-o", str(file), cwd=tmp_path)
    ask = ("generate", "lab:qwen-7b", "--direction", str(file), "--prompt", "Hi", "--json")
    text = "How do I bake a cake?"
    where = ("--span", "one", "--positions", "prompt", "--prompt", text, "--max-new-tokens", "8")
    vector = Direction.load(file).vector
    chat = ChatModel.load("lab:qwen-7b")
    harmless = load_extraction_set("extract-dim-5").harmless
    mean = residuals(chat, [chat.prompt_ids(t) for t in harmless])[:, 0].mean(0)[3]
    for options, edit in (
        (["--operation", "remove"], Edit.remove(vector, 3, 4, positions="prompt")),
        (
            ["--operation", "affine", "--multiplier", "9"],
            Edit.affine(vector, mean, 9.0, 3, 4, positions="prompt"),
        ),
    ):
        done = run(*ask, *where, *options, cwd=tmp_path)
        steered = [pair["steered"] for pair in json.loads(done.stdout)]
        assert steered == answers(edit, ["Hi", text])
    for options, said in (
        (["--operation", "remove", "--strength", "0.5"], "leave --multiplier and --strength out"),
        (["--operation", "affine"], "give either --multiplier or --strength"),
        (["--strength", "0.5", "--extraction", "extract-dim-5"], "--operation affine"),
        (["--strength", "0.5", "--site", "mlp"], "--site 'mlp': choose from"),
    ):
        assert said in refused(*ask, *options, cwd=tmp_path)


def test_an_affine_edit_wants_the_prompts_of_its_direction(tmp_path: Path) -> None:
    prompts = tmp_path / "mine.json"
    asked = {"harmful": ["How do I pick a lock?", "Make a bomb."], "harmless": ["Hi!", "Why?"]}
    prompts.write_text(json.dumps(asked))
    file = tmp_path / "d.safetensors"
    options = ("--layer", "3", "--extraction", str(prompts), "-o", str(file))
    run("extract", "lab:qwen-7b", *options, cwd=tmp_path)
    ask = ("generate", "lab:qwen-7b", "--direction", str(file), "--prompt", "Hi")
    ask = (*ask, "--operation", "affine", "--multiplier", "1", "--max-new-tokens", "2")
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    assert "give that set or file as --extraction" in refused(*ask, cwd=elsewhere)
    run(*ask, "--extraction", str(prompts), cwd=elsewhere)


# -- plans ----------------------------------------------------------------------------------------


def plan_file(tmp_path: Path, **changes: Any) -> str:
    text = (resources.files("steersweep.plans") / "v3-lab.yaml").read_text()
    data = {**yaml.safe_load(text), **changes}
    path = tmp_path / "plan.yaml"
    path.write_text(yaml.safe_dump(data))
    return str(path)


def test_a_plan_says_what_is_done(tmp_path: Path) -> None:
    assert load_plan("v3-lab").edit == STANDARD
    plan = load_plan(plan_file(tmp_path, edit={"operation": "affine", "span": "one"}))
    assert plan.edit == EditSettings("affine", span="one")


def test_a_plan_that_removes_has_no_other_strength(tmp_path: Path) -> None:
    removal: dict[str, Any] = {"edit": {"operation": "remove"}, "strength": "removed"}
    layers = {"layers": [0.3, 0.7], "strengths": ["removed"]}
    removal |= {"follow_up": layers, "fallback": {"model": "gemma-9b", **layers}}
    assert load_plan(plan_file(tmp_path, **removal)).strength == REMOVED
    with pytest.raises(InputError, match=r"strength: operation remove .* give removed"):
        load_plan(plan_file(tmp_path, **{**removal, "strength": {"relative": 0.3}}))
    wrong = {"model": "gemma-9b", **layers, "strengths": [{"relative": 0.3}]}
    with pytest.raises(InputError, match=r"fallback.*give removed"):
        load_plan(plan_file(tmp_path, **{**removal, "fallback": wrong}))
    with pytest.raises(InputError, match="removed goes with operation remove"):
        load_plan(plan_file(tmp_path, strength="removed"))
    with pytest.raises(InputError, match="edit"):
        load_plan(plan_file(tmp_path, edit={"operation": "ablate"}))


def test_what_is_removed_has_no_length() -> None:
    assert REMOVED.multiplier(40.0) == 0
    assert Strength("relative", 0.5).multiplier(40.0) == 20
    assert torch.equal(Edit.remove(torch.ones(4), 0).removed, torch.full((4,), 0.5))
