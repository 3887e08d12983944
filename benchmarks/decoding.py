"""Time of single decoding steps, taken from outside: what `generate` tells at every step."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import pairwise
from statistics import median

import torch

from machine import sync
from steersweep import ChatModel, Edit, Row, generate
from steersweep.steer.steering import StepInfo


def step_seconds(chat: ChatModel, rows: Sequence[Row], tokens: int) -> float:
    """Median seconds of a decoding step of one batch of all rows."""
    times: list[float] = []

    def mark(_step: StepInfo) -> None:
        sync(chat.device)
        times.append(time.perf_counter())

    with endless(chat):
        generate(chat, rows, max_new_tokens=tokens, max_rows=len(rows), on_step=mark)
    return median(after - before for before, after in pairwise(times))


@contextmanager
def endless(chat: ChatModel) -> Iterator[None]:
    """While open, no token ends an answer, so that batches keep their rows."""
    held = chat.eos_ids
    vars(chat)["eos_ids"] = frozenset[int]()
    try:
        yield
    finally:
        vars(chat)["eos_ids"] = held


def pushes(chat: ChatModel, n: int) -> list[Edit]:
    """Different small additions, their starts spread over the depth."""
    generator = torch.Generator().manual_seed(0)
    vectors = torch.randn((n, chat.d_model), generator=generator)
    units = vectors / vectors.norm(dim=-1, keepdim=True)
    starts = [(2 * i + 1) * chat.n_layers // (2 * n) for i in range(n)]
    return [Edit.add(u, 0.01, start=s) for u, s in zip(units, starts, strict=True)]
