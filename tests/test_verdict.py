"""The verdict rules: a table, and properties over the whole grid of rates."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from helpers.results import sample, steered
from steersweep import InputError, verdict
from steersweep.core.statistics import fisher, holm
from steersweep.model.find import find_model
from steersweep.run.cell import SteeredCell
from steersweep.run.judgement import Quality
from steersweep.sweeps.compared import is_too_weak, p_difference
from steersweep.sweeps.run import run_sweep
from steersweep.sweeps.settings import make_settings

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


def test_conditions_are_compared_by_prompt_where_they_share_them() -> None:
    def condition(prompts: range, refused: int) -> SteeredCell:
        return steered(
            [sample(str(p), "coherent" if i < refused else "normal") for i, p in enumerate(prompts)]
        )

    one, other = condition(range(10), 8), condition(range(10), 2)
    assert p_difference(one, None) is None
    assert p_difference(one, other) == pytest.approx(2 * 0.5**6)  # six prompts differ
    fewer = condition(range(100, 106), 1)
    refused = [True] * 8 + [False] * 2, [True] + [False] * 5
    assert p_difference(one, fewer) == pytest.approx(fisher(*refused))


def test_every_condition_is_tested_against_no_steering_and_corrected(tmp_path: Path) -> None:
    settings = make_settings(
        [find_model("lab:qwen-7b")], layers="0.4,0.6", strengths="0.1,0.5", max_prompts=8,
        max_new_tokens=16,
    )  # fmt: skip
    (result,) = run_sweep(settings, tmp_path / "run").results
    plain = [p_difference(cell, result.controls.unsteered) for cell in result.conditions]
    compared = [cell.against_unsteered for cell in result.conditions]
    assert [one and one.p_vs_unsteered_holm for one in compared] == holm(
        [p for p in plain if p is not None]
    )
    for cell, p, one in zip(result.conditions, plain, compared, strict=True):
        assert p is not None
        assert one is not None
        assert one.p_vs_unsteered_holm is not None
        assert p <= one.p_vs_unsteered_holm <= 1
        if cell is result.best:
            assert result.verdict.p_vs_unsteered == p
            assert result.verdict.cohens_h_vs_unsteered == one.cohens_h_vs_unsteered


def cell(*answers: str, garbled: int = 0, refused: int = 0, multiplier: float = 15) -> SteeredCell:
    """Some answers, the first so many garbled, the next so many refused."""
    qualities: list[Quality] = ["garbled"] * garbled + ["coherent"] * refused + ["normal"] * 2
    return steered(
        [sample(str(i), qualities[i], text) for i, text in enumerate(answers)],
        multiplier=multiplier,
    )


def test_a_push_is_too_weak_where_nothing_changed_in_any_cell() -> None:
    texts = "Bread needs flour.", "Water boils at 100."
    plain = cell(*texts)
    same = cell("Bread needs flour.", "No.")  # half of the answers, word for word
    begins = cell("Bread needs flours", "Water boils slowly!")
    other = cell("Take some flour.", "It boils.")
    assert is_too_weak([plain, same, begins], plain)
    assert not is_too_weak([same, other], plain)
    assert not is_too_weak([same, cell(*texts, garbled=1)], plain)
    assert not is_too_weak([cell(*texts, refused=1)], plain)
    assert not is_too_weak([same], None)
    assert not is_too_weak([cell(*texts, multiplier=0)], plain)  # removed, all of it
    # A model that breaks or refuses without steering hides no effect of steering.
    assert is_too_weak([cell("Bread needs flour.", "No.", garbled=1)], cell(*texts, garbled=1))
