"""What the default judge makes of labelled real answers, as counts; see docs/statistics.md.

    python benchmarks/judge_confusion.py DATA              # the table
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
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from judge import DATA_SETS, fitted_judge, load, real_answers
from steersweep.judging.judge import Answer, Judge, OfAnswers
from steersweep.judging.judge_error import CLASSES, class_of
from steersweep.judging.judges import get_judge
from steersweep.judging.quality import Fluency

FILE = Path(__file__).parents[1] / "src" / "steersweep" / "judging" / "confusion.json"
# Of the run that an answer comes from, where its row does not say.
THRESHOLDS = {"qwen-coder-0.5b": 3.12}

Row = dict[str, Any]


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


def confusion(data: Iterable[Row], fit: Path | None) -> dict[str, Any]:
    """Counts `[true class][said class]` of the default judge, each different answer once.

    Args:
        data: labelled answers.
        fit: folder to fit weights on, without an answer's own model; the shipped ones without it.
    """
    labelled: dict[str, dict[tuple[str, str], tuple[Row, str]]] = {}
    for row in data:
        if (label := true_class(row)) is not None:
            labelled.setdefault(row["model"], {})[row["prompt"], row["response"]] = (row, label)
    shipped = get_judge()
    judges = judges_without(fit, labelled) if fit else dict.fromkeys(labelled, shipped)
    counts = {true: dict.fromkeys(CLASSES, 0) for true in CLASSES}
    for model, rows_of in labelled.items():
        judged = judges[model].judge([answer(row) for row, _ in rows_of.values()])
        for (_, true), judgement in zip(rows_of.values(), judged, strict=True):
            counts[true][class_of(judgement.refusal, judgement.quality)] += 1
    return {"judge": shipped.id, "answers_of": sorted(labelled), "true_then_said": counts}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("data", type=Path)
    parser.add_argument("--fit", type=Path, metavar="DEV")
    parser.add_argument("--write", action="store_true")
    options = parser.parse_args()
    found = confusion(rows(options.data), options.fit)
    text = json.dumps(found, indent=1, ensure_ascii=False)
    print(text)
    if options.write:
        FILE.write_text(text + "\n", "utf-8")


if __name__ == "__main__":
    main()
