"""A Ray cluster: other machines' libraries, storage, and one that stops answering."""

from __future__ import annotations

import contextlib
import os
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import psutil
import pytest

from steersweep import InputError
from steersweep.engines.ray_cluster import ClusterLost, Pulse
from steersweep.engines.share import Mirror, StorageAway
from steersweep.engines.versions import differences, versions
from steersweep.run.folder import RunFolder


def test_differences_between_libraries_are_named() -> None:
    here = versions()
    assert differences({**here, "accelerate": "1"}, here | {"accelerate": "1"}) == []
    assert differences(here, here | {"torch": "1.13.1"})
    without = {name: version for name, version in here.items() if name != "transformers"}
    (told,) = differences(without, here)
    assert told.startswith("transformers missing there")


def test_storage_that_is_away_for_a_while_is_waited_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "conditions").mkdir()
    (tmp_path / "conditions" / "a.json").write_text("{}")
    there, left = Mirror._there, [2]

    def flaky(self: Mirror, system: Any, root: str) -> set[str]:
        if left[0]:
            left[0] -= 1
            raise TimeoutError("gateway timeout")
        return there(self, system, root)

    monkeypatch.setattr(Mirror, "_there", flaky)
    storage = (tmp_path / "bucket").as_uri()
    Mirror(storage, waits=(0, 0)).publish(tmp_path)
    assert (tmp_path / "bucket" / "conditions" / "a.json").read_text() == "{}"
    left[0] = 3
    with pytest.raises(StorageAway, match=r"gateway timeout.*the same command continues"):
        Mirror(storage, waits=(0, 0)).refresh(tmp_path)
    with pytest.raises(InputError, match="cannot be used"):
        Mirror("no-such-kind://x").refresh(tmp_path)


def test_a_file_that_was_damaged_and_made_again_reaches_the_others(tmp_path: Path) -> None:
    """Also where the damaged one went to the storage first."""
    storage = (tmp_path / "bucket").as_uri()
    leader, worker_there = RunFolder(tmp_path / "run"), RunFolder(tmp_path / "copy")
    damaged = leader.root / "extraction" / "a.json"
    damaged.parent.mkdir(parents=True)
    damaged.write_text("null")
    lead, share = Mirror(storage, waits=()), Mirror(storage, waits=())
    lead.publish(leader.root)
    share.refresh(worker_there.root)
    assert leader.read_json(leader.root / "extraction/a.json") is None
    worker_there.write_once(worker_there.root / "extraction/a.json", {"right": 1})
    share.publish(worker_there.root)
    lead.refresh(leader.root)
    assert leader.read_json(leader.root / "extraction/a.json") == {"right": 1}
    assert len(list((tmp_path / "bucket").rglob("*.json"))) == 1


def test_a_cluster_that_stops_answering_ends_in_one_sentence(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        pulse = Pulse(f"127.0.0.1:{server.getsockname()[1]}")
        assert pulse.answers()
    monkeypatch.setattr("steersweep.engines.ray_cluster._CHECK_EVERY", 0)
    pulse.check()  # it may come back
    monkeypatch.setattr("steersweep.engines.ray_cluster._GONE_AFTER", 0)
    with pytest.raises(ClusterLost, match=r"gone .*refused.*the same command continues"):
        pulse.check()
    assert pulse.is_gone
    assert not pulse.answers()


@pytest.mark.slow
def test_the_commands_of_the_guide_work_after_a_run_on_this_machine(tmp_path: Path) -> None:
    """A local cluster leaves no token behind, and one that is there is used by everybody."""
    ray = str(Path(sys.executable).parent / "ray")
    home = {**os.environ, "HOME": str(tmp_path), "RAY_USAGE_STATS_ENABLED": "0"}
    for name in ("RAY_AUTH_MODE", "RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH"):
        home.pop(name, None)
    with_token = {**home, "RAY_AUTH_MODE": "token"}

    def do(*command: str, env: dict[str, str]) -> str:
        done = subprocess.run(
            command, env=env, capture_output=True, text=True, timeout=200, check=False
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    opens = (
        "import sys; from pathlib import Path; from steersweep.engines.ray import RayEngine\n"
        "engine = RayEngine(sys.argv[2] if len(sys.argv) > 2 else None, cpus=1)\n"
        "engine.open(Path(sys.argv[1]))\n"
        "print(engine.capacity('A10G') if sys.argv[2:] else 'open')\n"
        "engine.close()\n"
    )
    do(sys.executable, "-c", opens, str(tmp_path), env=home)
    assert not (tmp_path / ".ray").exists()
    try:
        do(ray, "get-auth-token", "--generate", env=with_token)
        start = (ray, "start", "--num-cpus=1", "--resources", '{"A10G": 1}')
        do(*start, "--head", f"--port={port}", "--include-dashboard=false", env=with_token)
        do(*start, f"--address=127.0.0.1:{port}", env=with_token)
        found = do(sys.executable, "-c", opens, str(tmp_path), f"127.0.0.1:{port}", env=home)
        assert found.strip() == "2"
    finally:
        for process in psutil.process_iter():
            with contextlib.suppress(psutil.Error):
                if process.environ().get("HOME") == str(tmp_path):
                    process.kill()
