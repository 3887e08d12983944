"""A whole sweep on a real model: results, schema, continuing, a kill in the middle."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from importlib import resources
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from conftest import rest_slow
from helpers.results import result, samples, steered
from steersweep import InputError
from steersweep.run.folder import RunFolder
from steersweep.run.label import Label
from steersweep.sweeps.run import SweepOutcome, run_sweep
from steersweep.sweeps.settings import SweepSettings, make_settings

LAYERS, STRENGTHS, PROMPTS = "0.3,0.5", "0.5,1.5", 6


def settings(**changes: Any) -> SweepSettings:
    options: dict[str, Any] = {
        "layers": LAYERS,
        "strengths": STRENGTHS,
        "max_prompts": PROMPTS,
        "max_new_tokens": 24,
        "rows": 12,
    }
    return make_settings(["lab:qwen-7b"], **(options | changes))


@pytest.fixture(scope="module")
def outcome(tmp_path_factory: pytest.TempPathFactory) -> SweepOutcome:
    """An uninterrupted sweep."""
    return run_sweep(settings(), tmp_path_factory.mktemp("sweep") / "run")


def comparable(folder: Path) -> dict[str, Any]:
    """All records and results of a run, without timestamps and durations."""
    # A digest covers the moments.
    moments = {"timestamp", "created", "runtime_seconds", "extraction_seconds", "seconds", "digest"}

    def strip(value: Any) -> Any:
        if isinstance(value, dict):
            return {key: strip(item) for key, item in value.items() if key not in moments}
        return [strip(item) for item in value] if isinstance(value, list) else value

    files = sorted(folder.glob("conditions/*.json")) + sorted(folder.glob("results/*.json"))
    # A result file's name holds the time the run began.
    return {
        file.name if file.parent.name == "conditions" else "results": strip(
            json.loads(file.read_text())
        )
        for file in files
    }


def test_results_follow_the_published_schema(outcome: SweepOutcome) -> None:
    schema = json.loads((resources.files("steersweep.run") / "result.schema.json").read_text())
    results = json.loads(outcome.results_file.read_text())
    jsonschema.Draft202012Validator(schema).validate(results)


def test_every_cell_has_all_prompts_once_and_its_random_control(outcome: SweepOutcome) -> None:
    result = outcome.results[0]
    cells = [(cell.layer, cell.strength.value) for cell in result.conditions]
    assert cells == [(2, 0.5), (2, 1.5), (3, 0.5), (3, 1.5)]
    controls, unsteered = result.controls.random_directions, result.controls.unsteered
    assert [(c.layer, c.steering.multiplier) for c in controls] == [
        (c.layer, c.steering.multiplier) for c in result.conditions
    ]
    assert unsteered is not None
    for cell in (*result.conditions, *controls, unsteered):
        assert len({sample.prompt for sample in cell.samples}) == PROMPTS
        assert cell.rates.n_unique == cell.rates.n_samples == PROMPTS
    assert unsteered.rates.normal_rate == 1
    assert "few-prompts" in result.verdict.flags


def test_relative_strength_is_the_multiplier_over_the_residual_norm(outcome: SweepOutcome) -> None:
    for cell in outcome.results[0].conditions:
        at = cell.steering
        assert at.relative_strength == pytest.approx(cell.strength.value)
        assert at.multiplier == pytest.approx(at.relative_strength * at.residual_norm)


def test_repeats_are_counted_but_not_generated(tmp_path: Path) -> None:
    run = run_sweep(
        settings(prompts="plan-10x5", max_prompts=None, layers="0.5", strengths="1"), tmp_path / "r"
    )
    cell = run.results[0].conditions[0]
    assert (cell.rates.n_unique, cell.rates.n_samples, len(cell.samples)) == (10, 50, 10)
    assert cell.rates.refusals == 5 * round(10 * cell.rates.refusal_rate)


def test_the_same_command_again_computes_nothing(
    outcome: SweepOutcome, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = {file: file.stat().st_mtime_ns for file in outcome.folder.glob("conditions/*")}

    def refuse(*_arguments: Any, **_options: Any) -> None:
        raise AssertionError("a finished run must not load its model")

    monkeypatch.setattr("steersweep.model.chat_model.ChatModel.load", refuse)
    again = run_sweep(settings(), outcome.folder)
    assert again.results == outcome.results
    assert before == {file: file.stat().st_mtime_ns for file in outcome.folder.glob("conditions/*")}


def test_another_sweep_in_the_same_folder_is_refused(outcome: SweepOutcome) -> None:
    with pytest.raises(InputError, match="another run"):
        run_sweep(settings(strengths="3"), outcome.folder)


def test_a_lost_condition_comes_back_identical(outcome: SweepOutcome, tmp_path: Path) -> None:
    """Also when its batch mates are there: the batch is formed as before."""
    import shutil

    folder = Path(shutil.copytree(outcome.folder, tmp_path / "run"))
    complete = comparable(folder)
    for victim in sorted(folder.glob("conditions/*.json"))[::2]:
        victim.unlink()
    run_sweep(settings(), folder)
    assert comparable(folder) == complete


@pytest.mark.slow
@pytest.mark.parametrize("records", rest_slow([1, 5]))
def test_kill_in_the_middle_and_run_again(
    records: int, outcome: SweepOutcome, tmp_path: Path
) -> None:
    """SIGKILL once some conditions are on disk; the next run finishes with identical results."""
    out = tmp_path / "run"
    command = [sys.executable, "-m", "steersweep.cli", "sweep", "lab:qwen-7b", "--quiet"]
    command += ["--layers", LAYERS, "--strengths", STRENGTHS, "--max-prompts", str(PROMPTS)]
    command += ["--max-new-tokens", "24", "--rows", "12", "--out", str(out)]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    deadline = time.monotonic() + 120
    while len(list(out.glob("conditions/*.json"))) < records and time.monotonic() < deadline:
        assert process.poll() is None, "the sweep ended before it could be killed"
        time.sleep(0.001)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    survivors = {file: file.stat().st_mtime_ns for file in out.glob("conditions/*.json")}
    assert records <= len(survivors) < 9, "the kill must land in the middle"
    assert not list(out.glob("results/*"))

    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    assert comparable(out) == comparable(outcome.folder)
    for file, written in survivors.items():
        assert file.stat().st_mtime_ns == written, "a finished condition was written again"


@pytest.fixture(scope="module")
def both(tmp_path_factory: pytest.TempPathFactory) -> SweepOutcome:
    """A sweep with two methods."""
    return run_sweep(settings(methods="dim,cosmic"), tmp_path_factory.mktemp("both") / "run")


def test_two_methods_share_controls_and_strengths(both: SweepOutcome) -> None:
    schema = json.loads((resources.files("steersweep.run") / "result.schema.json").read_text())
    jsonschema.Draft202012Validator(schema).validate(json.loads(both.results_file.read_text()))
    dim, cosmic, auto = both.results
    assert [r.method for r in both.results] == ["dim", "cosmic", "cosmic@auto"]
    assert dim.controls == cosmic.controls
    for one, other in zip(dim.conditions, cosmic.conditions, strict=True):
        assert one.steering.multiplier == other.steering.multiplier
        assert one.steering.residual_norm == other.steering.residual_norm
        assert other.cosine_to_dim is not None
        assert -1 <= other.cosine_to_dim < 0.9999
        assert "cosine_to_dim" not in one.as_json()
    # The method's own choice is one more place, with a control of its own.
    assert auto.extraction is not None
    chosen = auto.extraction.chosen
    assert chosen is not None
    assert len(auto.conditions) == len(auto.controls.random_directions) == 2
    for cell in (*auto.conditions, *auto.controls.random_directions):
        assert cell.layer == chosen.layer
    assert {cell.steering.position for cell in auto.conditions} == {chosen.position}
    assert cosmic.extraction == auto.extraction
    assert dim.extraction is None


def test_methods_whose_verdicts_differ_are_flagged() -> None:
    from steersweep.sweeps.results import _methods_compared

    def flags(*outcomes: int) -> list[tuple[str, ...]]:
        """Of methods of which one refuses so many of ten prompts."""
        labels = (Label("caa"), Label("pca"), Label("pca", chose_layer=True))
        found = [
            result([steered(samples(*["coherent"] * n, *["normal"] * (10 - n)))], label=label)
            for n, label in zip(outcomes, labels, strict=True)
        ]
        return [one.verdict.flags for one in _methods_compared(found, RunFolder(Path()))]

    assert flags(9, 4, 0) == [("methods-disagree",), ("methods-disagree",), ()]
    assert flags(9, 9, 0) == [(), (), ()]


def test_dim_results_do_not_depend_on_other_methods(
    outcome: SweepOutcome, both: SweepOutcome
) -> None:
    alone = {cell.key: cell for cell in outcome.results[0].conditions}
    beside = {cell.key: cell for cell in both.results[0].conditions}
    assert alone.keys() == beside.keys()
    for key, cell in alone.items():
        assert cell.steering.multiplier == beside[key].steering.multiplier
        texts = [[s.response for s in c.samples] for c in (cell, beside[key])]
        assert texts[0] == texts[1]


def test_scores_are_not_computed_again(
    both: SweepOutcome, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    from steersweep.methods import cosmic_scoring

    folder = Path(shutil.copytree(both.folder, tmp_path / "run"))
    removed = next(folder.glob("conditions/*.json"))
    held = removed.read_text()
    removed.unlink()

    def never(*_arguments: Any, **_options: Any) -> None:
        raise AssertionError("scored again")

    monkeypatch.setattr(cosmic_scoring, "run_edits", never)
    run_sweep(settings(methods="dim,cosmic"), folder)
    again, before = json.loads(removed.read_text()), json.loads(held)
    assert again["samples"] == before["samples"]
    assert again["result"] == before["result"]


def test_a_method_without_a_choice_of_its_own_is_swept_all_the_same(tmp_path: Path) -> None:
    """This miniature's candidates all disturb harmless prompts too much."""
    found = run_sweep(
        make_settings(
            ["lab:gemma-2b"],
            methods="cosmic",
            layers="0.5",
            strengths="0.3",
            max_prompts=2,
            max_new_tokens=8,
        ),
        tmp_path / "run",
    )
    (result,) = found.results
    assert result.method == "cosmic"
    assert result.extraction is not None
    assert result.extraction.chosen is None
    assert "every one of 49 candidates" in result.extraction.notes[-1]
