"""What reads a finished run works where torch and transformers cannot be imported."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import yaml
from typer.testing import CliRunner

import steersweep
from steersweep.cli.app import app
from steersweep.study.plan_file import parse_plan
from steersweep.study.running import GateStop
from steersweep.study.study import run_study
from steersweep.sweeps.run import run_sweep
from steersweep.sweeps.settings import make_settings

PLAN: dict[str, Any] = {
    "name": "one-model",
    "prompts": {
        "test": "benign-120",
        "max": 4,
        "extraction": {"dim": "extract-dim-5"},
    },
    "decoding": {"max_new_tokens": 12, "rows": 64},
    "precision": "fp32",
    "strength": {"relative": 0.3},
    "families": {
        "qwen": [
            {
                "name": "q7",
                "model": "lab:qwen-7b",
                "n_layers": 7,
                "billions": 0.0007,
                "gpu": "local",
            }
        ]
    },
    "family_sweep": {
        "methods": ["dim"],
        "models": [{"model": "q7", "layers": [0.4, 0.5]}],
    },
    "thresholds": {"works": 0.5, "partial": 0.05},
    "gates": {"R1": ["Is it so?"]},
}

# Runs commands one after another in one process, in which some libraries cannot be imported.
RUNNER = """
import json, sys

class Refuse:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in sys.argv[2:]:
            raise ModuleNotFoundError(f"{name} cannot be imported here")
        return None

sys.meta_path.insert(0, Refuse())
from typer.testing import CliRunner
from steersweep.cli.app import app

for command in json.loads(sys.argv[1]):
    result = CliRunner().invoke(app, command)
    print(json.dumps([command, result.exit_code, repr(result.exception), result.output]))
"""

SWEEP = "sweep lab:qwen-7b --layers 0.5 --strengths 0.2,0.5 --precision fp32 --max-new-tokens 12"
AGAIN = [*SWEEP.split(), "--max-prompts", "4", "--out", "sweep"]
COMMANDS = (
    AGAIN,  # is there whole: no model is loaded, and then no report is written
    [*AGAIN, "--json"],
    ["status", "study"],
    ["status", "study", "--json"],
    ["decide", "study"],
    ["decide", "study", "--json"],
    ["report", "study"],
    ["report", "sweep"],
    ["report", "sweep", "study"],
    ["review", "sweep", "--summary"],
    ["review", "study", "--summary", "--json"],
    ["judge", "--help"],
    ["judge", "sweep", "--with", "default"],
    ["approve", "study", "R1", "--by", "A. Lead"],
    ["status", "study"],
)


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a finished `sweep`, and a `study` that waits at its gate."""
    place = tmp_path_factory.mktemp("finished")
    settings = make_settings(
        ["lab:qwen-7b"],
        layers="0.5",
        strengths="0.2,0.5",
        precision="fp32",
        max_new_tokens=12,
        max_prompts=4,
    )
    run_sweep(settings, place / "sweep")
    with pytest.raises(GateStop):
        run_study(parse_plan(yaml.safe_dump(PLAN), "plan.yaml"), place / "study")
    return place


def run_here(place: Path) -> list[Any]:
    """Each command with its exit code, exception and output, in this process, which has torch."""
    assert "torch" in sys.modules
    with contextlib.chdir(place):
        ended = [CliRunner(env={"COLUMNS": "120"}).invoke(app, command) for command in COMMANDS]
    return [
        [command, end.exit_code, repr(end.exception), end.output]
        for command, end in zip(COMMANDS, ended, strict=True)
    ]


def run_without(
    place: Path, *libraries: str, commands: Sequence[list[str]] = COMMANDS
) -> list[Any]:
    """The same, in a process that cannot have these libraries."""
    ended = subprocess.run(
        [sys.executable, "-c", RUNNER, json.dumps(commands), *libraries],
        cwd=place,
        env={**os.environ, "COLUMNS": "120"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert ended.returncode == 0, ended.stderr
    return [json.loads(line) for line in ended.stdout.splitlines()]


def written(place: Path) -> dict[str, str]:
    """Hashes of what the commands write but signatures, which hold the time."""
    found = [*place.glob("*/report.html"), *place.glob("*/figures/*.png"), *place.glob("*.html")]
    found += place.glob("*/judgements/*")
    return {
        path.relative_to(place).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(found)
    }


def test_reading_needs_no_torch_and_says_the_same(finished: Path, tmp_path: Path) -> None:
    with_torch, without = (
        Path(shutil.copytree(finished, tmp_path / name)) for name in ("with", "without")
    )
    said = run_here(with_torch)
    assert all((code, error) == (0, "None") for _, code, error, _ in said), said
    assert run_without(without, "torch", "transformers") == said
    assert {name.partition("/")[2] for name in written(without)} >= {"report.html"}
    assert written(without) == written(with_torch)


def test_a_finished_sweep_with_its_report_loads_nothing_large(
    finished: Path, tmp_path: Path
) -> None:
    """Each of these takes longer to load than such a run to be looked through."""
    place = Path(shutil.copytree(finished, tmp_path / "place"))
    with contextlib.chdir(place):
        assert CliRunner().invoke(app, AGAIN).exit_code == 0  # writes the report
    large = ("torch", "transformers", "scipy", "matplotlib", "pandas")
    ((_, code, error, said),) = run_without(place, *large, commands=[AGAIN])
    assert (code, error) == (0, "None"), said
    assert "already finished" in said


def test_these_folders_import_without_torch() -> None:
    """Every module of core, run, people and report but for what shows a plan, and other readers."""
    root = Path(steersweep.__path__[0])
    folders = ("core", "run", "people", "report")
    files = [path.relative_to(root) for name in folders for path in root.glob(f"{name}/**/*.py")]
    names = [".".join(("steersweep", *file.with_suffix("").parts)) for file in files]
    names.remove("steersweep.report.plan_table")
    names += ["steersweep.work.job", "steersweep.sweeps.results", "steersweep.study.status"]
    script = (
        "import importlib, sys\n"
        "sys.modules['torch'] = sys.modules['transformers'] = None\n"
        f"for name in {sorted(names)!r}: importlib.import_module(name)"
    )
    ended = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=False
    )
    assert ended.returncode == 0, ended.stderr
