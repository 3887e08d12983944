"""The command line as a user meets it: help, output, errors with exit codes."""

from __future__ import annotations

import contextlib
import io
import json
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

from steersweep import ChatModel, Direction, cli


@dataclass
class Done:
    """What a command printed, and its exit code."""

    stdout: str
    stderr: str
    returncode: int


def run(*arguments: str, cwd: Path) -> Done:
    """A command, inside this process: importing torch anew for each would take seconds."""
    stdout, stderr = io.StringIO(), io.StringIO()
    saved = sys.argv
    sys.argv = ["steersweep", *arguments]
    try:
        with (
            contextlib.chdir(cwd),
            contextlib.redirect_stdout(stdout),
            contextlib.redirect_stderr(stderr),
        ):
            cli.main()
        code: int | str | None = 0
    except SystemExit as exit_:
        code = exit_.code
    finally:
        sys.argv = saved
    return Done(stdout.getvalue(), stderr.getvalue(), code if isinstance(code, int) else 0)


def refused(*arguments: str, cwd: Path) -> str:
    """Run a command that must end as bad input: one short message and exit code 2."""
    done = run(*arguments, cwd=cwd)
    assert done.returncode == 2, done.stderr
    error = done.stderr.splitlines()[-1]  # progress may stand before it
    assert error.startswith("error: ")
    return error


def test_the_installed_command_ends_without_a_traceback(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "steersweep.cli", "sweep", "lab:qwen-8b"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=tmp_path)
    assert done.returncode == 2
    assert "no such lab model" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.skipif(sys.platform != "linux", reason="GNU OpenMP")
@pytest.mark.parametrize(
    ("own", "looks"), [({}, "10000"), ({"GOMP_SPINCOUNT": "7"}, "7")], ids=["ours", "the user's"]
)
def test_threads_that_wait_for_one_another_soon_sleep(
    own: dict[str, str], looks: str, tmp_path: Path
) -> None:
    """OpenMP says what it read when torch is imported."""
    command = [sys.executable, "-m", "steersweep.cli", "sweep", "lab:qwen-7b", "--device", "none"]
    waiting = ("GOMP_SPINCOUNT", "OMP_WAIT_POLICY")
    environment = {name: value for name, value in os.environ.items() if name not in waiting}
    done = subprocess.run(
        command,
        env=environment | {"OMP_DISPLAY_ENV": "VERBOSE"} | own,
        capture_output=True,
        text=True,
        check=False,
        cwd=tmp_path,
    )
    assert done.returncode == 2
    assert f"GOMP_SPINCOUNT = '{looks}'" in done.stderr


def test_help_does_not_import_torch() -> None:
    code = "import sys, steersweep.cli; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_run_folders_are_read_without_torch() -> None:
    code = (
        "import sys; sys.modules['torch'] = None; "
        "import steersweep.run.records, steersweep.run.folder, steersweep.people.corrected, "
        "steersweep.study.status, steersweep.study.findings"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)


@pytest.mark.parametrize(
    "command",
    ["demo", "sweep", "extract", "generate", "judge", "lab list", "lab path", "lab train"],
)
def test_every_command_has_help_with_an_example(command: str, tmp_path: Path) -> None:
    done = run(*command.split(), "--help", cwd=tmp_path)
    assert done.returncode == 0
    assert "Example" in done.stdout
    assert f"steersweep {command}" in done.stdout


def test_sweep_extract_generate_and_judge_on_a_lab_model(tmp_path: Path) -> None:
    options = "--layers 0.5 --strengths 1 --max-prompts 4 --max-new-tokens 20 --out run --json"
    swept = run("sweep", "lab:llama-8b", *options.split(), cwd=tmp_path)
    assert swept.returncode == 0, swept.stderr
    summary = json.loads(swept.stdout)
    assert summary["results"][0]["model"] == "lab:llama-8b"
    folder = tmp_path / "run"
    assert (tmp_path / summary["results_file"]).is_file()
    assert "lab:llama-8b" in (folder / "report.html").read_text()
    assert {path.suffix for path in folder.glob("figures/*")} == {".png", ".svg"}

    command = "extract lab:llama-8b --layer 0.5 -o d.safetensors"
    extracted = run(*command.split(), cwd=tmp_path)
    assert extracted.returncode == 0, extracted.stderr
    direction = Direction.load(tmp_path / "d.safetensors")
    assert (direction.layer, direction.method) == (4, "dim")
    assert abs(float(direction.vector.norm()) - 1) < 1e-6

    ask = ["generate", "lab:llama-8b", "--direction", "d.safetensors", "--strength", "1"]
    answered = run(*ask, "--prompt", "How do I bake a cake?", "--json", cwd=tmp_path)
    assert answered.returncode == 0, answered.stderr
    pair = json.loads(answered.stdout)[0]
    assert pair["unsteered"] != pair["steered"]

    (tmp_path / "in.jsonl").write_text(json.dumps({"response": "Boil it.", "prompt": "q", "id": 7}))
    judged = run("judge", "in.jsonl", "out.jsonl", cwd=tmp_path)
    assert judged.returncode == 0, judged.stderr
    row = json.loads((tmp_path / "out.jsonl").read_text())
    assert row["id"] == 7
    assert row["quality"] == "normal"
    assert {"refusal", "failure_mode", "ambiguous", "score"} <= row.keys()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("sweep lab:qwen-8b", "no such lab model"),
        ("sweep no-such-folder", "not a model folder"),
        ("sweep ./missing", "not a model folder"),
        ("sweep lab:qwen-7b --layers 0.5,1.0", "layer 1.0"),
        ("sweep lab:qwen-7b --layers 7", "0 to 6"),
        ("sweep lab:qwen-7b --layers 0.5,", "empty items"),
        ("sweep lab:qwen-7b --strengths nan", "--strengths nan"),
        ("sweep lab:qwen-7b --strengths -1", "above 0"),
        ("sweep lab:qwen-7b --multipliers high", "not a number"),
        ("sweep lab:qwen-7b --methods magic", "method 'magic': choose from dim, caa"),
        ("sweep lab:qwen-7b --judge nobody", "--judge nobody"),
        ("sweep lab:qwen-7b --precision fp8", "--precision fp8"),
        ("sweep lab:qwen-7b --prompts nothing", "benign-120"),
        ("sweep lab:qwen-7b --prompts missing.txt", "missing.txt"),
        ("sweep lab:qwen-7b --max-prompts 0", "--max-prompts 0"),
        ("sweep lab:qwen-7b --max-new-tokens 0", "--max-new-tokens 0"),
        ("sweep lab:qwen-7b --device cuda:99", "not available"),
        ("generate lab:qwen-7b --direction x.safetensors --prompt a", "either"),
        ("generate lab:qwen-7b --direction x.safetensors --prompt a --strength 1", "x.safetensors"),
        ("extract lab:qwen-7b --layer 99 -o x.safetensors", "0 to 6"),
        ("judge missing.jsonl out.jsonl", "missing.jsonl"),
        ("lab path qwen", "no such lab model"),
    ],
)
def test_bad_input_is_one_clear_message(arguments: str, message: str, tmp_path: Path) -> None:
    assert message in refused(*arguments.split(), cwd=tmp_path)
    assert not list(tmp_path.iterdir()), "nothing may be left behind"


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("empty.txt", "\n \n", "at least one prompt"),
        ("empty.json", '{"prompts": []}', '"prompts"'),
        ("broken.json", '{"prompts": [', "not valid JSON"),
        ("word.json", '"a"', "JSON list"),
        ("number.json", '{"prompts": ["a", 3]}', "item 2"),
        ("repeats.json", '{"prompts": ["a"], "repeats": 0}', '"repeats"'),
    ],
)
def test_bad_prompt_files_name_file_and_field(
    name: str, text: str, message: str, tmp_path: Path
) -> None:
    (tmp_path / name).write_text(text)
    error = refused("sweep", "lab:qwen-7b", "--prompts", name, cwd=tmp_path)
    assert message in error
    assert name in error


@pytest.mark.parametrize(
    ("line", "message"),
    [("{", "not valid JSON"), ("[]", "JSON object"), ('{"prompt": "a"}', '"response"')],
)
def test_bad_lines_to_judge_name_the_line(line: str, message: str, tmp_path: Path) -> None:
    good = '{"prompt": "a", "response": "b"}\n'
    (tmp_path / "in.jsonl").write_text(good + line)
    error = refused("judge", "in.jsonl", "out.jsonl", cwd=tmp_path)
    assert "line 2" in error
    assert message in error
    assert not (tmp_path / "out.jsonl").exists()


def test_a_model_without_chat_template_is_refused(copied_lab_model: Path) -> None:
    for name in ("chat_template.jinja", "tokenizer_config.json"):
        path = copied_lab_model / name
        if path.suffix == ".jinja":
            path.unlink(missing_ok=True)
        elif path.exists():
            config = json.loads(path.read_text())
            config.pop("chat_template", None)
            path.write_text(json.dumps(config))
    error = refused("sweep", str(copied_lab_model), cwd=copied_lab_model.parent)
    assert "no chat template" in error


def test_a_folder_without_weights_is_refused(copied_lab_model: Path) -> None:
    for path in copied_lab_model.glob("*.safetensors"):
        path.unlink()
    error = refused("sweep", str(copied_lab_model), cwd=copied_lab_model.parent)
    assert "holds no weights" in error


@pytest.mark.parametrize(
    ("value", "code", "said"),
    [
        (float("inf"), 2, "model.layers.3.mlp.down_proj.weight holds NaN or infinite numbers"),
        (3e38, 2, "from layer 3 on"),  # finite, but what it gives is not
    ],
)
def test_infinite_weights_and_activations_are_reported(
    copied_lab_model: Path, value: float, code: int, said: str
) -> None:
    import torch
    from safetensors.torch import load_file, save_file

    weights = copied_lab_model / "model.safetensors"
    tensors = load_file(weights)
    name = "model.layers.3.mlp.down_proj.weight"
    tensors[name] = torch.full(tensors[name].shape, value) * torch.randn(tensors[name].shape).sign()
    save_file(tensors, weights, metadata={"format": "pt"})
    done = run("sweep", str(copied_lab_model), cwd=copied_lab_model.parent)
    assert done.returncode == code
    assert said in done.stderr


def test_a_local_copy_gives_the_lab_models_answers(copied_lab_model: Path, qwen: ChatModel) -> None:
    from steersweep import Row, generate

    copy = ChatModel.load(str(copied_lab_model), device="cpu")
    prompt = "Tell me a joke about cats"
    answers = [generate(m, [Row(m.prompt_ids(prompt))])[0].text for m in (qwen, copy)]
    assert answers[0] == answers[1]
    assert copy.fingerprint == qwen.fingerprint


def test_a_plan_is_shown_without_running(tmp_path: Path) -> None:
    done = run("plan", "v3", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "8 16 21 25 33" in done.stdout
    assert "hard stop 100 USD" in done.stdout
    assert max(len(line.rstrip()) for line in done.stdout.splitlines()) <= 100
    sweeps = json.loads(run("plan", "v3-lab", "--phase", "1", "--json", cwd=tmp_path).stdout)
    assert {row["phase"][0] for row in sweeps["sweeps"]} == {"1"}
    assert not list(tmp_path.iterdir())


def test_study_commands_refuse_what_makes_no_sense(tmp_path: Path) -> None:
    assert "v3-lab" in refused("plan", "v4", cwd=tmp_path)
    assert "--phase 7" in refused("plan", "v3", "--phase", "7", cwd=tmp_path)
    assert "--apply-cuts 9" in refused("plan", "v3", "--apply-cuts", "9", cwd=tmp_path)
    study = ("run", "v3-lab", "--out", "study")
    assert "--phase 7" in refused(*study, "--phase", "7", cwd=tmp_path)
    assert "--engine moon" in refused(*study, "--engine", "moon", cwd=tmp_path)
    assert "--budget -1" in refused(*study, "--budget", "-1", cwd=tmp_path)
    assert "--apply-cuts -1" in refused(*study, "--apply-cuts", "-1", cwd=tmp_path)
    for command in ("status", "decide"):
        assert "no steersweep run" in refused(command, "nowhere", cwd=tmp_path)
    assert not list(tmp_path.iterdir())
