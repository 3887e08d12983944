"""`verify cosmic` and `approve`: the official numbers, tampered fixtures, the sign-off."""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from torch import Tensor

from steersweep.methods import cosmic, cosmic_scoring, cosmic_selection
from steersweep.methods.official import built_in_fixtures, check_fixture
from steersweep.steer.edit import Edit
from steersweep.steer.row_edits import RowEdits
from test_cli import refused, run

LLAMA, QWEN = (built_in_fixtures() / name for name in ("llama_s4", "qwen2_s2"))


@pytest.mark.slow
@pytest.mark.parametrize("folder", [LLAMA, QWEN], ids=lambda folder: str(folder.name))
def test_cosmic_and_dim_equal_the_official_code(folder: Path) -> None:
    checks = {check.quantity: check for check in check_fixture(folder)}
    assert not [check for check in checks.values() if not check.passed]
    for quantity in ("COSMIC linear: S_comply", "COSMIC affine: S_refuse", "DIM: bypass"):
        assert 0 < checks[quantity].difference < 2e-6  # far within the tolerance of 1e-5


def failing(folder: Path) -> set[str]:
    return {check.quantity for check in check_fixture(folder) if not check.passed}


def _in_place_reading_swapped(monkeypatch: pytest.MonkeyPatch) -> None:
    before = property(lambda self: self.ablate != "affine")
    monkeypatch.setattr(cosmic.CosmicRules, "read_before_edit", before)


def _ablation_at_inputs_only(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(RowEdits, "all_writes", property(lambda _self: False))


def _depth_rounded_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        cosmic_selection, "eligible_layers", lambda n_layers: math.ceil(0.8 * n_layers)
    )


def _affine_addition_without_reference(monkeypatch: pytest.MonkeyPatch) -> None:
    def added_only(edit: Edit, **changed: Tensor) -> Edit:
        return replace(edit, removed=None, **changed)

    monkeypatch.setattr(cosmic_scoring, "replace", added_only)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("reintroduce", "folder", "noticed"),
    [
        (_in_place_reading_swapped, LLAMA, "COSMIC linear: S_refuse"),
        (_ablation_at_inputs_only, LLAMA, "COSMIC linear: S_comply"),
        (_depth_rounded_up, LLAMA, "COSMIC linear: kept masks"),
        (_affine_addition_without_reference, LLAMA, "COSMIC affine: S_refuse"),
    ],
)
def test_a_reintroduced_trap_shows(
    reintroduce: Callable[[pytest.MonkeyPatch], None],
    folder: Path,
    noticed: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    reintroduce(monkeypatch)
    assert noticed in failing(folder)


@pytest.fixture
def fixture_copy(tmp_path: Path) -> Path:
    return Path(shutil.copytree(LLAMA, tmp_path / "fixtures" / "mine"))


def change(path: Path, **arrays: Any) -> None:
    with np.load(path) as file:
        held = {name: file[name] for name in file.files}
    np.savez(path, **(held | arrays))


def test_a_difference_is_shown_and_ends_with_1_and_all_else_is_equal(
    fixture_copy: Path, tmp_path: Path
) -> None:
    path = fixture_copy / "official_cosmic.npz"
    with np.load(path) as file:
        scores = file["lce_f10_refusal_score"].copy()
    scores[2, 3] += 3e-5
    change(path, lce_f10_refusal_score=scores)
    done = run("verify", "cosmic", "--fixtures", str(fixture_copy.parent), cwd=tmp_path)
    assert done.returncode == 1
    assert "FAILED" in done.stdout
    line = next(line for line in done.stdout.splitlines() if "linear: S_comply" in line)
    assert "3.0e-05" in line
    assert "differs" in line
    report = (tmp_path / "verification" / "COSMIC_VERIFICATION.md").read_text()
    assert "**FAILED**" in report
    assert "not met" in report
    error = refused("approve", "verification", "cosmic-verification", "--by", "A", cwd=tmp_path)
    assert "did not pass" in error
    (file,) = (tmp_path / "verification" / "results").glob("v3_cosmic_verification_*.json")
    (result,) = json.loads(file.read_text())
    quantities = result["quantities"]
    planted = "COSMIC linear: S_comply"
    assert [name for name, row in quantities.items() if not row["passed"]] == [planted]
    for quantity in ("COSMIC affine: S_comply", "COSMIC affine: S_refuse", "DIM: bypass"):
        assert (
            0 < quantities[quantity]["max_abs_difference"] < 2e-6
        )  # far within the tolerance of 1e-5


@pytest.mark.slow
def test_other_choices_fail_whatever_the_scores(fixture_copy: Path, tmp_path: Path) -> None:
    path = fixture_copy / "official_cosmic.json"
    official = json.loads(path.read_text())
    official["chosen"]["ace_f25"]["layer"] += 1
    path.write_text(json.dumps(official))
    done = run("verify", "cosmic", "--fixtures", str(fixture_copy), "--json", cwd=tmp_path)
    assert done.returncode == 1
    result = json.loads(done.stdout)
    wrong = [name for name, row in result["quantities"].items() if not row["passed"]]
    assert wrong == ["COSMIC affine: choice"]
    assert result["fixtures"][0]["name"] == "mine"


def test_missing_parts_of_a_fixture_are_named(fixture_copy: Path, tmp_path: Path) -> None:
    def error() -> str:
        return refused("verify", "cosmic", "--fixtures", str(fixture_copy), cwd=tmp_path)

    with np.load(fixture_copy / "inputs.npz") as file:
        inputs = {name: file[name] for name in file.files if name != "harmful_val_mask"}
    np.savez(fixture_copy / "inputs.npz", **inputs)
    assert 'inputs.npz: array "harmful_val_mask" is missing' in error()
    (fixture_copy / "spec.json").write_text('{"n_eoi": 5}')
    assert 'spec.json: field "pad_token_id" is missing' in error()
    (fixture_copy / "inputs.npz").write_bytes(b"no zip")
    (fixture_copy / "spec.json").write_text('{"n_eoi": 5, "pad_token_id": 0}')
    assert "inputs.npz: cannot be read" in error()
    (fixture_copy / "official_cosmic.npz").unlink()
    assert "official_cosmic.npz: missing" in error()
    assert "holds no fixture" in refused("verify", "cosmic", "--fixtures", ".", cwd=tmp_path)
    assert "no such folder" in refused("verify", "cosmic", "--fixtures", "none", cwd=tmp_path)


@pytest.mark.slow
def test_reproduction_and_sign_off(tmp_path: Path) -> None:
    arguments = ["--fixtures", str(LLAMA), "--model", "lab:qwen-7b", "--layer", "4"]
    arguments += ["--strength", "0.5", "--max-prompts", "8", "--expect", "0.2", "--out", "v"]
    done = run("verify", "cosmic", *arguments, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "expected at least 20%: reached" in done.stdout
    (file,) = (tmp_path / "v" / "results").glob("v3_cosmic_verification_*.json")
    (result,) = json.loads(file.read_text())
    assert result["reproduction"]["n_unique"] == 8
    assert (tmp_path / "v" / result["reproduction"]["results_file"]).is_file()
    report = tmp_path / "v" / "COSMIC_VERIFICATION.md"
    assert "- [ ] The lead signs off" in report.read_text()

    signed = run("approve", "v", "cosmic-verification", "--by", "Ada", "--note", "ok", cwd=tmp_path)
    assert signed.returncode == 0, signed.stderr
    assert "- [x] The lead signs off on this report (Ada)" in report.read_text()
    assert "Signed by Ada" in report.read_text()
    (line,) = (tmp_path / "v" / "gates.jsonl").read_text().splitlines()
    assert json.loads(line)["evidence"] == file.name

    assert "--by" in refused("approve", "v", "cosmic-verification", "--by", " ", cwd=tmp_path)
    assert "no such gate" in refused("approve", "v", "R9", "--by", "Ada", cwd=tmp_path)
    missing = refused("approve", "w", "cosmic-verification", "--by", "Ada", cwd=tmp_path)
    assert "holds no COSMIC verification" in missing


@pytest.mark.slow
def test_an_expectation_that_is_missed_ends_with_1(tmp_path: Path) -> None:
    arguments = ["--fixtures", str(LLAMA), "--model", "lab:qwen-7b", "--strength", "0.05"]
    arguments += ["--max-prompts", "4", "--expect", "1"]
    done = run("verify", "cosmic", *arguments, cwd=tmp_path)
    assert done.returncode == 1
    assert "not reached" in done.stdout


def test_options_that_make_no_sense_are_refused(tmp_path: Path) -> None:
    both = ["--model", "lab:qwen-7b", "--strength", "1", "--multiplier", "1"]
    assert "not both" in refused("verify", "cosmic", *both, cwd=tmp_path)
    assert "--expect" in refused("verify", "cosmic", "--expect", "60", cwd=tmp_path)
