"""Intervals and tests against published or hand-computed values."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import binomtest

from steersweep.core.statistics import (
    cluster_bootstrap,
    cohens_h,
    cohens_kappa,
    detectable_difference,
    fisher,
    holm,
    mcnemar,
    mean_interval,
    rate_change,
    wilson,
    wilson_best_of,
)


def test_wilson_of_six_in_ten() -> None:
    # The plan's 60 % "at n = 50" is 6 of 10 prompts: 31 to 83 %.
    low, high = wilson(6, 10)
    assert (round(low, 2), round(high, 2)) == (0.31, 0.83)


@given(st.integers(1, 300).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n))))
def test_wilson_holds_the_rate_and_stays_in_range(case: tuple[int, int]) -> None:
    successes, n = case
    low, high = wilson(successes, n)
    # Within rounding: at 0 of n the lower end is 0 up to the last bit.
    assert -1e-12 <= low <= successes / n + 1e-12
    assert successes / n - 1e-12 <= high <= 1 + 1e-12
    wide_low, wide_high = wilson_best_of(successes, n, 15)
    assert wide_low <= low + 1e-12
    assert wide_high >= high - 1e-12


@pytest.mark.parametrize("confidence", [0.5, 0.95, 0.99, 1 - 0.05 / 100_000])
def test_wilson_is_scipys(confidence: float) -> None:
    for n in (1, 2, 3, 40, 100, 120, 1000, 10**6):
        for successes in {*range(min(n, 120) + 1), n // 2, n - 1, n}:
            low, high = wilson(successes, n, confidence=confidence)
            theirs = binomtest(successes, n).proportion_ci(confidence, method="wilson")
            assert low == pytest.approx(theirs.low, rel=1e-10)
            assert high == pytest.approx(theirs.high, rel=1e-10)
            assert (low == 0, high == 1) == (successes == 0, successes == n)


@given(st.integers(1, 300).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n))))
def test_mcnemar_is_what_scipy_gives(case: tuple[int, int]) -> None:
    count, n = case
    pairs = [True] * count + [False] * (n - count)
    p = mcnemar(pairs, [not first for first in pairs])
    assert p == pytest.approx(binomtest(count, n).pvalue, rel=1e-12)


@pytest.mark.parametrize(("successes", "n"), [(3, 2), (-1, 2), (0, 0)])
def test_impossible_counts_are_refused(successes: int, n: int) -> None:
    with pytest.raises(ValueError, match=r"."):
        wilson(successes, n)


def test_mcnemar_counts_only_prompts_that_differ() -> None:
    first = [True] * 6 + [False] * 94
    second = [False] * 100
    assert mcnemar(first, second) == pytest.approx(2 * 0.5**6)
    assert mcnemar(first, first) == 1.0


def paired(both: int, first: int, second: int, neither: int) -> tuple[list[bool], list[bool]]:
    """Two conditions on the same prompts, by how often which of them is right."""
    rest = [False] * (second + neither)
    return (
        [True] * (both + first) + rest,
        [True] * both + [False] * first + [True] * second + [False] * neither,
    )


@pytest.mark.parametrize(
    ("table", "expected"),
    [
        # Newcombe 1998, table of examples, method 10.
        ((36, 12, 2, 0), (0.0569, 0.3404)),
        # Fagerland et al. 2014: airway hyper-responsiveness before and after transplantation.
        ((1, 1, 7, 12), (-0.507, -0.026)),
    ],
)
def test_change_of_a_rate_on_the_same_prompts(
    table: tuple[int, int, int, int], expected: tuple[float, float]
) -> None:
    first, second = paired(*table)
    low, high = rate_change(second, first)
    assert (low, high) == pytest.approx(expected, abs=5e-4)
    assert rate_change(first, second) == pytest.approx((-high, -low))


def test_a_rate_that_cannot_change_is_still_not_known_exactly() -> None:
    low, high = rate_change([True] * 50, [True] * 50)
    assert (low, high) == pytest.approx((-high, high))
    assert 0.05 < high < 0.1
    assert rate_change([False] * 4, [True] * 4)[1] <= 1 + 1e-12


def test_interval_of_a_mean_over_tokens_draws_whole_prompts() -> None:
    rng = np.random.default_rng(1)
    n_tokens = rng.integers(5, 60, 80)
    totals = n_tokens * rng.normal(1.0, 0.3, 80)
    low, high = mean_interval(totals.tolist(), n_tokens.tolist())
    mean = totals.sum() / n_tokens.sum()
    # Of a ratio, by its linearisation.
    spread = np.sqrt(80) * np.std(totals - mean * n_tokens, ddof=1) / n_tokens.sum()
    assert low == pytest.approx(mean - 1.96 * spread, abs=0.25 * spread)
    assert high == pytest.approx(mean + 1.96 * spread, abs=0.25 * spread)
    with pytest.raises(ValueError, match="same prompts"):
        mean_interval([1.0], [1.0, 2.0])


def test_fisher_of_the_tea_tasting() -> None:
    # Fisher 1935: three of four cups right on each side, two-sided p = 0.486.
    right = [True] * 3 + [False]
    assert fisher(right, [not x for x in right]) == pytest.approx(0.4857, abs=1e-4)


def test_cohens_h_by_his_table() -> None:
    # Cohen 1988, table 6.2.1: phi(.50) = 1.571, phi(.25) = 1.047.
    assert cohens_h(0.5, 0.25) == pytest.approx(1.571 - 1.047, abs=1e-3)
    assert cohens_h(0.2, 0.6) == -cohens_h(0.6, 0.2)
    assert cohens_h(1, 0) == pytest.approx(math.pi)


def test_holm_by_hand() -> None:
    assert holm([0.04, 0.01, 0.03]) == pytest.approx([0.06, 0.03, 0.06])
    assert holm([0.6, 0.9]) == [1, 1]
    assert holm([]) == []


@given(st.lists(st.floats(0, 1), min_size=1, max_size=30))
def test_holm_is_between_no_correction_and_bonferroni(p_values: list[float]) -> None:
    adjusted = holm(p_values)
    for before, after in zip(p_values, adjusted, strict=True):
        assert before <= after <= min(1, len(p_values) * before) + 1e-12
    order = sorted(range(len(p_values)), key=p_values.__getitem__)
    assert [adjusted[i] for i in order] == sorted(adjusted)


def test_repeats_of_a_prompt_do_not_narrow_a_bootstrap() -> None:
    rng = np.random.default_rng(1)
    refused = [float(x) for x in rng.random(40) < 0.6]

    def mean(values: object) -> float:
        return float(np.mean(values))

    once = cluster_bootstrap([[x] for x in refused], mean)
    five_times = cluster_bootstrap([[x] * 5 for x in refused], mean)
    assert once == five_times
    assert once == pytest.approx(wilson(int(sum(refused)), 40), abs=0.04)
    undefined = cluster_bootstrap([[1.0]], lambda _values: math.nan)
    assert all(map(math.isnan, undefined))
    with pytest.raises(ValueError, match="no prompts"):
        cluster_bootstrap([], mean)


def test_kappa_of_cohens_own_kind() -> None:
    # Both say yes 20 times, no 15 times; they part 5 and 10 times: kappa = 0.4.
    pairs = [("y", "y")] * 20 + [("n", "n")] * 15 + [("y", "n")] * 5 + [("n", "y")] * 10
    assert cohens_kappa(pairs) == pytest.approx(0.4)
    assert cohens_kappa([(1, 1), (2, 2)]) == 1
    assert math.isnan(cohens_kappa([(1, 1)] * 9))
    assert math.isnan(cohens_kappa([]))


@pytest.mark.parametrize(("n", "baseline", "compared"), [(30, 0.05, 1), (40, 0.0, 5), (60, 0.3, 1)])
def test_the_detectable_difference_is_detected_as_often_as_said(
    n: int, baseline: float, compared: int
) -> None:
    rise = detectable_difference(n, baseline=baseline, compared=compared)
    assert rise is not None
    rng = np.random.default_rng(0)
    found = 0
    for _ in range(400):
        low, high = rng.random(n) < baseline, rng.random(n) < baseline + rise
        found += mcnemar(list(high), list(low)) <= 0.05 / compared
    assert 0.72 <= found / 400 <= 0.88


def test_too_few_prompts_detect_nothing() -> None:
    assert detectable_difference(5) is None
    assert detectable_difference(10, compared=100) is None
    rises = [detectable_difference(n, baseline=0.05) for n in (20, 40, 80, 160)]
    assert rises == sorted(rises, key=lambda rise: -float(rise or 0))
