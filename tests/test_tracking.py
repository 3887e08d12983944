"""Trackers: what a real offline W&B run and a real trackio database hold; lost networks."""

from __future__ import annotations

import copy
import json
import os
import subprocess
import sys
import time
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import pytest
import yaml

from helpers.studies import SMALL, small
from steersweep.people.reviews import results_in
from steersweep.run.folder import RunFolder
from steersweep.study.listeners import Ended
from steersweep.study.study import StudyOptions, run_study
from steersweep.sweeps.run import run_sweep
from steersweep.sweeps.settings import make_settings
from steersweep.tracking.record import (
    TrackedRow,
    TrackedRun,
    runs_of_job,
    runs_of_study,
    runs_of_sweep,
)
from steersweep.tracking.tracker import Tracking, open_tracker
from steersweep.tracking.wandb import WandbTracker
from test_cli import refused, run

TRACKED = {field.name for field in fields(TrackedRow)}
KEY = "0123456789abcdef0123456789abcdef01234567"


@pytest.fixture(scope="module")
def swept(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tracked") / "run"
    settings = make_settings(
        ["lab:qwen-3b"],
        methods="dim,cosmic",
        layers="0.5,0.7",
        strengths="0.3",
        max_prompts=2,
        max_new_tokens=8,
    )
    run_sweep(settings, folder)
    return folder


@pytest.fixture
def runs(swept: Path) -> list[TrackedRun]:
    return runs_of_sweep([result for _, held in results_in(swept) for result in held], swept)


def tracking(folder: Path, tracker: Any) -> tuple[Tracking, list[str]]:
    RunFolder(folder).write_json(folder / "run.json", {"created": "2026-01-01T00:00:00Z"})
    said: list[str] = []
    return Tracking(folder, tracker, said.append), said


def wandb_records(folder: Path) -> list[dict[str, Any]]:
    """Everything in a W&B run's log, read by W&B's own reader."""
    file = next(folder.glob("*.wandb"))
    command = [sys.executable, "-m", "wandb", "leet", "inspect", "--json", str(file)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return [json.loads(line) for line in done.stdout.splitlines()]


def link_files(source: Path, target: Path) -> None:
    for name in ("directions", "conditions"):
        (target / name).symlink_to(source / name)


def test_an_offline_run_of_wandb_holds_everything(
    swept: Path, runs: list[TrackedRun], tmp_path: Path
) -> None:
    link_files(swept, tmp_path)
    tracker = open_tracker("wandb", tmp_path, online=False)
    tells, said = tracking(tmp_path, tracker)
    assert tells.tell(runs) == 2
    assert tells.tell(runs) == 0  # once is enough
    assert said == []
    folders = sorted((tmp_path / "tracking" / "wandb" / "wandb").glob("offline-run-*"))
    assert len(folders) == 2
    by_name = {}
    for folder in folders:
        records = wandb_records(folder)
        held = next(record["run"] for record in records if record["type"] == "run")
        by_name[held["display_name"]] = held, records
    assert set(by_name) == {"qwen-3b-dim-layer-sweep", "qwen-3b-cosmic-layer-sweep"}
    held, records = by_name["qwen-3b-dim-layer-sweep"]
    assert held["project"] == "steersweep-sweeps"
    assert held["run_group"] == swept.name
    assert held["tags"] == ["qwen", "sweep"]
    assert held["config"]["update"]["model_id"] == "lab:qwen-3b"
    history = [record["history"]["item"] for record in records if record["type"] == "history"]
    rows = [item for item in history if "refusal_rate" in item]
    steered = [row for row in rows if row["kind"] == "steered"]
    results = next(held for _, held in results_in(swept))
    assert len(steered) == len(results[0].conditions) == 2
    assert {row["kind"] for row in rows} == {"steered", "unsteered", "random direction"}
    for row, cell in zip(steered, results[0].conditions, strict=True):
        entry = cell.as_json()
        for field in TRACKED:
            if field in entry:
                assert row[field] == entry[field], field
        assert row["quantization"] == "fp32"
        assert entry["samples"][0]["response"] in row["sample_outputs"]
    summary: dict[str, Any] = {}
    for record in records:
        summary |= record["summary"]["update"] if record["type"] == "summary" else {}
    assert summary["dim/verdict"] == results[0].verdict.outcome
    artifacts = {
        record["artifact"]["type"]: record["artifact"]["manifest"]["contents"]
        for record in records
        if record["type"] == "artifact"
    }
    assert {"direction", "condition", "result", "run_table"} <= set(artifacts)
    names = {Path(cell.steering.direction_file).name for cell in results[0].conditions}
    assert names <= {item["path"] for item in artifacts["direction"]}
    # What artifacts hold is staged with the run, and so can be sent later.
    assert all(Path(item["local_path"]).is_file() for item in artifacts["direction"])
    table = next(folders[0].rglob("*.table.json"))
    assert json.loads(table.read_text())["columns"][5:7] == ["prompt", "response"]


def test_trackio_holds_the_same_without_an_account(
    swept: Path, runs: list[TrackedRun], tmp_path: Path
) -> None:
    """In a process of its own, for trackio reads where to write when it is imported."""
    code = f"""
import json, sys
from pathlib import Path
from steersweep.people.reviews import results_in
from steersweep.tracking.record import runs_of_sweep
from steersweep.tracking.tracker import Tracking, open_tracker
folder = Path({str(swept)!r})
runs = runs_of_sweep([r for _, held in results_in(folder) for r in held], folder)
tells = Tracking(folder, open_tracker("trackio", folder, online=True), print)
tells.tell(runs)
assert tells.finish() == []
"""
    environment = {
        "TRACKIO_DIR": str(tmp_path),
        "PATH": "/usr/bin:/bin",
        "HOME": str(tmp_path),
        "PYTHONPATH": os.pathsep.join(sys.path),
    }

    def go(*command: str) -> str:
        return subprocess.run(
            [sys.executable, *command], env=environment, capture_output=True, text=True, check=True
        ).stdout

    assert go("-c", code) == ""
    main = "from trackio.cli import main; main()"
    shown = ("--project", "steersweep-sweeps", "--run", "qwen-3b-dim-layer-sweep", "--json")
    found = json.loads(go("-c", main, "get", "run", *shown))
    assert set(found["metrics"]) >= TRACKED
    assert "samples" in found["metrics"]
    assert found["config"]["_Group"] == swept.name
    rates = json.loads(go("-c", main, "get", "metric", *shown, "--metric", "coherent_refusal_rate"))
    expected = [row.coherent_refusal_rate for row in runs[0].rows]
    assert [value["value"] for value in rates["values"]] == expected


def plant_sender(folder: Path, log: Path, *, takes: int) -> None:
    """A `wandb` command that marks so many runs as W&B's own does, and exits with 0 in any case."""
    (folder / "wandb.py").write_text(
        f"""
import pathlib, sys
with open({str(log)!r}, "a") as log:
    print(*sys.argv[1:], file=log)
for path in sys.argv[2:2 + {takes}]:
    (file,) = pathlib.Path(path).glob("run-*.wandb")
    file.with_suffix(".wandb.synced").touch()
if len(sys.argv) > 2 + {takes}:
    print("a full disk there")
"""
    )


def test_a_lost_network_holds_nothing_up_and_what_is_kept_is_sent_later(
    swept: Path, runs: list[TrackedRun], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WANDB_BASE_URL", "http://127.0.0.1:9")
    monkeypatch.setenv("WANDB_API_KEY", KEY)
    link_files(swept, tmp_path)
    tells, said = tracking(tmp_path, open_tracker("wandb", tmp_path, online=True))
    started = time.monotonic()
    assert tells.tell(runs) == 2
    assert time.monotonic() - started < 20
    assert said == []
    assert tells.finish(wait=2) == [run.key for run in runs]
    assert "could not be reached in time" in said[0]
    assert KEY not in "".join(said)

    # The network is back: `wandb sync` is told of what is there, and only of that.
    log = tmp_path / "sent.txt"
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    plant_sender(tmp_path, log, takes=1)
    again, said = tracking(tmp_path, open_tracker("wandb", tmp_path, online=True))
    assert again.tell(runs) == 0
    assert again.finish(wait=20) == [runs[1].key]
    assert "did not take 1 of 2 runs: a full disk there" in said[0]
    plant_sender(tmp_path, log, takes=2)
    again, said = tracking(tmp_path, open_tracker("wandb", tmp_path, online=True))
    assert again.tell(runs) == 0
    assert again.finish(wait=20) == []
    assert said == []
    assert again.finish() == []
    calls = log.read_text().splitlines()
    assert [call.count("offline-run-") for call in calls] == [2, 1]
    assert all(call.startswith("sync ") for call in calls)


def test_without_a_key_the_reason_is_named(
    runs: list[TrackedRun], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("WANDB_API_KEY", raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("NETRC", str(tmp_path / "none"))
    here = tmp_path / "here"
    here.mkdir()
    monkeypatch.chdir(here)
    tells, said = tracking(tmp_path, open_tracker("wandb", tmp_path, online=True))
    tells.tell(runs[:1])
    assert tells.finish(wait=30) == [runs[0].key]
    assert "No API key configured" in said[-1]
    assert not list(here.iterdir())  # the sender's own logs are not left where the user is


class Broken:
    """A tracker that fails in every way."""

    name = "broken"

    def record(self, _run: TrackedRun, _run_id: str) -> None:
        raise OSError(f"disk says no, key {KEY}")

    def send(self) -> None:
        raise RuntimeError("no")

    def wait(self, _seconds: float) -> None:
        raise KeyError("wait")

    def arrived(self) -> list[str]:
        raise KeyError("arrived")


def test_a_tracker_that_fails_never_stops_a_study(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WANDB_API_KEY", KEY)
    folder = tmp_path / "run"
    said: list[str] = []
    plan = small(tracking={"tracker": "wandb", "projects": {"family_sweep": "mine"}})
    told: list[TrackedRun] = []

    def on_job(ended: Ended) -> None:
        told.extend(runs_of_job(plan, ended))
        Tracking(folder, Broken(), said.append).tell(told)

    store = run_study(plan, folder, StudyOptions(until="family_sweep"), on_job=on_job)
    assert store.read_json(store.root / "decisions/family_sweep.json")["outcomes"]
    assert any("disk says no" in line for line in said)
    assert KEY not in "".join(said)
    # The jobs told of runs under the plan's names; the finished folder tells of the same.
    last = {run.key: run.digest for run in told}
    assert last == {run.key: run.digest for run in runs_of_study(plan, folder)}
    assert {"mine/q7-dim-layer-sweep", "mine/m7-dim-layer-sweep"} == set(last)


def test_a_study_tells_at_its_gate_and_at_a_bad_end(tmp_path: Path) -> None:
    """By the commands alone: who is told what by the time `run` has ended."""
    data = copy.deepcopy(SMALL)
    for name in ("follow_up", "precision_sweep", "transfer_sweep"):
        del data[name]
    data["family_sweep"]["models"] = [{"model": "m7", "layers": [0.5]}]
    data["families"]["qwen"][0]["model"] = data["families"]["qwen"][1]["model"] = "lab:nothing"
    data |= {"gates": {"R1": ["Which?"]}, "thresholds": {"works": 0.0, "partial": 0.0}}
    data["size_sweep"] = {"methods": ["dim"]}
    data["tracking"] = {"tracker": "wandb", "online": False}
    plan = tmp_path / "plan.yaml"
    plan.write_text(yaml.safe_dump(data))

    def told() -> set[str]:
        held = json.loads((tmp_path / "run" / "tracking" / "state.json").read_text())
        return {run["run"] for run in held["wandb"].values()}

    command = ("run", "plan.yaml", "--out", "run")
    done = run(*command, cwd=tmp_path)
    assert done.returncode == 3, done.stderr
    assert told() == {"small-family-sweep/m7-dim-layer-sweep"}
    assert "1 runs are kept here and not sent: steersweep track run --to wandb" in done.stderr
    run("approve", "run", "R1", "--by", "A. Lead", cwd=tmp_path)
    # A size that cannot run: what the phase found is told all the same.
    data["families"]["mistral"].append(
        data["families"]["mistral"][0] | {"name": "m8", "model": "lab:nothing"}
    )
    plan.write_text(yaml.safe_dump(data))
    done = run(*command, "--accept-change", "families", cwd=tmp_path)
    assert done.returncode == 4, done.stderr
    assert told() == {"small-family-sweep/m7-dim-layer-sweep", "small-size-sweep/m7-dim"}


def test_a_changed_run_is_told_again_under_its_id(runs: list[TrackedRun], tmp_path: Path) -> None:

    tells, _ = tracking(tmp_path, WandbTracker(tmp_path, online=False, entity=None))
    more = replace(runs[0], rows=runs[0].rows[:-1])
    assert tells.tell([more]) == 1
    assert tells.tell([runs[0]]) == 1
    files = [*(tmp_path / "tracking/wandb/wandb").glob("offline-run-*/run-*.wandb")]
    assert len(files) == 2
    assert len({file.name for file in files}) == 1


def test_bad_trackers_are_refused_before_anything_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    command = ("sweep", "lab:qwen-3b", "--out", "r", "--track")
    assert "choose from none, wandb, trackio" in refused(*command, "mlflow", cwd=tmp_path)
    monkeypatch.setattr("steersweep.tracking.tracker.find_spec", lambda _name: None)
    assert "pip install 'steersweep[trackio]'" in refused(*command, "trackio", cwd=tmp_path)
    assert not (tmp_path / "r").exists()


def test_track_tells_of_a_run_that_is_there(swept: Path, tmp_path: Path) -> None:
    import shutil

    shutil.copytree(swept, tmp_path / "run")
    done = run("track", "run", "--to", "wandb", "--offline", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "2 of 2 runs new or changed" in done.stderr
    assert "2 runs are kept here and not sent: steersweep track run" in done.stderr
    assert "no steersweep run" in refused("track", ".", cwd=tmp_path)
