"""The run folder: whole files, identity, damaged files."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from steersweep import InputError, SteersweepError
from steersweep.atomic import write_bytes, write_json
from steersweep.store import RunStore

PLAN = {"models": ["lab:qwen-7b"], "layers": ("0.2", "0.6"), "seed": 42}


def test_the_same_plan_continues_and_another_is_refused(tmp_path: Path) -> None:
    RunStore.open(tmp_path / "run", PLAN).put({"key": "k", "samples": []})
    assert RunStore.open(tmp_path / "run", PLAN).get("k") == {"key": "k", "samples": []}
    with pytest.raises(InputError, match=r"another run \(seed: 42 there, 7 asked\)"):
        RunStore.open(tmp_path / "run", {**PLAN, "seed": 7})


def test_a_folder_with_other_files_is_refused_and_untouched(tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("precious")
    with pytest.raises(InputError, match=r"thesis\.tex"):
        RunStore.open(tmp_path, PLAN)
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.tex"]


def test_a_file_in_place_of_the_folder_is_refused(tmp_path: Path) -> None:
    (tmp_path / "run").write_text("")
    with pytest.raises(InputError, match="is a file"):
        RunStore.open(tmp_path / "run", PLAN)


def test_an_unwritable_place_is_refused() -> None:
    # /proc cannot hold folders, whoever asks; permissions would not stop root.
    with pytest.raises(InputError, match="cannot be written"):
        RunStore.open(Path("/proc/steersweep-run"), PLAN)


def test_a_damaged_record_counts_as_absent_and_is_kept_aside(tmp_path: Path) -> None:
    store = RunStore.open(tmp_path / "run", PLAN)
    store.put({"key": "k", "samples": []})
    path = tmp_path / "run" / "conditions" / "k.json"
    path.write_text(path.read_text()[:5])
    assert store.get("k") is None
    assert path.with_name("k.json.damaged").exists()
    store.put({"key": "k", "samples": [1]})
    assert store.get("k") == {"key": "k", "samples": [1]}


def test_a_finished_record_is_never_rewritten(tmp_path: Path) -> None:
    store = RunStore.open(tmp_path / "run", PLAN)
    store.put({"key": "k", "samples": ["first"]})
    store.put({"key": "k", "samples": ["second"]})
    record = store.get("k")
    assert record is not None
    assert record["samples"] == ["first"]


def test_a_failed_write_leaves_the_old_file_and_no_litter(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "file"
    write_bytes(path, b"old")

    def full(_descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(SteersweepError, match="No space"):
        write_bytes(path, b"new")
    assert path.read_bytes() == b"old"
    assert [entry.name for entry in tmp_path.iterdir()] == ["file"]


@settings(max_examples=50)
@given(text=st.text(st.characters(categories=None)))
def test_any_text_survives(text: str, tmp_path_factory: pytest.TempPathFactory) -> None:
    path = tmp_path_factory.mktemp("json") / "file.json"
    write_json(path, {"response": text})
    assert json.loads(path.read_bytes()) == {"response": text}
