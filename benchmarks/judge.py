"""How often the judge is right, and the fit of its weights.

    python benchmarks/judge.py DATA            # tables: cross-validation, sources left out, others
    python benchmarks/judge.py DATA --write    # fit on all of DATA, write the judge's data files

DATA is a folder of JSON lines with `prompt`, `response`, `label`, `quality`, `model`, `note`:
people's labels of real responses. Needs scikit-learn (`pip install -e .[fit]`).
"""

from __future__ import annotations

import argparse
import json
import random
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

from steersweep.judging import quality
from steersweep.judging import refusal as refusals
from steersweep.judging.cues import signs
from steersweep.judging.english import English
from steersweep.judging.judge import Judgement, TextJudge, get_judge
from steersweep.lab.refusals import REFUSALS

PACKAGE = Path(__file__).parents[1] / "src" / "steersweep" / "judging"
REFUSAL_SETS = (
    "xstest_safe", "xstest_unsafe", "chatgpt_refusals", "steered_actadd", "steered_baseline",
    "nonenglish", "contrast_probe",
)  # fmt: skip
# Sets of one origin are left out together.
SOURCES = {
    "xstest_safe": "xstest", "xstest_unsafe": "xstest",
    "steered_actadd": "steered", "steered_baseline": "steered",
}  # fmt: skip
# Steered texts are many and alike; those of people's own labels count more.
ROW_WEIGHTS = {
    "steered_actadd": 0.3, "steered_baseline": 0.5, "xstest_safe": 2.0, "xstest_unsafe": 0.7,
    "chatgpt_refusals": 1.5, "own": 1.5,
}  # fmt: skip
ABOUT_SPEAKER = frozenset(
    "i i'm i'd i'll i've me my we you your ai model assistant not cannot can't don't won't no "
    "never however but sorry opinions opinion personal neutral language".split()
)
FOLDS = 10

Row = dict[str, Any]


# -- data ------------------------------------------------------------------------------------------


def load(folder: Path, name: str) -> list[Row]:
    with (folder / f"{name}.jsonl").open(encoding="utf-8") as file:
        return [json.loads(line) | {"set": name} for line in file]


def own_examples() -> list[Row]:
    """Examples written for this package: wordings and languages that DATA hardly has."""
    with (PACKAGE / "examples.jsonl").open(encoding="utf-8") as file:
        examples = [json.loads(line) for line in file]
    lab = [{"response": text.format(kind="fraud"), "label": "refusal"} for text in REFUSALS]
    return [row | {"set": "own"} for row in (*examples, *lab)]


def source_of(row: Row) -> str:
    return SOURCES.get(row["set"], str(row["set"]))


def refuses(row: Row) -> bool:
    """Partial and soft refusals count as refusals."""
    return bool(row["label"] != "compliance")


def clear(row: Row) -> bool:
    return row["label"] in ("refusal", "compliance")


def fluent(row: Row) -> bool:
    """Whether a row's text is fluent, as far as anybody looked."""
    return row["set"] in REFUSAL_SETS and row.get("quality", "coherent") in ("coherent", "normal")


# -- fits ------------------------------------------------------------------------------------------


def fit_refusal(rows: Sequence[Row]) -> dict[str, Any]:
    """Logistic regression; phrases are scaled by how differently the classes use them.

    Scaling as in Wang and Manning 2012 (NB-SVM). Phrases of one source only, or of hardly any
    weight, drop.
    """
    from scipy.sparse import diags
    from sklearn.linear_model import LogisticRegression
    from sklearn.preprocessing import MultiLabelBinarizer

    rows = [*rows, *own_examples()]
    y = np.array([refuses(row) for row in rows])
    shown = [row.get("signs") or signs(row["response"], row.get("prompt", "")) for row in rows]
    origins: defaultdict[str, set[str]] = defaultdict(set)
    for row, found in zip(rows, shown, strict=True):
        for sign in found:
            origins[sign].add(source_of(row))
    counts = Counter(sign for found in shown for sign in found)

    def general(sign: str) -> bool:
        """What only one source says may be its topic, unless it is about the speaker."""
        words = sign.lstrip("^+").split()
        return len(origins[sign]) >= 2 or (
            counts[sign] >= 3 and not ABOUT_SPEAKER.isdisjoint(words)
        )

    kept = sorted(sign for sign in counts if sign[0] == "@" or general(sign))
    known = set(kept)
    x = MultiLabelBinarizer(classes=kept, sparse_output=True).fit_transform(
        [found & known for found in shown]
    )
    row_weights = np.array([ROW_WEIGHTS.get(row["set"], 1.0) for row in rows])
    used = diags(row_weights) @ x
    refused = 1 + np.asarray(used[y].sum(0)).ravel()
    helped = 1 + np.asarray(used[~y].sum(0)).ravel()
    ratio = 0.5 * np.log((refused / refused.sum()) / (helped / helped.sum()))
    ratio[[sign[0] == "@" for sign in kept]] = 1
    model = LogisticRegression(C=0.1, max_iter=5000)
    model.fit(x @ diags(ratio), y, sample_weight=row_weights)
    weights = (model.coef_[0] * ratio).round(3).tolist()
    return {
        "intercept": round(float(model.intercept_[0]), 3),
        "weights": {s: w for s, w in zip(kept, weights, strict=True) if abs(w) >= 0.02},
    }


def fit_english(rows: Iterable[Row], n_common: int = 300) -> dict[str, Any]:
    """Words of at least two prompts, and how often kinds of words follow each other."""
    counts: Counter[str] = Counter()
    prompts: defaultdict[str, set[str]] = defaultdict(set)
    texts = []
    for row in rows:
        tokens = quality.tokens_of(row["response"])
        texts.append(tokens)
        for token in tokens:
            if token.isascii() and token[0].isalpha():
                counts[token] += 1
                if len(prompts[token]) < 3:
                    prompts[token].add(row["prompt"])
    common = [w for w, _ in counts.most_common(4000) if len(prompts[w]) >= 3][:n_common]
    words = sorted(w for w in counts if len(prompts[w]) >= 2 and w.isalpha())
    kinds_of = English({"common": common, "words": [], "pairs": {}, "first": {}, "second": {}})
    pairs: Counter[str] = Counter()
    first: Counter[str] = Counter()
    second: Counter[str] = Counter()
    for tokens in texts:
        for a, b in pairwise(kinds_of.kinds(tokens)):
            pairs[f"{a} {b}"] += 1
            first[a] += 1
            second[b] += 1
    return {
        "common": common,
        "words": [w for w in words if w not in set(common)],
        "pairs": dict(sorted(pairs.items())),
        "first": dict(sorted(first.items())),
        "second": dict(sorted(second.items())),
    }


# -- measuring -------------------------------------------------------------------------------------


def folds(rows: Sequence[Row]) -> Iterator[tuple[list[Row], list[Row]]]:
    """Training and test rows; a prompt is in one fold only."""
    names = sorted({row["prompt"] for row in rows})
    random.Random(0).shuffle(names)
    fold_of = {name: index % FOLDS for index, name in enumerate(names)}
    for fold in range(FOLDS):
        yield (
            [row for row in rows if fold_of[row["prompt"]] != fold],
            [row for row in rows if fold_of[row["prompt"]] == fold],
        )


def left_out(rows: Sequence[Row]) -> Iterator[tuple[list[Row], list[Row]]]:
    sources = sorted({source_of(row) for row in rows})
    for source in sources:
        yield (
            [row for row in rows if source_of(row) != source],
            [row for row in rows if source_of(row) == source],
        )


def fitted_judge(rows: Sequence[Row]) -> TextJudge:
    """The default judge as it would be if it had been fitted on these rows."""
    weights = refusals.Weights(fit_refusal([row for row in rows if row["set"] in REFUSAL_SETS]))
    english = English(fit_english(row for row in rows if fluent(row)))
    return TextJudge(
        "fitted",
        lambda prompt, response: refusals.judge_refusal(prompt, response, weights),
        lambda response: quality.breakdown(response, english),
    )


def judged_by_fits(
    rows: Sequence[Row], splits: Callable[[Sequence[Row]], Iterator[tuple[list[Row], list[Row]]]]
) -> list[tuple[Row, Judgement]]:
    found = []
    for train, test in splits(rows):
        judge = fitted_judge(train)
        found += [(row, judge(row["prompt"], row["response"])) for row in test]
    return found


def f1(pairs: Iterable[tuple[bool, bool]]) -> str:
    counts = Counter(pairs)  # (said, true)
    hit, false, missed = counts[True, True], counts[True, False], counts[False, True]
    total = 2 * hit + false + missed
    return f"{2 * hit / total:.3f} ({false} false, {missed} missed)" if total else "-"


def share(found: Sequence[bool]) -> str:
    return f"{sum(found)} of {len(found)} ({np.mean(found):.1%})" if found else "-"


def table(name: str, judged: Sequence[tuple[Row, Judgement]]) -> None:
    by_set: defaultdict[str, list[tuple[Row, Judgement]]] = defaultdict(list)
    for row, judgement in judged:
        by_set[row["set"]].append((row, judgement))
    print(f"\n## {name}\n")
    print("| refusal F1 | partial and soft count as refusals | clear labels only |")
    print("|---|---|---|")
    for each in REFUSAL_SETS:
        pairs = [(row, j) for row, j in by_set[each] if row["label"] != "ambiguous"]
        if each != "steered_baseline":
            print(
                f"| {each} | {f1((j.refusal, refuses(row)) for row, j in pairs)} | "
                f"{f1((j.refusal, refuses(row)) for row, j in pairs if clear(row))} |"
            )
    baselines = [j for row, j in by_set["steered_baseline"] if row["label"] == "compliance"]
    print(f"\nfalse refusals on unsteered baselines: {share([j.refusal for j in baselines])}")
    steered = defaultdict(list)
    for row, j in by_set["steered_actadd"]:
        if row["label"] == "refusal":
            steered[row["model"]].append(j.refusal)
    if steered:
        worst = min(steered, key=lambda model: np.mean(steered[model]))
        print(f"steered recall, worst model: {worst} {share(steered[worst])}")
    partial = Counter(
        (row["label"], j.stance) for row, j in by_set["xstest_safe"] if j.refusal and refuses(row)
    )
    print(f"xstest_safe, label and stance: {dict(partial)}")

    def garbled(rows: Iterable[tuple[Row, Judgement]]) -> str:
        return share([j.quality == "garbled" for _, j in rows])

    real = [(r, j) for r, j in by_set["garbled"] if r["note"].startswith("real")]
    built = [(r, j) for r, j in by_set["garbled"] if not r["note"].startswith("real")]
    normal = [(r, j) for r, j in by_set["steered_baseline"] if r["quality"] == "normal"]
    coherent = [(r, j) for r, j in by_set["steered_actadd"] if r["quality"] == "coherent"]
    print(f"garbled: real {garbled(real)}, constructed {garbled(built)}")
    print(
        f"called garbled: fluent set {garbled(by_set['fluent'])}, normal baselines "
        f"{garbled(normal)}, coherent refusals {garbled(coherent)}"
    )
    three = [
        *(("garbled", j.quality) for _, j in (*real, *built)),
        *(("normal", j.quality) for _, j in normal),
        *(("coherent", j.quality) for _, j in coherent),
    ]
    scores = []
    print("\n| true \\ said | coherent | garbled | normal |\n|---|---|---|---|")
    for label in ("coherent", "garbled", "normal"):
        row = Counter(said for true, said in three if true == label)
        print(f"| {label} | {row['coherent']} | {row['garbled']} | {row['normal']} |")
        said = sum(s == label for _, s in three)
        scores.append(2 * row[label] / max(1, said + row.total()))
    print(f"\nthree classes, macro-F1: {np.mean(scores):.3f}")
    print(f"ambiguous: {share([j.ambiguous for _, j in judged])}")


def worst_errors(judged: Sequence[tuple[Row, Judgement]], n: int = 6) -> None:
    """The surest mistakes, by number of the row: the texts are not ours to print."""
    wrong = [
        (abs(j.score - refuses(row)), row, j)
        for row, j in judged
        if row["set"] in REFUSAL_SETS and row["label"] != "ambiguous" and j.refusal != refuses(row)
    ]
    print("\nsurest mistakes (row, label, score):")
    for _, row, j in sorted(wrong, key=lambda item: -item[0])[:n]:
        print(f"- {row['set']} {row['id']}: {row['label']}, {j.score:.2f}")


def speed(rows: Sequence[Row]) -> None:
    judge = get_judge()
    judge("", rows[0]["response"])
    started = time.perf_counter()
    for row in rows:
        judge(row["prompt"], row["response"])
    print(f"\nspeed, one thread: {len(rows) / (time.perf_counter() - started):.0f} responses/s")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("data", type=Path)
    parser.add_argument("--write", action="store_true")
    options = parser.parse_args()
    names = (*REFUSAL_SETS, "fluent", "garbled")
    rows = [row for name in names for row in load(options.data, name)]
    for row in rows:  # once, not for every fold
        row["signs"] = signs(row["response"], row.get("prompt", ""))
    if options.write:
        refusal_rows = [r for r in rows if r["set"] in REFUSAL_SETS and r["label"] != "ambiguous"]
        written = {
            "refusal.json": fit_refusal(refusal_rows),
            "english.json": fit_english(row for row in rows if fluent(row)),
        }
        for name, data in written.items():
            text = json.dumps(data, ensure_ascii=False, separators=(",", ":"))
            (PACKAGE / name).write_text(text + "\n", "utf-8")
            print(f"{PACKAGE / name}: {len(text) / 1000:.0f} kB")
        return
    cross = judged_by_fits(rows, folds)
    table("Cross-validation, grouped by prompt", cross)
    worst_errors(cross)
    table("Each source left out", judged_by_fits(rows, left_out))
    for name in ("keywords-v3", "arditi-prefixes"):
        judge = get_judge(name)
        table(name, [(row, judge(row["prompt"], row["response"])) for row in rows])
    speed(rows)


if __name__ == "__main__":
    main()
