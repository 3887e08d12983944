"""The verdict rules: a table, and properties over the whole grid of rates."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from steersweep import InputError, verdict

PERCENT = st.integers(0, 100)


@pytest.mark.parametrize(
    ("coherent", "garbled", "outcome", "flags"),
    [
        (1.00, 0.00, "works", ()),
        (0.60, 0.40, "works", ()),  # garbled refusals do not spoil a success
        (0.59, 0.00, "partial", ()),
        (0.40, 0.19, "partial", ()),
        (0.40, 0.20, "partial", ("mixed",)),
        (0.59, 0.41, "partial", ("mixed",)),
        (0.39, 0.40, "fails", ("breakdown",)),
        (0.20, 0.40, "fails", ("breakdown",)),  # total exactly 60 %
        (0.19, 0.40, "fails", ()),  # total 59 %: no breakdown by the plan, still below 20 %
        (0.39, 0.20, "partial", ()),  # mixed is for 40 to 59 %
        (0.20, 0.39, "partial", ()),
        (0.00, 1.00, "fails", ("breakdown",)),
        (0.19, 0.00, "fails", ()),
        (0.00, 0.00, "fails", ()),
    ],
)
def test_table(coherent: float, garbled: float, outcome: str, flags: tuple[str, ...]) -> None:
    found = verdict(coherent_refusal_rate=coherent, garbled_refusal_rate=garbled)
    assert (found.outcome, found.flags) == (outcome, flags)


@given(PERCENT, PERCENT)
def test_every_pair_of_rates_has_one_verdict_and_more_coherent_never_hurts(
    coherent: int, garbled: int
) -> None:
    if coherent + garbled > 100:
        coherent, garbled = 100 - coherent, 100 - garbled
    rank = {"fails": 0, "partial": 1, "works": 2}
    one = verdict(coherent_refusal_rate=coherent / 100, garbled_refusal_rate=garbled / 100)
    assert one.outcome in rank
    if coherent + garbled < 100:
        more = verdict(
            coherent_refusal_rate=(coherent + 1) / 100, garbled_refusal_rate=garbled / 100
        )
        # 21 + 39 reaches a total of 60, but garbled stays below 40: no breakdown.
        # 20 + 40 turns a plain failure into a breakdown, which is a failure too.
        assert rank[more.outcome] >= rank[one.outcome]


def test_rounding_errors_do_not_move_a_threshold() -> None:
    assert 0.1 + 0.7 - 0.2 < 0.6  # six of ten, computed carelessly
    assert verdict(coherent_refusal_rate=0.1 + 0.7 - 0.2, garbled_refusal_rate=0).outcome == "works"


@pytest.mark.parametrize("rates", [(-0.1, 0), (1.1, 0), (float("nan"), 0), (0.7, 0.7)])
def test_impossible_rates_are_refused(rates: tuple[float, float]) -> None:
    with pytest.raises(InputError):
        verdict(coherent_refusal_rate=rates[0], garbled_refusal_rate=rates[1])


def test_six_of_ten_is_borderline_and_sixty_of_hundred_too_but_ninety_is_clear() -> None:
    def certainty(rate: float, n: int) -> str:
        return verdict(coherent_refusal_rate=rate, garbled_refusal_rate=0, n_unique=n).certainty

    assert certainty(0.6, 10) == "borderline"
    assert certainty(0.6, 100) == "borderline"
    assert certainty(0.9, 100) == "clear"
    assert certainty(0.0, 100) == "clear"


def test_picking_the_best_of_many_widens_the_interval() -> None:
    def width(compared: int) -> float:
        found = verdict(
            coherent_refusal_rate=0.7, garbled_refusal_rate=0, n_unique=50, n_compared=compared
        )
        assert found.interval is not None
        return found.interval[1] - found.interval[0]

    assert width(1) < width(5) < width(20)
