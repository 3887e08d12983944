"""How decoding time grows with rows, layers, context and model size; and whether estimates hold.

    python benchmarks/cost_curves.py [--runs 3] [--precisions fp32,bf16,int8-dynamic]
    python benchmarks/cost_curves.py --device cuda [--precisions bf16]

Models are random Qwen2s. One thing varies at a time around a model of 8 layers and width 256 with
64 rows, on a GPU of 16 layers and width 2048; then whole passes over known tokens. The rates of
`Machine` (steersweep/budget/timing.py) are fitted to all of it at once, by least squares of
relative errors, and printed beside those it has now; with --jobs, whole sweeps are held against
what `estimate` says. Precisions take turns at each point, so that a busy machine is as busy for
each; of all but the first the rate of products alone is fitted, the others being those of the
first.
"""

from __future__ import annotations

import argparse
import datetime
import itertools
import tempfile
import time
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import median
from typing import Any

import numpy
import torch
from scipy.optimize import least_squares
from transformers import Qwen2Config

from decoding import pushes, step_seconds
from machine import named, sync
from shapes import save
from steersweep import ChatModel, Row, load_test_set
from steersweep.budget.estimate import Workload, stage_seconds
from steersweep.budget.shapes import ModelShape
from steersweep.budget.timing import Machine
from steersweep.model.find import find_model
from steersweep.model.memory import model_shape
from steersweep.sweeps.expansion import expand
from steersweep.sweeps.run import run_sweep
from steersweep.sweeps.settings import make_settings
from steersweep.work.expected import machine_of

STEPS = 16


@dataclass(frozen=True)
class Point:
    """A batch to time a step of; with more than one token a row, a whole pass over them."""

    curve: str
    rows: int = 64
    layers: int = 8
    context: int = 64
    width: int = 256
    tokens: int = 1


CURVES = [
    *(Point("rows", rows=n) for n in (1, 4, 16, 64, 128, 256)),
    *(Point("layers", layers=n) for n in (2, 4, 16, 32)),
    *(Point("context", context=n) for n in (128, 256, 512)),
    *(Point("width", width=n) for n in (128, 512, 1024)),
    *(Point("width, 256 rows", width=n, rows=256) for n in (128, 512, 1024)),
    *(Point("passes", tokens=48, context=24, width=n) for n in (128, 256, 512, 1024)),
    Point("passes", tokens=48, context=24, layers=32),
]
_LARGE = Point("rows", layers=16, width=2048)
GPU_CURVES = [
    *(replace(_LARGE, rows=n) for n in (1, 16, 64, 256, 1024, 2048)),
    *(replace(_LARGE, curve="layers", layers=n) for n in (4, 32)),
    *(replace(_LARGE, curve="context", rows=256, context=n) for n in (256, 1024)),
    *(replace(_LARGE, curve="width", rows=256, width=n) for n in (512, 4096)),
    *(replace(_LARGE, curve="passes", tokens=48, context=24, rows=n) for n in (16, 64, 256)),
    *(
        replace(_LARGE, curve="passes", tokens=48, context=24, width=n, rows=256)
        for n in (512, 4096)
    ),
]


def main() -> None:
    """Measure, fit, print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--precisions", help="fp32, on a GPU bf16")
    parser.add_argument("--device", default="cpu", choices=["cpu", "cuda"])
    parser.add_argument("--jobs", action="store_true", help="whole sweeps too")
    parser.add_argument("--jobs-only", action="store_true", help="whole sweeps alone")
    asked = parser.parse_args()
    device = torch.device(asked.device)
    on_gpu = device.type == "cuda"
    precisions = (asked.precisions or ("bf16" if on_gpu else "fp32")).split(",")
    curves, in_use = (GPU_CURVES if on_gpu else CURVES), machine_of(asked.device)
    with tempfile.TemporaryDirectory() as made:
        models = {
            (p.layers, p.width): save(
                _config(p.layers, p.width), Path(made) / f"{p.layers}-{p.width}"
            )
            for p in curves
        }
        if asked.jobs_only:
            return jobs(models, precisions, device)
        chats = {
            (*key, name): ChatModel.load(str(folder), precision=name, device=asked.device)
            for key, folder in models.items()
            for name in precisions
        }
        print(named(device))
        print(f"{datetime.datetime.now(datetime.UTC):%Y-%m-%d}, {asked.runs} runs\n")
        shapes = {key: model_shape(find_model(str(models[key])).config()) for key in models}
        seconds: dict[tuple[str, Point], list[float]] = defaultdict(list)
        for _run in range(asked.runs):
            for point in curves:
                for name in precisions:
                    chat = chats[point.layers, point.width, name]
                    seconds[name, point].append(measure(chat, point))
        fitted = None
        for name in precisions:
            found = {point: median(seconds[name, point]) for point in curves}
            fitted = (
                fit(found, shapes, name, in_use)
                if fitted is None
                else fit_products(found, shapes, name, fitted)
            )
            report(found, shapes, name, fitted, in_use)
        return jobs(models, precisions, device) if asked.jobs else None


def measure(chat: ChatModel, point: Point) -> float:
    """Seconds of a step whose rows have about `context` positions, or of a whole pass."""
    if point.tokens > 1:
        return pass_seconds(chat, point.rows, point.tokens)
    prompts = [chat.prompt_ids(text) for text in load_test_set("benign-120").prompts]
    push = pushes(chat, 1)[0]
    length = point.context - STEPS // 2
    rows = []
    for i in range(point.rows):
        ids = prompts[i % len(prompts)]
        rows.append(Row((ids * (length // len(ids) + 1))[:length], push))
    return step_seconds(chat, rows, STEPS)


def pass_seconds(chat: ChatModel, rows: int, tokens: int) -> float:
    """Seconds of a pass that gives the logits of every position, as scoring answers does."""
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(5, 900, (rows, tokens), generator=generator).to(chat.device)
    positions = torch.arange(tokens, device=chat.device).expand(rows, -1)
    times = []
    for _ in range(4):
        sync(chat.device)
        started = time.perf_counter()
        chat.logits(ids, torch.ones_like(ids), positions, keep=tokens)
        sync(chat.device)
        times.append(time.perf_counter() - started)
    return median(times[1:])


def report(
    seconds: dict[Point, float],
    shapes: dict[tuple[int, int], ModelShape],
    precision: str,
    fitted: Machine,
    in_use: Machine,
) -> None:
    """The curves beside what is fitted and what estimates rest on."""
    print(f"\n{precision}\n")
    print("| curve | rows x tokens | layers | context | width | ms | fitted | by the estimate |")
    print("|---|---|---|---|---|---|---|---|")
    worst = {"fitted": 0.0, "the estimate": 0.0}
    for point, step in seconds.items():
        shape = shapes[point.layers, point.width]
        said = []
        for name, machine in (("fitted", fitted), ("the estimate", in_use)):
            expected = expected_seconds(machine, shape, precision, point)
            error = expected / step - 1
            worst[name] = max(worst[name], abs(error), key=abs)
            said.append(f"{1000 * expected:.2f} ({error:+.0%})")
        print(
            f"| {point.curve} | {point.rows} x {point.tokens} | {point.layers} | {point.context} "
            f"| {point.width} "
            f"| {1000 * step:.2f} | {said[0]} | {said[1]} |"
        )
    print("\nlargest error: " + ", ".join(f"{e:.0%} of {name}" for name, e in worst.items()))
    if precision in fitted.products:
        now = in_use.products.get(precision, 1.0)
        return print(f"  products: fitted {fitted.products[precision]:.2g} x, in use {now:.2g} x")
    for name in (name for name in RATES if getattr(in_use, name)):
        print(f"  {name}: fitted {getattr(fitted, name):.3g}, in use {getattr(in_use, name):.3g}")
    return None


def expected_seconds(machine: Machine, shape: ModelShape, precision: str, point: Point) -> float:
    """What a machine's rates say of a point."""
    if point.tokens > 1:
        return machine.tokens(shape, precision, point.rows * point.tokens)
    return machine.step(shape, precision, point.rows, point.context)


# Of `Machine`: what is fitted, where a machine has it.
RATES = (
    "layer_s",
    "read_rate",
    "flops",
    "element_s",
    "attended_s",
    "cached_s",
    "row_positions",
    "pass_element_s",
)


def fit(
    seconds: dict[Point, float],
    shapes: dict[tuple[int, int], ModelShape],
    precision: str,
    machine: Machine,
) -> Machine:
    """The rates that explain all points best, by relative errors, beginning with a machine's."""
    names = [name for name in RATES if getattr(machine, name)]

    def with_rates(logs: Sequence[float]) -> Machine:
        rates: dict[str, Any] = dict(zip(names, map(float, numpy.exp(logs)), strict=True))
        return replace(machine, products={}, **rates)

    def errors(logs: Sequence[float]) -> list[float]:
        tried = with_rates(logs)
        return [
            expected_seconds(tried, shapes[p.layers, p.width], precision, p) / took - 1
            for p, took in seconds.items()
        ]

    begin = numpy.log([getattr(machine, name) for name in names])
    return with_rates(least_squares(errors, begin).x)


def fit_products(
    seconds: dict[Point, float],
    shapes: dict[tuple[int, int], ModelShape],
    precision: str,
    machine: Machine,
) -> Machine:
    """The rate of products in another precision that explains all points best, the rest as is."""

    def with_products(rate: float) -> Machine:
        return replace(machine, products={precision: rate})

    def error(rate: float) -> float:
        tried = with_products(rate)
        return sum(
            (expected_seconds(tried, shapes[p.layers, p.width], precision, p) / took - 1) ** 2
            for p, took in seconds.items()
        )

    return with_products(min(numpy.geomspace(0.1, 20, 500), key=error))


JobCase = tuple[tuple[int, int] | str, str, int, int]
JOBS: tuple[JobCase, ...] = (
    ((8, 256), "dim", 10, 100),
    ((8, 256), "dim", 40, 100),
    ((32, 256), "dim", 20, 50),
    ((8, 512), "dim", 20, 100),
    ((8, 1024), "dim", 20, 50),
    ("lab:qwen-14b", "dim,cosmic", 40, 16),
    ("lab:phi-mini", "dim,cosmic", 40, 16),
    ("lab:llama-8b", "dim,cosmic", 40, 16),
)
GPU_JOBS: tuple[JobCase, ...] = (
    ((16, 2048), "dim", 40, 60),
    ((32, 2048), "dim,cosmic", 40, 60),
    ((16, 4096), "dim", 120, 100),
    ("lab:qwen-14b", "dim,cosmic", 40, 16),
)


def jobs(
    models: dict[tuple[int, int], Path], precisions: Sequence[str], device: torch.device
) -> None:
    """Whole sweeps, judged and saved, against their estimate; most answers run to full length.

    How much of COSMIC's scoring is needed depends on what a model does, so it is tried on lab
    models, with few tokens since these know how to end an answer.
    """
    print("\n| model | precision | methods | conditions | prompts | tokens | seconds | estimate |")
    print("|---|---|---|---|---|---|---|---|")
    for (model, methods, n_prompts, tokens), precision in itertools.product(
        GPU_JOBS if device.type == "cuda" else JOBS, precisions
    ):
        name = model if isinstance(model, str) else f"{model[0]} layers, width {model[1]}"
        location = model if isinstance(model, str) else str(models[model])
        settings = make_settings(
            [location],
            methods=methods,
            layers="0.2,0.4,0.5,0.6,0.8",
            strengths="0.3",
            max_prompts=n_prompts,
            max_new_tokens=tokens,
            precision=precision,
        )
        with tempfile.TemporaryDirectory() as out:
            started = time.perf_counter()
            run_sweep(settings, Path(out) / "run", device=device.type)
            took = time.perf_counter() - started
        shape = model_shape(find_model(location).config())
        swept = settings.methods, settings.layers, settings.strengths
        work = Workload(
            shape=shape,
            precision=precision,
            n_conditions=sum(1 for _ in expand(*swept, (), shape.n_layers)),
            n_prompts=n_prompts,
            new_tokens=tokens,
            rows=settings.rows,
            searches=sum(method != "dim" for method in settings.methods),
        )
        expected = sum(stage_seconds(work, replace(machine_of(device.type), start_s=0.3)).values())
        print(
            f"| {name} | {precision} | {methods} | {work.n_conditions} | {n_prompts} | {tokens} "
            f"| {took:.1f} | {expected:.1f} ({expected / took - 1:+.0%}) |"
        )


def _config(layers: int, width: int) -> Qwen2Config:
    return Qwen2Config(
        vocab_size=8192, hidden_size=width, intermediate_size=4 * width, num_hidden_layers=layers,
        num_attention_heads=width // 32, num_key_value_heads=width // 64, tie_word_embeddings=True,
    )  # fmt: skip


if __name__ == "__main__":
    main()
