"""What each effect costs beside the answers of a sweep, by condition.

    python benchmarks/effects.py [MODEL] [--layers 5] [--strengths 4] [--prompts 120] [--tokens 60]
                                 [--effects divergence,text,...] [--rounds 1]

A map of layers x strengths, each cell with a random direction of the same length, and the model
without steering. Its answers are generated, their likelihoods taken and judged as in a sweep, in
the same batches; then every effect is measured of the same edits. Seconds of the clock and of the
processor, since the first alone says little on a machine that is busy with other things. With
fewer prompts than 120 the answers' time is scaled to 120.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from machine import sync
from steersweep import ChatModel, Edit, Row, generate, get_judge, load_test_set, residuals
from steersweep.effects.effect import EFFECTS, Given, OwnAnswers
from steersweep.effects.question_files import QUESTIONS, load_questions
from steersweep.effects.sample_files import TEXTS, load_texts
from steersweep.judging.fluency import response_nll
from steersweep.judging.judge import Answer
from steersweep.judging.quality import LIKELIHOOD_TOKENS
from steersweep.methods.extraction import extract_directions
from steersweep.prompts.prompts import DIM_EXTRACTION_SET, load_extraction_set
from steersweep.run.direction import random_direction
from steersweep.run.effect import Measured
from steersweep.steer.steering import Generation

PROMPTS = 120
STRENGTHS = (0.05, 0.1, 0.2, 0.4)  # of the residual stream's length
SEED = 0


class Clock:
    """Seconds of the clock and of the processor, by what they were spent on."""

    def __init__(self, chat: ChatModel) -> None:
        self._chat = chat
        self.spent: dict[str, tuple[float, float]] = {}

    @contextmanager
    def on(self, what: str) -> Iterator[None]:
        sync(self._chat.device)
        began = time.perf_counter(), time.process_time()
        yield
        sync(self._chat.device)
        wall, busy = self.spent.get(what, (0.0, 0.0))
        wall += time.perf_counter() - began[0]
        self.spent[what] = wall, busy + time.process_time() - began[1]


def edits_of(chat: ChatModel, n_layers: int, n_strengths: int, ids: list[list[int]]) -> list[Edit]:
    """Every cell and its random control, from the middle layers of the model."""
    layers = sorted(
        {int((0.2 + 0.7 * i / max(1, n_layers - 1)) * chat.n_layers) for i in range(n_layers)}
    )
    prompts = load_extraction_set(DIM_EXTRACTION_SET)
    found = extract_directions(chat, "dim", prompts, layers).at_layer
    norms = residuals(chat, ids[:32])[:, 0].double().norm(dim=-1).mean(0).tolist()
    return [
        Edit.add(vector, strength * norms[layer], layer)
        for layer in layers
        for strength in STRENGTHS[:n_strengths]
        for vector in (found[layer].vector, random_direction(found[layer], SEED).vector)
    ]


def answer(
    chat: ChatModel,
    prompts: Sequence[str],
    ids: list[list[int]],
    edits: Sequence[Edit | None],
    tokens: int,
    clock: Clock,
) -> list[Generation]:
    """Answers of all edits, with what a sweep does besides; returns those of the first."""
    judge = get_judge()
    first: list[Generation] = []
    rows = [
        (prompt, Row(of_prompt, edit))
        for edit in edits
        for prompt, of_prompt in zip(prompts, ids, strict=True)
    ]
    size = max(1, 256 // len(prompts)) * len(prompts)  # as many whole conditions as fit
    for start in range(0, len(rows), size):
        some = rows[start : start + size]
        with clock.on("answers: generation"):
            answers = generate(chat, [row for _, row in some], max_new_tokens=tokens)
        with clock.on("answers: likelihoods"):
            looked_at = [
                a.token_ids[:LIKELIHOOD_TOKENS] if judge.asks_likelihood(a.text) else ()
                for a in answers
            ]
            response_nll(chat, [row.prompt_ids for _, row in some], looked_at)
        with clock.on("answers: judging"):
            judge.judge(
                [Answer(prompt, a.text) for (prompt, _), a in zip(some, answers, strict=True)]
            )
        first = first or answers[: len(prompts)]
    return first


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model", nargs="?", default="lab:qwen-7b")
    parser.add_argument("--layers", type=int, default=5)
    parser.add_argument("--strengths", type=int, default=4)
    parser.add_argument("--prompts", type=int, default=PROMPTS)
    parser.add_argument("--tokens", type=int, default=60)
    parser.add_argument("--effects", default=",".join(EFFECTS.names))
    parser.add_argument("--rounds", type=int, default=1)
    asked = parser.parse_args()
    chat = ChatModel.load(asked.model)
    prompts = load_test_set("benign-120").first(asked.prompts)
    ids = chat.renderer.ids_of(prompts.prompts, "prompt")
    edits = [None, *edits_of(chat, asked.layers, asked.strengths, ids)]
    clock = Clock(chat)
    generate(
        chat, [Row(ids[0], edit) for edit in edits[:2]], max_new_tokens=2
    )  # looks at the model
    for _ in range(asked.rounds):
        own = answer(chat, prompts.prompts, ids, edits, asked.tokens, clock)
        given = Given(
            own_answers=OwnAnswers(prompts.prompts, ids, [a.token_ids for a in own], prompts.id),
            texts=load_texts(TEXTS),
            questions=load_questions(QUESTIONS),
            harmful=load_test_set("harmful-kept-128"),
            borderline=load_test_set("borderline-120"),
            judge=get_judge(),
        )
        for name in asked.effects.split(","):
            with clock.on(name):
                found = EFFECTS.get(name).measure(chat, edits, given)
            show(name, found)
    table(clock, len(edits) * asked.rounds, PROMPTS / len(prompts.prompts), chat)


def show(name: str, found: Sequence[Sequence[Measured]]) -> None:
    """Means by edit: unsteered, then each direction beside its random one."""
    for variant, measured in enumerate(found[0]):
        means = " ".join(f"{of_edit[variant].mean:.3f}" for of_edit in found)
        print(f"{measured.name} ({len(measured.items)} items, {measured.unit}): {means}")


def table(clock: Clock, n: int, scale: float, chat: ChatModel) -> None:
    """Seconds of a condition and share of its answers' time."""
    answers = [what for what in clock.spent if what.startswith("answers")]
    of_answers = [sum(clock.spent[what][kind] for what in answers) * scale for kind in (0, 1)]
    print(f"\n{chat.source.model_id} on {chat.device}: {n} conditions, seconds of one")
    print(f"{'':24}{'clock':>8}{'':8}{'processor':>10}")
    total = [0.0, 0.0]
    for what, (wall, busy) in clock.spent.items():
        factor = scale if what in answers else 1.0
        shares = [
            f"{factor * spent / n:8.2f}{factor * spent / whole:8.1%}"
            for spent, whole in zip((wall, busy), of_answers, strict=True)
        ]
        if what not in answers:
            total = [total[0] + wall / of_answers[0], total[1] + busy / of_answers[1]]
        print(f"{what:24}{shares[0]}  {shares[1]}")
    print(f"{'all effects':24}{total[0]:16.1%}  {total[1]:16.1%}")


if __name__ == "__main__":
    main()
