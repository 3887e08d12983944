"""A study that is killed or runs out of disk loses nothing; two at once are refused."""

from __future__ import annotations

import errno
import json
import os
import random
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from helpers.studies import SMALL, comparable, small
from steersweep import InputError, SteersweepError
from steersweep.run.lock import run_lock
from steersweep.study.study import run_study


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
    finished_study: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
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
    assert comparable(folder) == comparable(finished_study)


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
def test_kills_change_nothing(finished_study: Path, tmp_path: Path) -> None:
    folder, _ = torture(tmp_path, 4, seed=1)
    assert comparable(folder) == comparable(finished_study)


@pytest.mark.slow
def test_thirty_kills_change_nothing(finished_study: Path, tmp_path: Path) -> None:
    total = 0
    for seed in range(20):
        place = tmp_path / str(seed)
        place.mkdir()
        folder, done = torture(place, 30 - total, seed=seed)
        assert comparable(folder) == comparable(finished_study)
        total += done
        if total >= 30:
            return
    raise AssertionError(f"only {total} kills")
