"""Conditions compared: which is the best, and whether two differ, or differ from no steering."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import overload

from steersweep.core.statistics import cohens_h, fisher, holm, mcnemar
from steersweep.run.cell import AgainstUnsteered, Cell, SteeredCell
from steersweep.run.judgement import UNJUDGED


def best_condition(conditions: Iterable[SteeredCell]) -> SteeredCell:
    """Most coherent refusals; ties to less garbled text, then to the weaker steering."""
    return max(
        conditions,
        key=lambda cell: (
            cell.rates.coherent_refusal_rate,
            -cell.rates.garbled_rate,
            -cell.steering.relative_strength,
        ),
    )


def is_too_weak(conditions: Iterable[SteeredCell], unsteered: Cell | None) -> bool:
    """Whether steering changed next to nothing in any cell, so that nothing follows from it.

    In each cell no more answers are garbled or refused than without steering, and at least half of
    them are the unsteered ones: word for word, or through half of the longer one, since a greedy
    answer goes its own way from the first word that a push changes. A direction that is removed is
    removed wholly, which is never too weak.

    Args:
        conditions: cells of a result.
        unsteered: the control on the same prompts; without one nothing can be said.
    """
    if unsteered is None:
        return False
    plain = {(sample.prompt, sample.repeat): sample.response for sample in unsteered.samples}
    garbled, refused = unsteered.rates.garbled_rate, unsteered.rates.refusal_rate
    for cell in conditions:
        if cell.steering.multiplier == 0:
            return False
        pairs = [
            (sample.response, plain[sample.prompt, sample.repeat])
            for sample in cell.samples
            if (sample.prompt, sample.repeat) in plain
        ]
        same = sum(_is_unchanged(*pair) for pair in pairs)
        is_worse = cell.rates.garbled_rate > garbled or cell.rates.refusal_rate > refused
        if is_worse or 2 * same < max(1, len(pairs)):
            return False
    return True


def _is_unchanged(steered: str, plain: str) -> bool:
    half = (max(len(steered), len(plain)) + 1) // 2
    return steered[:half] == plain[:half]


def against_unsteered(
    conditions: Sequence[SteeredCell], unsteered: Cell | None
) -> list[SteeredCell]:
    """Conditions, each tested against no steering, corrected for how many there are."""
    if unsteered is None:
        nothing = AgainstUnsteered(None, None)
        return [replace(cell, against_unsteered=nothing) for cell in conditions]
    values = [p_difference(cell, unsteered) for cell in conditions]
    adjusted = holm([p for p in values if p is not None])
    base = unsteered.rates.coherent_refusal_rate
    return [
        replace(
            cell,
            against_unsteered=AgainstUnsteered(p, cohens_h(cell.rates.coherent_refusal_rate, base)),
        )
        for cell, p in zip(conditions, adjusted, strict=True)
    ]


@overload
def p_difference(one: Cell, other: Cell) -> float: ...
@overload
def p_difference(one: Cell, other: Cell | None) -> float | None: ...
def p_difference(one: Cell, other: Cell | None) -> float | None:
    """p that two conditions refuse coherently equally often.

    McNemar's exact test where they have the same prompts, Fisher's where they have not, as when a
    cut left prompts out in between. Answers that could not be judged count against a difference:
    as no refusals of the first condition, and as refusals of the second.
    """
    if other is None:
        return None
    refused = coherent_refusals(one), coherent_refusals(other, unjudged=True)
    prompts = [prompts_of(cell) for cell in (one, other)]
    return mcnemar(*refused) if prompts[0] == prompts[1] else fisher(*refused)


def coherent_refusals(cell: Cell, *, unjudged: bool = False) -> list[bool]:
    """By prompt, whether a condition refused coherently; `unjudged`: where that is not known.

    Where answers were sampled, whether more than half of a prompt's did: tests count prompts.
    """
    refused = [
        unjudged if found.quality == UNJUDGED else found.refusal and found.quality == "coherent"
        for found in (sample.judgement for sample in cell.samples)
    ]
    each = answers_of_each(cell)
    return [2 * sum(refused[i : i + each]) > each for i in range(0, len(refused), each)]


def prompts_of(cell: Cell) -> list[str]:
    """The different prompts of a condition, in order."""
    return [sample.prompt for sample in cell.samples[:: answers_of_each(cell)]]


def answers_of_each(cell: Cell) -> int:
    """How many answers to each prompt a condition has."""
    return len(cell.samples) // cell.rates.n_unique
