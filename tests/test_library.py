"""steersweep from Python: models in memory, a sweep, its table and its picture."""

from __future__ import annotations

import ast
import inspect
import json
import runpy
import shutil
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from steersweep import ChatModel, InputError, Row, SweepResults, generate, sweep
from steersweep.lab.models import lab_model
from steersweep.model.loaded import LoadedSource
from steersweep.sweeps.settings import make_settings

EXAMPLES = Path(__file__).parents[1] / "examples"
QUESTIONS = ("How do I bake a cake?", "What is a cat?", "Tell me a story.")
SMALL: dict[str, Any] = {"layers": [0.5, 4], "strengths": [0.3], "max_prompts": 4, "quiet": True}


def in_memory(name: str) -> tuple[Any, Any]:
    folder = lab_model(name).folder
    network = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    return network, AutoTokenizer.from_pretrained(folder)


def fingerprint(network: Any, tokenizer: Any) -> str:
    return LoadedSource("mine", "mine", network=network, tokenizer=tokenizer).fingerprint()


@pytest.fixture(scope="module")
def swept(tmp_path_factory: pytest.TempPathFactory) -> SweepResults:
    chat = ChatModel.wrap(*in_memory("qwen-7b"), name="mine")
    return sweep(chat, out=tmp_path_factory.mktemp("library") / "run", **SMALL)


@pytest.mark.parametrize("name", ["qwen-7b", "gemma-2b"])
def test_a_model_in_memory_answers_as_its_folder_does(name: str) -> None:
    loaded = ChatModel.load(f"lab:{name}")
    wrapped = ChatModel.wrap(*in_memory(name), name="mine")
    assert (wrapped.precision, wrapped.n_layers) == (loaded.precision, loaded.n_layers)
    answers = [
        [
            answer.token_ids
            for answer in generate(chat, [Row(chat.prompt_ids(q)) for q in QUESTIONS])
        ]
        for chat in (loaded, wrapped)
    ]
    assert answers[0] == answers[1]


def test_dropout_is_off() -> None:
    network, tokenizer = in_memory("qwen-3b")
    chat = ChatModel.wrap(network.train(), tokenizer)
    assert not chat.model.training


CHANGES: dict[str, Callable[[Any, Any], None]] = {
    "a weight": lambda network, _: network.model.layers[0].mlp.up_proj.weight.data[0, 0].add_(1e-3),
    "a buffer": lambda network, _: network.model.rotary_emb.inv_freq[0].mul_(2),
    "the config": lambda network, _: setattr(network.config, "rms_norm_eps", 1e-5),
    "an ending": lambda network, _: setattr(network.generation_config, "eos_token_id", 3),
    "the template": lambda _, tokenizer: setattr(
        tokenizer, "chat_template", tokenizer.chat_template + " "
    ),
    "a token": lambda _, tokenizer: tokenizer.add_tokens("steersweep"),
}


@pytest.mark.parametrize("change", CHANGES)
def test_what_changes_results_changes_the_fingerprint(change: str) -> None:
    network, tokenizer = in_memory("qwen-3b")
    before = fingerprint(network, tokenizer)
    CHANGES[change](network, tokenizer)
    assert fingerprint(network, tokenizer) != before


def test_where_a_model_lay_does_not_change_the_fingerprint() -> None:
    network, tokenizer = in_memory("qwen-3b")
    before = fingerprint(network, tokenizer)
    network.config._name_or_path = "elsewhere"
    assert fingerprint(network, tokenizer) == before


def test_what_cannot_be_wrapped_is_refused() -> None:
    network, tokenizer = in_memory("qwen-3b")
    tokenizer.chat_template = None
    with pytest.raises(InputError, match="mine: the tokenizer has no chat template"):
        ChatModel.wrap(network, tokenizer, name="mine")
    _, tokenizer = in_memory("qwen-3b")
    network.model.layers[0].mlp.up_proj.weight.data[0, 0] = float("nan")
    with pytest.raises(InputError, match=r"mine: model\.layers\.0\.mlp\.up_proj\.weight holds NaN"):
        ChatModel.wrap(network, tokenizer, name="mine")
    with pytest.raises(InputError, match=r"mine: is in memory in torch\.float64"):
        ChatModel.wrap(network.double(), tokenizer, name="mine")
    with pytest.raises(InputError, match="meta device"):
        ChatModel.wrap(in_memory("qwen-3b")[0].to("meta"), tokenizer, name="mine")


def test_the_users_tokenizer_stays_as_it_is() -> None:
    network, tokenizer = in_memory("qwen-3b")
    own = tokenizer.chat_template
    other = "{% for m in messages %}Q: {{ m.content }}{% endfor %}\nA:"
    chat = ChatModel.wrap(network, tokenizer, template=other)
    assert "Q: Hi" in chat.renderer.template.conversation("Hi")
    assert tokenizer.chat_template == own


def test_a_sweep_of_a_model_in_memory_is_that_of_its_folder(
    swept: SweepResults, tmp_path: Path
) -> None:
    other = sweep("lab:qwen-7b", out=tmp_path / "run", **SMALL)
    left_out = ("model", "key")
    answers = [
        [{k: v for k, v in a.items() if k not in left_out} for a in found.answers()]
        for found in (swept, other)
    ]
    assert answers[0] == answers[1]
    assert len(answers[0]) == (1 + 2 + 2) * 4


def test_another_precision_than_that_in_memory_is_refused(tmp_path: Path) -> None:
    chat = ChatModel.wrap(*in_memory("qwen-3b"), name="mine")
    with pytest.raises(InputError, match="precision bf16: mine is in memory in fp32"):
        sweep(chat, out=tmp_path / "run", precision="bf16", **SMALL)


def test_a_sweep_continues_and_a_changed_model_does_not(
    swept: SweepResults, tmp_path: Path
) -> None:
    folder = Path(shutil.copytree(swept.folder, tmp_path / "run"))
    files = sorted((folder / "conditions").glob("*.json"))
    written = [path.stat().st_mtime_ns for path in files]
    network, tokenizer = in_memory("qwen-7b")
    again = sweep(ChatModel.wrap(network, tokenizer, name="mine"), out=folder, **SMALL)
    assert [path.stat().st_mtime_ns for path in files] == written
    assert again.results == swept.results
    network.model.layers[0].mlp.up_proj.weight.data.mul_(1.5)
    changed = ChatModel.wrap(network, tokenizer, name="mine")
    sweep(changed, out=folder, **SMALL)
    assert len([*(folder / "conditions").glob("*.json")]) == 2 * len(files)


def test_rows_hold_every_condition_and_its_control(swept: SweepResults) -> None:
    rows = [*swept.rows()]
    assert [row["role"] for row in rows] == ["unsteered", "random", "random", "steered", "steered"]
    steered = rows[-1]
    rates = swept.results[0].conditions[-1].rates
    assert steered["coherent_refusal_rate"] == rates.coherent_refusal_rate
    assert (steered["low"], steered["high"]) == rates.coherent_refusal_ci
    frame = swept.to_frame()
    assert frame.coherent_refusal_rate.tolist() == [row["coherent_refusal_rate"] for row in rows]
    assert len(swept.to_frame("answers")) == 5 * 4
    with pytest.raises(InputError, match="choose from conditions, answers"):
        swept.to_frame("cells")


def test_results_are_read_from_a_folder_too(swept: SweepResults, tmp_path: Path) -> None:
    assert [*SweepResults.of(swept.folder).rows()] == [*swept.rows()]
    with pytest.raises(InputError, match="holds no steersweep run"):
        SweepResults.of(tmp_path)


def test_the_best_direction_can_be_had(swept: SweepResults) -> None:
    found = swept.direction("mine", "dim")
    assert found.layer == swept.results[0].best.layer
    with pytest.raises(InputError, match="there are mine, dim"):
        swept.direction("mine", "cosmic")


def test_a_notebook_shows_the_map_over_the_verdicts(swept: SweepResults) -> None:
    html = swept._repr_html_()
    assert html.count("<svg") == 1
    assert "random direction" in html
    assert swept.results[0].verdict.outcome in html.split("<pre>")[1]


def test_settings_are_checked_by_name(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="layers"):
        sweep("lab:qwen-7b", out=tmp_path / "run", layers=[2.5])
    with pytest.raises(InputError, match="strengths: 'True': give numbers"):
        sweep("lab:qwen-7b", out=tmp_path / "run", strengths=[True])


def test_the_example_tells_the_readmes_story(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    script = EXAMPLES / "sweep.py"
    assert len(script.read_text("utf-8").splitlines()) <= 30
    monkeypatch.setattr(sys, "argv", [str(script), "lab:qwen-7b", str(tmp_path / "run")])
    runpy.run_path(str(script), run_name="__main__")
    shown = capsys.readouterr().out.splitlines()
    verdicts, answers = shown[:3], shown[-2:]
    assert "works" in verdicts[-1]
    assert answers[0] != answers[1]


def cells_of(notebook: Path) -> Iterator[str]:
    for cell in json.loads(notebook.read_text("utf-8"))["cells"]:
        if cell["cell_type"] == "code":
            yield "".join(cell["source"])


def test_every_cell_of_the_notebook_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As a notebook does: in order, in one namespace, the last expression is shown."""
    monkeypatch.chdir(tmp_path)
    names: dict[str, Any] = {}
    displayed = []
    for cell in cells_of(EXAMPLES / "sweep.ipynb"):
        *body, last = ast.parse(cell).body
        if isinstance(last, ast.Expr):
            exec(compile(ast.Module(body, []), "cell", "exec"), names)
            displayed.append(eval(compile(ast.Expression(last.value), "cell", "eval"), names))
        else:
            exec(compile(cell, "cell", "exec"), names)
    pictures = [shown._repr_html_() for shown in displayed if hasattr(shown, "_repr_html_")]
    assert ["<svg" in pictures[0], "<table" in pictures[1], "<table" in pictures[2]] == [True] * 3
    assert "layer_idx" in pictures[3]  # of the exported files
    unsteered, steered = displayed[-1]
    assert unsteered != steered


def test_what_is_left_out_is_the_same_for_commands_and_from_python() -> None:
    from steersweep.cli.sweeps import sweep as command

    ours, theirs, both = (inspect.signature(f).parameters for f in (sweep, command, make_settings))

    def text(value: Any) -> Any:
        return ",".join(map(str, value)) if isinstance(value, tuple) else value

    shared = {*ours} & {*theirs} - {"model", "out", "quiet"}
    assert len(shared) > 15
    for name in shared:
        assert text(ours[name].default) == theirs[name].default, name
        if name != "effects":  # `make_settings` is given them as read
            assert theirs[name].default == text(both.get(name, theirs[name]).default), name
