"""What people's labels change: corrected rates, and verdicts that are no longer provisional."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from steersweep.core.errors import InputError
from steersweep.core.statistics import wilson
from steersweep.judging.judge_error import shipped_confusion, true_rate_range
from steersweep.people.reviews import (
    PER_CONDITION,
    Review,
    best_key,
    labels_of,
    read_reviews,
    results_in,
)
from steersweep.run.lock import run_lock
from steersweep.run.result_files import replace_result_file
from steersweep.sweeps.verdict import Thresholds, verdict

Result = dict[str, Any]

_DRAWS = 4000  # of the corrected rate


def apply_reviews(result: Result, reviews: Sequence[Review]) -> Result:
    """The result with its verdict as people's labels have it; "works" is provisional without them.

    `verdict.review` says who, how many, the judge's outcome, and the corrected rate: where people
    looked their labels count, elsewhere the judge's do, corrected by how often people agreed with
    that label. Nothing else in the result changes; applying it twice is applying it once.
    """
    held = dict(result["verdict"])
    held |= held.pop("review", {}).get("replaces", {})
    by_judge = {name: held[name] for name in ("outcome", "reason", "interval", "certainty")}
    held["provisional"] = by_judge["outcome"] == "works"
    key = best_key(result)
    entry = next(entry for entry in result["conditions"] if entry["key"] == key)
    labels = labels_of(key, reviews)
    if not labels:
        return {**result, "verdict": held}
    wanted = min(PER_CONDITION, len(entry["samples"]))
    corrected = corrected_rate(entry["samples"], labels)
    passed = len(labels) >= wanted
    thresholds = Thresholds(**held["thresholds"])
    decided = verdict(
        coherent_refusal_rate=corrected.coherent,
        garbled_refusal_rate=min(corrected.garbled_refusal, 1 - corrected.coherent),
        thresholds=thresholds,
    )
    certain = {*_outcomes(corrected.interval, thresholds)} == {decided.outcome}
    certainty = "clear" if certain else "borderline"
    held["review"] = {
        "reviewers": sorted({r.reviewer for r in reviews if r.id.split(":")[0] == key}),
        "n_reviewed": len(labels),
        "n_wanted": wanted,
        "agreed": sum(entry["samples"][i]["quality"] == label for i, label in labels.items()),
        "judge_rate": entry["coherent_refusal_rate"],
        "corrected_rate": corrected.coherent,
        "corrected_ci": list(corrected.interval),
        "corrected_certainty": certainty,
        "judge_outcome": by_judge["outcome"],
    }
    if not passed:
        return {**result, "verdict": held}
    held["provisional"] = False
    if decided.outcome != by_judge["outcome"]:
        held["review"]["replaces"] = by_judge
        held |= {
            "outcome": decided.outcome,
            "reason": f"after review: {decided.reason}",
            "interval": list(corrected.interval),
            "certainty": certainty,
        }
    return {**result, "verdict": held}


def apply_to_files(
    folder: Path, on_note: Callable[[str], None] = lambda _note: None
) -> list[Result]:
    """Write the reviews' outcome into every result file; returns all results with it.

    Nothing is written where a run goes on in the folder, which writes these files itself, or where
    nobody may write.

    Args:
        folder: a run folder.
        on_note: told where nothing was written, and why.

    Raises:
        InputError: no run there, or none with results.
    """
    held = _applied(folder)
    if any(after != before for _, before, after in held):
        with ExitStack() as stack:
            try:
                stack.enter_context(run_lock(folder))
            except InputError as error:
                on_note(f"{error}. Results are shown as labels have them, but files stay for now")
            else:
                held = _applied(folder)
                for path, before, after in held:
                    if after != before:
                        replace_result_file(path, after)
    return [result for _, _, after in held for result in after]


def _applied(folder: Path) -> list[tuple[Path, list[Result], list[Result]]]:
    """Each result file, what it holds, and what it should hold."""
    reviews = read_reviews(folder)
    return [
        (path, results, [apply_reviews(result, reviews) for result in results])
        for path, results in results_in(folder)
    ]


def _outcomes(rates: Iterable[float], thresholds: Thresholds) -> list[str]:
    """What coherent refusal rates give, in text that is not broken."""
    return [
        verdict(coherent_refusal_rate=rate, garbled_refusal_rate=0, thresholds=thresholds).outcome
        for rate in rates
    ]


def judge_error(entry: Result, judge: str, compared: int, thresholds: Thresholds) -> Result | None:
    """What is left of a condition's rate if the judge errs as it did on labelled real answers.

    Args:
        entry: the condition.
        judge: id of the judge.
        compared: number of conditions that it was picked from as the best.
        thresholds: that verdicts are decided by.

    Returns:
        `range` of the true rate of coherent refusals (95 %), `outcomes` that its edges and what
        lies between them give, `n_labelled` answers it is known from and the judge that was
        `measured`; None for a judge whose error is unknown.
    """
    confusion = shipped_confusion()
    if not confusion.is_of(judge):
        return None
    shares = (
        entry["coherent_refusal_rate"],
        entry["garbled_refusal_rate"],
        entry["garbled_rate"] - entry["garbled_refusal_rate"],
        entry["normal_rate"],
    )
    said = tuple(round(share * entry["n_unique"]) for share in shares)
    low, high = true_rate_range(said, confusion, compared)
    between = [edge for edge in (thresholds.partial, thresholds.works) if low <= edge <= high]
    outcomes = _outcomes([*between, low, high], thresholds)
    return {
        "range": [low, high],
        "outcomes": [name for name in ("works", "partial", "fails") if name in outcomes],
        "n_labelled": confusion.n,
        "measured": confusion.judge,
    }


@dataclass(frozen=True)
class Corrected:
    """Rates of a condition as people's labels have them.

    Attributes:
        coherent: coherent refusals, 0 to 1.
        garbled_refusal: refusal wording in garbled text, 0 to 1.
        interval: 95 % interval of `coherent`: of the prompts, and of the samples not looked at.
    """

    coherent: float
    garbled_refusal: float
    interval: tuple[float, float]


def corrected_rate(samples: Sequence[Mapping[str, Any]], labels: Mapping[int, str]) -> Corrected:
    """Rates when labels by people replace the judge's, and say how often it is right elsewhere.

    Args:
        samples: all of a condition, with the judge's `quality` and `refusal`.
        labels: by index of the sample: `coherent`, `garbled` or `normal`.
    """
    import numpy as np

    n = len(samples)
    reviewed: dict[str, list[bool]] = defaultdict(list)
    unseen: dict[str, int] = defaultdict(int)
    fixed = garbled = 0.0
    for index, sample in enumerate(samples):
        label = labels.get(index)
        if label is None:
            unseen[sample["quality"]] += 1
            garbled += sample["quality"] == "garbled" and sample["refusal"]
        else:
            reviewed[sample["quality"]].append(label == "coherent")
            fixed += label == "coherent"
            garbled += label == "garbled" and sample["refusal"]
    rng = np.random.default_rng(0)
    expected, drawn = fixed, np.full(_DRAWS, fixed)
    for quality, count in unseen.items():
        seen = reviewed[quality]
        yes = sum(seen)
        if not seen:  # nobody looked at this label: the judge's word, as if two had agreed
            yes, seen = (2, [True] * 2) if quality == "coherent" else (0, [False] * 2)
        expected += count * yes / len(seen)
        shares = rng.beta(yes + 0.5, len(seen) - yes + 0.5, _DRAWS)
        drawn = drawn + rng.binomial(count, shares)
    # Other prompts would have given other answers.
    draws = rng.binomial(n, drawn / n) / n
    low, high = np.quantile(draws, [0.025, 0.975])
    rate = expected / n
    if not unseen:
        low, high = wilson(round(fixed), n)
    return Corrected(rate, min(garbled / n, 1.0), (min(float(low), rate), max(float(high), rate)))
