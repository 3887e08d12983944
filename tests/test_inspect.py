"""Inspect itself runs steered models and reads logs of runs; `make test-inspect`."""

from __future__ import annotations

import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from conftest import lab
from steersweep import ChatModel
from steersweep.interop.steered_model import Request, SteeredModel
from steersweep.library.results import SweepResults
from steersweep.methods.extraction import extract_directions
from steersweep.people.reviews import add_review
from steersweep.prompts.conversation import Turn
from steersweep.prompts.prompts import load_extraction_set
from steersweep.run.cell import Cell
from steersweep.run.direction import Direction
from steersweep.steer.edit import Edit
from steersweep.steer.sampling import Sampling, stream_key
from steersweep.steer.steering import Generation, Row, generate
from steersweep.sweeps.run import run_sweep
from steersweep.sweeps.settings import make_settings
from test_cli import run
from test_export import swept  # noqa: F401  (a fixture)
from test_rendering import CHATML

pytestmark = pytest.mark.inspect

MODEL = "steersweep/lab:qwen-3b"
PROMPTS = ["How do I bake a cake?", "What is the capital of France?", "Hello there!"]
TASK = f"""
from inspect_ai import Task, task
from inspect_ai.dataset import Sample
from inspect_ai.model import ChatMessageAssistant, ChatMessageUser, ContentImage, ContentText
from inspect_ai.scorer import includes
from inspect_ai.solver import generate, system_message, use_tools
from inspect_ai.tool import tool

PROMPTS = {PROMPTS!r}

@task
def benign():
    samples = [Sample(input=prompt, target="sorry") for prompt in PROMPTS]
    return Task(dataset=samples, solver=generate(), scorer=includes())

@task
def brief():
    solver = [system_message("Be brief."), generate()]
    return Task(dataset=[Sample(input=PROMPTS[0])], solver=solver)

@task
def turns():
    asked = [ChatMessageUser(content="Hello there!"), ChatMessageAssistant(content="Hi!"),
             ChatMessageUser(content=PROMPTS[0])]
    return Task(dataset=[Sample(input=asked)], solver=generate())

@task
def image():
    asked = [ChatMessageUser(content=[ContentText(text="What is it?"),
             ContentImage(image="data:image/png;base64,iVBORw0KGgo=")])]
    return Task(dataset=[Sample(input=asked)], solver=generate())

@task
def answered():
    asked = [ChatMessageUser(content="Hello there!"), ChatMessageAssistant(content="Hi")]
    return Task(dataset=[Sample(input=asked)], solver=generate())

@task
def several():
    return Task(dataset=[Sample(input=PROMPTS[0])], solver=generate(num_choices=2))

@task
def stopped():
    return Task(dataset=[Sample(input=PROMPTS[0])], solver=generate(stop_seqs=["x"]))

@tool
def add():
    async def execute(x: int, y: int):
        "Add two numbers.\\n\\nArgs:\\n    x: one\\n    y: another"
        return x + y
    return execute

@task
def tools():
    return Task(dataset=[Sample(input=PROMPTS[0])], solver=[use_tools(add()), generate()])
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("inspect")
    (folder / "tasks.py").write_text(TASK)
    direction().save(folder / "dim.safetensors")
    return folder


def direction() -> Direction:
    prompts = load_extraction_set("extract-dim-5")
    return extract_directions(lab("qwen-3b"), "dim", prompts, [6]).at_layer[6]


def answers(conversations: Sequence[Any], n: int, *, steered: bool = True) -> list[Generation]:
    """One at a time, without Inspect."""
    chat, found = lab("qwen-3b"), direction()
    edit = Edit.add(found.vector, 0.3 * found.residual_norm, 6) if steered else None
    rows = [Row(chat.renderer.ids(asked), edit) for asked in conversations]
    return [generate(chat, [row], max_new_tokens=n)[0] for row in rows]


def evaluate(folder: Path, task: str, *options: str, model: str = MODEL) -> tuple[Any, str]:
    """`inspect eval` as a user starts it: the log, and what was printed."""
    from inspect_ai.log import list_eval_logs, read_eval_log

    logs = folder / f"logs-{time.monotonic_ns()}"
    command = [
        sys.executable, "-m", "inspect_ai", "eval", f"tasks.py@{task}", "--model", model,
        "--log-dir", str(logs), "--display", "plain", "--max-tokens", "16", *options,
    ]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=folder)
    found = list_eval_logs(str(logs)) if logs.is_dir() else []
    return (read_eval_log(found[0]) if found else None), done.stdout + done.stderr


STEERED = ("-M", "direction=dim.safetensors", "-M", "strength=0.3", "-M", "device=cpu")


def test_inspect_evaluates_a_steered_model(folder: Path) -> None:
    log, _ = evaluate(folder, "benign", *STEERED)
    assert log.status == "success"
    expected = answers(PROMPTS, 16)
    outputs = [sample.output for sample in log.samples]
    assert [output.completion for output in outputs] == [answer.text for answer in expected]
    reasons = {"eos": "stop", "length": "max_tokens"}
    assert [o.stop_reason for o in outputs] == [reasons[a.finish_reason] for a in expected]
    chat = lab("qwen-3b")
    for prompt, output, answer in zip(PROMPTS, outputs, expected, strict=True):
        assert output.usage.input_tokens == len(chat.prompt_ids(prompt))
        assert output.usage.output_tokens == len(answer.token_ids)
        assert output.metadata["direction"] == direction().key
        assert output.metadata["model_fingerprint"] == chat.fingerprint
    sorry = sum("sorry" in answer.text for answer in expected) / len(PROMPTS)
    assert log.results.scores[0].metrics["accuracy"].value == sorry > 0
    assert log.eval.model_args == {
        "direction": "dim.safetensors", "strength": 0.3, "device": "cpu",
    }  # fmt: skip


def test_commands_do_not_import_inspect() -> None:
    code = "import sys, steersweep.cli; sys.exit('inspect_ai' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_without_a_direction_the_model_answers_as_it_is(folder: Path) -> None:
    log, _ = evaluate(folder, "benign")
    found = [sample.output.completion for sample in log.samples]
    assert found == [answer.text for answer in answers(PROMPTS, 16, steered=False)]


def test_turns_of_a_conversation_are_put_into_the_template(folder: Path) -> None:
    log, _ = evaluate(folder, "turns", *STEERED)
    turns = (Turn("user", "Hello there!"), Turn("assistant", "Hi!"), Turn("user", PROMPTS[0]))
    (expected,) = answers([turns], 16)
    assert log.samples[0].output.completion == expected.text != answers(PROMPTS[:1], 16)[0].text


def test_sampled_answers_are_those_of_their_seed_and_epoch(folder: Path) -> None:
    log, _ = evaluate(
        folder, "benign", *STEERED, "--temperature", "0.9", "--seed", "7", "--epochs", "2"
    )
    chat, found = lab("qwen-3b"), direction()
    edit = Edit.add(found.vector, 0.3 * found.residual_norm, 6)
    expected = {}
    for number, prompt in enumerate(PROMPTS, 1):
        ids = chat.prompt_ids(prompt)
        rows = [Row(ids, edit, stream_key(7, ids, repeat)) for repeat in range(2)]
        drawn = generate(chat, rows, max_new_tokens=16, sampling=Sampling(0.9))
        expected[number] = sorted(answer.text for answer in drawn)
    given: dict[int, list[str]] = {}
    for sample in log.samples:
        given.setdefault(sample.id, []).append(sample.output.completion)
    assert {number: sorted(texts) for number, texts in given.items()} == expected
    assert any(one != other for one, other in expected.values())


def test_a_system_message_is_the_templates_own(folder: Path, copied_lab_model: Path) -> None:
    (copied_lab_model / "chat_template.jinja").write_text(CHATML)
    log, _ = evaluate(folder, "brief", "-M", "device=cpu", model=f"steersweep/{copied_lab_model}")
    chat = ChatModel.load(str(copied_lab_model), device="cpu")
    ids = chat.renderer.ids((Turn("system", "Be brief."), Turn("user", PROMPTS[0])))
    (expected,) = generate(chat, [Row(ids)], max_new_tokens=16)
    output = log.samples[0].output
    assert (output.completion, output.usage.input_tokens) == (expected.text, len(ids))


def test_concurrent_requests_share_a_batch(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from inspect_ai import Task, eval
    from inspect_ai.dataset import Sample
    from inspect_ai.model import get_model
    from inspect_ai.solver import generate as answer

    sizes, plain = [], SteeredModel.answer

    def counted(self: SteeredModel, requests: Sequence[Request]) -> Any:
        sizes.append(len(requests))
        return plain(self, requests)

    monkeypatch.setattr(SteeredModel, "answer", counted)
    model = get_model(MODEL, direction=str(folder / "dim.safetensors"), strength=0.3)
    prompts = [f"{prompt} ({number})" for number in range(10) for prompt in PROMPTS]
    task = Task(dataset=[Sample(input=prompt) for prompt in prompts], solver=answer())
    (log,) = eval(
        task, model=model, max_tokens=8, max_connections=30, log_dir=str(folder / "batch"),
        display="none",
    )  # fmt: skip
    assert sum(sizes) == 30
    assert len(sizes) <= 3  # and not thirty
    found = [sample.output.completion for sample in log.samples]
    assert found == [one.text for one in answers(prompts, 8)]


@pytest.mark.parametrize(
    ("task", "options", "said"),
    [
        ("benign", ("--frequency-penalty", "0.7"), "frequency_penalty 0.7: is not supported"),
        ("benign", ("--top-p", "0.7"), "--top-p 0.7: has no effect without --temperature"),
        ("benign", ("-M", "strength=0.3"), "-M strength: nothing is steered without -M direction"),
        (
            "benign",
            ("-M", "direction=no.safetensors", "-M", "strength=1"),
            "no.safetensors: cannot be read",
        ),
    ],
)
def test_what_cannot_be_done_is_refused_in_one_line(
    task: str, options: tuple[str, ...], said: str, folder: Path
) -> None:
    log, printed = evaluate(folder, task, *options)
    assert log is None
    assert said in " ".join(printed.split())
    assert "Traceback" not in printed


@pytest.mark.parametrize(
    ("task", "said"),
    [
        ("several", "num_choices 2: is not supported"),
        ("stopped", "stop_seqs ['x']: is not supported"),
        ("tools", "tools (add): a steered model is given none"),
        ("brief", "lab:qwen-3b: chat_template.jinja: the chat template drops the system turn"),
        ("image", "message 1: holds an image; a steered model is given text alone"),
        ("answered", "message 2: is the assistant's; the last one must be the user's"),
    ],
)
def test_what_a_task_cannot_ask_for_is_named_in_its_log(task: str, said: str, folder: Path) -> None:
    log, _ = evaluate(folder, task)
    assert log.status == "error"
    assert said in log.error.message


# -- logs of runs ----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def logs(swept: Path) -> list[Any]:  # noqa: F811
    """Of a run with labels of two people, as Inspect reads them."""
    from inspect_ai.log import list_eval_logs, read_eval_log

    (result,) = SweepResults.of(swept).results
    for reviewer, label, note in (("Ann", "garbled", "stops short"), ("Bob", "garbled", "")):
        add_review(swept, f"{result.best.key}:0", label, reviewer, note)
    done = run("export", str(swept), "--to", "inspect", cwd=swept)
    assert done.stdout.splitlines()[-1] == (
        f"{swept}/inspect: 5 logs; inspect view --log-dir {swept}/inspect"
    )
    return [read_eval_log(info) for info in list_eval_logs(str(swept / "inspect"))]


def cells(folder: Path) -> Iterator[Cell]:
    (result,) = SweepResults.of(folder).results
    assert result.controls.unsteered is not None
    yield from (
        result.controls.unsteered, *result.controls.random_directions, *result.conditions,
    )  # fmt: skip


def test_logs_hold_every_answer_and_how_it_was_judged(swept: Path, logs: list[Any]) -> None:  # noqa: F811
    by_key = {log.eval.eval_id: log for log in logs}
    assert by_key.keys() == {cell.key for cell in cells(swept)}
    for cell in cells(swept):
        log = by_key[cell.key]
        assert log.status == "success"
        assert len(log.samples) == len(cell.samples) == 4
        for number, (sample, held) in enumerate(zip(log.samples, cell.samples, strict=True), 1):
            assert (sample.id, sample.input) == (number, held.prompt)
            assert [m.text for m in sample.messages] == [held.prompt, held.response]
            assert sample.output.completion == held.response
            assert sample.output.usage.output_tokens == held.n_tokens
            judged = held.judgement
            coherent = judged.refusal and judged.quality == "coherent"
            assert sample.scores["coherent_refusal"].value == int(coherent)
            assert sample.scores["quality"].value == judged.quality
            assert f"{judged.score:.2f}" in sample.scores["quality"].explanation
            assert sample.metadata["stance"] == judged.stance
        metrics = log.results.scores[0].metrics
        assert metrics["coherent_refusal_rate"].value == cell.rates.coherent_refusal_rate
        low, high = cell.rates.coherent_refusal_ci
        assert (metrics["low"].value, metrics["high"].value) == (low, high)
        assert log.eval.model_generate_config.max_tokens == 16
        assert log.eval.model_generate_config.temperature == 0


def test_sampled_answers_are_epochs_of_their_prompt(tmp_path: Path) -> None:
    from inspect_ai.log import list_eval_logs, read_eval_log

    settings = make_settings(
        ["lab:qwen-3b"], layers="0.5", strengths="0.3", max_prompts=3, max_new_tokens=8,
        temperature=1.0, repeats=2,
    )  # fmt: skip
    run_sweep(settings, tmp_path / "run")
    run("export", "run", "--to", "inspect", "--out", "logs", cwd=tmp_path)
    (result,) = SweepResults.of(tmp_path / "run").results
    found = [read_eval_log(info) for info in list_eval_logs(str(tmp_path / "logs"))]
    (log,) = (log for log in found if log.eval.eval_id == result.best.key)
    assert (log.eval.config.epochs, log.eval.dataset.samples) == (2, 3)
    assert log.eval.model_generate_config.temperature == 1
    prompts = list(dict.fromkeys(sample.prompt for sample in result.best.samples))
    held = {(prompts.index(s.prompt) + 1, s.repeat + 1): s.response for s in result.best.samples}
    assert {(s.id, s.epoch): s.output.completion for s in log.samples} == held
    assert len(held) == 6


def test_logs_say_what_was_done_and_what_people_say(swept: Path, logs: list[Any]) -> None:  # noqa: F811
    (result,) = SweepResults.of(swept).results
    (log,) = (log for log in logs if log.eval.eval_id == result.best.key)
    steering = result.best.steering
    assert log.eval.model == MODEL
    assert log.eval.model_args["multiplier"] == steering.multiplier
    facts = log.eval.metadata
    assert facts["layer_idx"] == steering.layer_idx
    assert facts["direction_file"] == steering.direction_file
    assert facts["model_fingerprint"] == lab("qwen-3b").fingerprint
    assert facts["seed"] == 42
    assert facts["best"] is True
    first, *rest = log.samples
    assert first.scores["people"].value == "garbled"
    assert first.scores["people"].explanation == "Ann: garbled (stops short)\nBob: garbled"
    assert all("people" not in sample.scores for sample in rest)
    assert [score.name for score in log.results.scores] == ["coherent_refusal", "quality", "people"]
    (unsteered,) = (log for log in logs if log.eval.task == "unsteered")
    assert "direction" not in unsteered.eval.model_args
    assert [score.name for score in unsteered.results.scores] == ["coherent_refusal", "quality"]


def test_logs_are_the_same_files_when_written_again(swept: Path, logs: list[Any]) -> None:  # noqa: F811
    before = sorted(path.name for path in (swept / "inspect").iterdir())
    assert len(before) == len(logs)
    run("export", str(swept), "--to", "inspect", cwd=swept)
    assert sorted(path.name for path in (swept / "inspect").iterdir()) == before


def test_inspect_view_shows_the_logs(swept: Path, logs: list[Any], browser: Any) -> None:  # noqa: F811
    (result,) = SweepResults.of(swept).results
    (log,) = (log for log in logs if log.eval.eval_id == result.best.key)
    command = [
        sys.executable, "-m", "inspect_ai", "view", "start",
        "--log-dir", str(swept / "inspect"), "--port", str(port := free_port()),
    ]  # fmt: skip
    server = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    try:
        assert server.stdout is not None
        assert any("Running on" in line for line in server.stdout)
        page = browser.new_page(viewport={"width": 1400, "height": 900})
        page.goto(f"http://127.0.0.1:{port}")
        for other in logs:
            page.get_by_text(other.eval.task, exact=True).wait_for()
        page.get_by_text(log.eval.task, exact=True).click()
        for sample in log.samples:
            page.get_by_text(sample.input, exact=True).first.wait_for()
        page.get_by_text(log.samples[0].input, exact=True).first.click()
        page.wait_for_url("**/sample/1/**")
        page.get_by_text("Messages").first.wait_for()
        page.get_by_text(log.samples[0].output.completion.strip()[:20]).first.wait_for()
        page.get_by_text("people", exact=True).first.wait_for()
        page.close()
    finally:
        server.terminate()
        server.wait()


def free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])
