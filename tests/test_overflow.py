"""A model that overflows in fp16: its job runs again in bf16, once, and its records say so."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import yaml

from conftest import with_a_long_stream
from steersweep.methods.official import built_in_fixtures
from steersweep.people.reviews import results_in
from steersweep.run.folder import RunFolder
from steersweep.study.checking import check_models
from steersweep.study.plan import Plan
from steersweep.study.plan_file import parse_plan
from steersweep.study.status import decided, status
from steersweep.study.study import StudyOptions, run_study
from steersweep.sweeps.run import run_sweep
from steersweep.sweeps.settings import make_settings
from steersweep.work import worker
from steersweep.work.job import Job


@pytest.fixture
def tried(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Precisions that models are loaded in, one after another."""
    found: list[str] = []
    load = worker._load

    def seen(job: Job) -> object:
        found.append(job.precision)
        return load(job)

    monkeypatch.setattr(worker, "_load", seen)
    return found


def planned(model: Path) -> Plan:
    """A study of one model in fp16, from its verification to its precisions."""
    row = {"name": "l8", "model": str(model), "n_layers": 8, "billions": 0.0007, "gpu": "local"}
    strength = {"relative": 0.3}
    plan = {
        "name": "long",
        "prompts": {
            "test": "benign-120",
            "max": 4,
            "extraction": {"dim": "extract-dim-5", "cosmic": "extract-dim-5"},
        },
        "decoding": {"max_new_tokens": 8, "rows": 32},
        "precision": "fp16",
        "strength": strength,
        "families": {"llama": [row]},
        "verification": {"model": "l8", "layer": 0.5, "strength": strength, "expect": 0.0},
        "family_sweep": {"methods": ["dim"], "models": [{"model": "l8", "layers": [0.5]}]},
        "size_sweep": {"methods": ["dim"]},
        "precision_sweep": {"precisions": ["fp16", "bf16", "fp32"], "methods": ["dim"], "tiers": 1},
        "thresholds": {"works": 0.0, "partial": 0.0},
    }
    return parse_plan(yaml.safe_dump(plan), "long.yaml")


@pytest.mark.parametrize("scale", [3_000.0, 8_000.0, 3e6], ids=["all", "some prompts", "weights"])
def test_wherever_fp16_overflows_first_the_job_runs_in_bf16(
    scale: float, tmp_path: Path, tried: list[str]
) -> None:
    """In every answer, in some of what the checks ask, or in the weights as they are loaded."""
    model = with_a_long_stream(tmp_path / "long", scale, torch.float32)
    job = {"layers": "0.5", "strengths": "0.3", "max_prompts": 1, "max_new_tokens": 2}
    settings = make_settings([str(model)], precision="fp16", **job)
    (result,) = run_sweep(settings, tmp_path / "run", device="cpu").results
    assert tried == ["fp16", "bf16"]
    assert result.quantization == "bf16"


def test_a_push_that_overflows_changes_nothing_that_has_finished(
    tmp_path: Path, tried: list[str]
) -> None:
    """The follow-up's strong push does, in a model that phase 1 has swept in fp16."""
    plan = planned(with_a_long_stream(tmp_path / "long", 1_000.0))
    data = dict(plan.written)
    for name in ("verification", "precision_sweep", "size_sweep"):
        del data[name]
    data["thresholds"] = {"works": 1.0, "partial": 0.0}
    data["follow_up"] = {"layers": [0.5], "strengths": [{"relative": 12.0}]}
    plan = parse_plan(yaml.safe_dump(data), "long.yaml")
    run_study(plan, tmp_path / "run")
    assert tried == ["fp16", "fp16", "bf16"]
    (family,) = decided(tmp_path / "run")["family_sweep"]["families"]
    assert family["action"] == "continue-with-caveat"
    assert not family["diverged"]
    ((_, results),) = results_in(tmp_path / "run")
    strengths = {r.quantization: {c.strength.value for c in r.conditions} for r in results}
    assert strengths == {"fp16": {0.3}, "bf16": {0.3, 12.0}}
    before = (tmp_path / "run" / "decisions" / "family_sweep.json").read_bytes()
    run_study(plan, tmp_path / "run")
    assert len(tried) == 3
    assert (tmp_path / "run" / "decisions" / "family_sweep.json").read_bytes() == before


@pytest.mark.slow
def test_in_a_study_an_overflow_costs_one_load_and_every_phase_says_bf16(
    tmp_path: Path, tried: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    fixtures = built_in_fixtures() / "llama_s4"  # one of them; all are compared elsewhere
    monkeypatch.setattr("steersweep.methods.official.built_in_fixtures", lambda: fixtures)
    plan = planned(with_a_long_stream(tmp_path / "long", 30_000.0))
    folder = tmp_path / "run"
    run_study(plan, folder)
    # The verification finds out; phases 1, 2 and 3 know.
    assert tried[0] == "fp16"
    assert tried.count("fp16") == 1
    assert set(tried[1:]) == {"bf16", "fp32"}
    found = decided(folder)
    verified = found["verification"]["reproduction"]
    assert verified["settings"]["precision"] == "bf16"
    assert "Settings: bf16" in (folder / "COSMIC_VERIFICATION.md").read_text()
    for phase in ("family_sweep", "size_sweep"):
        assert {row["precision"] for row in found[phase]["outcomes"]} == {"bf16"}
    assert [(row["precision"], row["method"]) for row in found["precision_sweep"]["outcomes"]] == [
        ("bf16", "dim"),
        ("fp32", "dim"),
        ("fp32", "dim@bf16"),
    ]
    (row,) = found["precision_sweep"]["precisions"]
    assert row["precisions"] == ["bf16", "fp32"]
    assert [entry["precision"] for entry in row["borrowed"]] == ["fp32"]
    assert not any(decision.get("failures") for decision in found.values())
    for _, results in results_in(folder):
        for result in results:
            ran_instead = [note for note in result.notes if note.startswith("ran in bf16")]
            assert len(ran_instead) == (result.quantization == "bf16")
    state = status(folder)
    assert (state.done, state.incomplete) == (state.total, False)
    # Run again, everything is there.
    count = len(tried)
    run_study(plan, folder)
    assert len(tried) == count
    # The verification alone, in a study that has checked its models, does not find out again.
    other = tmp_path / "other"
    check_models(plan, other)
    assert tried[count:] == ["fp16", "bf16"]
    run_study(plan, other, StudyOptions(until="verification"))
    assert tried[count + 2 :] == ["bf16"]


def test_where_fp16_overflows_the_job_runs_again_in_bf16_and_the_record_says_so(
    tmp_path: Path, tried: list[str]
) -> None:
    model = with_a_long_stream(tmp_path / "long", 30_000.0)
    settings = make_settings(
        [str(model)],
        layers="0.5",
        strengths="0.3",
        max_prompts=2,
        precision="fp16",
        max_new_tokens=4,
    )
    (result,) = run_sweep(settings, tmp_path / "run", device="cpu").results
    assert tried == ["fp16", "bf16"]
    assert result.quantization == "bf16"
    (note,) = [note for note in result.notes if "bf16" in note]
    assert note.startswith("ran in bf16, since in fp16: ")
    assert "NaN or infinite" in note
    records = [RunFolder.existing(tmp_path / "run").get(cell.key) for cell in result.conditions]
    assert [record and record.condition.precision for record in records] == ["bf16"]
    # Run again, everything is there.
    run_sweep(settings, tmp_path / "run", device="cpu")
    assert tried == ["fp16", "bf16"]
