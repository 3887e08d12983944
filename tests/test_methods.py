"""Methods: the registry, CAA and PCA against numpy, and methods of a user's own."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from typer.testing import CliRunner

from conftest import lab
from steersweep import ChatModel, InputError, extract_directions, load_extraction_set
from steersweep.cli import app
from steersweep.core.own import Own, find_own
from steersweep.engines.local import LocalEngine
from steersweep.methods.method import METHODS, Given
from steersweep.methods.pca import _component
from steersweep.prompts.prompts import ExtractionSet, shipped_sets
from steersweep.run.folder import RunFolder
from steersweep.run.result import Result
from steersweep.study.plan_file import load_plan, parse_plan
from steersweep.study.status import frozen_plan, status
from steersweep.study.study import StudyOptions, run_study
from steersweep.sweeps.run import run_sweep
from steersweep.sweeps.settings import make_job, make_settings
from steersweep.work.worker import run_job

ROOT = Path(__file__).parent.parent
METHOD = """
from steersweep.methods.last_token import found_along, last_token_states
from steersweep.run.direction import unit_direction
from steersweep import Found
import dataclasses, torch

class Mine:
    name = "mine"
    chooses_layer = False
    default_prompts = "extract-dim-5"

    def find(self, chat, prompts, layers, given):
        states = last_token_states(chat, prompts, method=self.name)
        vectors = states.paired_differences.median(0).values
        found = found_along(vectors, states, chat, prompts, layers, method=self.name)
        return found
"""


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty current folder; what is imported from it is forgotten afterwards."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(METHODS, "_own", {})
    monkeypatch.setattr("steersweep.core.own._imported", {})
    before = {*sys.modules}
    yield tmp_path
    for name in {*sys.modules} - before:
        if not name.startswith("steersweep"):
            del sys.modules[name]


@pytest.fixture(scope="module")
def qwen3() -> ChatModel:
    return lab("qwen-3b")


def steersweep(*words: str) -> tuple[int, str]:
    """Exit code and all that a command says."""
    done = CliRunner().invoke(app, words)
    return done.exit_code, done.output


# -- what comes with the package -------------------------------------------------------------------


@pytest.mark.parametrize("name", METHODS.names)
def test_every_method_keeps_to_the_protocol(name: str, qwen3: ChatModel) -> None:
    method = METHODS.get(name)
    assert method.name == name
    assert method.default_prompts in shipped_sets()
    assert (
        f"`{name}`" in (ROOT / "docs/methods.md").read_text()
        or f"{name}`" in (ROOT / "docs/methods.md").read_text()
    )
    prompts = load_extraction_set("extract-cosmic-50")
    few = ExtractionSet(
        "few",
        prompts.harmful[:6],
        prompts.harmless[:6],
        prompts.harmful_val[:3],
        prompts.harmless_val[:3],
    )
    found = extract_directions(qwen3, name, few, [3, 5])
    assert sorted(found.at_layer) == [3, 5]
    assert {direction.method for direction in found.at_layer.values()} == {name}
    assert (found.chosen is not None) == method.chooses_layer
    again = extract_directions(qwen3, name, few, [3, 5], given=Given(state=found.state))
    assert torch.equal(again.at_layer[5].vector, found.at_layer[5].vector)


def test_plans_and_help_ask_methods_without_torch() -> None:
    code = (
        "import sys; sys.modules['torch'] = sys.modules['transformers'] = None\n"
        "from steersweep.methods.method import METHODS\n"
        "from steersweep.study.plan_file import load_plan\n"
        "import steersweep.cli.app\n"
        "load_plan('v3-lab')\n"
        "every = map(METHODS.get, METHODS.names)\n"
        "print([(m.name, m.chooses_layer, m.default_prompts) for m in every])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "('caa', False, 'extract-cosmic-50')" in done.stdout


def plain_states(chat: ChatModel, texts: tuple[str, ...], layer: int) -> np.ndarray:
    """A layer's output at the last prompt token, a prompt at a time, by a hook of torch's."""
    seen: list[np.ndarray] = []

    def read(_module: Any, _args: Any, output: Any) -> None:
        hidden = output[0] if isinstance(output, tuple) else output
        seen.append(hidden[0, -1].detach().float().numpy().astype(np.float64))

    handle = chat.layers[layer].register_forward_hook(read)
    with torch.inference_mode():
        for text in texts:
            chat.model(torch.tensor([chat.prompt_ids(text)]))
    handle.remove()
    return np.stack(seen)


@pytest.mark.parametrize("layer", [2, 6])
def test_caa_and_pca_are_what_numpy_makes_of_the_same_pairs(qwen3: ChatModel, layer: int) -> None:
    whole = load_extraction_set("extract-cosmic-50")
    # Lists of different lengths: the last two harmless prompts have no partner.
    uneven = ExtractionSet("uneven", whole.harmful[:7], whole.harmless[:9])
    pairs = plain_states(qwen3, uneven.harmful, layer) - plain_states(
        qwen3, uneven.harmless[:7], layer
    )
    mean = pairs.mean(0)
    caa = extract_directions(qwen3, "caa", uneven, [layer]).at_layer[layer]
    np.testing.assert_allclose(caa.vector.numpy(), mean / np.linalg.norm(mean), atol=2e-5)
    assert caa.raw_norm == pytest.approx(np.linalg.norm(mean), rel=1e-4)
    # The largest eigenvector of the uncentred second moments, on the side of the mean.
    values, vectors = np.linalg.eigh(pairs.T @ pairs / len(pairs))
    first = vectors[:, -1] * np.sign(vectors[:, -1] @ mean)
    pca = extract_directions(qwen3, "pca", uneven, [layer]).at_layer[layer]
    np.testing.assert_allclose(pca.vector.numpy(), first, atol=2e-5)
    assert pca.raw_norm == pytest.approx(np.sqrt(values[-1]), rel=1e-4)
    # It is neither CAA nor what is left once the mean is taken away.
    centred = np.linalg.eigh(np.cov(pairs.T))[1][:, -1]
    assert abs(first @ centred) < 0.99
    assert first @ mean / np.linalg.norm(mean) < 0.9999


def test_pca_points_where_the_mean_difference_does() -> None:
    """Whatever the sign that the decomposition happens to give."""
    generator = torch.Generator().manual_seed(0)
    for _ in range(20):
        differences = torch.randn(6, 8, generator=generator, dtype=torch.float64)
        assert float(differences.mean(0) @ _component(differences)) > 0


def test_caa_is_dim_where_every_prompt_has_a_partner(qwen3: ChatModel) -> None:
    prompts = load_extraction_set("extract-dim-5")
    dim, caa, pca = (
        extract_directions(qwen3, name, prompts, [4]).at_layer[4] for name in ("dim", "caa", "pca")
    )
    assert float(dim.vector @ caa.vector) == pytest.approx(1, abs=1e-6)
    assert 0 < float(dim.vector @ pca.vector) < 1 - 1e-4


def test_caa_and_pca_steer_a_lab_model(tmp_path: Path) -> None:
    settings = make_settings(
        ["lab:qwen-7b"], methods="caa,pca", layers="0.6", strengths="0.5", max_prompts=10
    )
    found = run_sweep(settings, tmp_path / "run", device="cpu").results
    assert [result.method for result in found] == ["caa", "pca"]
    for result in found:
        assert result.best.rates.coherent_refusal_rate >= 0.5
        controls = result.controls
        for control in (controls.unsteered, controls.random_direction):
            assert control is not None
            assert control.rates.coherent_refusal_rate == 0


def test_a_file_and_a_line_in_the_registry_are_all_that_a_new_method_takes(
    here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What CONTRIBUTING says, done: plan, estimate, sweep and messages know it."""
    (here / "new_method.py").write_text(METHOD.replace('"mine"', '"new"'))
    monkeypatch.syspath_prepend(here)
    monkeypatch.setitem(METHODS._places, "new", "new_method:Mine")
    data = yaml.safe_load(yaml.safe_dump(PLAN).replace("mine.py:Mine", "new"))
    (here / "plan.yaml").write_text(yaml.safe_dump(data))
    exit_code, said = steersweep("plan", "plan.yaml", "--json")
    assert exit_code == 0, said
    settings = make_settings(
        ["lab:qwen-3b"],
        methods="dim,new",
        layers="0.5",
        strengths="0.3",
        max_prompts=2,
        max_new_tokens=4,
    )
    job = make_job(settings, settings.models[0], "cpu", "2026-11-25")
    # Unsteered, two methods, random: a method without a choice of its own has no further row.
    assert len(job.conditions) == 4
    found = run_sweep(settings, here / "run", device="cpu").results
    assert [result.method for result in found] == ["dim", "new"]
    with pytest.raises(InputError, match=r"choose from dim, .*, new, or name your own"):
        METHODS.get("newer")


# -- a user's own ----------------------------------------------------------------------------------


def test_the_example_of_the_docs_works_as_it_stands(here: Path) -> None:
    page = (ROOT / "docs/methods.md").read_text()
    (code,) = re.findall(r"```python\n(.*?)```", page, flags=re.S)
    assert len(code.splitlines()) <= 30
    name = code.split(":")[0].strip('"')
    (here / name).write_text(code)
    (commands,) = re.findall(r"## Your own method.*?```sh\n(.*?)```", page, flags=re.S)
    small = {
        "sweep": ["--max-prompts=2", "--max-new-tokens=4", "--layers=0.5", "--out=run", "--quiet"],
        "extract": [],
    }
    for line in commands.splitlines():
        words = line.split()[1:]
        exit_code, said = steersweep(*words, *small[words[0]])
        assert exit_code == 0, said
    assert (here / "median.safetensors").is_file()
    assert "median" in {r["method"] for r in results_of(here / "run")}


def results_of(folder: Path) -> list[dict[str, Any]]:
    (file,) = (folder / "results").glob("*.json")
    found: list[dict[str, Any]] = json.loads(file.read_text())
    return found if isinstance(found, list) else found["results"]


def sweep_own(place: str, out: str = "run") -> list[Result]:
    settings = make_settings(
        ["lab:qwen-3b"],
        methods=place,
        layers="0.5",
        strengths="0.3",
        max_prompts=2,
        max_new_tokens=4,
    )
    return run_sweep(settings, Path(out), device="cpu").results


def test_a_package_in_the_current_folder_or_a_file_elsewhere(here: Path) -> None:
    (here / "my_package").mkdir()
    (here / "my_package/__init__.py").write_text("")
    (here / "my_package/found.py").write_text(METHOD)
    (here / "my_package/mine.py").write_text("from .found import Mine")
    by_module = METHODS.named(["my_package.mine:Mine"])
    (here / "else where").mkdir()
    (here / "else where/my method.py").write_text("from beside import Mine")
    (here / "else where/beside.py").write_text(METHOD.replace('"mine"', '"mine-too"'))
    by_file = METHODS.named(["else where/my method.py:Mine", "dim"])
    assert (by_module, by_file) == (("mine",), ("mine-too", "dim"))


def test_an_edited_method_uses_no_earlier_result(here: Path) -> None:
    helper = here / "helper.py"
    helper.write_text(METHOD)
    (here / "own.py").write_text("from helper import Mine")
    before = find_own("method", "own.py:Mine").code
    helper.write_text(METHOD.replace(".median(0).values", ".mean(0)"))
    after = find_own("method", "own.py:Mine").code
    assert before != after  # what it imports from beside it counts too

    (here / "mine.py").write_text(METHOD)
    settings = make_settings(["lab:qwen-3b"], methods="mine.py:Mine", strengths="0.3", layers="0.5")
    job = make_job(settings, settings.models[0], "cpu", "2026-11-25")
    sweep_own("mine.py:Mine")
    (here / "mine.py").write_text(METHOD.replace(".median(0).values", ".mean(0)"))
    edited = make_settings(["lab:qwen-3b"], methods="mine.py:Mine", strengths="0.3", layers="0.5")
    other = make_job(edited, edited.models[0], "cpu", "2026-11-25")
    keys = [{c.key for c in j.conditions if c.label.own_method} for j in (job, other)]
    assert keys[0] & keys[1] == set()
    controls = [{c.key for c in j.conditions if c.is_control} for j in (job, other)]
    assert controls[0] == controls[1]
    with pytest.raises(InputError, match=r"holds another run .own_methods"):
        sweep_own("mine.py:Mine")
    # A job that was made before the edit runs no other code than it was made for.
    with pytest.raises(InputError, match="its code is not what this began with"):
        run_job(job, RunFolder(here / "other"))


def test_a_method_that_was_imported_is_not_run_in_two_versions(here: Path) -> None:
    (here / "helper.py").write_text("SIZE = 1")
    (here / "mine.py").write_text("import helper\n" + METHOD)
    METHODS.named(["mine.py:Mine"])
    (here / "helper.py").write_text("SIZE = 2")
    with pytest.raises(InputError, match=r"helper.py was changed after it was imported"):
        METHODS.named(["mine.py:Mine"])


@pytest.mark.parametrize(
    ("place", "code", "said"),
    [
        ("none.py:Mine", METHOD, "none.py: no such file"),
        ("mine.py:Yours", METHOD, "there is no Yours in it; it has Mine"),
        ("mine:Yours", METHOD, "there is no Yours in it; it has Mine"),
        ("nowhere.at_all:Mine", METHOD, "no module nowhere.at_all on Python's path"),
        ("mine.py", METHOD, "choose from dim"),
        ("mine.py:", METHOD, "give package.module:Class or FILE.py:Class"),
        ("folder/mine:Mine", METHOD, "give package.module:Class or FILE.py:Class"),
        ("mine.py:Mi ne", METHOD, "give package.module:Class or FILE.py:Class"),
        ("sys:Mine", METHOD, "sys is no Python file"),
        ("mine.py:Mine", "1 / 0", r"cannot be imported: ZeroDivisionError: .* \(mine.py, line 1\)"),
        ("mine:Mine", "\n1 / 0", r"cannot be imported: ZeroDivisionError: .* \(mine.py, line 2\)"),
        ("mine.py:Mine", "import not_there", "No module named 'not_there'"),
        ("mine:Mine", "import not_there", "No module named 'not_there'"),
        ("mine.py:Mine", "def f(:\n  pass", "cannot be imported: SyntaxError: .*line 1"),
        ("mine.py:Mine", "raise SystemExit(0)", "cannot be imported: SystemExit"),
        (
            "mine.py:Mine",
            "class Mine:\n    def __init__(self, x): pass",
            r"Mine\(\) cannot be",
        ),
        ("mine.py:Mine", "Mine = 3", "its attribute name is missing; it must be a str"),
        ("mine.py:Mine", METHOD.replace('= "mine"', '= "a@b"'), "a method's name has letters"),
        ("mine.py:Mine", METHOD.replace('= "mine"', '= "../x"'), "a method's name has letters"),
        ("mine.py:Mine", METHOD.replace('= "mine"', '= "auto"'), "has a meaning of its own"),
        ("mine.py:Mine", METHOD.replace('= "mine"', '= "random"'), "has a meaning of its own"),
        ("mine.py:Mine", METHOD.replace('= "mine"', '= "Dim"'), "comes with steersweep"),
        ("mine.py:Mine", METHOD.replace('= "mine"', "= None"), "name is None; it must be a str"),
        ("mine.py:Mine", METHOD.replace("= False", '= "no"'), "must be a bool"),
        ("mine.py:Mine", METHOD.replace("= False", "= False; stages = 3"), "must be a tuple of"),
        ("mine.py:Mine", METHOD.replace("layers, given)", "layers)"), "it must have find"),
        ("mine.py:Mine", METHOD.replace("def find", "def search"), "it must have find"),
        ("mine.py:Mine", METHOD.replace("extract-dim-5", "sets"), "prompt set sets: not one of"),
    ],
)
def test_what_is_no_method_is_said_in_a_line(here: Path, place: str, code: str, said: str) -> None:
    (here / "mine.py").write_text(code)
    with pytest.raises(InputError) as raised:
        make_settings(["lab:qwen-3b"], methods=place, strengths="0.3")
    (line,) = str(raised.value).splitlines()
    assert re.search(said, line), line


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ("return None", "find must give a Found, not NoneType"),
        ("return [1, 2][7]", r"find failed: IndexError: .*mine.py, line \d+"),
        ("return found_along(vectors[1:], states, chat, prompts, layers, method='mine')", "shape"),
        ("return found_along(vectors * 0, states, chat, prompts, layers, method='mine')", "no dir"),
        ("return found_along(vectors / 0, states, chat, prompts, layers, method='mine')", "NaN or"),
        (
            "return found_along(vectors, states, chat, prompts, [], method='mine')",
            "no direction",
        ),
        ("return found_along(vectors, states, chat, prompts, [2, 4], method='mine')", "not asked"),
        ("return found_along(vectors, states, chat, prompts, layers, method='dim')", "its method"),
        ("return changed(found, layer=3)", "its layer is 3; it must be 4"),
        ("return changed(found, vector=torch.ones(3))", r"its vector has shape \[3\]"),
        ("return changed(found, vector=torch.zeros(chat.d_model))", "its vector has length 0"),
        ("return changed(found, vector=found.at_layer[4].vector * 2)", "its vector has length 2"),
        ("return changed(found, vector=found.at_layer[4].vector.double())", "must be float32"),
        ("return changed(found, residual_norm=0.0)", "its residual_norm is 0.0"),
        ("return changed(found, position=0)", "its position is 0"),
        ("return changed(found, site='mlp')", "its site is 'mlp'"),
        ("return Found(vectors)", "at_layer of what it found is a Tensor"),
        ("return Found({4: vectors[4]})", "layer 4: must be a Direction, not Tensor"),
        ("return dataclasses.replace(found, notes='abc')", "notes of what it found is a str"),
        ("return dataclasses.replace(found, state={'a': vectors})", "its state is no plain JSON"),
        ("return dataclasses.replace(found, missing={99: 'why'})", "missing must give a reason"),
        ("return dataclasses.replace(found, chosen=found.at_layer[4])", "and chose one"),
    ],
)
def test_what_is_no_direction_is_said_in_a_line(here: Path, change: str, said: str) -> None:
    helper = (
        "\ndef changed(found, **facts):\n"
        "    one = dataclasses.replace(found.at_layer[4], **facts)\n"
        "    return dataclasses.replace(found, at_layer={4: one})\n"
    )
    (here / "mine.py").write_text(METHOD.replace("return found\n", f"{change}\n") + helper)
    prompts = load_extraction_set("extract-dim-5")
    with pytest.raises(InputError) as raised:
        extract_directions(lab("qwen-3b"), "mine.py:Mine", prompts, [4])
    (line,) = str(raised.value).splitlines()
    assert f"method {here / 'mine.py'}:Mine: " in line
    assert re.search(said, line), line


def test_too_little_memory_in_a_method_of_ones_own_stays_what_it_is(here: Path) -> None:
    code = METHOD.replace("return found\n", 'raise RuntimeError("CUDA out of memory")\n')
    (here / "mine.py").write_text(code)
    prompts = load_extraction_set("extract-dim-5")
    with pytest.raises(RuntimeError, match="out of memory"):
        extract_directions(lab("qwen-3b"), "mine.py:Mine", prompts, [4])


def test_two_of_ones_own_need_two_names(here: Path) -> None:
    for name in ("a.py", "b.py"):
        (here / name).write_text(METHOD + f"# {name}")
    with pytest.raises(InputError, match=r"b.py:Mine: its name, mine, is that of .*a.py:Mine too"):
        METHODS.named(["a.py:Mine", "b.py:Mine"])
    assert METHODS.named(["a.py:Mine", "./a.py:Mine"]) == ("mine",)


def test_what_a_method_prints_does_not_stand_in_json(here: Path) -> None:
    code = "print('importing')\n" + METHOD.replace("return found\n", "print('x'); return found\n")
    (here / "mine.py").write_text(code)
    words = ("--layer=0.5", "-o", "d.safetensors", "--json")
    done = CliRunner().invoke(app, ["extract", "lab:qwen-3b", "--method=mine.py:Mine", *words])
    assert json.loads(done.stdout)["method"] == "mine"


def test_a_choice_of_its_own_is_swept_with_a_control(here: Path) -> None:
    code = METHOD.replace("= False", "= True").replace(
        "return found\n",
        "return dataclasses.replace(found, chosen=found_along("
        "vectors, states, chat, prompts, [6], method=self.name).at_layer[6])\n",
    )
    (here / "mine.py").write_text(code)
    found = sweep_own("mine.py:Mine")
    assert [result.method for result in found] == ["mine", "mine@auto"]
    assert found[1].conditions[0].layer == 6
    control = found[1].controls.random_direction
    assert control is not None
    assert control.layer == 6


PLAN: dict[str, Any] = {
    "name": "mine",
    "prompts": {
        "test": "benign-120",
        "max": 2,
        "extraction": {"dim": "extract-dim-5", "mine.py:Mine": "extract-dim-5"},
    },
    "decoding": {"max_new_tokens": 4},
    "precision": "fp32",
    "strength": {"relative": 0.3},
    "thresholds": {"works": 0.7, "partial": 0.3},
    "families": {
        "qwen": [
            {"name": "q3", "model": "lab:qwen-3b", "n_layers": 9, "billions": 0.1, "gpu": "local"}
        ]
    },
    "family_sweep": {
        "methods": ["dim", "mine.py:Mine"],
        "models": [{"model": "q3", "layers": [0.5]}],
    },
}


def test_a_study_is_read_without_the_code(here: Path) -> None:
    (here / "mine.py").write_text(METHOD)
    (here / "plan.yaml").write_text(yaml.safe_dump(PLAN))
    options = StudyOptions(until="family_sweep")
    run_study(load_plan("plan.yaml"), here / "run", options, engine=LocalEngine("cpu"))
    # Readers run none of it, not even where it is there and would stop them.
    (here / "mine.py").write_text("raise SystemExit('was run')")
    assert (status(here / "run").done, status(here / "run").total) == (4, 4)
    assert frozen_plan(RunFolder.existing(here / "run")).own_methods.keys() == {"mine"}
    with pytest.raises(InputError, match="was run"):
        load_plan("plan.yaml")
    (here / "mine.py").write_text(METHOD.replace(".median(0).values", ".mean(0)"))
    with pytest.raises(InputError, match=r"own_methods.*accept FIELD"):
        run_study(load_plan("plan.yaml"), here / "run", options, engine=LocalEngine("cpu"))
    accept = StudyOptions(until="family_sweep", accept=("own_methods",))
    run_study(load_plan("plan.yaml"), here / "run", accept, engine=LocalEngine("cpu"))
    assert len([*(here / "run/conditions").glob("*.json")]) == 5  # one new, one left over


def test_a_plan_names_the_place_of_what_is_no_method(here: Path) -> None:
    text = yaml.safe_dump(PLAN, sort_keys=False)
    with pytest.raises(InputError, match=r"p.yaml: line 7: prompts.extraction.*no such file|line"):
        parse_plan(text, "p.yaml")
    (here / "mine.py").write_text("1 / 0")
    with pytest.raises(InputError, match=r"line \d+: family_sweep.methods.1: method .*Zero"):
        parse_plan(text, "p.yaml")
    twice = {**PLAN, "family_sweep": {**PLAN["family_sweep"]}}
    twice["family_sweep"]["methods"] = ["mine.py:Mine", "./mine.py:Mine"]
    (here / "mine.py").write_text(METHOD)
    with pytest.raises(InputError, match=r"family_sweep.methods.1: mine is given twice"):
        parse_plan(yaml.safe_dump(twice), "p.yaml")


def test_a_job_finds_the_code_from_anywhere_or_says_that_it_is_not_there(
    here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (here / "mine.py").write_text(METHOD)
    own = find_own("method", "mine.py:Mine")
    assert own == Own("method", str(here / "mine.py"), "Mine", str(here), own.code)
    monkeypatch.chdir("/")
    assert METHODS.add(own) == "mine"
    (here / "mine.py").unlink()
    with pytest.raises(InputError, match="No such file or directory on the machine"):
        METHODS.add(own)
