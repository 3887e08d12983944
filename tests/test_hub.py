"""Models of the hub, through the real client, from a small hub on this machine."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
import yaml
from safetensors.torch import load_file, save_file

from conftest import rest_slow
from helpers.studies import SMALL
from hub_server import COMMIT, Hub, serving
from steersweep.core.errors import SteersweepError
from steersweep.core.redaction import redact
from steersweep.lab.models import lab_model
from test_cli import Done

# No token of anybody's: made for this test, to be looked for everywhere.
TOKEN = "hf_" + "plantedByTheTests" * 2
OTHERS = {
    "WANDB_API_KEY": "0123456789abcdefplanted",
    "MODAL_TOKEN_SECRET": "as-planted0planted0planted0",
}
NAME = "maker/small-chat"


@pytest.fixture
def hub() -> Iterator[Hub]:
    with serving(Hub({NAME: lab_model("qwen-3b").folder}, gated={"maker/gated"})) as found:
        yield found


# Commands one after another in one process, which reads where the hub is when it begins.
RUNNER = """
import contextlib, io, json, sys
from steersweep import cli

for arguments in json.loads(sys.argv[1]):
    sys.argv = ["steersweep", *arguments]
    out, err, code = io.StringIO(), io.StringIO(), 0
    try:
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            cli.main()
    except SystemExit as ended:
        code = ended.code
    print(json.dumps([code or 0, out.getvalue(), err.getvalue()]))
"""


def steersweep(hub: Hub, home: Path, *commands: tuple[str, ...]) -> list[Done]:
    """What each command said."""
    environment = {
        **os.environ,
        **OTHERS,
        "HF_TOKEN": TOKEN,
        "HF_ENDPOINT": hub.url,
        "HF_HOME": str(home / "hub"),
        "HF_HUB_DISABLE_XET": "1",
        "RAY_USAGE_STATS_ENABLED": "0",
    }
    ended = subprocess.run(
        [sys.executable, "-c", RUNNER, json.dumps(commands)],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
        cwd=home,
    )
    assert ended.returncode == 0, ended.stderr
    return [
        Done(out, err + ended.stderr, code)
        for code, out, err in map(json.loads, ended.stdout.splitlines())
    ]


def heavy(folder: Path) -> Path:
    """A model with a spare tensor, so that half of its file is worth resuming."""
    shutil.copytree(lab_model("qwen-3b").folder, folder)
    weights = load_file(folder / "model.safetensors")
    padding = torch.zeros(8_000_000)
    save_file({**weights, "mtp.padding": padding}, folder / "model.safetensors", {"format": "pt"})
    return folder


SWEEP = (
    *("--layers", "0.5", "--strengths", "0.2", "--max-prompts", "2", "--max-new-tokens", "4"),
    *("--out", "run"),
)


def test_models_that_cannot_be_had_are_named_and_one_that_can_is_swept_at_one_commit(
    hub: Hub, tmp_path: Path
) -> None:
    """And a cut download goes on."""
    hub.models = {NAME: heavy(tmp_path / "model")}
    hub.cut = {"model.safetensors"}
    gated, unknown, done = steersweep(
        hub,
        tmp_path,
        ("sweep", "maker/gated", *SWEEP),
        ("sweep", "maker/nothing", *SWEEP),
        ("sweep", NAME, *SWEEP, "--json"),
    )
    assert gated.returncode == 2
    assert "https://huggingface.co/maker/gated" in gated.stderr
    assert "HF_TOKEN" in gated.stderr
    files = {path for _, path, _ in hub.requests if path.endswith(".safetensors")}
    assert all(path.startswith(f"/{NAME}/") for path in files)
    assert unknown.returncode == 2
    assert "the hub knows no such model" in unknown.stderr
    assert done.returncode == 0, done.stderr
    records = [json.loads(p.read_text()) for p in (tmp_path / "run").glob("conditions/*.json")]
    assert {r["condition"]["model_fingerprint"] for r in records} == {f"hub:{COMMIT}"}
    weights = [r for r in hub.requests if r[1].endswith("model.safetensors") and r[0] == "GET"]
    assert [wanted is not None for _, _, wanted in weights] == [False, True]
    # Everything after the config asks for that very commit.
    assert all("/resolve/main/" not in path for _, path, _ in weights)


@pytest.mark.slow
def test_a_model_too_large_for_the_disk_is_not_begun(hub: Hub, tmp_path: Path) -> None:
    hub.claimed_bytes = 10**16
    (done,) = steersweep(hub, tmp_path, ("sweep", NAME, *SWEEP))
    assert done.returncode == 2
    assert "10000000.0 GB must be downloaded" in done.stderr
    assert "HF_HOME" in done.stderr
    assert not any(path.endswith("model.safetensors") for _, path, _ in hub.requests)


@pytest.mark.parametrize("engine", rest_slow(["local", "ray"]))
def test_no_secret_reaches_a_file_or_the_screen(hub: Hub, tmp_path: Path, engine: str) -> None:
    plan = {
        **SMALL,
        "families": {
            "a": [
                {"name": "good", "model": NAME, "n_layers": 9, "billions": 0.001, "gpu": "local"},
                {
                    "name": "gated",
                    "model": "maker/gated",
                    "n_layers": 9,
                    "billions": 0.001,
                    "gpu": "local",
                },
            ]
        },
        "family_sweep": {
            "methods": ["dim"],
            "models": [
                {"model": "good", "layers": [0.5]},
                {"model": "gated", "layers": [0.5]},
            ],
        },
    }
    for phase in ("follow_up", "size_sweep", "precision_sweep", "transfer_sweep"):
        del plan[phase]
    (tmp_path / "plan.yaml").write_text(yaml.safe_dump(plan))
    command = ("run", "plan.yaml", "--out", "run", "--engine", engine, "--phase", "1")
    (done,) = steersweep(hub, tmp_path, command)
    assert done.returncode == 4, done.stderr  # a gated model is left out
    failures = json.loads((tmp_path / "run/phases/family_sweep-failures.json").read_text())
    assert "licence" in failures["gated family fp32"]
    planted = [TOKEN, *OTHERS.values()]
    seen = {"stdout": done.stdout, "stderr": done.stderr}
    for file in (tmp_path / "run").rglob("*"):
        if file.is_file():
            seen[str(file)] = file.read_bytes().decode("utf-8", "replace")
    assert len(seen) > 10
    for where, text in seen.items():
        for secret in planted:
            assert secret not in text, where


@pytest.mark.parametrize(
    "text",
    [
        f"401 for token {TOKEN}",
        "s3://AKIAABCDEFGHIJKLMNOP:secretpart@bucket/runs cannot be reached",
        "Authorization: Bearer abcdefghijklmnopqrstuvwxyz",
    ],
)
def test_errors_do_not_carry_secrets(text: str) -> None:
    message = str(SteersweepError(text))
    assert "[secret]" in message
    for part in (TOKEN, "secretpart", "abcdefghijklmnop", "AKIA"):
        assert part not in message


def test_values_of_secret_variables_are_hidden_wherever_they_stand(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("SOME_API_KEY", "correct horse battery")
    monkeypatch.setenv("SHORT_TOKEN", "a")
    assert redact("it said: correct horse battery staple") == "it said: [secret] staple"
    assert redact("a banana") == "a banana"
