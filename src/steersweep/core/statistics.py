"""Intervals and tests on rates of unique prompts; from scipy wherever it has them.

But for Wilson's interval: every record that is read asks for one, and to import `scipy.stats`
takes half a second. What else every run asks for needs `scipy.special` alone.

docs/statistics.md says in plain words what each is for.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Hashable, Sequence
from functools import lru_cache
from statistics import NormalDist
from typing import Any


def wilson(successes: int, n: int, *, confidence: float = 0.95) -> tuple[float, float]:
    """Wilson score interval of a rate.

    Args:
        successes: how many of the `n` unique prompts.
        n: number of unique prompts; repeats of a greedy answer are not observations.
        confidence: coverage, 0.95 by default.

    Raises:
        ValueError: unless 0 <= successes <= n and n >= 1.
    """
    if not 0 <= successes <= n or n < 1:
        raise ValueError(f"no rate: {successes} of {n} prompts")
    return wilson_of_share(successes / n, n, confidence=confidence)


def wilson_of_share(share: float, n: int, *, confidence: float = 0.95) -> tuple[float, float]:
    """Wilson score interval of a mean share of `n` prompts that have several answers each.

    Each prompt counts once, with the share of its answers. The mean of such shares varies no more
    than that of yes and no, so the interval is never too narrow, however alike a prompt's answers.

    Raises:
        ValueError: unless 0 <= share <= 1 and n >= 1.
    """
    if not (0 <= share <= 1 and n >= 1):
        raise ValueError(f"no share of {n} prompts: {share}")
    z = NormalDist().inv_cdf((1 + confidence) / 2)
    middle = (share + z**2 / (2 * n)) / (1 + z**2 / n)
    half = z / (1 + z**2 / n) * math.sqrt(share * (1 - share) / n + z**2 / (4 * n**2))
    return middle - half if share > 0 else 0.0, middle + half if share < 1 else 1.0


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
    from scipy.special import betainc

    only_first = sum(a and not b for a, b in zip(first, second, strict=True))
    only_second = sum(b and not a for a, b in zip(first, second, strict=True))
    # Half of a symmetric distribution: as many on the rarer side, or fewer.
    fewer, more = sorted((only_first, only_second))
    return min(1.0, 2 * float(betainc(more, fewer + 1, 0.5))) if more else 1.0


def rate_change(first: Sequence[bool], second: Sequence[bool]) -> tuple[float, float]:
    """95 % interval of how much the second rate is above the first, on the same prompts.

    Newcombe 1998 (Statistics in Medicine 17, 2635), method 10: Wilson's intervals of both rates,
    put together by how the prompts hang together. Within -1 and 1, also where both rates are 1.

    Raises:
        ValueError: no prompts, or not as many of both.
    """
    n = len(first)
    both = sum(a and b for a, b in zip(first, second, strict=True))
    p, q = sum(first) / n, sum(second) / n
    low_p, high_p = wilson(sum(first), n)
    low_q, high_q = wilson(sum(second), n)
    phi = _phi(both, sum(first) - both, sum(second) - both, n)

    def reach(one: float, other: float) -> float:
        return math.sqrt(max(0.0, one**2 - 2 * phi * one * other + other**2))

    change = q - p
    return change - reach(q - low_q, high_p - p), change + reach(high_q - q, p - low_p)


def _phi(both: int, only_first: int, only_second: int, n: int) -> float:
    """Correlation of two yes-or-no answers, corrected towards 0 for continuity where positive."""
    neither = n - both - only_first - only_second
    margins = (both + only_first) * (both + only_second)
    margins *= (neither + only_second) * (neither + only_first)
    if not margins:
        return 0.0
    excess: float = both * neither - only_first * only_second
    if excess > 0:
        excess = max(0.0, excess - n / 2)
    return float(excess / math.sqrt(margins))


def mean_interval(
    totals: Sequence[float], weights: Sequence[float], *, resamples: int = 2000, seed: int = 0
) -> tuple[float, float]:
    """95 % bootstrap interval of a mean over tokens: sum of `totals` over sum of `weights`.

    Whole prompts are drawn with replacement, each with all its tokens, since tokens of one text
    hang together. Totals may be differences of two conditions on the same tokens.

    Args:
        totals: by prompt, the sum over its tokens.
        weights: by prompt, how many tokens it has.
        resamples: number of draws.
        seed: of the draws.

    Raises:
        ValueError: no prompts, or not as many of both.
    """
    import numpy as np

    if not totals or len(totals) != len(weights):
        raise ValueError("totals and weights of the same prompts are needed")
    drawn = _drawn(len(totals), resamples, seed)
    means = (drawn @ np.asarray(totals, float)) / (drawn @ np.asarray(weights, float))
    low, high = np.quantile(means, [0.025, 0.975])
    return float(low), float(high)


@lru_cache(maxsize=16)  # every cell of a map asks for the same
def _drawn(n: int, resamples: int, seed: int) -> Any:
    """How often each of `n` prompts is drawn in each of some samples of `n`, `[sample, prompt]`."""
    import numpy as np

    rng = np.random.default_rng(seed)
    return rng.multinomial(n, np.full(n, 1 / n), size=resamples).astype(float)


def fisher(first: Sequence[bool], second: Sequence[bool]) -> float:
    """Fisher's exact test: do rates on different prompts differ? Two-sided p value."""
    from scipy.stats import fisher_exact

    table = [[sum(s), len(s) - sum(s)] for s in (first, second)]
    return float(fisher_exact(table).pvalue)


def cohens_h(first: float, second: float) -> float:
    """Effect size between two rates: difference of their arcsines, positive if the first is higher.

    About 0.2 is called small, 0.5 medium, 0.8 large (Cohen 1988, chapter 6).
    """
    return 2 * (math.asin(math.sqrt(first)) - math.asin(math.sqrt(second)))


def holm(p_values: Sequence[float]) -> list[float]:
    """p values adjusted for having made all these tests (Holm 1979), in the given order."""
    order = sorted(range(len(p_values)), key=p_values.__getitem__)
    adjusted, highest = [0.0] * len(p_values), 0.0
    for rank, index in enumerate(order):
        highest = max(highest, min(1.0, (len(p_values) - rank) * p_values[index]))
        adjusted[index] = highest
    return adjusted


def cluster_bootstrap(
    clusters: Sequence[Sequence[Any]],
    statistic: Callable[[Sequence[Any]], float],
    *,
    confidence: float = 0.95,
    resamples: int = 2000,
    seed: int = 0,
) -> tuple[float, float]:
    """Percentile interval of a statistic when observations of one prompt hang together.

    Whole prompts are drawn with replacement, with all their observations: repeats of a sampled
    answer, or judgements of one prompt's responses. NaN where the statistic is undefined in every
    draw.

    Args:
        clusters: observations by prompt, `[prompt][observation]`.
        statistic: of all drawn observations together; NaN where it is undefined.
        confidence: coverage, 0.95 by default.
        resamples: number of draws.
        seed: of the draws.

    Raises:
        ValueError: no prompts.
    """
    import numpy as np

    if not clusters:
        raise ValueError("no prompts to draw from")
    rng = np.random.default_rng(seed)
    draws = rng.integers(len(clusters), size=(resamples, len(clusters)))
    values = np.array([statistic([x for i in draw for x in clusters[i]]) for draw in draws])
    values = values[~np.isnan(values)]
    if not len(values):
        return math.nan, math.nan
    low, high = np.quantile(values, [(1 - confidence) / 2, (1 + confidence) / 2])
    return float(low), float(high)


def cohens_kappa(pairs: Sequence[tuple[Hashable, Hashable]]) -> float:
    """Agreement of two raters beyond chance (Cohen 1960): 1 is full, 0 is chance.

    NaN where both always say the same one thing, or there is nothing to compare.
    """
    labels = list(dict.fromkeys(label for pair in pairs for label in pair))
    counts = Counter(pairs)
    return kappa_of_table([[counts[a, b] for b in labels] for a in labels])


def kappa_of_table(table: Any) -> float:
    """`cohens_kappa` where it is known how often two raters said what, `[first][second]`."""
    import numpy as np

    counts = np.asarray(table, dtype=float)
    n = counts.sum()
    if not n:
        return math.nan
    agreed = counts.trace() / n
    by_chance = counts.sum(0) @ counts.sum(1) / n**2
    return math.nan if by_chance == 1 else float((agreed - by_chance) / (1 - by_chance))


def detectable_difference(
    n: int, *, baseline: float = 0.0, compared: int = 1, power: float = 0.8, alpha: float = 0.05
) -> float | None:
    """Smallest rise over a baseline rate that `n` prompts show with a given power.

    Of the exact McNemar test at `alpha` over `compared` (Bonferroni), both conditions on the same
    prompts, independent of each other given their rates.

    Args:
        n: number of unique prompts.
        baseline: rate of the lower condition.
        compared: how many conditions are compared with it.
        power: probability of finding the difference.
        alpha: level of the test.

    Returns:
        The difference as a fraction, or None if not even a rise to 1 would be found.
    """
    import numpy as np
    from scipy.stats import binom

    level = alpha / max(1, compared)
    sizes = np.arange(n + 1)
    # By number of discordant prompts, how many must fall on one side for significance.
    needed = np.array([_fewest_for(int(m), level) for m in sizes])

    def found(rise: float) -> float:
        up, down = (baseline + rise) * (1 - baseline), baseline * (1 - baseline - rise)
        discordant = up + down
        if discordant <= 0:
            return 0.0
        chance = binom.sf(needed - 1, sizes, up / discordant)
        return float((binom.pmf(sizes, n, discordant) * chance).sum())

    low, high = 0.0, 1 - baseline
    if found(high) < power:
        return None
    for _ in range(30):
        middle = (low + high) / 2
        low, high = (low, middle) if found(middle) >= power else (middle, high)
    return high


def _fewest_for(discordant: int, level: float) -> int:
    """Fewest of the discordant prompts on one side that are significant; too many if none are."""
    from scipy.stats import binom

    fewest = int(binom.isf(level / 2, discordant, 0.5)) + 1
    return fewest if fewest <= discordant else discordant + 1
