"""How close steersweep comes to what the machine can do, and what its own parts cost.

    python benchmarks/limits.py [--model lab:qwen-7b] [--shape qwen2.5-0.5b] [--runs 5]

- decoding: a step of 1 to 256 rows, on a GPU to 2048, as a share of the measured matrix product
  rate and of the rate at which memory is read, beside what `estimate` says of it; and the memory
  of the largest beside what the memory model says;
- interventions: a step of 256 rows under 1 to 256 different interventions, against as many rows
  that are not steered;
- extraction: every layer's activations against one plain forward pass of the same prompts;
- a condition: what the sweep itself takes for each, beside the model: the slope of whole sweeps of
  one prompt and one token over their number of conditions;
- `--help`, from the shell.

What is compared is run in turn, `--runs` times; ratios are medians over runs.
"""

from __future__ import annotations

import argparse
import datetime
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import median
from typing import TypeVar

import torch

from decoding import pushes, step_seconds
from machine import matmul_rate, named, read_rate, sync
from shapes import SHAPES, make
from steersweep import ChatModel, Edit, Row, load_test_set, residuals
from steersweep.model.memory import model_shape
from steersweep.sweeps.run import run_sweep
from steersweep.sweeps.settings import make_settings
from steersweep.work.expected import machine_of

ROWS = (1, 2, 4, 8, 16, 32, 64, 128, 256)
GPU_ROWS = (1, 8, 64, 256, 512, 1024, 2048)
K = TypeVar("K")
Prompts = Sequence[Sequence[int]]

INTERVENTIONS = (1, 8, 32, 256)
PARTS = ("decoding", "interventions", "extraction", "conditions", "help")


def main() -> None:
    """Parse, run, print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="lab:qwen-7b")
    parser.add_argument("--shape", choices=SHAPES, help="a random-weight model of this shape")
    parser.add_argument("--folder", type=Path, help="where to keep it")
    parser.add_argument("--precision", default="auto")
    parser.add_argument("--rows", help="of a step, with commas")
    parser.add_argument("--tokens", type=int, default=12)
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--parts", default=",".join(PARTS))
    asked = parser.parse_args()
    parts = asked.parts.split(",")
    with tempfile.TemporaryDirectory() as made:
        model = asked.model
        if asked.shape:
            model = str(make(asked.shape, asked.folder or Path(made) / asked.shape))
        chat = ChatModel.load(model, precision=asked.precision)
        prompts = [chat.prompt_ids(text) for text in load_test_set("benign-120").prompts]
        print(f"{asked.shape or model}, {chat.precision}; {named(chat.device)}")
        print(f"{datetime.datetime.now(datetime.UTC):%Y-%m-%d}, {asked.runs} runs")
        if "decoding" in parts:
            sizes = [int(n) for n in asked.rows.split(",")] if asked.rows else None
            decoding(chat, prompts, asked.tokens, asked.runs, sizes)
        if "interventions" in parts:
            interventions(chat, prompts, asked.tokens, asked.runs)
        if "extraction" in parts:
            extraction(chat, prompts[:64], asked.runs)
        if "conditions" in parts:
            conditions(model, asked.runs)
        if "help" in parts:
            help_text(asked.runs)


def decoding(
    chat: ChatModel, prompts: Prompts, tokens: int, runs: int, numbers: Sequence[int] | None
) -> None:
    """A step by rows: operations of the matrix products and bytes of the weights per second."""
    shape = model_shape(chat.model.config, chat.model)
    on_gpu = chat.device.type == "cuda"
    sizes = {(rows, shape.d_model, shape.mlp_width) for rows in (64, 128, 256, 512, 2048)}
    most = max(matmul_rate(chat.device, chat.dtype, *size) for size in sizes)
    read = read_rate(chat.device)
    print(f"\nmatrix products {most / 1e9:.0f} GF/s, memory {read / 1e9:.1f} GB/s")
    looked_up = shape.embeddings if not chat.model.config.tie_word_embeddings else 0
    used = shape.parameters - looked_up // 2  # of the input embedding only rows are read
    push = pushes(chat, 1)[0]
    seconds: dict[int, list[float]] = {n: [] for n in numbers or (GPU_ROWS if on_gpu else ROWS)}
    if on_gpu:
        torch.cuda.reset_peak_memory_stats()
    for _run in range(runs):
        for n, found in seconds.items():
            rows = [Row(prompts[i % len(prompts)], push) for i in range(n)]
            found.append(step_seconds(chat, rows, tokens))
    machine, context = machine_of(str(chat.device)), max(map(len, prompts)) + tokens / 2
    print(
        "\n| rows | ms a step | tokens a second | of the matrix rate | of the memory rate ", end=""
    )
    print("| by the estimate |\n|---|---|---|---|---|---|")
    for n, found in seconds.items():
        step = median(found)
        products = 2 * used * n / step / most
        reading = used * chat.dtype.itemsize / step / read
        expected = machine.step(shape, chat.precision, n, context)
        print(
            f"| {n} | {1000 * step:.2f} | {n / step:.0f} | {products:.0%} | {min(1, reading):.0%} "
            f"| {1000 * expected:.2f} ({expected / step - 1:+.0%}) |"
        )
    if chat.not_recorded:
        print(f"\nsteps are not recorded: {chat.not_recorded}")
    if on_gpu:
        said = shape.weights(chat.precision) + max(seconds) * shape.row(
            chat.precision, max(map(len, prompts)), tokens
        )
        held = torch.cuda.max_memory_allocated()
        print(
            f"\nmemory of {max(seconds)} rows: {held / 1e9:.2f} GB, by the memory model "
            f"{said / 1e9:.2f} GB ({said / held - 1:+.0%})"
        )


def interventions(chat: ChatModel, prompts: Prompts, tokens: int, runs: int) -> None:
    """A step of 256 rows by how many different interventions they are under."""

    def step(steered: Sequence[Edit | None]) -> float:
        n = len(steered)
        rows = [Row(prompts[i % len(prompts)], steered[i % n]) for i in range(256)]
        return step_seconds(chat, rows, tokens)

    ways: dict[int, Callable[[], float]] = {0: lambda: step([None])}
    for n in INTERVENTIONS:
        ways[n] = lambda n=n: step(pushes(chat, n))  # type: ignore[misc]
    table = in_turn(ways, runs)
    print("\n| interventions | ms a step of 256 rows | times that of one (min-max) |")
    print("|---|---|---|")
    for n, found in table.items():
        print(f"| {n or 'none'} | {1000 * median(found):.2f} | {ratio(found, table[1])} |")


def extraction(chat: ChatModel, prompts: Prompts, runs: int) -> None:
    """Every layer's last position against a plain pass of the same batch."""
    batch = chat.pad(prompts)

    def plain() -> None:
        chat.logits(batch.input_ids, batch.attention_mask, batch.position_ids)

    def read() -> None:
        residuals(chat, prompts)

    plain()
    read()
    table = in_turn({"plain": timed(chat, plain), "read": timed(chat, read)}, max(runs, 9))
    print(
        f"\nextraction of {chat.n_layers} layers, {len(prompts)} prompts: "
        f"{ratio(table['read'], table['plain'])} times a plain pass"
    )


def conditions(model: str, runs: int) -> None:
    """Sweeps of few and of many conditions; the difference is what a condition takes."""
    few, many = 4, 100

    def sweep(strengths: int) -> tuple[float, int]:
        values = ",".join(f"{0.01 * (i + 1):.2f}" for i in range(strengths))
        settings = make_settings(
            [model], layers="0.5", strengths=values, max_prompts=1, max_new_tokens=1
        )
        with tempfile.TemporaryDirectory() as out:
            started = time.perf_counter()
            found = run_sweep(settings, Path(out) / "run")
            elapsed = time.perf_counter() - started
            return elapsed, len([*(found.folder / "conditions").glob("*.json")])

    sweep(few)
    slopes = []
    for _run in range(runs):
        (low, n_low), (high, n_high) = sweep(few), sweep(many)
        slopes.append((high - low) / (n_high - n_low))
    print(f"\na condition: {spread([1000 * slope for slope in slopes])} ms of the sweep's own")


def help_text(runs: int) -> None:
    """A fresh process each time."""
    seconds = []
    for _run in range(max(runs, 5)):
        started = time.perf_counter()
        command = [sys.executable, "-m", "steersweep.cli", "--help"]
        subprocess.run(command, check=True, capture_output=True)
        seconds.append(time.perf_counter() - started)
    print(f"\n`steersweep --help`: {spread(seconds)} s")


def timed(chat: ChatModel, work: Callable[[], None]) -> Callable[[], float]:
    """`work` as something that tells its seconds."""

    def run() -> float:
        sync(chat.device)
        started = time.perf_counter()
        work()
        sync(chat.device)
        return time.perf_counter() - started

    return run


def in_turn(ways: dict[K, Callable[[], float]], runs: int) -> dict[K, list[float]]:
    """Seconds of each way, all of them one after the other in every run."""
    seconds: dict[K, list[float]] = {name: [] for name in ways}
    for _run in range(runs):
        for name, way in ways.items():
            seconds[name].append(way())
    return seconds


def ratio(some: Sequence[float], others: Sequence[float]) -> str:
    """Median and range of what paired runs took, as a ratio."""
    return spread([a / b for a, b in zip(some, others, strict=True)])


def spread(values: Sequence[float]) -> str:
    """Median and range."""
    return f"{median(values):.2f} ({min(values):.2f}-{max(values):.2f})"


if __name__ == "__main__":
    main()
