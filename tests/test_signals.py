"""TERM and HUP: a run ends as by Ctrl+C, and goes on afterwards as if nothing had been."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml

from helpers.studies import SMALL, small
from steersweep.budget.ledger import Ledger
from steersweep.engines.engine import OnEvent
from steersweep.engines.processes import ProcessEngine
from steersweep.study.study import StudyOptions, run_study
from steersweep.sweeps.run import run_sweep
from test_sweep import comparable, settings

SIGNALS = [signal.SIGTERM, signal.SIGHUP]


def end(process: subprocess.Popen[str], ready: Path, pattern: str, number: int) -> str:
    """Send a signal as soon as a file is there; what the command said."""
    deadline = time.monotonic() + 300
    while not [*ready.glob(pattern)] and time.monotonic() < deadline:
        assert process.poll() is None, "it ended before the signal"
        time.sleep(0.002)
    process.send_signal(number)
    return process.communicate(timeout=120)[1]


@pytest.mark.parametrize("number", [SIGNALS[0], pytest.param(SIGNALS[1], marks=pytest.mark.slow)])
def test_a_sweep_ends_and_goes_on(tmp_path: Path, number: signal.Signals) -> None:
    out = tmp_path / "run"
    command = [sys.executable, "-m", "steersweep.cli", "sweep", "lab:qwen-7b", "--quiet"]
    command += ["--layers", "0.3,0.5", "--strengths", "0.5,1.5", "--max-prompts", "6"]
    command += ["--max-new-tokens", "24", "--rows", "12", "--out", str(out)]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    said = end(process, out, "conditions/*.json", number)
    assert process.returncode == 128 + number
    assert said.endswith("stopped; the same command again continues\n")
    assert "Traceback" not in said
    assert not list(out.rglob("*.tmp"))
    assert not list(out.glob("results/*"))
    run_sweep(settings(), out)
    run_sweep(settings(), tmp_path / "other")
    assert comparable(out) == comparable(tmp_path / "other")


@pytest.mark.slow
@pytest.mark.parametrize("number", [pytest.param(SIGNALS[0], marks=pytest.mark.slow), SIGNALS[1]])
def test_a_study_settles_what_it_reserved(tmp_path: Path, number: signal.Signals) -> None:
    plan, out = tmp_path / "plan.yaml", tmp_path / "run"
    plan.write_text(yaml.safe_dump(SMALL | {"prices": {"local": 3600}}))
    command = [sys.executable, "-m", "steersweep.cli", "run", str(plan), "--out", str(out)]
    process = subprocess.Popen(
        [*command, "--phase", "1"], stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True
    )
    said = end(process, out, "conditions/*.json", number)
    assert process.returncode == 128 + number, said
    assert "Traceback" not in said
    lines = [json.loads(line) for line in (out / "ledger.jsonl").read_text().splitlines()]
    assert [line["do"] for line in lines] == ["reserve", "settle"]
    assert Ledger(out).spent() == lines[1]["usd"] > 0
    subprocess.run([*command, "--phase", "1"], check=True, capture_output=True)
    assert not list(out.rglob("*.tmp"))


WAITING = (
    "import time; from steersweep.core.signals import end_on_signals\n"
    "end_on_signals()\n"
    "try:\n"
    "    print('ready', flush=True); time.sleep(60)\n"
    "finally:\n"
    "    time.sleep(0.3); print('cleaned', flush=True)\n"
)


@pytest.mark.parametrize("number", SIGNALS)
def test_a_second_signal_does_not_break_off_the_end(number: signal.Signals) -> None:
    """A service manager sends TERM and HUP one after the other."""
    process = subprocess.Popen([sys.executable, "-c", WAITING], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    process.send_signal(number)
    time.sleep(0.1)
    for other in SIGNALS:
        process.send_signal(other)
    assert process.communicate(timeout=30)[0] == "cleaned\n"
    assert process.returncode == 128 + number


def test_nohup_still_works() -> None:
    code = WAITING.replace("time.sleep(60)", "time.sleep(1)")
    process = subprocess.Popen(
        ["nohup", sys.executable, "-c", code],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    process.send_signal(signal.SIGHUP)
    assert process.communicate(timeout=30)[0] == "cleaned\n"
    assert process.returncode == 0


def test_a_terminal_that_is_gone_does_not_stop_the_end(tmp_path: Path) -> None:
    """Closing a terminal sends HUP, and every later word to it fails."""
    import pty

    note = tmp_path / "note"
    code = WAITING.replace("print('cleaned'", f"open({str(note)!r}, 'w').write('x'); print('c'")
    child, terminal = pty.fork()
    if child == 0:
        os.execv(sys.executable, [sys.executable, "-c", code])
    assert os.read(terminal, 100).startswith(b"ready")
    os.close(terminal)
    _, status = os.waitpid(child, 0)
    assert os.waitstatus_to_exitcode(status) == 128 + signal.SIGHUP
    assert note.exists()


@pytest.mark.slow
def test_a_worker_process_that_is_told_to_end_costs_its_batch_alone(tmp_path: Path) -> None:
    """The job goes to another process, and the study ends as without it."""

    class Told(ProcessEngine):
        told = 0

        def wait(self, on_event: OnEvent) -> None:
            for process in [*self._busy.values()]:
                if not self.told and [*tmp_path.glob("run/conditions/*.json")]:
                    process._process.send_signal(signal.SIGTERM)
                    self.told += 1
            super().wait(on_event)

    engine = Told(["cpu"])
    said: list[str] = []
    options = StudyOptions(until="family_sweep")
    run_study(small(), tmp_path / "run", options, engine=engine, on_line=said.append)
    assert engine.told == 1
    assert any(line.endswith("it is run again") for line in said)
    assert not list((tmp_path / "run").rglob("*.tmp"))
