"""Time a layer x strength sweep as several tools do it: same model, conditions and token budget.

    python benchmarks/sweep_speed.py [--model lab:qwen-7b] [--shape qwen2.5-0.5b] [--runs 5]

- study: one prompt at a time through `generate` of transformers, hooks put on and taken off for
  each, every prompt asked five times, as the 2026 study did.
- batched: `generate` of transformers on all prompts of one condition at a time.
- steering-vectors, repeng, nnsight: where they are installed
  (`pip install --no-deps -r benchmarks/peers.txt`), each in its best form; see peers.py.
- llama.cpp with each `--gguf FILE` of the same model, where llama-cpp-python is installed; see
  llama_cpp_peer.py.
- steersweep: all conditions' rows in shared batches.

Every run times all of them, one after the other in the same process, so that the ratios hold when
the machine's speed drifts; ratios are medians over runs. Token ids of every row are compared.
Judging is left out of all. Of the study's identical repeats one is run and multiplied by five.
Ways that run one condition after the other may run only a share of them, evenly spread, whose time
is multiplied: `--share S`, and for the study `--study-share S`.
"""

from __future__ import annotations

import argparse
import datetime
import statistics
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path

from machine import named, sync
from peers import Answers, Condition, Prompts, Way, batched, installed, ours, study
from shapes import SHAPES, make
from steersweep import ChatModel, Edit, dim_directions
from steersweep.prompts.prompts import load_extraction_set, load_test_set

REPEATS = 5


def main() -> None:
    """Parse, run, print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="lab:qwen-7b")
    parser.add_argument("--shape", choices=SHAPES, help="a random-weight model of this shape")
    parser.add_argument("--folder", type=Path, help="where to keep it")
    parser.add_argument("--layers", type=int, default=4)
    parser.add_argument("--strengths", type=int, default=3)
    parser.add_argument("--weakest", type=float, default=0.25, help="0.05 suits real models")
    parser.add_argument("--prompts", type=int, default=10)
    parser.add_argument("--tokens", type=int, default=100)
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--gguf", type=Path, action="append", default=[], help="for llama.cpp")
    parser.add_argument("--ways", help="only those with a part of these in their names")
    parser.add_argument("--study-share", type=float, default=1.0)
    parser.add_argument("--share", type=float, default=1.0)
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as made:
        model = asked.model
        if asked.shape:
            model = str(make(asked.shape, asked.folder or Path(made) / asked.shape))
        chat = ChatModel.load(model)
        prompts = [chat.prompt_ids(text) for text in load_test_set("benign-120").prompts]
        conditions = make_conditions(chat, asked.layers, asked.strengths, asked.weakest)
        print(f"{asked.shape or model}, {chat.precision}; {named(chat.device)}")
        print(f"{datetime.datetime.now(datetime.UTC):%Y-%m-%d}, {asked.runs} runs")
        ways: dict[str, Way] = {"study": study, "batched": batched, **installed()}
        if asked.gguf:
            from llama_cpp_peer import llama_cpp_ways

            for file in asked.gguf:
                ways |= llama_cpp_ways(file)
        if asked.ways:
            parts = asked.ways.split(",")
            ways = {n: way for n, way in ways.items() if any(part in n for part in parts)}
        compare(
            chat,
            prompts[: asked.prompts],
            conditions,
            ways | {"steersweep": ours},
            tokens=asked.tokens,
            runs=asked.runs,
            shares={name: 1.0 if name.startswith("nnsight") else asked.share for name in ways}
            | {"study": asked.study_share, "steersweep": 1.0},
        )


def compare(
    chat: ChatModel,
    prompts: Prompts,
    conditions: list[Condition],
    ways: dict[str, Way],
    *,
    tokens: int,
    runs: int,
    shares: Mapping[str, float],
) -> None:
    """Time every way in every run, each on its share of the conditions; print a line per way."""
    n, n_rows = len(prompts), len(prompts) * len(conditions)
    print(f"{len(conditions)} conditions x {n} prompts x {tokens} new tokens\n")
    chosen = {name: range(0, len(conditions), max(1, round(1 / shares[name]))) for name in ways}
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    answers: dict[str, Answers] = {}
    for way in ways.values():  # warm up
        way(chat, prompts[:2], conditions[:2], 2)
    for _run in range(runs):
        for name, way in ways.items():
            sync(chat.device)
            started = time.perf_counter()
            answers[name] = way(chat, prompts, [conditions[i] for i in chosen[name]], tokens)
            sync(chat.device)
            elapsed = time.perf_counter() - started
            elapsed *= len(conditions) / len(chosen[name])
            seconds[name].append(elapsed * (REPEATS if name == "study" else 1))

    reference = answers["steersweep"]
    print("| way | seconds | times steersweep's (min-max) | same answers |")
    print("|---|---|---|---|")
    for name, found in answers.items():
        ratios = sorted(a / b for a, b in zip(seconds[name], seconds["steersweep"], strict=True))
        expected = [row for i in chosen[name] for row in reference[i * n : (i + 1) * n]]
        same = sum(a == b for a, b in zip(found, expected, strict=True))
        print(
            f"| {name} | {statistics.median(seconds[name]):.2f} | {statistics.median(ratios):.1f} "
            f"({ratios[0]:.1f}-{ratios[-1]:.1f}) | {same} of {len(expected)} |"
        )
    new = sum(len(row) for row in reference)
    rate = new / statistics.median(seconds["steersweep"])
    print(f"\nsteersweep: {n_rows} rows, {new} new tokens, {rate:.0f} a second")


def make_conditions(
    chat: ChatModel, n_layers: int, n_strengths: int, weakest: float = 0.25
) -> list[Condition]:
    """Layers spread over the depth, strengths from the weakest doubling up, over the stream's."""
    layers = sorted({chat.n_layers * (i + 1) // (n_layers + 1) for i in range(n_layers)})
    directions = dim_directions(chat, load_extraction_set("extract-dim-5"), layers=layers)
    return [None] + [
        Edit.add(d.vector, weakest * 2**i * d.residual_norm, d.layer)
        for d in directions
        for i in range(n_strengths)
    ]


if __name__ == "__main__":
    main()
