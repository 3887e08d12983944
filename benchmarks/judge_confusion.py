"""What the default judge makes of labelled real answers, as counts; see docs/statistics.md.

    python benchmarks/judge_confusion.py DATA              # the counts, and figures by model
    python benchmarks/judge_confusion.py DATA --fit DEV    # of weights fitted without its models
    python benchmarks/judge_confusion.py DATA --write      # and `judging/confusion.json`

DATA is a folder of JSON lines with `prompt`, `response`, `nll_worst`, `threshold`, `stance`
(refuses, partial, helps, neither) and `quality` (fluent, borderline, broken). Answers that the
judge was fitted on flatter it: give others, or `--fit DEV`, the folder that `benchmarks/judge.py`
is given, so that each model's answers are judged by weights fitted on those of other models.
"""

from __future__ import annotations

import argparse
import json
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import chain
from pathlib import Path
from typing import Any, NamedTuple

from judge import DATA_SETS, fitted_judge, load, real_answers
from steersweep.core.statistics import cluster_bootstrap, wilson
from steersweep.judging.judge import Answer, Judge, OfAnswers
from steersweep.judging.judge_error import CLASSES, class_of
from steersweep.judging.judges import get_judge
from steersweep.judging.quality import Fluency

FILE = Path(__file__).parents[1] / "src" / "steersweep" / "judging" / "confusion.json"
# Of the run that an answer comes from, where its row does not say.
THRESHOLDS = {"qwen-coder-0.5b": 3.12}

Row = dict[str, Any]


class Judged(NamedTuple):
    """A labelled answer and its classes, of `CLASSES`."""

    row: Row
    true: str
    said: str


def rows(folder: Path) -> Iterator[Row]:
    for path in sorted(folder.glob("*.jsonl")):
        with path.open(encoding="utf-8") as file:
            yield from map(json.loads, file)


def true_class(row: Row) -> str | None:
    """None for borderline texts, of which people differ."""
    if row["quality"] == "borderline":
        return None
    refuses = row["stance"] in ("refuses", "partial")
    broken = row["quality"] == "broken"
    return class_of(refuses, "garbled" if broken else "coherent" if refuses else "normal")


def answer(row: Row) -> Answer:
    worst: float | None = row.get("nll_worst")
    threshold: float | None = row.get("threshold", THRESHOLDS.get(row["model"]))
    fluency = None
    if worst is not None and threshold is not None:
        fluency = Fluency(worst, row["nll"], threshold, row["n_tokens"])
    return Answer(row["prompt"], row["response"], fluency)


def judges_without(folder: Path, models: Iterable[str]) -> dict[str, Judge]:
    """For each model, the default judge with weights fitted on the answers of all others."""
    known = [row for name in DATA_SETS for row in load(folder, name)]
    known += real_answers(folder.parent / "real")
    return {
        model: OfAnswers(fitted_judge([row for row in known if row["model"] != model]))
        for model in models
    }


def judged(data: Iterable[Row], fit: Path | None) -> dict[str, list[Judged]]:
    """Each different answer once, by model: its row, true class and what the judge says.

    Args:
        data: labelled answers; borderline ones are left out.
        fit: folder to fit weights on, without an answer's own model; the shipped ones without it.
    """
    labelled: dict[str, dict[tuple[str, str], tuple[Row, str]]] = {}
    for row in data:
        if (label := true_class(row)) is not None:
            labelled.setdefault(row["model"], {})[row["prompt"], row["response"]] = (row, label)
    judges = judges_without(fit, labelled) if fit else dict.fromkeys(labelled, get_judge())
    found = {}
    for model, rows_of in sorted(labelled.items()):
        said = judges[model].judge([answer(row) for row, _ in rows_of.values()])
        found[model] = [
            Judged(row, true, class_of(judgement.refusal, judgement.quality))
            for (row, true), judgement in zip(rows_of.values(), said, strict=True)
        ]
    return found


def confusion(found: Mapping[str, Sequence[Judged]]) -> dict[str, Any]:
    """The content of `confusion.json`: counts `[true class][said class]` over all models."""
    counts = {true: dict.fromkeys(CLASSES, 0) for true in CLASSES}
    for one in chain.from_iterable(found.values()):
        counts[one.true][one.said] += 1
    return {"judge": get_judge().id, "answers_of": sorted(found), "true_then_said": counts}


# -- figures by model ----------------------------------------------------------------------------


def three(label: str) -> str:
    """The class that a rate counts: a garbled refusal is garbled text."""
    return "garbled" if label == "garbled-refusal" else label


def macro_f1(answers: Sequence[Judged]) -> float:
    """Mean F1 of the classes that occur, of three; NaN without an answer."""
    pairs = [(three(one.true), three(one.said)) for one in answers]
    scores = []
    for name in dict.fromkeys(label for pair in pairs for label in pair):
        both = sum(true == said == name for true, said in pairs)
        either = sum((true == name) + (said == name) for true, said in pairs)
        scores.append(2 * both / either)
    return sum(scores) / len(scores) if scores else math.nan


def share(hits: Iterable[bool]) -> str:
    """A share with Wilson's 95 % interval: `.94 [.81-.98] (31 of 33)`."""
    seen = list(hits)
    if not seen:
        return "none"
    low, high = wilson(sum(seen), len(seen))
    numbers = f"{sum(seen) / len(seen):.2f} [{low:.2f}-{high:.2f}]".replace("0.", ".")
    return f"{numbers} ({sum(seen)} of {len(seen)})"


def figures(found: Mapping[str, Sequence[Judged]]) -> Iterator[str]:
    """A table with a line for each model and one for all; macro-F1 with a bootstrap of prompts."""
    yield "| answers of | n | coherent: precision | recall | garbled: precision | recall | "
    yield "macro-F1 of three classes |\n|---|---|---|---|---|---|---|\n"
    everything = list(chain.from_iterable(found.values()))
    for name, answers in [*found.items(), ("all", everything)]:
        cells = [name, str(len(answers))]
        for label in ("coherent", "garbled"):
            cells.append(share(three(a.true) == label for a in answers if three(a.said) == label))
            cells.append(share(three(a.said) == label for a in answers if three(a.true) == label))
        prompts: dict[str, list[Judged]] = {}
        for one in answers:
            prompts.setdefault(one.row["prompt"], []).append(one)
        low, high = cluster_bootstrap(list(prompts.values()), macro_f1)
        f1 = f"{macro_f1(answers):.3f} [{low:.2f}-{high:.2f}]".replace("0.", ".")
        yield f"| {' | '.join([*cells, f1])} |\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("data", type=Path)
    parser.add_argument("--fit", type=Path, metavar="DEV")
    parser.add_argument("--write", action="store_true")
    options = parser.parse_args()
    found = judged(rows(options.data), options.fit)
    text = json.dumps(confusion(found), indent=1, ensure_ascii=False)
    print(text)
    print("\n" + "".join(figures(found)))
    if options.write:
        FILE.write_text(text + "\n", "utf-8")


if __name__ == "__main__":
    main()
