"""What a run folder says of itself: when it began, what was damaged, which results count."""

from __future__ import annotations

import errno
import json
import logging
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from steersweep import InputError
from steersweep.cli.app import app
from steersweep.core.digests import seal
from steersweep.engines.engine import Event, Work, carry_out
from steersweep.people.reviews import add_review, results_in
from steersweep.report.html import write_report
from steersweep.report.run import read_run
from steersweep.report.standing import standing_report
from steersweep.run import finished as finished_records
from steersweep.run.folder import RunFolder
from steersweep.run.packed import PackedSamples
from steersweep.run.records import Record
from steersweep.run.result_files import (
    FAMILY_SWEEP,
    read_result_file,
    result_files,
    verification_file,
    write_result_file,
    write_verification,
)
from steersweep.sweeps import results as sweep_results
from steersweep.sweeps import run as sweep_run
from steersweep.sweeps.run import run_sweep
from steersweep.sweeps.settings import SweepSettings, make_job, make_settings


@pytest.fixture(scope="module")
def settings() -> SweepSettings:
    return make_settings(
        ["lab:qwen-7b"],
        layers="0.5",
        strengths="0.3",
        precision="fp32",
        max_new_tokens=6,
        max_prompts=2,
    )


@pytest.fixture(scope="module")
def finished(settings: SweepSettings, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("finished") / "run"
    run_sweep(settings, folder)
    return folder


@pytest.fixture
def run_copy(finished: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(finished, tmp_path / "run"))


def date_conditions(folder: Path, date: str) -> None:
    """Conditions as of a model whose chat template is told the day."""
    store = RunFolder(folder)
    for path in folder.glob("conditions/*.json"):
        record = store.get(path.stem)
        assert record is not None
        told = replace(record, provenance={**record.provenance, "template_date": date})
        path.write_bytes(seal(store.paths.name_of(path), told.as_json()))


@pytest.mark.parametrize("damage", ["{}", None])
def test_a_lost_date_is_that_of_the_conditions(
    run_copy: Path, settings: SweepSettings, damage: str | None
) -> None:
    """It goes into rendered prompts, so another day would be another run."""
    date_conditions(run_copy, "2020-01-02")
    (run_copy / "run.json").unlink()
    if damage is not None:
        (run_copy / "run.json").write_text(damage)
    assert RunFolder(run_copy, repairs=False).begun() == "2020-01-02T00:00:00Z"
    run_sweep(settings, run_copy)
    assert json.loads((run_copy / "run.json").read_text())["created"] == "2020-01-02T00:00:00Z"


def test_the_date_is_that_of_who_began_first(
    settings: SweepSettings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another process that began a run here, before the lock was ours, on another day."""
    original = sweep_run.run_lock

    @contextmanager
    def late(out: Path) -> Iterator[None]:
        with original(out):
            run = RunFolder(out)
            run.write_once(run.paths.run, {"created": "2020-01-02T23:59:59Z"})
            run.paths.plan.touch()
            yield

    dates = []

    def note_date(job: Any, *_: Any) -> None:
        dates.append(job.date)
        raise InputError("enough")

    monkeypatch.setattr(sweep_run, "run_lock", late)
    with pytest.raises(InputError, match="enough"):
        run_sweep(settings, tmp_path / "run", run=note_date, device="cpu")
    assert dates == ["2020-01-02"]


def test_damage_goes_where_the_run_says_its_notes(
    run_copy: Path, settings: SweepSettings, caplog: pytest.LogCaptureFixture
) -> None:
    """Python's log would break the live picture, and shows control characters as they are."""
    name = next(iter(sorted(run_copy.glob("conditions/*.json")))).name
    (run_copy / "conditions" / name).write_text("null")
    notes: list[str] = []
    with caplog.at_level(logging.INFO, logger="steersweep"):
        run_sweep(settings, run_copy, on_note=notes.append)
    assert [note for note in notes if name in note and "made again" in note] == [notes[0]]
    assert caplog.records == []


def test_damage_that_a_worker_finds_is_an_event(run_copy: Path, settings: SweepSettings) -> None:
    job = make_job(settings, settings.models[0], "cpu", "2026-01-01")
    path = RunFolder(run_copy).paths.condition(job.conditions[0].key)
    path.write_text("null")
    events: list[Event] = []
    carry_out(Work("qwen", job, "local", None, "", {}), run_copy, events.append)
    warnings = [event.progress.warning for event in events if event.progress is not None]
    assert [warning for warning in warnings if path.name in warning]
    assert events[-1].kind == "finished"


def test_results_are_called_by_when_they_were_finished(
    run_copy: Path, settings: SweepSettings
) -> None:
    conditions = [json.loads(path.read_text()) for path in run_copy.glob("conditions/*.json")]
    newest = max(condition["timestamp"] for condition in conditions)
    (file,) = (run_copy / "results").iterdir()
    assert file.name == f"sweep_{newest.replace('-', '').replace(':', '')}.json"
    assert [result.timestamp for result in read_result_file(file)] == [newest]
    held = file.read_bytes()
    assert run_sweep(settings, run_copy).results_file == file
    assert [*(run_copy / "results").iterdir()] == [file]
    assert file.read_bytes() == held


def test_results_of_the_main_job_keep_their_name(settings: SweepSettings, tmp_path: Path) -> None:
    demo = replace(settings, results_name=FAMILY_SWEEP)
    file = run_sweep(demo, tmp_path / "run").results_file
    assert file.name.startswith("v3_phase1_family_sweep_")
    with pytest.raises(InputError, match="results_name"):  # else every result would count twice
        run_sweep(settings, tmp_path / "run")


def test_one_rule_says_which_result_files_count(run_copy: Path) -> None:
    (held,) = result_files(run_copy)
    late = "2999-01-01T00:00:00Z"
    results = [replace(result, timestamp=late) for result in read_result_file(held)]
    newer = write_result_file(run_copy, "sweep", results)
    checked = write_verification(run_copy, {"timestamp": late})
    assert result_files(run_copy) == [newer]
    assert [path for path, _ in results_in(run_copy)] == [newer]
    assert {listed.file for listed in read_run(run_copy).listed} == {f"results/{newer.name}"}
    assert verification_file(run_copy) == checked


def test_a_folder_that_may_not_be_written_is_named(
    run_copy: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As root, every folder may be written: the system's answer is made up."""
    write_report(run_copy)
    before = (run_copy / "report.html").read_bytes()
    original = os.open

    def refuse(path: Any, flags: int, *arguments: Any, **options: Any) -> int:
        if flags & os.O_CREAT and str(path).startswith(str(run_copy)):
            raise OSError(errno.EROFS, "Read-only file system", str(path))
        return original(path, flags, *arguments, **options)

    monkeypatch.setattr(os, "open", refuse)
    said = f"{run_copy}: the report cannot be written there ({run_copy}/"
    with pytest.raises(InputError) as refused:
        write_report(run_copy)
    assert str(refused.value).startswith(said)
    assert ": Read-only file system)" in str(refused.value)
    shown = CliRunner().invoke(app, ["review", str(run_copy), "--summary"])
    assert shown.exit_code == 0, shown.exception
    assert said.replace("\n", "") in shown.output.replace("\n", "")
    assert (run_copy / "report.html").read_bytes() == before


# -- very many conditions --------------------------------------------------------------------------


def test_a_record_that_was_found_right_is_not_looked_into_again(
    run_copy: Path, settings: SweepSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not even by another process; unless its bytes or the prompts are others."""
    monkeypatch.setattr(finished_records, "_WORTH_KEEPING", 1)
    prompts, looked_into = settings.test.prompts, []
    read = Record.from_json

    def noted(facts: Any, key: str, prompts: Any = None) -> Record:
        looked_into.append(key)
        return read(facts, key, prompts)

    monkeypatch.setattr(Record, "from_json", noted)
    store = RunFolder(run_copy)
    keys = sorted(path.stem for path in run_copy.glob("conditions/*.json"))
    first = {key: store.finished(key, prompts) for key in keys}
    assert looked_into == keys
    assert {key: store.finished(key, prompts) for key in keys} == first
    other = RunFolder(run_copy)
    assert {key: other.finished(key, prompts) for key in keys} == first
    assert looked_into == keys
    for key, found in first.items():
        record = store.get(key, prompts)
        assert record is not None
        assert found is not None
        steering = record.steering
        assert found.direction == (None if steering is None else steering.direction_file)

    facts = json.loads((run_copy / "conditions" / f"{keys[0]}.json").read_text())
    facts["samples"][0]["refusal"] = not facts["samples"][0]["refusal"]
    del facts["digest"]
    path = run_copy / "conditions" / f"{keys[0]}.json"
    path.write_bytes(seal(f"conditions/{keys[0]}.json", facts))  # with a digest that fits
    for key, asked in ((keys[0], prompts), (keys[1], prompts[:1])):
        for run in (RunFolder.existing(run_copy), store):  # the second sets it aside
            assert run.finished(key, asked) is None
            assert f"conditions/{key}.json" in run.damaged


@pytest.mark.parametrize(
    "content", [b"null", seal(".finished.json", {"version": 1}), seal(".finished.json", {})]
)
def test_what_was_found_right_is_found_again_where_that_is_lost(
    run_copy: Path, settings: SweepSettings, monkeypatch: pytest.MonkeyPatch, content: bytes
) -> None:
    monkeypatch.setattr(finished_records, "_WORTH_KEEPING", 1)
    run_sweep(settings, run_copy)
    kept = run_copy / ".finished.json"
    held = kept.read_bytes()
    kept.write_bytes(content)
    run_sweep(settings, run_copy)
    assert kept.read_bytes() == held


def test_results_with_packed_samples_are_the_same(
    run_copy: Path, settings: SweepSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    (file,) = result_files(run_copy)
    held, expected = file.read_bytes(), read_result_file(file)
    file.unlink()
    monkeypatch.setattr(sweep_results, "MANY", 1)
    outcome = run_sweep(settings, run_copy)
    cells = [cell for result in outcome.results for cell in result.conditions]
    assert all(isinstance(cell.samples, PackedSamples) for cell in cells)
    assert outcome.results == expected
    assert file.read_bytes() == held


def test_results_stand_as_long_as_they_rest_on_the_same(
    run_copy: Path, settings: SweepSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing that changes them may be missed."""
    file = run_sweep(settings, run_copy).results_file
    held = file.read_bytes()

    def stands() -> bool:
        outcome = run_sweep(settings, run_copy)
        assert outcome.results_file == max(run_copy.glob("results/*.json"))
        assert outcome.results == read_result_file(outcome.results_file)
        return outcome.stood

    assert stands()
    file.write_bytes(held[:-9])
    assert not stands()
    assert file.read_bytes() == held
    file.unlink()
    assert not stands()
    file.unlink()
    os.mkfifo(file)  # is not waited for
    assert not stands()
    assert file.read_bytes() == held
    assert stands()
    add_review(run_copy, f"{read_result_file(file)[0].best.key}:0", "garbled", "Ada")
    assert not stands()
    assert read_result_file(file)[0].verdict.review is not None
    assert stands()
    next(run_copy.glob("conditions/*.json")).write_text("null")  # and so made again
    assert not stands()
    (run_copy / ".results.json").write_text("null")
    assert not stands()
    assert stands()
    monkeypatch.setattr("steersweep.__version__", "another")
    assert not stands()


def test_a_report_stands_as_long_as_it_and_what_it_shows_are_the_same(
    run_copy: Path, settings: SweepSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = run_sweep(settings, run_copy).results_file
    assert standing_report(run_copy) is None
    report = write_report(run_copy)
    stands = report.path, sorted(report.figures)
    assert standing_report(run_copy) == stands
    shown = [report.path, report.figures[0], report.figures[0].with_suffix(".svg")]
    for path in (*shown, file, run_copy / ".report.json"):
        held = path.read_bytes()
        path.write_bytes(held[:-9] + bytes([held[-9] ^ 1]) + held[-8:])
        assert standing_report(run_copy) is None, path
        path.write_bytes(held)
        assert standing_report(run_copy) == stands
    with monkeypatch.context() as other:
        other.setattr("steersweep.__version__", "another")
        assert standing_report(run_copy) is None
    shutil.copytree(run_copy, copied := run_copy.with_name("copied"))
    assert standing_report(copied) is None  # its page names the folder
    add_review(run_copy, f"{read_result_file(file)[0].best.key}:0", "garbled", "Ada")
    assert standing_report(run_copy) is None
