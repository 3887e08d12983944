"""A model's steps and whole generations in each precision of this CPU, against float32.

Precisions take turns, so that a busy machine is as busy for each. Seconds are of the processor, all
threads together, and the least of the repeats. Prompts have different lengths, and every cell has
an edit of its own, as in a sweep.

    python benchmarks/precision.py --model FOLDER --rows 8,64,190
    python benchmarks/precision.py --model FOLDER --parts generating --prompts 10 --tokens 40
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Sequence
from itertools import pairwise

import torch

from decoding import endless, pushes
from machine import named
from steersweep import ChatModel, Row, generate
from steersweep.model.fastest import fastest_precision
from steersweep.model.int8 import multiplies_bytes
from steersweep.prompts.prompts import load_test_set

N_EDITS = 9


def main() -> None:
    """Parse options, measure, print Markdown."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", maxsplit=1)[0])
    parser.add_argument("--model", default="lab:qwen-7b")
    parser.add_argument("--precisions", default="fp32,bf16,int8-dynamic")
    parser.add_argument("--rows", default="8,64,190")
    parser.add_argument("--parts", default="steps")
    parser.add_argument("--prompts", type=int, default=10)
    parser.add_argument("--tokens", type=int, default=40)
    parser.add_argument("--repeats", type=int, default=3)
    options = parser.parse_args()
    names = options.precisions.split(",")
    if not multiplies_bytes():
        names = [name for name in names if name != "int8-dynamic"]
    chats = [ChatModel.load(options.model, precision=name, device="cpu") for name in names]
    print(f"{options.model}, {named(torch.device('cpu'))}\n")
    print(f"{fastest_precision(chats[0].model.config).note}\n")
    prompts = load_test_set("benign-120").first(options.prompts).prompts
    if "steps" in options.parts:
        sizes = [int(size) for size in options.rows.split(",")]
        print_steps(chats, prompts, sizes, options.repeats)
    if "generating" in options.parts:
        print_generating(chats, prompts, options.tokens, options.repeats)


def rows_of(chat: ChatModel, prompts: Sequence[str]) -> list[Row]:
    """Every prompt unsteered and with each edit."""
    edits = [None, *pushes(chat, N_EDITS)]
    return [Row(chat.prompt_ids(text), edit) for edit in edits for text in prompts]


def print_steps(
    chats: Sequence[ChatModel], prompts: Sequence[str], sizes: Sequence[int], repeats: int
) -> None:
    """Milliseconds of a decoding step by precision and rows."""
    print("| rows | " + " | ".join(chat.precision for chat in chats) + " |")
    print("|---" * (len(chats) + 1) + "|")
    for size in sizes:
        best = [float("inf")] * len(chats)
        for _ in range(repeats):
            for index, chat in enumerate(chats):
                # One prompt for each edit, so that the prompts' pass takes little of the time.
                rows = rows_of(chat, prompts)
                rows = [rows[number % len(rows)] for number in range(size)]
                best[index] = min(best[index], least_step(chat, rows))
        cells = [f"{1000 * one:.0f} ({best[0] / one:.1f} ×)" for one in best]
        print(f"| {size} | " + " | ".join(cells) + " |", flush=True)


def least_step(chat: ChatModel, rows: Sequence[Row], tokens: int = 4) -> float:
    """Processor seconds of the quickest step."""
    marks: list[float] = []
    with endless(chat):
        generate(
            chat,
            rows,
            max_new_tokens=tokens,
            max_rows=len(rows),
            on_step=lambda _step: marks.append(time.process_time()),
        )
    return min(after - before for before, after in pairwise(marks))


def print_generating(
    chats: Sequence[ChatModel], prompts: Sequence[str], tokens: int, repeats: int
) -> None:
    """Seconds of all answers of a small map, and how many are those of the first precision."""
    print("\n| precision | seconds | times as fast | same texts |")
    print("|---|---|---|---|")
    best, texts = [float("inf")] * len(chats), [[""]] * len(chats)
    for _ in range(repeats):
        for index, chat in enumerate(chats):
            started = time.process_time()
            answers = generate(chat, rows_of(chat, prompts), max_new_tokens=tokens)
            best[index] = min(best[index], time.process_time() - started)
            texts[index] = [answer.text for answer in answers]
    for chat, seconds, found in zip(chats, best, texts, strict=True):
        same = sum(one == other for one, other in zip(found, texts[0], strict=True))
        shown = f"{best[0] / seconds:.2f} | {same} of {len(found)}"
        print(f"| {chat.precision} | {seconds:.1f} | {shown} |")


if __name__ == "__main__":
    main()
