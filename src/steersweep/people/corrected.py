"""What people's labels change: corrected rates, and verdicts that are no longer provisional."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import get_args

from steersweep.core.errors import InputError
from steersweep.core.statistics import wilson
from steersweep.judging.judge_error import shipped_confusion, true_rate_range
from steersweep.people.reviews import (
    PER_CONDITION,
    Review,
    labels_of,
    read_reviews,
    results_in,
)
from steersweep.run.judgement import Rates
from steersweep.run.lock import run_lock
from steersweep.run.records import Sample
from steersweep.run.result import ByJudge, JudgeError, ModelVerdict, Result, Reviewed
from steersweep.run.result_files import replace_result_file
from steersweep.run.verdict import Outcome, Thresholds, verdict

_DRAWS = 4000  # of the corrected rate


def apply_reviews(result: Result, reviews: Sequence[Review]) -> Result:
    """The result with its verdict as people's labels have it; "works" is provisional without them.

    `verdict.review` says who, how many, the judge's outcome, and the corrected rate: where people
    looked their labels count, elsewhere the judge's do, corrected by how often people agreed with
    that label. Nothing else in the result changes; applying it twice is applying it once.
    """
    held, best = result.verdict, result.best
    judged = _by_judge(held)
    held = replace(_as(held, judged), provisional=judged.outcome == "works", review=None)
    labels = labels_of(best.key, reviews)
    if not labels:
        return replace(result, verdict=held)
    corrected = corrected_rate(best.samples, labels)
    decided = _by_people(corrected, held.thresholds)
    changed = decided.outcome != judged.outcome
    review = Reviewed(
        reviewers=tuple(sorted({r.reviewer for r in reviews if r.id.split(":")[0] == best.key})),
        n_reviewed=len(labels),
        n_wanted=min(PER_CONDITION, len(best.samples)),
        agreed=sum(best.samples[i].judgement.quality == label for i, label in labels.items()),
        judge_rate=best.rates.coherent_refusal_rate,
        corrected_rate=corrected.coherent,
        corrected_ci=corrected.interval,
        corrected_certainty=decided.certainty,
        judge_outcome=judged.outcome,
    )
    if not review.is_enough:
        return replace(result, verdict=replace(held, review=review))
    if changed:
        held, review = _as(held, decided), replace(review, replaces=judged)
    return replace(result, verdict=replace(held, provisional=False, review=review))


def _by_judge(held: ModelVerdict) -> ByJudge:
    """What the judge alone says, whatever people have changed."""
    if held.review is not None and held.review.replaces is not None:
        return held.review.replaces
    return ByJudge(held.outcome, held.reason, held.interval, held.certainty)


def _by_people(corrected: Corrected, thresholds: Thresholds) -> ByJudge:
    """The same by corrected rates."""
    decided = verdict(
        coherent_refusal_rate=corrected.coherent,
        garbled_refusal_rate=min(corrected.garbled_refusal, 1 - corrected.coherent),
        thresholds=thresholds,
    )
    certain = {*_outcomes(corrected.interval, thresholds)} == {decided.outcome}
    reason = f"after review: {decided.reason}"
    return ByJudge(
        decided.outcome, reason, corrected.interval, "clear" if certain else "borderline"
    )


def _as(held: ModelVerdict, said: ByJudge) -> ModelVerdict:
    return replace(
        held,
        outcome=said.outcome,
        reason=said.reason,
        interval=said.interval,
        certainty=said.certainty,
    )


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


def _outcomes(rates: Iterable[float], thresholds: Thresholds) -> list[Outcome]:
    """What coherent refusal rates give, in text that is not broken."""
    return [
        verdict(coherent_refusal_rate=rate, garbled_refusal_rate=0, thresholds=thresholds).outcome
        for rate in rates
    ]


def judge_error(
    rates: Rates, judge: str, compared: int, thresholds: Thresholds
) -> JudgeError | None:
    """What is left of a condition's rate if the judge errs as it did on labelled real answers.

    Args:
        rates: of the condition.
        judge: id of the judge.
        compared: number of conditions that it was picked from as the best.
        thresholds: that verdicts are decided by.

    Returns:
        None for a judge whose error is unknown.
    """
    confusion = shipped_confusion()
    if not confusion.is_of(judge):
        return None
    shares = (
        rates.coherent_refusal_rate,
        rates.garbled_refusal_rate,
        rates.garbled_rate - rates.garbled_refusal_rate,
        rates.normal_rate,
    )
    said = tuple(round(share * rates.n_unique) for share in shares)
    low, high = true_rate_range(said, confusion, compared)
    between = [edge for edge in (thresholds.partial, thresholds.works) if low <= edge <= high]
    found = _outcomes([*between, low, high], thresholds)
    return JudgeError(
        range=(low, high),
        outcomes=tuple(outcome for outcome in get_args(Outcome) if outcome in found),
        n_labelled=confusion.n,
        measured=confusion.judge,
    )


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


def corrected_rate(samples: Sequence[Sample], labels: Mapping[int, str]) -> Corrected:
    """Rates when labels by people replace the judge's, and say how often it is right elsewhere.

    Args:
        samples: all of a condition.
        labels: by index of the sample: `coherent`, `garbled` or `normal`.
    """
    import numpy as np

    n = len(samples)
    reviewed: dict[str, list[bool]] = defaultdict(list)
    unseen: dict[str, int] = defaultdict(int)
    fixed = garbled = 0.0
    for index, sample in enumerate(samples):
        label, judged = labels.get(index), sample.judgement
        if label is None:
            unseen[judged.quality] += 1
            garbled += judged.quality == "garbled" and judged.refusal
        else:
            reviewed[judged.quality].append(label == "coherent")
            fixed += label == "coherent"
            garbled += label == "garbled" and judged.refusal
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
    # Other prompts would have given other answers; several of one prompt hang together.
    n_prompts = len({sample.prompt for sample in samples})
    draws = rng.binomial(n_prompts, drawn / n) / n_prompts
    low, high = np.quantile(draws, [0.025, 0.975])
    rate = expected / n
    if not unseen:
        low, high = wilson(round(fixed / n * n_prompts), n_prompts)
    return Corrected(rate, min(garbled / n, 1.0), (min(float(low), rate), max(float(high), rate)))
