"""Time the whole command `steersweep sweep` against a script that generates the same cells.

    python benchmarks/whole_command.py [--model lab:qwen-7b] [--runs 5]

The command sweeps 20 cells on 120 prompts of up to 60 tokens, and does what a user has it do
besides: 20 random controls and the unsteered one, the checks of the model, judging with the
likelihoods of answers, every record saved, results, figures and the report. The scripts only load
the model, find DIM's directions and generate the 20 cells: nothing is judged or saved.

- batched: `generate` of transformers on all prompts of one cell at a time.
- study: one prompt at a time, hooks put on and off for each; five identical repeats. One repeat is
  run, of one prompt in `--study-each`, and multiplied.

Each is a process of its own, so that imports count, and every run times all of them in turn. Both
clock and processor time are given: the latter says more on a busy machine.
"""

from __future__ import annotations

import argparse
import datetime
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

LAYERS, STRENGTHS = "0.2,0.4,0.5,0.65,0.8", "0.1,0.2,0.3,0.5"
REPEATS = 5
WAYS = ("batched", "study")


def main() -> None:
    """Run all of it, or the part that is asked for."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="lab:qwen-7b")
    parser.add_argument("--prompts", type=int, default=120)
    parser.add_argument("--tokens", type=int, default=60)
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--study-each", type=int, default=10)
    parser.add_argument("--way", choices=WAYS, help="this alone, in this process")
    asked = parser.parse_args()
    if asked.way:
        return print(f"generated {_generated(asked)}")
    return _compare(asked)


def _compare(asked: argparse.Namespace) -> None:
    """Time every way in every run, and print a line for each."""
    import torch

    from machine import named

    print(f"{asked.model}; {named(torch.device('cpu'))}; {datetime.datetime.now():%Y-%m-%d}")
    print(f"20 cells x {asked.prompts} prompts x {asked.tokens} new tokens, {asked.runs} runs\n")
    options = [f"--{name}={getattr(asked, name)}" for name in ("model", "prompts", "tokens")]
    options.append(f"--study-each={asked.study_each}")
    spent: dict[str, list[tuple[float, float]]] = {}
    for _run in range(asked.runs):
        for way in WAYS:
            command = [sys.executable, __file__, *options, "--way", way]
            spent.setdefault(way, []).append(_timed(command))
        with tempfile.TemporaryDirectory() as folder:
            command = _command(asked, Path(folder) / "run")
            spent.setdefault("command", []).append(_timed(command))
    # Of the study only a part was run; what starting takes is not multiplied.
    start = min(_timed([sys.executable, __file__, *options, "--prompts=1", "--way", "study"]))
    spent["study"] = [
        tuple(start + (one - start) * asked.study_each * REPEATS for one in both)
        for both in spent["study"]
    ]
    print("| way | seconds | of processor | times the command's (min-max) | by processor |")
    print("|---|---|---|---|---|")
    for way, found in spent.items():
        clock, processor = (statistics.median(part) for part in zip(*found, strict=True))
        ratios = [
            sorted(one[i] / ours[i] for one, ours in zip(found, spent["command"], strict=True))
            for i in range(2)
        ]
        shown = (f"{statistics.median(r):.1f} ({r[0]:.1f}-{r[-1]:.1f})" for r in ratios)
        print(f"| {way} | {clock:.1f} | {processor:.1f} | {' | '.join(shown)} |")


def _command(asked: argparse.Namespace, folder: Path) -> list[str]:
    """What a user types."""
    return [
        *(sys.executable, "-m", "steersweep.cli", "sweep", asked.model, "--quiet"),
        *("--layers", LAYERS, "--strengths", STRENGTHS, "--prompts", "benign-120"),
        *("--max-prompts", str(asked.prompts), "--max-new-tokens", str(asked.tokens)),
        *("--out", str(folder)),
    ]


def _timed(command: list[str]) -> tuple[float, float]:
    """Seconds by the clock and of the processor."""
    started = time.perf_counter()
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    _, status, used = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise SystemExit(f"{' '.join(command)}: exit code {process.returncode}")
    return time.perf_counter() - started, used.ru_utime + used.ru_stime


def _generated(asked: argparse.Namespace) -> int:
    """Generate the cells in one way; how many answers."""
    from peers import batched, study
    from steersweep import ChatModel, Edit, dim_directions
    from steersweep.prompts.prompts import load_extraction_set, load_test_set
    from steersweep.run.condition import LayerChoice

    chat = ChatModel.load(asked.model)
    layers = sorted({LayerChoice(text).index(chat.n_layers) for text in LAYERS.split(",")})
    directions = dim_directions(chat, load_extraction_set("extract-dim-5"), layers=layers)
    edits = [
        Edit.add(d.vector, float(strength) * (d.residual_norm or 0.0), d.layer)
        for d in directions
        for strength in STRENGTHS.split(",")
    ]
    texts = load_test_set("benign-120").prompts[: asked.prompts]
    prompts = [chat.prompt_ids(text) for text in texts]
    if asked.way == "study":
        return len(study(chat, prompts[:: asked.study_each], edits, asked.tokens))
    return len(batched(chat, prompts, edits, asked.tokens))


if __name__ == "__main__":
    main()
