"""Time phase 1 of a model as users run it: both methods, five layers, judged and saved.

    python benchmarks/phase1.py [--shape qwen2.5-7b | --model MODEL] [--prompts 50] [--tokens 100]

The random weights of a shape hardly ever end an answer, so every row is generated in full. Time is
given stage by stage, as a job counts it.
"""

from __future__ import annotations

import argparse
import datetime
import json
import tempfile
import time
from pathlib import Path

import torch

from machine import named
from shapes import SHAPES, make
from steersweep.budget.estimate import LOADING
from steersweep.model.device import resolve_device
from steersweep.sweeps.run import run_sweep
from steersweep.sweeps.settings import make_settings
from steersweep.work.job import Progress


def main() -> None:
    """Parse, run, print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="lab:qwen-7b")
    parser.add_argument("--shape", choices=SHAPES, help="a random-weight model of this shape")
    parser.add_argument("--folder", type=Path, help="where to keep it")
    parser.add_argument("--prompts", type=int, default=50)
    parser.add_argument("--tokens", type=int, default=100)
    parser.add_argument("--methods", default="dim,cosmic")
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as made:
        model = asked.model
        if asked.shape:
            model = str(make(asked.shape, asked.folder or Path(made) / asked.shape))
        settings = make_settings(
            [model],
            methods=asked.methods,
            layers="0.2,0.4,0.5,0.6,0.8",
            strengths="0.3",
            max_prompts=asked.prompts,
            max_new_tokens=asked.tokens,
        )
        print(f"{asked.shape or model}; {named(torch.device(resolve_device('auto')))}")
        print(f"{datetime.datetime.now(datetime.UTC):%Y-%m-%d}, {asked.methods}")
        spent: dict[str, float] = {}

        def mark(progress: Progress) -> None:
            spent.update((stage.name, stage.spent) for stage in progress.stages)

        started = time.perf_counter()
        found = run_sweep(settings, Path(made) / "run", on_progress=mark)
        took = time.perf_counter() - started
        samples = [
            sample
            for file in (found.folder / "conditions").glob("*.json")
            for sample in json.loads(file.read_text())["samples"]
        ]
    full = sum(sample["finish_reason"] == "length" for sample in samples)
    print(f"{len(samples)} rows, {full} to their full length of {asked.tokens} tokens")
    for name, seconds in spent.items():
        print(f"{name}: {seconds:.1f} s")
    rate = len(samples) / (took - spent[LOADING])
    print(f"all of it: {took:.1f} s; after loading, {rate:.0f} rows a second")


if __name__ == "__main__":
    main()
