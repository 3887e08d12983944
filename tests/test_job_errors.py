"""What a job reports: its errors, by name and with a traceback kept, and its warnings."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from helpers.jobs import PHASE_1, job_of, results
from helpers.studies import small
from steersweep import InputError
from steersweep.engines import engine as engine_module
from steersweep.engines.engine import Event, Work, carry_out, found_here, sparingly
from steersweep.engines.local import LocalEngine
from steersweep.model.find import find_model
from steersweep.model.source import ModelSource
from steersweep.study.study import run_study
from steersweep.sweeps.settings import make_job, make_settings
from steersweep.work.job import Job, Progress


def test_warnings_travel_however_soon_after_other_progress() -> None:
    heard: list[Event] = []
    tell = sparingly(heard.append, every=1000)
    for note, warning in (("loading", ""), ("checking", ""), ("checking", "it thinks"), ("x", "")):
        progress = Progress("m", 0, 2, 0.0, note, warning=warning)
        tell(Event("m", "progress", progress=progress))
    assert [event.progress and event.progress.warning for event in heard] == ["", "it thinks"]


def test_an_unforeseen_error_ends_one_job_and_leaves_its_traceback(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = engine_module.run_job

    def fails_for_qwen(job: Job, *arguments: Any) -> None:
        if job.family == "qwen":
            raise ZeroDivisionError("a bug")
        run(job, *arguments)

    monkeypatch.setattr(engine_module, "run_job", fails_for_qwen)
    store = run_study(small(), tmp_path / "run", PHASE_1, engine=LocalEngine("cpu"))
    failures = store.read_json(store.root / "phases/family_sweep-failures.json")
    assert "ZeroDivisionError: a bug" in failures["q7 family fp32"]
    log = tmp_path / "run" / "logs" / "q7-family-fp32.txt"
    assert "fails_for_qwen" in log.read_text()
    assert results(tmp_path / "run")["v3_phase1_family_sweep"][0]["family"] == "mistral"


def test_what_a_listener_raises_is_no_error_of_the_job(tmp_path: Path) -> None:
    def listener(event: Event) -> None:
        if event.kind == "progress":
            raise ValueError("the display broke")

    with pytest.raises(ValueError, match="display"):
        carry_out(Work("w", job_of(), "local"), tmp_path, listener)


def test_other_weights_at_the_same_place_are_noticed_where_the_job_runs(
    tmp_path: Path, copied_lab_model: Path
) -> None:
    settings = make_settings([str(copied_lab_model)], layers="0.5", strengths="0.2", max_prompts=2)
    job = make_job(settings, settings.models[0], "cpu", "2026-11-25")
    config = copied_lab_model / "generation_config.json"
    config.write_text(config.read_text().replace("{", '{"top_k": 7,', 1))
    events: list[Event] = []
    carry_out(Work("w", job, "local"), tmp_path, events.append)
    assert events[-1].kind == "failed"
    assert "are not those this run began with" in str(events[-1].error)


def test_a_folder_that_the_worker_lacks_is_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="is not on the machine"):
        found_here(ModelSource("models/mine", "/no/such/folder"))
    assert found_here(find_model("lab:qwen-3b")).is_local
