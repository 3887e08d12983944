"""A study run from start to end: what it finds, its gates, and running it again."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path
from typing import Any

import pytest
import yaml

from helpers.studies import SMALL, comparable, small
from steersweep import InputError, SteersweepError
from steersweep.core.digests import seal_text, unseal_text
from steersweep.engines import engine
from steersweep.people.reviews import add_review, queue, results_in
from steersweep.report.html import write_report
from steersweep.run.direction import Direction
from steersweep.run.folder import RunFolder
from steersweep.study.ahead import look_ahead
from steersweep.study.running import GateStop
from steersweep.study.status import decided, status
from steersweep.study.study import StudyOptions, run_study
from steersweep.study.sweeps import Cuts
from test_cli import refused, run


def test_all_phases_end_with_decisions_and_findings(finished_study: Path) -> None:
    found = comparable(finished_study)
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


def test_no_phase_runs_more_than_its_plan_says_ahead(finished_study: Path) -> None:
    store, plan = RunFolder.existing(finished_study), small()
    expected = look_ahead(plan, Cuts())
    for phase in plan.phases:
        of_phase = [e for e in expected if e.sweep.step.phase == phase]
        held = store.read_json(store.paths.phase(phase))
        assert held is not None
        assert 0 < len(held["conditions"]) <= sum(e.sweep.n_conditions for e in of_phase)


def test_a_precision_that_cannot_run_is_named_with_its_fix_and_the_others_go_on(
    finished_study: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = Path(shutil.copytree(finished_study, tmp_path / "run"))
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


def test_directions_are_tried_on_models_of_the_same_width(finished_study: Path) -> None:
    found = json.loads((finished_study / "decisions" / "transfer_sweep.json").read_text())
    assert {(row["from"], row["to"]) for row in found["transfers"]} == {("q7", "m7"), ("m7", "q7")}
    assert found["notes"] == ["q3: no other model here has its width"]
    for row in found["transfers"]:
        assert abs(row["cosine"]) < 0.9  # they are two models
        share = row["coherent_refusal_rate"] / row["own_rate"]
        assert row["efficiency"] == pytest.approx(share)
        low, high = row["efficiency_ci"]
        assert low <= row["efficiency"] <= high
    # The very vector of the other model was added, at this model's own layer.
    store = RunFolder.existing(finished_study)
    file = next(finished_study.glob("results/v3_phase4_transfer_*.json"))
    results = json.loads(file.read_text())
    transfer = [result for result in results if result["method"].startswith("dim@")]
    assert len(transfer) == 2
    for result in transfer:
        (entry,) = result["conditions"]
        vector = Direction.load(finished_study / entry["direction_file"])
        assert vector.model_id != result["model_id"]
        record = store.get(entry["key"])
        assert record is not None
        assert record.condition.direction == Path(entry["direction_file"]).stem


def test_results_of_every_phase_follow_the_schema(finished_study: Path) -> None:
    from importlib import resources

    import jsonschema

    schema = json.loads((resources.files("steersweep.run") / "result.schema.json").read_text())
    for file in finished_study.glob("results/*.json"):
        jsonschema.Draft202012Validator(schema).validate(json.loads(file.read_text()))


def test_every_link_of_its_report_leads_somewhere(finished_study: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(finished_study, tmp_path / "run"))
    text = write_report(folder).path.read_text()
    links = {link for link in re.findall(r'href="([^"#][^"]*)"', text) if link[:5] != "data:"}
    assert links
    assert not [link for link in links if not (folder / link).exists()]
    anchors = set(re.findall(r'href="#([a-z_]+)"', text))
    assert not [anchor for anchor in anchors if f'id="{anchor}"' not in text]


def test_an_unfinished_study_has_a_report(finished_study: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(finished_study, tmp_path / "run"))
    for late in (*folder.glob("results/*phase[234]*"), *folder.glob("decisions/[pt]*")):
        late.unlink()
    (folder / "decisions" / "final.json").unlink()
    (folder / "decisions" / "size_sweep.json").unlink()
    text = write_report(folder).path.read_text()
    assert "Not finished" in text
    assert "Phase 1" in text


def test_a_finished_study_run_again_does_nothing(
    finished_study: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = Path(shutil.copytree(finished_study, tmp_path / "run"))
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}

    def never(*_arguments: Any, **_options: Any) -> None:
        raise AssertionError("a job was run again")

    monkeypatch.setattr(engine, "run_job", never)
    run_study(small(), folder)
    after = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    assert before == after


def test_gates_stop_until_a_person_signs(finished_study: Path, tmp_path: Path) -> None:
    plan = small(gates={"R1": ["Which families work?"]})
    folder = Path(shutil.copytree(finished_study, tmp_path / "run"))
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


def test_decide_shows_verdicts_and_what_follows(finished_study: Path, tmp_path: Path) -> None:
    shown = run("decide", str(finished_study), cwd=tmp_path).stdout
    assert "Phase 1: families and layers" in shown
    assert "size curve" in shown
    assert "bf16 with the direction from fp32" in shown
    rows = json.loads((finished_study / "decisions" / "family_sweep.json").read_text())["outcomes"]
    for row in rows:
        line = next(line for line in shown.splitlines() if line.startswith(row["model"]))
        assert f"{row['coherent']:.0%} [" in line
        assert f"{row['layer_idx']}/{row['n_layers']}" in line


def test_a_changed_plan_is_refused_with_the_difference(
    finished_study: Path, tmp_path: Path
) -> None:
    folder = Path(shutil.copytree(finished_study, tmp_path / "run"))
    other = small(strength={"relative": 0.4})
    with pytest.raises(InputError, match=r"strength: \{'relative': 0.3\} there.*new_run"):
        run_study(other, folder)
    run_study(small(budget={"total": 5}, description="other words"), folder)  # changes no result
    RunFolder(folder).write_json(folder / "models.json", {"model:q7": "other weights"})
    with pytest.raises(SteersweepError, match="Use accept model:q7"):
        run_study(small(), folder)
    run_study(small(), folder, StudyOptions(accept=("model:q7",)))


def test_another_judge_and_an_unknown_one_are_refused(finished_study: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(finished_study, tmp_path / "run"))
    text = unseal_text("plan.yaml", (folder / "plan.yaml").read_bytes())
    text = text.replace("judge_id: default@", "judge_id: default@0")
    (folder / "plan.yaml").write_bytes(seal_text("plan.yaml", text))
    with pytest.raises(InputError, match="judge_id"):
        run_study(small(), folder)
    with pytest.raises(InputError, match=r"small.yaml: line \d+: judge: no judge nobody"):
        small(judge="nobody")
    with pytest.raises(InputError, match=r"judge classifier:.*cannot be loaded"):
        run_study(small(judge=f"classifier:{tmp_path}"), tmp_path / "new")


def test_labels_by_a_person_change_what_a_study_decides(
    finished_study: Path, tmp_path: Path
) -> None:
    folder = Path(shutil.copytree(finished_study, tmp_path / "run"))
    results = [result for _, found in results_in(folder) for result in found]
    items = queue(results)
    assert items
    for item in items:
        add_review(folder, item.id, "garbled", "Ada")
    run_study(small(), folder)
    phase = json.loads((folder / "decisions" / "family_sweep.json").read_text())
    before = json.loads((finished_study / "decisions" / "family_sweep.json").read_text())
    working = {row["model"] for row in before["outcomes"] if row["outcome"] == "works"}
    assert {row["outcome"] for row in phase["outcomes"] if row["model"] in working} == {"fails"}
    assert "*" in (finished_study / "FINDINGS_LOG.md").read_text()


def test_a_new_run_keeps_the_earlier_one(finished_study: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(finished_study, tmp_path / "run"))
    options = StudyOptions(until="family_sweep", new_run=True)
    run_study(small(prompts=SMALL["prompts"] | {"max": 2}), folder, options)
    (aside,) = tmp_path.glob("run-before-*")
    assert comparable(aside) == comparable(finished_study)
    assert not (folder / "decisions" / "size_sweep.json").exists()


def test_an_accepted_change_is_recorded(finished_study: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(finished_study, tmp_path / "run"))
    changed = small(thresholds={"works": 0.6, "partial": 0.05})
    run_study(changed, folder, StudyOptions(until="family_sweep", accept=("thresholds",)))
    (line,) = (folder / "changes.jsonl").read_text().splitlines()
    assert json.loads(line)["field"] == "thresholds"


def test_a_failure_is_forgotten_when_nothing_asks_for_it_again(
    finished_study: Path, tmp_path: Path
) -> None:
    """A follow-up that failed once, of a family that now needs none."""
    folder = Path(shutil.copytree(finished_study, tmp_path / "run"))
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


def test_a_model_that_was_cut_is_in_neither_phase_3_nor_4(
    finished_study: Path, tmp_path: Path
) -> None:
    folder = Path(shutil.copytree(finished_study, tmp_path / "run"))
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
