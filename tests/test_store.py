"""The run folder: whole files, identity, damaged files."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from steersweep import InputError, SteersweepError
from steersweep.core.atomic import Unwritable, write_bytes, write_json
from steersweep.core.digests import Damaged, seal, unseal
from steersweep.run.folder import RunFolder
from steersweep.run.lock import run_lock

PLAN = {"models": ["lab:qwen-7b"], "layers": ("0.2", "0.6"), "seed": 42}


def test_the_same_plan_continues_and_another_is_refused(tmp_path: Path) -> None:
    RunFolder.open(tmp_path / "run", PLAN).write_once(tmp_path / "run/x.json", {"held": 1})
    assert RunFolder.open(tmp_path / "run", PLAN).read_json(tmp_path / "run/x.json") == {"held": 1}
    with pytest.raises(InputError, match=r"another run \(seed: 42 there, 7 asked\)"):
        RunFolder.open(tmp_path / "run", {**PLAN, "seed": 7})


def test_a_folder_with_other_files_is_refused_and_untouched(tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("precious")
    with pytest.raises(InputError, match=r"thesis\.tex"):
        RunFolder.open(tmp_path, PLAN)
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.tex"]


def test_a_file_in_place_of_the_folder_is_refused(tmp_path: Path) -> None:
    (tmp_path / "run").write_text("")
    with pytest.raises(InputError, match="is a file"):
        RunFolder.open(tmp_path / "run", PLAN)


def test_an_unwritable_place_is_refused() -> None:
    # /proc cannot hold folders, whoever asks; permissions would not stop root.
    with pytest.raises(InputError, match="cannot be written"):
        RunFolder.open(Path("/proc/steersweep-run"), PLAN)


def test_what_is_there_is_never_rewritten(tmp_path: Path) -> None:
    store = RunFolder.open(tmp_path / "run", PLAN)
    assert store.write_once(store.root / "x.json", {"value": "first"}) == {"value": "first"}
    assert store.write_once(store.root / "x.json", {"value": "second"}) == {"value": "first"}


@pytest.mark.parametrize("value", [{}, {"a": []}, {"a": "\u2028\ud800 é"}, [{"a": 1}, {"b": [{}]}]])
def test_sealed_json_is_json_and_comes_back(value: Any) -> None:
    data = seal("a/name.json", value)
    whole = json.loads(data)
    digest = (whole if isinstance(whole, dict) else whole[-1]).pop("digest")
    assert whole == value
    before = data[: data.rindex(b"\n", 0, data.rindex(b'"digest"'))]
    assert hashlib.sha256(b"a/name.json\n" + before).hexdigest() == digest  # as documented
    assert unseal("a/name.json", data) == value
    with pytest.raises(Damaged, match="digest is wrong"):
        unseal("a/other.json", data)


@pytest.mark.parametrize("value", [[], [{}], {"digest": 1}, {"a": float("nan")}])
def test_what_cannot_be_sealed_is_an_error(value: Any) -> None:
    with pytest.raises(ValueError, match=r"cannot hold a digest|not JSON compliant"):
        seal("name.json", value)


def test_a_damaged_plan_is_written_again(tmp_path: Path) -> None:
    RunFolder.open(tmp_path / "run", PLAN)
    (tmp_path / "run" / "plan.yaml").write_text("")
    with pytest.raises(InputError, match=r"plan.yaml: is damaged \(its digest is missing\)"):
        RunFolder.existing(tmp_path / "run")
    assert RunFolder.open(tmp_path / "run", PLAN).plan["seed"] == 42
    assert (tmp_path / "run" / "plan.yaml.damaged").exists()
    # Killed between the two: still a run.
    (tmp_path / "run" / "plan.yaml").unlink()
    assert RunFolder.open(tmp_path / "run", PLAN).plan["seed"] == 42


@pytest.mark.parametrize("name", ["conditions", "directions", "extraction", "phases", "results"])
def test_a_file_or_dead_link_in_place_of_a_folder_is_set_aside(tmp_path: Path, name: str) -> None:
    place = tmp_path / "run" / name
    RunFolder.open(tmp_path / "run", PLAN)
    for make in (place.touch, lambda: place.symlink_to(name), lambda: place.symlink_to("nowhere")):
        make()
        store = RunFolder.open(tmp_path / "run", PLAN)
        store.write_once(store.root / f"{name}/x.json", {"a": 1})
        assert store.read_json(store.root / f"{name}/x.json") == {"a": 1}
        shutil.rmtree(place)
    assert len([*(tmp_path / "run").glob("*.damaged")]) == 3


def test_a_lock_that_is_no_file_is_set_aside(tmp_path: Path) -> None:
    makers: list[Callable[[Path], Any]] = [Path.mkdir, os.mkfifo, lambda p: p.symlink_to(p.name)]
    for make in makers:
        (tmp_path / ".lock").unlink(missing_ok=True)
        make(tmp_path / ".lock")
        with run_lock(tmp_path):
            assert (tmp_path / ".lock").is_file()


def test_a_lock_is_not_made_among_other_files(tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("precious")
    with pytest.raises(InputError, match=r"thesis\.tex"), run_lock(tmp_path):
        pass
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.tex"]


# -- temporary files, modes, full disks ----------------------------------------------------------


def killed_while_writing(path: Path) -> Path:
    """A process that a kill ends between writing a temporary file and its renaming."""
    code = (
        "import os, signal, sys; from pathlib import Path\n"
        "from steersweep.core.atomic import write_bytes\n"
        "os.replace = lambda *_: os.kill(os.getpid(), signal.SIGKILL)\n"
        "write_bytes(Path(sys.argv[1]), b'half')\n"
    )
    ended = subprocess.run([sys.executable, "-c", code, str(path)], check=False)
    assert ended.returncode == -signal.SIGKILL
    return next(path.parent.glob(f".{path.name}.*.tmp"))


def test_leftovers_of_the_dead_go_and_files_of_the_living_stay(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    RunFolder.open(folder, PLAN)
    left = killed_while_writing(folder / "conditions" / "a.json")
    # A process that lives, and one of another machine.
    host, number = left.name.split(".")[-2].split("-")[0], os.getppid()
    living = left.with_name(f".b.json.{host}-{number}-{'0' * 12}.tmp")
    elsewhere = left.with_name(f".c.json.{'f' * 8}-{number}-{'0' * 12}.tmp")
    old = left.with_name(f".d.json.{'f' * 8}-{number}-{'0' * 12}.tmp")
    own = left.with_name(f".e.json.{host}-{os.getpid()}-{'0' * 12}.tmp")
    users = folder / ".notes.tmp"
    for path in (living, elsewhere, old, own, users):
        path.touch()
    os.utime(old, (0, 0))
    RunFolder.open(folder, PLAN)
    found = {path for path in (left, living, elsewhere, old, own, users) if path.exists()}
    assert found == {living, elsewhere, own, users}


def test_leftovers_behind_a_link_go_too(tmp_path: Path) -> None:
    """Large folders of a run may lie on another disk."""
    (tmp_path / "disk").mkdir()
    RunFolder.open(tmp_path / "run", PLAN)
    (tmp_path / "run" / "conditions").symlink_to(tmp_path / "disk")
    left = killed_while_writing(tmp_path / "disk" / "a.json")
    RunFolder.open(tmp_path / "run", PLAN)
    assert not left.exists()


@pytest.mark.parametrize(("mask", "mode"), [(0o022, 0o644), (0o077, 0o600), (0o002, 0o664)])
def test_the_umask_says_who_may_read(tmp_path: Path, mask: int, mode: int) -> None:
    before = os.umask(mask)
    try:
        write_bytes(tmp_path / "file", b"")
        write_bytes(tmp_path / "file", b"again")
    finally:
        os.umask(before)
    assert (tmp_path / "file").stat().st_mode & 0o777 == mode


@pytest.mark.parametrize("call", ["open", "fsync", "replace"])
@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT])
def test_a_full_disk_is_said_wherever_it_shows(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: str, number: int
) -> None:
    def full(*_arguments: Any, **_options: Any) -> None:
        raise OSError(number, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, call, full)
        with pytest.raises(
            Unwritable, match=r"file: cannot be written: No space left.*same command"
        ):
            write_bytes(tmp_path / "file", b"new")
    assert [*tmp_path.iterdir()] == []


@pytest.mark.parametrize("number", [errno.EIO, errno.EACCES, errno.EROFS])
def test_a_file_of_a_run_that_cannot_be_written_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    """A study stops at it: that a disk fails says nothing about the model that ran."""
    store = RunFolder(tmp_path)

    def fails(*_arguments: Any, **_options: Any) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, "fsync", fails)
    said = rf"a\.json: cannot be written: {os.strerror(number)}.* its disk and run the same"
    with pytest.raises(Unwritable, match=said):
        store.write_json(tmp_path / "a.json", {"a": 1})
    said = said.replace("json", "safetensors")
    with pytest.raises(Unwritable, match=said):
        store.write_tensors(tmp_path / "a.safetensors", {"a": np.zeros(1)})
    assert [*tmp_path.iterdir()] == []


def test_a_full_disk_while_drawing_leaves_no_half_of_a_figure(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from matplotlib.figure import Figure

    from steersweep.report.figures.style import save

    def full(_handle: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    (tmp_path / "map.png").write_bytes(b"as it was")
    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(Unwritable, match=r"map\.png: cannot be written"):
        save(Figure(), tmp_path / "map")
    assert [(path.name, path.read_bytes()) for path in tmp_path.iterdir()] == [
        ("map.png", b"as it was")
    ]


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
