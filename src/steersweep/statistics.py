"""Intervals and tests on rates of unique prompts; from scipy wherever it has them."""

from __future__ import annotations

from collections.abc import Sequence


def wilson(successes: int, n: int, *, confidence: float = 0.95) -> tuple[float, float]:
    """Wilson score interval of a rate.

    Args:
        successes: how many of the `n` unique prompts.
        n: number of unique prompts; repeats of a greedy answer are not observations.
        confidence: coverage, 0.95 by default.

    Raises:
        ValueError: unless 0 <= successes <= n and n >= 1.
    """
    from scipy.stats import binomtest

    interval = binomtest(successes, n).proportion_ci(confidence, method="wilson")
    return float(interval.low), float(interval.high)


def wilson_best_of(
    successes: int, n: int, compared: int, *, confidence: float = 0.95
) -> tuple[float, float]:
    """Wilson interval for the best of `compared` conditions, wider for having been picked.

    Bonferroni: all `compared` intervals hold together with at least the stated confidence, so the
    picked one's does too.
    """
    return wilson(successes, n, confidence=1 - (1 - confidence) / max(1, compared))


def mcnemar(first: Sequence[bool], second: Sequence[bool]) -> float:
    """Exact McNemar test: do two conditions differ on the same prompts? Two-sided p value.

    Only prompts on which the conditions differ carry information; under no difference each of
    them falls either way with probability one half.
    """
    from scipy.stats import binomtest

    only_first = sum(a and not b for a, b in zip(first, second, strict=True))
    only_second = sum(b and not a for a, b in zip(first, second, strict=True))
    if only_first + only_second == 0:
        return 1.0
    return float(binomtest(only_first, only_first + only_second).pvalue)
