"""Intervals and tests against published or hand-computed values."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from steersweep.statistics import mcnemar, wilson, wilson_best_of


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


@pytest.mark.parametrize(("successes", "n"), [(3, 2), (-1, 2), (0, 0)])
def test_impossible_counts_are_refused(successes: int, n: int) -> None:
    with pytest.raises(ValueError, match=r"."):
        wilson(successes, n)


def test_mcnemar_counts_only_prompts_that_differ() -> None:
    first = [True] * 6 + [False] * 94
    second = [False] * 100
    assert mcnemar(first, second) == pytest.approx(2 * 0.5**6)
    assert mcnemar(first, first) == 1.0
