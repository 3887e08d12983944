"""Families of a study whose models cannot run or do not refuse, and methods other than DIM."""

from __future__ import annotations

import copy
import json
from pathlib import Path

import pytest
import yaml

from helpers.studies import SMALL, small
from steersweep.study.plan_file import parse_plan
from steersweep.study.running import GateStop
from steersweep.study.status import decided, sign_gate
from steersweep.study.study import StudyOptions, run_study
from test_cli import run


def test_a_model_that_cannot_run_is_named_and_the_others_go_on(tmp_path: Path) -> None:
    data = copy.deepcopy(SMALL)
    data["families"]["mistral"][0]["model"] = str(tmp_path / "nowhere")
    for phase in ("size_sweep", "precision_sweep"):
        del data[phase]
    plan = parse_plan(yaml.safe_dump(data), "small.yaml")
    run_study(plan, tmp_path / "run")
    decision = json.loads((tmp_path / "run" / "decisions" / "family_sweep.json").read_text())
    assert [row["family"] for row in decision["families"]] == ["qwen", "mistral"]
    assert decision["families"][1]["action"] == "not-run"
    assert decision["not_run"][0]["outcome"] == "not-run"
    assert "m7 family fp32" in decision["failures"]
    findings = (tmp_path / "run" / "FINDINGS_LOG.md").read_text()
    assert "mistral was not tested: m7 could not run" in findings
    assert "negative result" not in findings
    assert "could not run: m7" in run("status", "run", cwd=tmp_path).stdout


def test_where_every_family_fails_the_fallback_runs(tmp_path: Path) -> None:
    plan = small(
        strength={"relative": 0.01},  # does nothing
        family_sweep={
            "methods": ["dim"],
            "models": [{"model": "m7", "layers": [0.4]}],
            "confirmed": {"qwen": {"model": "q7", "layer": 0.5}},
        },
        fallback={"model": "m7", "layers": [0.1, 0.5], "strengths": [{"relative": 0.02}]},
    )
    run_study(plan, tmp_path / "run", StudyOptions(until="family_sweep"))
    decision = json.loads((tmp_path / "run" / "decisions" / "family_sweep.json").read_text())
    actions = {row["family"]: row["action"] for row in decision["families"]}
    assert actions == {"mistral": "undecided", "qwen": "continue"}
    assert decision["notes"] == [
        "the fallback swept more layers and strengths of m7",
        "no family that was tested goes on: mistral",
        "tested, but nothing can be concluded yet for: mistral",
        "confirmed before the study and not tested in it: qwen",
    ]
    (results,) = (tmp_path / "run").glob("results/v3_phase1*.json")
    (result,) = json.loads(results.read_text())
    cells = {(e["layer_idx"], e["strength"]["value"]) for e in result["conditions"]}
    assert cells == {(3, 0.01), (0, 0.02), (4, 0.02)}


def test_where_every_family_fails_to_run_one_that_was_confirmed_goes_on(tmp_path: Path) -> None:
    data = copy.deepcopy(SMALL)
    data["families"]["mistral"][0]["model"] = str(tmp_path / "nowhere")
    for phase in ("precision_sweep", "transfer_sweep"):
        del data[phase]
    data["family_sweep"] = {
        "methods": ["dim"],
        "models": [{"model": "m7", "layers": [0.4]}],
        "confirmed": {"qwen": {"model": "q7", "layer": 0.5}},
    }
    data["size_sweep"] = {"methods": ["dim"]}
    data["gates"] = {"R1": ["Which families work?"]}
    plan = parse_plan(yaml.safe_dump(data), "small.yaml")
    with pytest.raises(GateStop):
        run_study(plan, tmp_path / "run")
    decision = decided(tmp_path / "run")["family_sweep"]
    assert {row["family"]: row["action"] for row in decision["families"]} == {
        "qwen": "continue",
        "mistral": "not-run",
    }
    assert list(decision["failures"]) == ["m7 family fp32"]
    sign_gate(tmp_path / "run", "R1", by="A. Lead")
    run_study(plan, tmp_path / "run")
    sizes = decided(tmp_path / "run")["size_sweep"]
    assert [row["model"] for row in sizes["outcomes"]] == ["q3", "q7"]


def test_a_study_needs_no_dim(tmp_path: Path) -> None:
    """Every phase with other methods: the first of the plan stands where DIM does elsewhere."""
    methods = ["caa", "pca"]
    data = copy.deepcopy(SMALL) | {
        "prompts": {
            "test": "benign-120",
            "max": 2,
            "extraction": dict.fromkeys(methods, "extract-dim-5"),
        },
        "decoding": {"max_new_tokens": 8, "rows": 32},
        "thresholds": {"works": 0.0, "partial": 0.0},
    }
    data["families"]["qwen"] = data["families"]["qwen"][1:]
    data["family_sweep"] = {
        "methods": methods,
        "models": [{"model": "m7", "layers": [0.5]}],
        "confirmed": {"qwen": {"model": "q7", "layer": 0.5}},
    }
    data["size_sweep"] = {"methods": methods}
    data["precision_sweep"] |= {"methods": ["caa"], "tiers": 1}
    data["transfer_sweep"] = {"methods": ["caa"], "among": ["q7", "m7"]}
    run_study(parse_plan(yaml.safe_dump(data, sort_keys=False), "x.yaml"), tmp_path / "run")
    found = decided(tmp_path / "run")
    families = {row["family"]: row["method"] for row in found["family_sweep"]["families"]}
    assert families["qwen"] == "caa"
    for phase, models in (("family_sweep", 1), ("size_sweep", 2)):
        rows = found[phase]["methods"]
        assert [(row["base"], row["method"]) for row in rows] == [("caa", "pca")] * models
        assert all(0 < abs(row["cosine"]) < 1 for row in rows)
    assert {row["method"] for row in found["precision_sweep"]["outcomes"]} == {"caa", "caa@fp32"}
    assert {row["method"] for row in found["transfer_sweep"]["transfers"]} == {"caa"}
    every = [decision.get("failures") for decision in found.values()]
    assert not any(every)
