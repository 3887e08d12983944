"""Patterns over layers, and whether about 60 % of the depth is best: on constructed results."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from helpers.results import result as of_cells
from helpers.results import samples, steered
from steersweep.core.statistics import wilson
from steersweep.run.condition import Strength
from steersweep.run.label import Label
from steersweep.run.result import Result
from steersweep.study.depths import (
    answer_by_family,
    best_depth,
    depth_rows,
    family_sentence,
    layer_pattern,
    needed,
    overall_sentence,
    row_text,
)
from steersweep.study.plan import PlannedModel
from steersweep.study.rows import DepthRow

N_LAYERS = 20
MODEL = PlannedModel("g9", "lab:g9", None, "gemma", N_LAYERS, 9.0, "local", "fp32")


def points(*rates: float, n: int = 100) -> list[tuple[float, float]]:
    return [wilson(round(rate * n), n) for rate in rates]


@pytest.mark.parametrize(
    ("rates", "n", "pattern"),
    [
        ((0.1, 0.9, 0.1), 30, "peak"),
        ((0.0, 0.5, 0.9), 30, "gradual"),
        ((0.9, 0.5, 0.0), 30, "gradual"),
        ((0.0, 0.0, 1.0), 30, "gradual"),
        ((1.0, 0.0, 1.0), 30, "none"),
        ((0.8, 0.0, 1.0, 0.0), 30, "none"),
        ((0.9, 0.9, 0.9), 120, "flat"),
        ((0.0, 0.0, 0.0), 30, "flat"),
        ((0.5, 0.6, 0.5), 10, "undecided"),
        ((0.1, 0.9), 100, "undecided"),  # two depths have no pattern
    ],
)
def test_patterns_follow_from_the_intervals(rates: tuple[float, ...], n: int, pattern: str) -> None:
    assert layer_pattern(points(*rates, n=n), 0.1) == pattern


def refusing(*counts: int, n: int = 20) -> Any:
    """By depth, the first so many prompts refused."""
    return np.array([[i < count for i in range(n)] for count in counts])


def test_the_best_depth_has_an_interval_over_prompts() -> None:
    depths = [0.2, 0.6, 0.8]
    assert best_depth(refusing(0, 18, 2), depths) == (1, (0.6, 0.6))
    # Nine against ten of ten prompts: one prompt more or less turns it round.
    found = best_depth(refusing(0, 10, 9, n=10), depths)
    assert found == (1, (0.6, 0.8))
    # The same numbers every time.
    assert found == best_depth(refusing(0, 10, 9, n=10), depths)
    assert best_depth(refusing(0, 0, 0), depths) is None
    # Equal depths share the draws.
    assert best_depth(refusing(5, 0, 5), depths) == (0, (0.2, 0.8))


def result(
    refused: Mapping[int, int], *, n: int = 30, strength: float = 15.0, method: str = "dim"
) -> Result:
    """At each layer, how many of the prompts are refused coherently; the others are normal."""
    cells = [
        steered(
            samples(*["coherent"] * count, *["normal"] * (n - count)),
            key=f"{layer} at {strength}",
            layer=layer,
            multiplier=strength,
            relative=0.3 + layer / 100,
        )
        for layer, count in refused.items()
    ]
    best = max(range(len(cells)), key=lambda i: cells[i].rates.coherent_refusal_rate)
    label = Label.parse(method)
    return of_cells(cells, best=best, model=MODEL.model, label=label, n_layers=N_LAYERS)


def rows(*results: Result) -> list[DepthRow]:
    return depth_rows(results, {MODEL.model: MODEL}, 0.1)


@pytest.mark.parametrize(
    ("refused", "answer", "why"),
    [
        ({4: 0, 12: 28, 16: 1}, "yes", "lies within 50 to 70 % (p 1.5e-08"),
        ({4: 29, 12: 3, 16: 1}, "no", "lies beyond 50 to 70 % (p 3e-08"),
        ({4: 30, 12: 30, 16: 30}, "no", "no depth differs"),
        ({4: 14, 12: 15, 16: 3}, "undecided", "may be equal (p 1 "),
        # On few prompts, one refused at every depth that another is: never turned round by a
        # bootstrap, and yet no evidence.
        ({4: 4, 12: 9, 16: 1}, "undecided", "may be equal (p 0.062"),
        ({10: 0, 12: 30, 14: 0}, "undecided", "no layer was tested below 50 %"),
        ({4: 0, 8: 3, 12: 30}, "undecided", "no layer was tested above 70 %"),
        ({4: 0, 16: 30, 18: 20}, "undecided", "no layer was tested between 50 and 70 %"),
        ({4: 0, 12: 0, 16: 0}, "undecided", "nothing is refused"),
    ],
)
def test_the_question_is_answered_only_where_the_interval_answers_it(
    refused: dict[int, int], answer: str, why: str
) -> None:
    (row,) = rows(result(refused))
    assert (row.about_60_is_best, row.family, row.model) == (answer, "gemma", "g9")
    assert why in row.why
    assert bool(row.needed) == (answer == "undecided")


def test_a_push_too_weak_has_no_pattern() -> None:
    found = result({4: 0, 12: 0, 16: 0})
    assert rows(found)[0].pattern == "flat"
    (row,) = rows(replace(found, verdict=replace(found.verdict, flags=("too-weak",))))
    assert (row.pattern, row.about_60_is_best) == ("undecided", "undecided")
    assert row.needed == "stronger pushes"


def test_a_size_at_one_carried_layer_has_no_best_depth() -> None:
    assert rows(result({12: 30}), result({4: 0, 12: 30})) == []
    # A method's own choice of layer is not a depth that was swept.
    assert rows(result({4: 0, 12: 30, 16: 0}, method="cosmic@auto")) == []


def test_depths_are_compared_at_one_strength() -> None:
    found = result({4: 0, 12: 20, 16: 0})
    more = result({12: 30, 14: 30}, strength=25.0).conditions
    (row,) = rows(replace(found, conditions=(*found.conditions, *more)))
    assert row.strength == Strength("multiplier", 15.0)
    assert [point.layer_idx for point in row.points] == [4, 12, 16]


def test_what_would_decide_is_a_number_of_prompts_or_depths() -> None:
    inside = [False, True, False]
    # 10 of 20 against 8 of 20, differing on two prompts: (1.96 + 0.84)^2 * 0.1 / 0.1^2 = 78.4.
    said = needed(refusing(8, 10, 0), [4, 12, 16], inside, N_LAYERS)
    assert said == "about 79 unique prompts instead of 20"
    assert "equally good" in needed(refusing(5, 5, 0), [4, 12, 16], inside, N_LAYERS)
    (row,) = rows(result({10: 9, 12: 30, 14: 0}))
    assert row.needed == "layers below 50 % of the depth and above 70 % of the depth"


def test_sentences_count_no_family_that_was_not_asked() -> None:
    (yes,) = rows(result({4: 0, 12: 28, 16: 1}))
    (no,) = rows(result({4: 29, 12: 3, 16: 1}))
    answers = answer_by_family([yes, replace(no, family="phi", model="p")], {"gemma": "dim"})
    assert answers == {"gemma": "yes", "phi": "no"}
    assert overall_sentence(answers, {"qwen": "confirmed before the study"}) == (
        "Is about 60 % of the depth best? It is in gemma; it is not in phi. Not asked of qwen "
        "(confirmed before the study)"
    )
    assert overall_sentence({}, {"qwen": "could not run"}) == (
        "Is about 60 % of the depth best? No family was tested at three depths or more. Not asked "
        "of qwen (could not run)"
    )
    # Two sizes that differ leave their family undecided; the family's method speaks for a model.
    assert answer_by_family([yes, replace(no, model="g27")], {}) == {"gemma": "undecided"}
    cosmic = replace(no, method="cosmic")
    assert answer_by_family([yes, cosmic], {"gemma": "cosmic"}) == {"gemma": "no"}
    assert answer_by_family([yes, cosmic], {"gemma": "dim"}) == {"gemma": "yes"}
    assert row_text(yes) == (
        "g9, dim at multiplier 15 = 0.34 to 0.46 of the residual norm: pattern peak over 3 depths "
        "and 30 prompts, "
        "best at 0.60 [0.60, 0.60] (95 % bootstrap) with 93% coherent, since the best depth lies "
        "within 50 to 70 % (p 1.5e-08 for the best depth within against beyond)"
    )
    said = family_sentence("gemma", [yes], "yes")
    assert said.startswith("gemma: about 60 % of the depth is best (g9, dim")
