"""What a sweep's processor time goes to before its first batch, the first time and later.

    python benchmarks/before_sweep.py [--model lab:qwen-7b] [--layers 0.5] [--prompts 10]

Runs `steersweep sweep` three times, each in a process of its own: with an empty cache, with what
the first run has put there, and once more with another folder for its results. Stages are those
that the command shows; processor seconds on one thread.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from typing import Any
from unittest.mock import patch

RUNS = ("first", "second", "third")
OPTIONS = ("--strengths=0.1", "--max-new-tokens=4", "--quiet", "--device=cpu")


def main() -> None:
    """Run all of it, or one command."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="lab:qwen-7b")
    parser.add_argument("--layers", default="0.5")
    parser.add_argument("--prompts", type=int, default=10)
    parser.add_argument("--out", help="run the command here, in this process")
    asked = parser.parse_args()
    if asked.out:
        return _sweep(asked)
    with tempfile.TemporaryDirectory() as folder:
        places = {"STEERSWEEP_CACHE": f"{folder}/cache", "OMP_NUM_THREADS": "1"}
        for name in RUNS:
            command = [sys.executable, __file__, *sys.argv[1:], "--out", f"{folder}/{name}"]
            done = subprocess.run(
                command, env=os.environ | places, check=True, capture_output=True, text=True
            )
            print(f"{name}: {done.stdout.splitlines()[-1]}", flush=True)
    return None


def _sweep(asked: argparse.Namespace) -> None:
    """The command, with a clock of processor time in place of its own."""
    from steersweep.cli.app import app
    from steersweep.work.stages import Stages
    from steersweep.work.worker import Told

    imports = time.process_time()
    planned: list[float] = []
    seen: list[Stages] = []
    begin: Any = Told.__init__
    clock: dict[str, Any] = {**(Stages.__init__.__kwdefaults__ or {}), "now": time.process_time}

    def noted(told: Told, *arguments: Any) -> None:
        begin(told, *arguments)
        planned.append(time.process_time() - imports)
        seen.append(told.stages)

    limits = [f"--layers={asked.layers}", f"--max-prompts={asked.prompts}"]
    with (
        patch.object(Stages.__init__, "__kwdefaults__", clock),
        patch.object(Told, "__init__", noted),
    ):
        try:
            app(["sweep", asked.model, *limits, *OPTIONS, f"--out={asked.out}"])
        except SystemExit as ended:
            if ended.code:
                raise
    spent = {"imports": imports, "planning": planned[0]}
    spent |= {stage.name: stage.spent for stage in seen[0].now()}
    spent["results and report"] = time.process_time() - sum(spent.values())
    print(", ".join(f"{name} {took:.1f}" for name, took in spent.items()))


if __name__ == "__main__":
    main()
