"""How decoding time grows with rows, layers, context and model size; and whether estimates hold.

    python benchmarks/cost_curves.py [--runs 3]

Models are random Qwen2s. One thing varies at a time around a model of 8 layers and width 256 with
64 rows. The rates of `Machine` (steersweep/experiment/timing.py) are fitted to all steps at once,
by least squares of relative errors, and printed beside those it has now; with --jobs, whole sweeps
of answers that hardly ever end early are held against what `estimate` says.
"""

from __future__ import annotations

import argparse
import datetime
import tempfile
import time
from dataclasses import dataclass, fields, replace
from pathlib import Path
from statistics import median

import numpy
from scipy.optimize import nnls
from transformers import Qwen2Config

from decoding import pushes, step_seconds
from machine import named
from shapes import save
from steersweep import ChatModel, Row, load_test_set
from steersweep.experiment.estimate import estimate
from steersweep.experiment.phases import Sweep
from steersweep.experiment.plan import PlannedModel, load_plan
from steersweep.experiment.runner import run_sweep
from steersweep.experiment.sweep import make_settings
from steersweep.experiment.timing import CPU, Machine
from steersweep.memory import MemoryModel, memory_model

STEPS = 16


@dataclass(frozen=True)
class Point:
    """A batch to time a step of."""

    curve: str
    rows: int = 64
    layers: int = 8
    context: int = 64
    width: int = 256


CURVES = [
    *(Point("rows", rows=n) for n in (1, 4, 16, 64, 128, 256)),
    *(Point("layers", layers=n) for n in (2, 4, 16, 32)),
    *(Point("context", context=n) for n in (128, 256, 512)),
    *(Point("width", width=n) for n in (128, 512, 1024)),
    *(Point("width, 256 rows", width=n, rows=256) for n in (128, 512, 1024)),
]


def main() -> None:
    """Measure, fit, print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--jobs", action="store_true", help="whole sweeps too")
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as made:
        models = {
            (p.layers, p.width): save(
                _config(p.layers, p.width), Path(made) / f"{p.layers}-{p.width}"
            )
            for p in CURVES
        }
        chats = {key: ChatModel.load(str(folder), device="cpu") for key, folder in models.items()}
        print(f"{named(next(iter(chats.values())).device)}, float32")
        print(f"{datetime.datetime.now(datetime.UTC):%Y-%m-%d}, {asked.runs} runs\n")
        seconds: dict[Point, list[float]] = {point: [] for point in CURVES}
        for _run in range(asked.runs):
            for point, found in seconds.items():
                found.append(measure(chats[point.layers, point.width], point))
        shapes = {key: memory_model(chat.model.config, chat.model) for key, chat in chats.items()}
        report({p: median(found) for p, found in seconds.items()}, shapes)
        if asked.jobs:
            jobs(models)


def measure(chat: ChatModel, point: Point) -> float:
    """Seconds of a step whose rows have about `context` positions."""
    prompts = [chat.prompt_ids(text) for text in load_test_set("benign-120").prompts]
    push = pushes(chat, 1)[0]
    length = point.context - STEPS // 2
    rows = []
    for i in range(point.rows):
        ids = prompts[i % len(prompts)]
        rows.append(Row((ids * (length // len(ids) + 1))[:length], push))
    return step_seconds(chat, rows, STEPS)


def report(seconds: dict[Point, float], shapes: dict[tuple[int, int], MemoryModel]) -> None:
    """The curves beside what is fitted and what estimates rest on."""
    fitted = fit(seconds, shapes)
    print("| curve | rows | layers | context | width | ms a step | fitted | by the estimate |")
    print("|---|---|---|---|---|---|---|---|")
    worst = {"fitted": 0.0, "the estimate": 0.0}
    for point, step in seconds.items():
        shape = shapes[point.layers, point.width]
        said = []
        for name, machine in (("fitted", fitted), ("the estimate", CPU)):
            expected = machine.step(shape, "fp32", point.rows, point.context)
            error = expected / step - 1
            worst[name] = max(worst[name], abs(error), key=abs)
            said.append(f"{1000 * expected:.2f} ({error:+.0%})")
        print(
            f"| {point.curve} | {point.rows} | {point.layers} | {point.context} | {point.width} "
            f"| {1000 * step:.2f} | {said[0]} | {said[1]} |"
        )
    print("\nlargest error: " + ", ".join(f"{e:.0%} of {name}" for name, e in worst.items()))
    for field in fields(Machine):
        print(
            f"  {field.name}: fitted {getattr(fitted, field.name):.3g}, "
            f"in use {getattr(CPU, field.name):.3g}"
        )


def fit(seconds: dict[Point, float], shapes: dict[tuple[int, int], MemoryModel]) -> Machine:
    """The rates that explain the steps best."""
    terms = []
    for point, step in seconds.items():
        shape = shapes[point.layers, point.width]
        each = (
            shape.n_layers,
            shape.weights("fp32"),
            point.rows * 2 * shape.parameters,
            point.rows * shape.n_layers * shape.d_model,
            point.rows * shape.n_layers * shape.q_width * point.context,
        )
        terms.append([term / step for term in each])
    matrix = numpy.array(terms)
    scale = matrix.max(0)
    found, _ = nnls(matrix / scale, numpy.ones(len(terms)))
    layer, byte, operation, element, attended = (max(1e-18, float(v)) for v in found / scale)
    return replace(
        CPU,
        layer_s=layer,
        read_rate=1 / byte,
        flops=1 / operation,
        element_s=element,
        attended_s=attended,
    )


def jobs(models: dict[tuple[int, int], Path]) -> None:
    """Whole sweeps, judged and saved, against their estimate; answers run to their full length."""
    print("\n| layers | width | methods | conditions | prompts | tokens | seconds | estimate |")
    print("|---|---|---|---|---|---|---|---|")
    for (layers, width), methods, n_prompts, tokens in (
        ((8, 256), "dim", 10, 100),
        ((8, 256), "dim", 40, 100),
        ((8, 256), "dim,cosmic", 20, 50),
        ((32, 256), "dim", 20, 50),
        ((8, 512), "dim", 20, 100),
        ((8, 1024), "dim", 20, 50),
        ((8, 1024), "dim,cosmic", 10, 50),
    ):
        settings = make_settings(
            [str(models[layers, width])],
            methods=methods,
            layers="0.2,0.4,0.5,0.6,0.8",
            strengths="0.01",
            max_prompts=n_prompts,
            max_new_tokens=tokens,
        )
        with tempfile.TemporaryDirectory() as out:
            started = time.perf_counter()
            run_sweep(settings, Path(out) / "run", device="cpu")
            took = time.perf_counter() - started
        plan = load_plan("v3-lab")
        decoding = plan.data["decoding"] | {"max_new_tokens": tokens}
        plan = replace(plan, data={**plan.data, "decoding": decoding})
        shape = memory_model(_config(layers, width))
        planned = PlannedModel(
            name="m", model="", revision=None, family="qwen", n_layers=layers,
            billions=shape.parameters / 1e9, gpu="local",
        )  # fmt: skip
        sweep = Sweep(
            "1", "family", planned, tuple(methods.split(",")), settings.layers,
            settings.strengths, "fp32",
        )  # fmt: skip
        expected = estimate(plan, sweep, n_prompts).seconds
        print(
            f"| {layers} | {width} | {methods} | {sweep.n_conditions} | {n_prompts} | {tokens} "
            f"| {took:.1f} | {expected:.1f} ({expected / took - 1:+.0%}) |"
        )


def _config(layers: int, width: int) -> Qwen2Config:
    return Qwen2Config(
        vocab_size=8192, hidden_size=width, intermediate_size=4 * width, num_hidden_layers=layers,
        num_attention_heads=width // 32, num_key_value_heads=width // 64, tie_word_embeddings=True,
    )  # fmt: skip


if __name__ == "__main__":
    main()
