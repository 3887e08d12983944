"""Time a layer x strength sweep done three ways on the same model, conditions and token budget.

    python benchmarks/sweep_speed.py [--model lab:qwen-7b] [--layers 5] [--strengths 4] [--runs 5]

- study: one prompt at a time through `generate` of transformers, hooks put on and taken off for
  each, every prompt asked `--repeats` times, as the 2026 study did.
- batched: `generate` of transformers on all prompts of one condition at a time.
- steersweep: all conditions' rows in shared batches.

Every run times all three, one after the other in the same process, so that the ratios hold when
the machine's speed drifts. Texts of every row are compared. Judging is left out of all three. The
study's repeats are timed in the first run only; later runs time one repeat and multiply (they are
identical work), unless --all-repeats is given.
"""

from __future__ import annotations

import argparse
import platform
import statistics
import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor

from steersweep import ChatModel, Intervention, Row, dim_directions, generate
from steersweep.chat_model import Batch
from steersweep.prompts.prompts import load_extraction_set, load_test_set

Condition = Intervention | None


def steered(chat: ChatModel, condition: Condition) -> AbstractContextManager[None]:
    """Hooks of one condition on every layer from its start on."""
    if condition is None:
        return nullcontext()
    push = (condition.multiplier * condition.vector).to(chat.device, chat.dtype)

    def add(_layer: int, hidden: Tensor) -> Tensor:
        return hidden + push

    return chat.layer_hooks(add, range(condition.start, chat.n_layers))


def transformers_generate(chat: ChatModel, batch: Batch, max_new_tokens: int) -> list[str]:
    """Greedy `generate` of transformers on one batch."""
    with torch.inference_mode():
        output: Any = chat.model.generate(
            input_ids=batch.input_ids,
            attention_mask=batch.attention_mask,
            do_sample=False,
            max_new_tokens=max_new_tokens,
            pad_token_id=chat.pad_id,
        )
    width = batch.input_ids.shape[1]
    return [text_of(chat, ids[width:].tolist()) for ids in output]


def text_of(chat: ChatModel, ids: Sequence[int]) -> str:
    """Text up to the first ending token."""
    end = next((i for i, token in enumerate(ids) if token in chat.eos_ids), len(ids))
    return chat.decode(ids[:end])


def study(
    chat: ChatModel, prompts: Sequence[Sequence[int]], conditions: Sequence[Condition], tokens: int
) -> list[str]:
    """One prompt at a time."""
    texts = []
    for condition in conditions:
        for ids in prompts:
            with steered(chat, condition):
                texts += transformers_generate(chat, chat.pad([ids]), tokens)
    return texts


def batched(
    chat: ChatModel, prompts: Sequence[Sequence[int]], conditions: Sequence[Condition], tokens: int
) -> list[str]:
    """One condition at a time. Its hooks steer padding too, so its texts may differ."""
    texts = []
    for condition in conditions:
        with steered(chat, condition):
            texts += transformers_generate(chat, chat.pad(prompts), tokens)
    return texts


def ours(
    chat: ChatModel, prompts: Sequence[Sequence[int]], conditions: Sequence[Condition], tokens: int
) -> list[str]:
    """All conditions together."""
    rows = [Row(ids, condition) for condition in conditions for ids in prompts]
    return [answer.text for answer in generate(chat, rows, max_new_tokens=tokens)]


def main() -> None:
    """Parse, run, print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="lab:qwen-7b")
    parser.add_argument("--layers", type=int, default=5)
    parser.add_argument("--strengths", type=int, default=4)
    parser.add_argument("--prompts", type=int, default=10)
    parser.add_argument("--tokens", type=int, default=100)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--all-repeats", action="store_true")
    options = parser.parse_args()

    chat = ChatModel.load(options.model)
    prompts = [chat.prompt_ids(text) for text in load_test_set("benign-120").prompts]
    prompts = prompts[: options.prompts]
    conditions = make_conditions(chat, options.layers, options.strengths)
    n_rows = len(prompts) * len(conditions)
    print(
        f"{options.model} on {chat.device}, {chat.precision}, {torch.get_num_threads()} threads, "
        f"torch {torch.__version__}, {platform.machine()}, Python {platform.python_version()}"
    )
    print(f"{len(conditions)} conditions x {len(prompts)} prompts x {options.tokens} new tokens")

    ways: dict[str, Callable[..., list[str]]] = {
        "study": study,
        "batched": batched,
        "steersweep": ours,
    }
    ours(chat, prompts, conditions[:2], options.tokens)  # warm up
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    texts: dict[str, list[str]] = {}
    for run in range(options.runs):
        for name, way in ways.items():
            whole = name == "study" and (run == 0 or options.all_repeats)
            started = time.perf_counter()
            for _ in range(options.repeats if whole else 1):
                texts[name] = way(chat, prompts, conditions, options.tokens)
            elapsed = time.perf_counter() - started
            if name == "study" and not whole:
                elapsed *= options.repeats
            seconds[name].append(elapsed)
        print(f"run {run + 1}: " + ", ".join(f"{n} {s[-1]:.2f} s" for n, s in seconds.items()))

    for name in ("study", "batched"):
        ratios = sorted(a / b for a, b in zip(seconds[name], seconds["steersweep"], strict=True))
        same = sum(a == b for a, b in zip(texts[name], texts["steersweep"], strict=True))
        print(
            f"{name:>8} / steersweep: {statistics.median(ratios):.1f} x "
            f"(min {ratios[0]:.1f}, max {ratios[-1]:.1f}); "
            f"identical texts {same} of {n_rows}"
        )


def make_conditions(chat: ChatModel, n_layers: int, n_strengths: int) -> list[Condition]:
    """Layers spread over the depth, strengths from a quarter of the residual norm doubling up."""
    layers = sorted({chat.n_layers * (i + 1) // (n_layers + 1) for i in range(n_layers)})
    directions = dim_directions(chat, load_extraction_set("extract-dim-5"), layers=layers)
    return [None] + [
        Intervention(d.vector, 0.25 * 2**i * d.residual_norm, d.layer)
        for d in directions
        for i in range(n_strengths)
    ]


if __name__ == "__main__":
    main()
