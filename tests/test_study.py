"""The study engine on real miniatures: phases, gates, budget, kills, concurrency, damage."""

from __future__ import annotations

import copy
import errno
import json
import os
import random
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from safetensors import safe_open
from safetensors.torch import save_file

from conftest import rest_slow
from steersweep import InputError, SteersweepError
from steersweep.budget.ledger import BudgetStop, Ledger, Limits
from steersweep.core.digests import seal_text, unseal_text
from steersweep.engines import engine
from steersweep.people.reviews import add_review, queue, results_in
from steersweep.report.html import write_report
from steersweep.report.run import read_run
from steersweep.run.direction import Direction
from steersweep.run.folder import RunFolder
from steersweep.run.lock import run_lock
from steersweep.study import costs
from steersweep.study.ahead import look_ahead
from steersweep.study.plan import Plan
from steersweep.study.plan_file import parse_plan
from steersweep.study.running import GateStop
from steersweep.study.status import decided, sign_gate, status
from steersweep.study.study import StudyOptions, run_study
from steersweep.study.sweeps import Cuts
from steersweep.work import worker
from test_cli import refused, run

SMALL: dict[str, Any] = {
    "name": "small",
    "prompts": {
        "test": "benign-120",
        "max": 6,
        "extraction": {"dim": "extract-dim-5", "cosmic": "extract-dim-5"},
    },
    "decoding": {"max_new_tokens": 24, "rows": 12},
    "precision": "fp32",
    "strength": {"relative": 0.3},
    "families": {
        "qwen": [
            {
                "name": "q3",
                "model": "lab:qwen-3b",
                "n_layers": 9,
                "billions": 0.0004,
                "gpu": "local",
            },
            {
                "name": "q7",
                "model": "lab:qwen-7b",
                "n_layers": 7,
                "billions": 0.0007,
                "gpu": "local",
            },
        ],
        "mistral": [
            {
                "name": "m7",
                "model": "lab:mistral-7b",
                "n_layers": 8,
                "billions": 0.0007,
                "gpu": "local",
            }
        ],
    },
    "family_sweep": {
        "methods": ["dim"],
        "models": [{"model": "q7", "layers": [0.5]}, {"model": "m7", "layers": [0.4, 0.5]}],
    },
    "follow_up": {"layers": [0.7], "strengths": [{"relative": 0.5}]},
    "size_sweep": {"methods": ["dim", "cosmic"]},
    "precision_sweep": {"precisions": ["fp32", "bf16"], "methods": ["dim"], "tiers": 2},
    "transfer_sweep": {"methods": ["dim"], "among": ["q3", "q7", "m7"]},
    # Low enough that six prompts and 24 tokens get somewhere.
    "thresholds": {"works": 0.5, "partial": 0.05},
}


def small(**changes: Any) -> Plan:
    return parse_plan(yaml.safe_dump(copy.deepcopy(SMALL) | changes), "small.yaml")


def comparable(folder: Path) -> dict[str, Any]:
    """What a study found, without moments and durations."""
    # A digest covers the moments.
    moments = {"timestamp", "runtime_seconds", "seconds", "extraction_seconds", "digest"}

    def strip(value: Any) -> Any:
        if isinstance(value, dict):
            return {key: strip(item) for key, item in value.items() if key not in moments}
        return [strip(item) for item in value] if isinstance(value, list) else value

    found: dict[str, Any] = {"findings": (folder / "FINDINGS_LOG.md").read_text()}
    for file in sorted([*folder.glob("decisions/*.json"), *folder.glob("results/*.json")]):
        name = file.name.rsplit("_", 1)[0] if file.parent.name == "results" else file.name
        found[name] = strip(json.loads(file.read_text()))
    return found


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A study run from start to end."""
    folder = tmp_path_factory.mktemp("study") / "run"
    run_study(small(), folder)
    return folder


def test_all_phases_end_with_decisions_and_findings(finished: Path) -> None:
    found = comparable(finished)
    assert {"family_sweep.json", "size_sweep.json", "precision_sweep.json", "final.json"} <= set(
        found
    )
    families = {row["family"]: row for row in found["family_sweep.json"]["families"]}
    assert set(families) == {"qwen", "mistral"}
    going = [name for name, row in families.items() if row["action"] != "exclude"]
    assert going
    assert {curve["family"] for curve in found["size_sweep.json"]["curves"]} == set(going)
    precisions = found["precision_sweep.json"]
    assert {row["precision"] for row in precisions["outcomes"]} == {"fp32", "bf16"}
    assert precisions["failures"] == {}
    row = precisions["precisions"][0]
    assert row["precisions"] == ["fp32", "bf16"]
    assert row["cosines"][0][1] > 0.99
    assert min(row["cosines_by_layer"][0]["low"]) > 0.99
    assert row["perplexities"][1] == pytest.approx(row["perplexities"][0], rel=0.05)
    assert [entry["precision"] for entry in row["borrowed"]] == ["bf16"]
    findings = found["findings"]
    for title in ("Phase 1", "Phase 2", "Phase 3", "Phase 4", "Final analysis"):
        assert findings.count(f"## {title}") == 1
    for stem in ("v3_phase1_family_sweep", "v3_phase3_quant_sweep"):
        assert stem in found
    phases = {r["phase"] for name, rs in found.items() if name.startswith("v3_") for r in rs}
    assert phases == {"1", "2", "3", "4"}


def test_no_phase_runs_more_than_its_plan_says_ahead(finished: Path) -> None:
    store, plan = RunFolder.existing(finished), small()
    expected = look_ahead(plan, Cuts())
    for phase in plan.phases:
        of_phase = [e for e in expected if e.sweep.step.phase == phase]
        held = store.read_json(store.paths.phase(phase))
        assert held is not None
        assert 0 < len(held["conditions"]) <= sum(e.sweep.n_conditions for e in of_phase)


def test_a_precision_that_cannot_run_is_named_with_its_fix_and_the_others_go_on(
    finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = Path(shutil.copytree(finished, tmp_path / "run"))
    (folder / "decisions" / "precision_sweep.json").unlink()
    asked = {**SMALL["precision_sweep"], "precisions": ["fp32", "bf16", "int4"]}
    monkeypatch.setattr("steersweep.model.quantization.find_spec", lambda _name: None)
    options = StudyOptions(until="precision_sweep", accept={"precision_sweep"})
    run_study(small(precision_sweep=asked), folder, options)
    found = json.loads((folder / "decisions" / "precision_sweep.json").read_text())
    assert {row["precision"] for row in found["outcomes"]} == {"fp32", "bf16"}
    assert len(found["failures"]) == 3  # two sizes, and the best model of the other family
    assert {row["outcome"] for row in found["not_run"]} == {"not-run"}
    assert all("int4" in name for name in found["failures"])
    assert all("pip install 'steersweep[quant]'" in why for why in found["failures"].values())


def test_directions_are_tried_on_models_of_the_same_width(finished: Path) -> None:
    found = json.loads((finished / "decisions" / "transfer_sweep.json").read_text())
    assert {(row["from"], row["to"]) for row in found["transfers"]} == {("q7", "m7"), ("m7", "q7")}
    assert found["notes"] == ["q3: no other model here has its width"]
    for row in found["transfers"]:
        assert abs(row["cosine"]) < 0.9  # they are two models
        share = row["coherent_refusal_rate"] / row["own_rate"]
        assert row["efficiency"] == pytest.approx(share)
        low, high = row["efficiency_ci"]
        assert low <= row["efficiency"] <= high
    # The very vector of the other model was added, at this model's own layer.
    store = RunFolder.existing(finished)
    file = next(finished.glob("results/v3_phase4_transfer_*.json"))
    results = json.loads(file.read_text())
    transfer = [result for result in results if result["method"].startswith("dim@")]
    assert len(transfer) == 2
    for result in transfer:
        (entry,) = result["conditions"]
        vector = Direction.load(finished / entry["direction_file"])
        assert vector.model_id != result["model_id"]
        record = store.get(entry["key"])
        assert record is not None
        assert record.condition.direction == Path(entry["direction_file"]).stem


def test_results_of_every_phase_follow_the_schema(finished: Path) -> None:
    from importlib import resources

    import jsonschema

    schema = json.loads((resources.files("steersweep.run") / "result.schema.json").read_text())
    for file in finished.glob("results/*.json"):
        jsonschema.Draft202012Validator(schema).validate(json.loads(file.read_text()))


def test_every_link_of_its_report_leads_somewhere(finished: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(finished, tmp_path / "run"))
    text = write_report(folder).path.read_text()
    links = {link for link in re.findall(r'href="([^"#][^"]*)"', text) if link[:5] != "data:"}
    assert links
    assert not [link for link in links if not (folder / link).exists()]
    anchors = set(re.findall(r'href="#([a-z_]+)"', text))
    assert not [anchor for anchor in anchors if f'id="{anchor}"' not in text]


def test_an_unfinished_study_has_a_report(finished: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(finished, tmp_path / "run"))
    for late in (*folder.glob("results/*phase[234]*"), *folder.glob("decisions/[pt]*")):
        late.unlink()
    (folder / "decisions" / "final.json").unlink()
    (folder / "decisions" / "size_sweep.json").unlink()
    text = write_report(folder).path.read_text()
    assert "Not finished" in text
    assert "Phase 1" in text


def test_a_finished_study_run_again_does_nothing(
    finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = Path(shutil.copytree(finished, tmp_path / "run"))
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}

    def never(*_arguments: Any, **_options: Any) -> None:
        raise AssertionError("a job was run again")

    monkeypatch.setattr(engine, "run_job", never)
    run_study(small(), folder)
    after = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    assert before == after


def test_gates_stop_until_a_person_signs(finished: Path, tmp_path: Path) -> None:
    plan = small(gates={"R1": ["Which families work?"]})
    folder = Path(shutil.copytree(finished, tmp_path / "run"))
    for phase in ("size_sweep", "precision_sweep", "final"):
        (folder / "decisions" / f"{phase}.json").unlink()
    file = tmp_path / "small.yaml"
    file.write_text(yaml.safe_dump(dict(plan.written)))

    done = run("run", str(file), "--out", str(folder), "--quiet", cwd=tmp_path)
    assert done.returncode == 3
    assert "gate R1 waits" in done.stderr
    assert "Which families work?" in done.stderr
    state = json.loads(run("status", str(folder), "--json", cwd=tmp_path).stdout)
    assert (state["waiting_gate"], state["phase"]) == ("R1", "family_sweep")
    assert state["done"] == state["total"] > 0

    assert "no such gate" in refused("approve", str(folder), "R2", "--by", "A", cwd=tmp_path)
    run("approve", str(folder), "R1", "--by", "Ada", "--reject", "--note", "why", cwd=tmp_path)
    with pytest.raises(GateStop, match=r"rejected by Ada \(why\)"):
        run_study(plan, folder)
    run("approve", str(folder), "R1", "--by", "Ada", cwd=tmp_path)
    run_study(plan, folder)
    assert len((folder / "gates.jsonl").read_text().splitlines()) == 2
    shown = run("decide", str(folder), cwd=tmp_path).stdout
    assert "size curve" in shown

    # A signature holds for the decisions it was given for.
    store = RunFolder(folder)
    held = store.read_json(store.root / "decisions/family_sweep.json")
    assert held is not None
    store.write_json(store.root / "decisions/family_sweep.json", held | {"notes": ["another one"]})
    state = json.loads(run("status", str(folder), "--json", cwd=tmp_path).stdout)
    assert state["waiting_gate"] == "R1"


def test_decide_shows_verdicts_and_what_follows(finished: Path, tmp_path: Path) -> None:
    shown = run("decide", str(finished), cwd=tmp_path).stdout
    assert "Phase 1: families and layers" in shown
    assert "size curve" in shown
    assert "bf16 with the direction from fp32" in shown
    rows = json.loads((finished / "decisions" / "family_sweep.json").read_text())["outcomes"]
    for row in rows:
        line = next(line for line in shown.splitlines() if line.startswith(row["model"]))
        assert f"{row['coherent']:.0%} [" in line
        assert f"{row['layer_idx']}/{row['n_layers']}" in line


def test_a_changed_plan_is_refused_with_the_difference(finished: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(finished, tmp_path / "run"))
    other = small(strength={"relative": 0.4})
    with pytest.raises(InputError, match=r"strength: \{'relative': 0.3\} there.*new_run"):
        run_study(other, folder)
    run_study(small(budget={"total": 5}, description="other words"), folder)  # changes no result
    RunFolder(folder).write_json(folder / "models.json", {"model:q7": "other weights"})
    with pytest.raises(SteersweepError, match="Use accept model:q7"):
        run_study(small(), folder)
    run_study(small(), folder, StudyOptions(accept=("model:q7",)))


def test_another_judge_and_an_unknown_one_are_refused(finished: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(finished, tmp_path / "run"))
    text = unseal_text("plan.yaml", (folder / "plan.yaml").read_bytes())
    text = text.replace("judge_id: default@", "judge_id: default@0")
    (folder / "plan.yaml").write_bytes(seal_text("plan.yaml", text))
    with pytest.raises(InputError, match="judge_id"):
        run_study(small(), folder)
    with pytest.raises(InputError, match=r"small.yaml: line \d+: judge: no judge nobody"):
        small(judge="nobody")
    with pytest.raises(InputError, match=r"judge classifier:.*cannot be loaded"):
        run_study(small(judge=f"classifier:{tmp_path}"), tmp_path / "new")


def test_labels_by_a_person_change_what_a_study_decides(finished: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(finished, tmp_path / "run"))
    results = [result for _, found in results_in(folder) for result in found]
    items = queue(results)
    assert items
    for item in items:
        add_review(folder, item.id, "garbled", "Ada")
    run_study(small(), folder)
    phase = json.loads((folder / "decisions" / "family_sweep.json").read_text())
    before = json.loads((finished / "decisions" / "family_sweep.json").read_text())
    working = {row["model"] for row in before["outcomes"] if row["outcome"] == "works"}
    assert {row["outcome"] for row in phase["outcomes"] if row["model"] in working} == {"fails"}
    assert "*" in (finished / "FINDINGS_LOG.md").read_text()


def test_a_new_run_keeps_the_earlier_one(finished: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(finished, tmp_path / "run"))
    options = StudyOptions(until="family_sweep", new_run=True)
    run_study(small(prompts=SMALL["prompts"] | {"max": 2}), folder, options)
    (aside,) = tmp_path.glob("run-before-*")
    assert comparable(aside) == comparable(finished)
    assert not (folder / "decisions" / "size_sweep.json").exists()


def test_an_accepted_change_is_recorded(finished: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(finished, tmp_path / "run"))
    changed = small(thresholds={"works": 0.6, "partial": 0.05})
    run_study(changed, folder, StudyOptions(until="family_sweep", accept=("thresholds",)))
    (line,) = (folder / "changes.jsonl").read_text().splitlines()
    assert json.loads(line)["field"] == "thresholds"


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


def test_a_failure_is_forgotten_when_nothing_asks_for_it_again(
    finished: Path, tmp_path: Path
) -> None:
    """A follow-up that failed once, of a family that now needs none."""
    folder = Path(shutil.copytree(finished, tmp_path / "run"))
    store = RunFolder(folder)
    stale = {"q7 follow-up fp32": "out of memory", "m7 fallback fp32": "no such folder"}
    store.write_json(store.paths.failures("family_sweep"), stale)
    # And a condition of it that never finished.
    held = store.read_json(store.paths.phase("family_sweep"))
    assert held is not None
    more = {"conditions": [*held["conditions"], "0" * 24]}
    store.write_json(store.paths.phase("family_sweep"), more)
    before = status(folder)
    assert before.incomplete
    assert before.done < before.total
    run_study(small(), folder)
    assert store.read_json(store.paths.phase("family_sweep")) == held
    assert store.read_json(store.paths.failures("family_sweep")) == {}
    assert decided(folder)["family_sweep"]["failures"] == {}
    assert not status(folder).incomplete


def test_a_model_that_was_cut_is_in_neither_phase_3_nor_4(finished: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(finished, tmp_path / "run"))
    for phase in ("precision_sweep", "transfer_sweep", "final"):
        (folder / "decisions" / f"{phase}.json").unlink()
    before = {*folder.glob("conditions/*")}
    cuts = [{"do": "drop-models", "what": ["m7"]}]
    run_study(small(cuts=cuts), folder, StudyOptions(apply_cuts=1))
    found = decided(folder)
    for phase in ("precision_sweep", "transfer_sweep"):
        assert {row["model"] for row in found[phase]["outcomes"]} == {"q3", "q7"}
        assert "m7 was cut" in found[phase]["notes"]
    assert found["transfer_sweep"]["transfers"] == []
    assert {*folder.glob("conditions/*")} == before
    # The phase that had ended keeps it.
    assert "m7" in {row["model"] for row in found["size_sweep"]["outcomes"]}


class Clock:
    """Half a second for every look at it, so that costs do not depend on the machine."""

    def __init__(self) -> None:
        self._now = 0.0

    def monotonic(self) -> float:
        self._now += 0.5
        return self._now


@pytest.mark.slow
def test_a_budget_ends_a_phase_in_the_middle_and_more_money_goes_on(
    finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(engine, "time", Clock())
    dear = small(prices={"local": 3600}, budget={"total": 60})  # a dollar a second
    folder = tmp_path / "run"
    with pytest.raises(BudgetStop, match=r"[Rr]aise budget"):
        run_study(dear, folder)
    assert list(folder.glob("conditions/*.json"))
    assert Ledger(folder).spent() <= 61
    assert not (folder / "decisions" / "precision_sweep.json").exists()
    run_study(dear, folder, StudyOptions(budget=100_000))
    assert comparable(folder) == comparable(finished)


def test_a_running_job_stops_before_it_passes_a_stop(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The estimate was far too low."""
    from steersweep.budget.estimate import Estimate

    monkeypatch.setattr(engine, "time", Clock())
    monkeypatch.setattr(costs, "estimate", lambda *_a, **_o: Estimate(0.001, 0, 1, None, 0.000001))
    dear = small(prices={"local": 3600}, budget={"total": 3})
    with pytest.raises(BudgetStop, match="is reached"):
        run_study(dear, tmp_path / "run")
    assert 3 <= Ledger(tmp_path / "run").spent() <= 4


@pytest.mark.slow
def test_a_job_that_reaches_its_timeout_is_named_and_goes_on_when_run_again(
    finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "run"
    swept = copy.deepcopy(SMALL["family_sweep"])
    swept["models"][0]["timeout_s"] = 1
    plan = small(family_sweep=swept)
    with monkeypatch.context() as patched:
        patched.setattr(engine, "time", Clock())
        run_study(plan, folder, StudyOptions(until="family_sweep"))
    failures = json.loads((folder / "decisions" / "family_sweep.json").read_text())["failures"]
    assert [name for name, why in failures.items() if "timeout of 1 s" in why] == ["q7 family fp32"]
    swept["models"][0]["timeout_s"] = 100_000
    run_study(small(family_sweep=swept), folder, StudyOptions(accept={"family_sweep"}))
    assert comparable(folder) | {"findings": ""} == comparable(finished) | {"findings": ""}


def test_the_ledger_counts_what_a_kill_left_open(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path)
    limits = Limits(10, {"a": 4})

    def reserve(phase: str, usd: float) -> str:
        return ledger.reserve(phase, "job", usd=usd, seconds=1, limits=limits, time="now")

    first = reserve("a", 3)
    ledger.settle(first, usd=1, seconds=2, whole=True, time="now")
    reserve("a", 2)  # never settled
    assert ledger.spent() == 3
    with pytest.raises(BudgetStop, match="a stop of 4"):
        reserve("a", 1.5)
    with pytest.raises(BudgetStop, match="total stop of 10"):
        reserve("b", 7.5)
    with (tmp_path / "ledger.jsonl").open("a") as file:
        file.write('{"do": "reserve", "id": "9", "us')  # cut by a kill
    assert ledger.spent() == 3
    reserve("b", 5)
    assert ledger.spent() == 8
    assert ledger.timings("local") == [(2, 1)]
    assert ledger.timings("A10G") == []


def test_damaged_lines_are_named_and_nothing_ends_in_a_traceback(
    finished: Path, tmp_path: Path
) -> None:
    folder = Path(shutil.copytree(finished, tmp_path / "run"))
    ledger = folder / "ledger.jsonl"
    first, *others = ledger.read_bytes().splitlines(keepends=True)
    settled = next(line for line in others if b'"settle"' in line)
    others.remove(settled)
    damaged = [first.replace(b'"usd": 0', b'"usd": 1'), *others, b"\x00" * 512 + b"\n"]
    ledger.write_bytes(b"".join(damaged) + b'{"do": "settle", "id": "x", "usd": NaN}\n')
    for name in ("gates", "reviews"):
        (folder / f"{name}.jsonl").write_bytes(b'{"gate": "\xff\x1b[31m"}\n[]\n')
    shown = run("status", str(folder), cwd=tmp_path)
    assert shown.returncode == 0
    for line in (
        f"ledger.jsonl: line {len(damaged)} ",
        "gates.jsonl: line 1 ",
        "reviews.jsonl: line 2 ",
    ):
        assert line in shown.stdout
    assert "\x1b" not in shown.stdout
    done = run("report", str(folder), cwd=tmp_path)
    assert done.returncode == 0
    for name in ("ledger", "gates", "reviews"):
        assert f"note: {folder}/{name}.jsonl: line 1 is damaged" in done.stderr
    assert "Traceback" not in done.stderr
    assert "\x1b" not in done.stderr
    assert "Damaged:" in (folder / "report.html").read_text()
    lines: list[str] = []
    run_study(small(), folder, on_line=lines.append)  # nothing is left to pay for
    assert any("ledger.jsonl: line 1 is damaged" in line for line in lines)


def test_cuts_are_applied_only_when_asked_and_then_stay(tmp_path: Path) -> None:
    plan = small(cuts=[{"do": "fewer-prompts", "prompts": 2}])
    folder = tmp_path / "run"
    run_study(plan, folder, StudyOptions(until="family_sweep", apply_cuts=1))
    (results,) = folder.glob("results/v3_phase1*.json")
    assert json.loads(results.read_text())[0]["conditions"][0]["n_unique"] == 2
    run_study(plan, folder, StudyOptions(until="family_sweep"))
    assert RunFolder(folder).read_json(folder / "cuts.json") == {"applied": 1}
    with pytest.raises(InputError, match="has 1 cuts"):
        run_study(plan, folder, StudyOptions(apply_cuts=2))


def test_a_second_runner_is_refused_and_a_dead_ones_lock_is_taken_over(tmp_path: Path) -> None:
    code = (
        "import sys, time; from pathlib import Path\n"
        "from steersweep.run.lock import run_lock\n"
        "with run_lock(Path(sys.argv[1])):\n"
        "    print('held', flush=True); time.sleep(600)\n"
    )
    held = subprocess.Popen(
        [sys.executable, "-c", code, str(tmp_path / "run")], stdout=subprocess.PIPE, text=True
    )
    try:
        assert held.stdout is not None
        assert held.stdout.readline() == "held\n"
        with pytest.raises(InputError, match="another steersweep is running"):
            run_study(small(), tmp_path / "run")
    finally:
        held.send_signal(signal.SIGKILL)
        held.wait()
    with run_lock(tmp_path / "run"):
        pass


@pytest.mark.slow
@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EIO, errno.EACCES])
def test_a_disk_that_takes_no_more_loses_nothing_and_is_no_fault_of_a_model(
    finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    folder = tmp_path / "run"
    original, written = os.fsync, 0

    def full(handle: int) -> None:
        nonlocal written
        written += 1
        if written > 12:
            raise OSError(number, os.strerror(number))
        original(handle)

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        with pytest.raises(SteersweepError, match=rf"{os.strerror(number)}.*same command again"):
            run_study(small(), folder)
    for file in folder.glob("conditions/*.json"):
        json.loads(file.read_text())
    assert not list(folder.rglob("*.tmp"))
    run_study(small(), folder)
    assert comparable(folder) == comparable(finished)


def test_damaged_files_are_set_aside_and_named(finished: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(finished, tmp_path / "run"))
    conditions = sorted(folder.glob("conditions/*.json"))
    conditions[0].write_text(conditions[0].read_text()[:100])  # torn
    conditions[1].write_text("")  # empty
    conditions[2].write_text(json.dumps({"key": "of another"}))  # foreign
    decision = folder / "decisions" / "size_sweep.json"
    decision.write_text("{")
    next(folder.glob("extraction/dim-*.json")).write_bytes(b"\x00\x01")
    run_study(small(), folder)
    assert comparable(folder) == comparable(finished)
    state = json.loads(run("status", str(folder), "--json", cwd=tmp_path).stdout)
    assert len(state["damaged"]) == 5


DIRECTIONS = {
    "zeroed": lambda vector: 0 * vector,
    "tripled": lambda vector: 3 * vector,
    "negated": lambda vector: -vector,
}


def test_damaged_checks_are_made_again_by_one_job_and_no_condition_is(
    finished: Path, tmp_path: Path
) -> None:
    """As after a run that was killed when it had set their file aside."""
    folder = Path(shutil.copytree(finished, tmp_path / "run"))
    path = min((folder / "extraction").glob("checks-*.json"))
    whole = json.loads(path.read_text())
    path.rename(f"{path}.damaged")
    conditions = {p.name: p.stat().st_mtime_ns for p in (folder / "conditions").iterdir()}
    before = Ledger(folder).jobs()
    run_study(small(), folder)
    after = Ledger(folder).jobs()
    assert len(after) == len(before) + 1
    assert after[-1].job in {job.job for job in before}
    assert after[-1].whole
    assert {p.name: p.stat().st_mtime_ns for p in (folder / "conditions").iterdir()} == conditions
    seen, again = (
        [(check["name"], check["passed"]) for check in held["checks"]]
        for held in (whole, json.loads(path.read_text()))
    )
    assert again == seen
    run_study(small(), folder)
    assert Ledger(folder).jobs() == after


def edit_direction(path: Path, kind: str) -> None:
    """Damage a direction's file, its metadata as they were."""
    if kind == "truncated":
        path.write_bytes(path.read_bytes()[:-9])
        return
    with safe_open(path, "pt") as file:
        metadata, vector = file.metadata(), file.get_tensor("direction")
    save_file({"direction": DIRECTIONS[kind](vector)}, path, metadata)


def test_bad_directions_are_made_again(finished: Path, tmp_path: Path) -> None:
    """Every direction of a finished study, in four ways."""
    folder = Path(shutil.copytree(finished, tmp_path / "run"))
    paths = sorted(folder.glob("directions/*.safetensors"))
    for number, path in enumerate(paths):
        edit_direction(path, [*DIRECTIONS, "truncated"][number % 4])
    activations = next(folder.glob("extraction/activations-*.safetensors"))
    activations.write_bytes(activations.read_bytes()[:-4] + b"\0\0\0\0")
    run_study(small(), folder)
    assert comparable(folder) == comparable(finished)
    assert {path.name for path in folder.glob("directions/*.safetensors")} == {
        path.name for path in paths
    }


@pytest.mark.parametrize("kind", rest_slow([*DIRECTIONS, "truncated"]))
def test_a_direction_damaged_while_others_borrow_it_is_made_again(
    finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    """Between the job that found it and the job that borrows it, in one run."""
    folder = Path(shutil.copytree(finished, tmp_path / "run"))
    store = RunFolder(folder)
    borrowed = None
    for path in folder.glob("conditions/*.json"):
        record = store.get(path.stem)
        if record is not None and str(record.condition.label) == "dim@fp32":
            borrowed = str(record.condition.direction)
            path.unlink()
    assert borrowed is not None
    original = worker.run_job
    damaged: list[Any] = []

    def damage_first(job: Any, *arguments: Any) -> None:
        if not damaged and any(c.direction == borrowed for c in job.conditions):
            damaged.append(job)
            edit_direction(folder / f"directions/{borrowed}.safetensors", kind)
        original(job, *arguments)

    monkeypatch.setattr(engine, "run_job", damage_first)
    run_study(small(), folder)
    assert damaged
    assert comparable(folder) == comparable(finished)
    assert store.read_json(store.root / "phases/precision_sweep-failures.json") == {}


@pytest.mark.parametrize(
    "name",
    ["decisions/family_sweep.json", "phases/family_sweep.json", "phases/size_sweep-failures.json"],
)
@pytest.mark.parametrize("data", [b"", b"null", b"[]", b"{}", b"[" * 100_000, None])
def test_commands_that_read_name_what_is_damaged_and_leave_it(
    finished: Path, tmp_path: Path, name: str, data: bytes | None
) -> None:
    folder = Path(shutil.copytree(finished, tmp_path / "run"))
    condition = next(folder.glob("conditions/*.json"))
    condition.write_bytes(b"null")
    path = folder / name
    path.unlink()
    if data is None:
        path.symlink_to(path.name)
    else:
        path.write_bytes(data)
    before = sorted(folder.rglob("*"))
    state = status(folder)
    assert name in state.damaged
    if not name.startswith("phases/family_sweep.json"):
        assert condition.relative_to(folder).as_posix() in state.damaged
        assert state.done == state.total - 1
    if name.startswith("decisions/"):
        assert state.phase == "family_sweep"
        for use in (decided, read_run):
            with pytest.raises(InputError, match=rf"{name}: is damaged"):
                use(folder)
    assert before == sorted(folder.rglob("*"))


def test_a_damaged_number_of_cuts_is_asked_for(tmp_path: Path) -> None:
    """No other file says how many there were; none is not a safe guess."""
    plan = small(cuts=[{"do": "fewer-prompts", "prompts": 2}])
    folder = tmp_path / "run"
    run_study(plan, folder, StudyOptions(until="family_sweep", apply_cuts=1))
    (folder / "cuts.json").write_text("{}")
    for _ in range(2):
        with pytest.raises(InputError, match=r"cuts.json: is damaged.*apply_cuts"):
            run_study(plan, folder, StudyOptions(until="family_sweep"))
    run_study(plan, folder, StudyOptions(until="family_sweep", apply_cuts=1))
    assert RunFolder(folder).read_json(folder / "cuts.json") == {"applied": 1}


def torture(tmp_path: Path, kills: int, seed: int) -> tuple[Path, int]:
    """Kill a study at random moments until it ends by itself; kills, and the folder."""
    plan = tmp_path / "small.yaml"
    plan.write_text(yaml.safe_dump(SMALL))
    folder, chance = tmp_path / "run", random.Random(seed)
    script = str(Path(__file__).with_name("kill_at.py"))
    done = 0
    while True:
        where = chance.choice(["rename", "forward"]) if done < kills else "never"
        # Renames come by the dozen, forward passes by the hundred: fall short of the end.
        count = chance.randint(1, 6) if where == "rename" else chance.randint(1, 90)
        moment = ["rename", str(10**9)] if where == "never" else [where, str(count)]
        command = [sys.executable, script, str(plan), str(folder), *moment]
        ended = subprocess.run(command, capture_output=True, text=True, check=False)
        if ended.returncode == 0:
            return folder, done
        assert ended.returncode == -signal.SIGKILL, ended.stderr
        done += 1


@pytest.mark.slow
def test_kills_change_nothing(finished: Path, tmp_path: Path) -> None:
    folder, _ = torture(tmp_path, 4, seed=1)
    assert comparable(folder) == comparable(finished)


@pytest.mark.slow
def test_thirty_kills_change_nothing(finished: Path, tmp_path: Path) -> None:
    total = 0
    for seed in range(20):
        place = tmp_path / str(seed)
        place.mkdir()
        folder, done = torture(place, 30 - total, seed=seed)
        assert comparable(folder) == comparable(finished)
        total += done
        if total >= 30:
            return
    raise AssertionError(f"only {total} kills")
