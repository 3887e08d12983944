"""Multiple choice beside lm-evaluation-harness: its numbers and ours, question by question.

    pip install lm_eval evaluate sacrebleu rouge-score sqlitedict word2number more_itertools \
        pytablewriter
    python benchmarks/beside_lm_eval.py [--questions FILE] [--count N] [MODEL ...]

Both run the same model in the same precision on the same questions without examples before them.
The harness reads the shipped file by a task of its own kind (`multiple_choice`, as `arc_easy` has
it), so that what stands before an answer, tokenization, scoring and counting are all its own.
Printed by model: the largest difference of an answer's log-probability, `acc` and `acc_norm` of
both, and how many questions are scored differently.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

from steersweep import ChatModel
from steersweep.effects.choices import likeliest, plain_pairs
from steersweep.effects.question_files import QUESTIONS, load_questions
from steersweep.effects.questions import QuestionSet
from steersweep.model.find import find_model
from steersweep.steer.continuations import log_likelihoods

MODELS = ("lab:qwen-7b", "lab:llama-8b")
WAYS = {"acc": False, "acc_norm": True}


@dataclass(frozen=True)
class Scored:
    """What one program makes of the questions.

    Attributes:
        logs: log-probability of every answer, `[question][answer]`, in nats.
        right: by metric, 1 for each question that it finds answered right, else 0.
    """

    logs: list[list[float]]
    right: dict[str, list[float]]


def ours(chat: ChatModel, asked: QuestionSet) -> Scored:
    (found,) = log_likelihoods(chat, plain_pairs(chat, asked), [None])
    sums = iter([float(of_answer.sum()) for of_answer in found])
    logs = [[*islice(sums, len(question.choices))] for question in asked.questions]
    right = {
        metric: [
            float(likeliest(some, q.choices, by_length=by_length) == q.answer)
            for q, some in zip(asked.questions, logs, strict=True)
        ]
        for metric, by_length in WAYS.items()
    }
    return Scored(logs, right)


def of_the_harness(chat: ChatModel, asked: QuestionSet, file: Path) -> Scored:
    """The questions in the harness's own loop, with the same model in memory."""
    import lm_eval
    from lm_eval.api.task import ConfigurableTask
    from lm_eval.models.huggingface import HFLM

    task = ConfigurableTask(
        config={
            "task": "questions",
            "dataset_path": "json",
            "dataset_kwargs": {"data_files": {"test": str(file)}},
            "test_split": "test",
            "output_type": "multiple_choice",
            "doc_to_text": "{{asked}}",
            "doc_to_choice": "choices",
            "doc_to_target": "answer",
            "metric_list": [{"metric": metric} for metric in WAYS],
        }
    )
    model = HFLM(pretrained=chat.model, tokenizer=chat.tokenizer, batch_size=1)
    found = lm_eval.simple_evaluate(model, tasks=[task], log_samples=True, bootstrap_iters=0)
    samples: list[dict[str, Any]] = sorted(
        found["samples"]["questions"], key=lambda sample: sample["doc_id"]
    )
    return Scored(
        [[float(answer[0][0]) for answer in sample["resps"]] for sample in samples],
        {metric: [float(sample[metric]) for sample in samples] for metric in WAYS},
    )


def compare(source: str, asked: QuestionSet, file: Path) -> None:
    chat = ChatModel.load(find_model(source), precision="fp32", device="cpu")
    here, there = ours(chat, asked), of_the_harness(chat, asked, file)
    largest = max(
        abs(a - b)
        for of_us, of_them in zip(here.logs, there.logs, strict=True)
        for a, b in zip(of_us, of_them, strict=True)
    )
    n = len(asked.questions)
    print(f"{source}: {n} questions; log-probabilities differ by at most {largest:.1e} nats")
    for metric in WAYS:
        one, other = here.right[metric], there.right[metric]
        differ = sum(a != b for a, b in zip(one, other, strict=True))
        print(f"  {metric}: {sum(one) / n:.4f} here, {sum(other) / n:.4f} there; {differ} differ")


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("models", nargs="*", default=MODELS, metavar="MODEL")
    parser.add_argument("--questions", default=QUESTIONS, help="a file, or the shipped set")
    parser.add_argument("--count", type=int, default=60, help="how many, from the first one on")
    chosen = parser.parse_args(arguments)
    asked = load_questions(chosen.questions).first(chosen.count)
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "questions.jsonl"
        lines = (
            {"asked": q.question, "choices": q.choices, "answer": q.answer} for q in asked.questions
        )
        file.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
        for source in chosen.models:
            compare(source, asked, file)


if __name__ == "__main__":
    main()
