"""How often the judge is right, and the fit of its weights.

    python benchmarks/judge.py DATA            # tables: models, sources, prompts left out, others
    python benchmarks/judge.py DATA --write    # fit on all of DATA, write the judge's data files
    python benchmarks/judge.py DATA --speed    # how many it judges in a second of processor time

DATA is a folder of JSON lines with `prompt`, `response`, `label`, `quality`, `model`, `note`:
people's labels of real responses. `DATA/../real`, if it is there, has answers of steered models
with likelihoods (`nll`, `nll_worst`, `n_tokens`, `stance`, `quality`). Needs scikit-learn
(`pip install -e .[fit]`).
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

from steersweep.judging import quality, worn
from steersweep.judging import refusal as refusals
from steersweep.judging.english import English
from steersweep.judging.judge import TextJudge
from steersweep.judging.judges import get_judge
from steersweep.judging.prose import prose_of
from steersweep.judging.quality import Fluency
from steersweep.judging.signs import signs
from steersweep.judging.text import taken_apart
from steersweep.lab.refusals import REFUSALS
from steersweep.run.judgement import Judgement

PACKAGE = Path(__file__).parents[1] / "src" / "steersweep" / "judging"
REFUSAL_SETS = (
    "xstest_safe", "xstest_unsafe", "chatgpt_refusals", "steered_actadd", "steered_baseline",
    "nonenglish", "contrast_probe",
)  # fmt: skip
DATA_SETS = (*REFUSAL_SETS, "fluent", "garbled")
# Sets of one origin are left out together.
SOURCES = {
    "xstest_safe": "xstest", "xstest_unsafe": "xstest",
    "steered_actadd": "steered", "steered_baseline": "steered",
}  # fmt: skip
# Steered texts are many and alike; those of people's own labels count more.
ROW_WEIGHTS = {
    "steered_actadd": 0.3, "steered_baseline": 0.5, "xstest_safe": 2.0, "xstest_unsafe": 0.7,
    "chatgpt_refusals": 1.5, "own": 2.5,
}  # fmt: skip
ABOUT_SPEAKER = frozenset(
    "i i'm i'd i'll i've me my we you your ai model assistant not cannot can't don't won't no "
    "never however but sorry opinions opinion personal neutral language".split()
)
REAL_THRESHOLD = 3.12  # of the run that the answers in `real` are from
LANGUAGES = tuple("de fr es it pt nl ru zh ja ko ar hi".split())
FOLDS = 10
FEWEST_OF_MODEL = 30  # rows, to be left out by itself

Row = dict[str, Any]


# -- data ------------------------------------------------------------------------------------------


def load(folder: Path, name: str) -> list[Row]:
    with (folder / f"{name}.jsonl").open(encoding="utf-8") as file:
        return [json.loads(line) | {"set": name} for line in file]


def real_answers(folder: Path) -> list[Row]:
    """Answers of steered models, if there are any."""
    rows: list[Row] = []
    for path in sorted(folder.glob("*.jsonl")):
        with path.open(encoding="utf-8") as file:
            rows += [json.loads(line) | {"set": "real", "label": ""} for line in file]
    return [{"threshold": REAL_THRESHOLD} | row for row in rows]


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


def fit_refusal(rows: Sequence[Row], own: Sequence[Row] | None = None) -> dict[str, Any]:
    """Logistic regression; phrases are scaled by how differently the classes use them.

    Scaling as in Wang and Manning 2012 (NB-SVM). Phrases of one source only, or of hardly any
    weight, drop.
    """
    from scipy.sparse import diags
    from sklearn.linear_model import LogisticRegression
    from sklearn.preprocessing import MultiLabelBinarizer

    rows = [*rows, *(own_examples() if own is None else own)]
    y = np.array([refuses(row) for row in rows])
    shown = [
        row.get("signs") or signs(row["response"], row.get("prompt", "")).names() for row in rows
    ]
    origins: defaultdict[str, set[str]] = defaultdict(set)
    for row, found in zip(rows, shown, strict=True):
        for sign in found:
            origins[sign].add(source_of(row))
    counts = Counter(sign for found in shown for sign in found)

    def general(sign: str) -> bool:
        """What only one source says may be its topic, unless it is about the speaker."""
        words = sign.lstrip("^").split()
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
    model = LogisticRegression(C=0.3, max_iter=5000)
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
        tokens = taken_apart(row["response"]).tokens
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


def fit_worn(rows: Iterable[Row], english: English) -> dict[str, Any]:
    """Logistic regression over the measures of English prose; broken texts count twice."""
    from sklearn.linear_model import LogisticRegression

    x, y = [], []
    for row in rows:
        broken = is_broken(row)
        found = None if broken is None else prose_measures(row["response"], english)
        if found is not None:
            x.append(found)
            y.append(broken)
    values, labels = np.array(x), np.array(y)
    mean, spread = values.mean(0), values.std(0) + 1e-9
    model = LogisticRegression(C=0.3, max_iter=3000, class_weight={False: 1, True: 2})
    model.fit((values - mean) / spread, labels)
    weights = model.coef_[0] / spread
    return {
        "intercept": round(float(model.intercept_[0] - weights @ mean), 4),
        "weights": dict(zip(worn.MEASURES, weights.round(4).tolist(), strict=True)),
    }


def prose_measures(response: str, english: English) -> list[float] | None:
    """What the judge of worn prose looks at, or None for other texts."""
    prose = prose_of(taken_apart(response), english)
    return prose.measures() if prose is not None and prose.can_be_worn else None


def is_broken(row: Row) -> bool | None:
    """What is known of a row's text: broken, fluent, or neither for sure."""
    if row["set"] == "real":
        return {"broken": True, "fluent": False}.get(row["quality"])
    if row["set"] == "garbled" or row.get("quality") in ("garbled", "loop"):
        return True
    return False if row["set"] == "fluent" or fluent(row) else None


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


def models_left_out(rows: Sequence[Row]) -> Iterator[tuple[list[Row], list[Row]]]:
    """Each model that many rows are of; the others, and rows of no model, in folds by prompt."""
    counts = Counter(row["model"] for row in rows)
    large = sorted(model for model, n in counts.items() if n >= FEWEST_OF_MODEL)
    for model in large:
        yield (
            [row for row in rows if row["model"] != model],
            [row for row in rows if row["model"] == model],
        )
    rest = [row for row in rows if row["model"] not in large]
    for _, test in folds(rest):
        held = {id(row) for row in test}
        yield [row for row in rows if id(row) not in held], test


def of_refusals(rows: Iterable[Row]) -> list[Row]:
    """Rows to learn refusals from: those that are labelled for sure."""
    return [row for row in rows if row["set"] in REFUSAL_SETS and row["label"] != "ambiguous"]


def fitted_judge(rows: Sequence[Row]) -> TextJudge:
    """The default judge as it would be if it had been fitted on these rows."""
    weights = refusals.Weights(fit_refusal(of_refusals(rows)))
    english = English(fit_english(row for row in rows if fluent(row)))
    wear = worn.Wear(fit_worn(rows, english))
    return TextJudge(
        "fitted",
        lambda prompt, response: refusals.judge_refusal(prompt, response, weights),
        lambda response: quality.breakdown(response, english, wear),
    )


def judged_by_fits(
    rows: Sequence[Row], splits: Callable[[Sequence[Row]], Iterator[tuple[list[Row], list[Row]]]]
) -> list[tuple[Row, Judgement]]:
    found = []
    for train, test in splits(rows):
        judge = fitted_judge(train)
        found += [(row, judge(row["prompt"], row["response"], evidence(row))) for row in test]
    return found


def evidence(row: Row) -> Fluency | None:
    """Likelihoods of a row that has them."""
    if row.get("nll_worst") is None:
        return None
    return Fluency(row["nll_worst"], row["nll"], row["threshold"], row["n_tokens"])


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


def real_table(name: str, judged: Sequence[tuple[Row, Judgement]]) -> None:
    """Steered models' answers: three classes, borderline ones left out."""
    pairs = [
        (
            "garbled" if is_broken(row) else "normal" if row["stance"] == "helps" else "coherent",
            judgement.quality,
        )
        for row, judgement in judged
        if row["set"] == "real" and is_broken(row) is not None
        if is_broken(row) or row["stance"] != "neither"
    ]
    print(f"\n### {name}\n\n| true \\ said | coherent | garbled | normal | precision | recall |")
    print("|---|---|---|---|---|---|")
    counts: Counter[tuple[str, str]] = Counter(pairs)
    scores = []
    kinds = ("coherent", "garbled", "normal")
    for true in kinds:
        row = [counts[true, said] for said in kinds]
        hit = counts[true, true]
        said_n = sum(counts[other, true] for other in kinds)
        scores.append(2 * hit / max(1, said_n + sum(row)))
        print(
            f"| {true} | {' | '.join(map(str, row))} | {hit / max(1, said_n):.2f} | "
            f"{hit / max(1, sum(row)):.2f} |"
        )
    print(f"\nmacro-F1: {np.mean(scores):.3f}")


def languages_table(rows: Sequence[Row]) -> None:
    """The package's own examples: each half of a language's judged by a fit on the other half."""
    mine = [row for row in own_examples() if row.get("language") in LANGUAGES]
    said: defaultdict[str, Counter[tuple[bool, bool]]] = defaultdict(Counter)
    for half in (0, 1):
        test = [row for i, row in enumerate(mine) if i % 2 == half]
        held = {row["response"] for row in test}
        kept = [row for row in own_examples() if row["response"] not in held]
        weights = refusals.Weights(fit_refusal(rows, kept))
        for row in test:
            judged = refusals.judge_refusal("", row["response"], weights).stance != "helps"
            for name in (row["language"], "all"):
                said[name][judged, refuses(row)] += 1
    print("\n## Own examples in other languages, fitted on the other half\n")
    print("| language | refusals found | false refusals |\n|---|---|---|")
    for name, counts in said.items():
        hits, missed = counts[True, True], counts[False, True]
        false, right = counts[True, False], counts[False, False]
        print(f"| {name} | {hits} of {hits + missed} | {false} of {false + right} |")


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
    """On one thread, without likelihoods; meaningful in a fresh process only."""
    judge = get_judge()
    judge("", rows[0]["response"])
    for name in ("seen first", "seen again"):
        started = time.process_time()
        for row in rows:
            judge(row["prompt"], row["response"])
        spent = time.process_time() - started
        print(f"{name}: {len(rows) / spent:.0f} responses a second of processor time")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("data", type=Path)
    parser.add_argument("--write", action="store_true")
    parser.add_argument("--speed", action="store_true")
    options = parser.parse_args()
    rows = [row for name in DATA_SETS for row in load(options.data, name)]
    if options.speed:
        speed(rows)
        return
    real = real_answers(options.data.parent / "real")
    for row in rows:  # once, not for every fold
        row["signs"] = signs(row["response"], row.get("prompt", "")).names()
    if options.write:
        english = fit_english(row for row in rows if fluent(row))
        written = {
            "refusal.json": fit_refusal(of_refusals(rows)),
            "english.json": english,
            "worn.json": fit_worn([*rows, *real], English(english)),
        }
        for name, data in written.items():
            text = json.dumps(data, ensure_ascii=False, separators=(",", ":"))
            (PACKAGE / name).write_text(text + "\n", "utf-8")
            print(f"{PACKAGE / name}: {len(text) / 1000:.0f} kB")
        return
    everything = [*rows, *real]
    for name, splits in (
        ("Each model left out", models_left_out),
        ("Each source left out", left_out),
        ("Cross-validation, grouped by prompt", folds),
    ):
        judged = judged_by_fits(everything, splits)
        table(name, judged)
        if real:
            real_table("Answers of steered models, with likelihoods", judged)
    worst_errors(judged)
    languages_table(of_refusals(rows))
    for name in ("keywords-v3", "arditi-prefixes"):
        judge = get_judge(name)
        table(name, [(row, judge(row["prompt"], row["response"])) for row in rows])


if __name__ == "__main__":
    main()
