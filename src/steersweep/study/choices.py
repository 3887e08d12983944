"""Which models phase 3 takes, and with which methods. Pure functions of outcomes."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from steersweep.run.condition import Strength
from steersweep.study.decisions import Outcome, best_outcome


@dataclass(frozen=True)
class SizeChoice:
    """A model that phase 3 takes.

    Attributes:
        model: the plan's name.
        family: its family.
        tier: `small`, `medium`, `large`, or `cross-family`.
        layer_idx: its best layer.
        strength: the strength there.
        reason: in words.
        methods: those that worked for it, the best first.
    """

    model: str
    family: str
    tier: str
    layer_idx: int
    strength: Strength
    reason: str
    methods: tuple[str, ...]


def choose_for_precision(
    outcomes: Iterable[Outcome],
    order: Sequence[str],
    *,
    tiers: int = 3,
    named: Mapping[str, Sequence[str]] | None = None,
    also: Iterable[str] = (),
) -> list[SizeChoice]:
    """The models that phase 3 takes: sizes of the best family, and one of a second.

    The best family has most sizes that work, then the higher rates. Its sizes are those the plan
    names; where one of them does not work, the nearest other that does. Of a family without named
    sizes they are `tiers` of those that work, evenly from small to large. Models of `also` come on
    top if they work; if all are of one family then, the best model of the next family does.

    Args:
        outcomes: of phase 2.
        order: the plan's models, within a family from small to large.
        tiers: how many sizes to take of the best family.
        named: by family, the sizes to take.
        also: models of other families to add if they work.
    """
    working: dict[str, list[Outcome]] = {}
    for outcome in outcomes:
        if outcome.outcome == "works":
            working.setdefault(outcome.model, []).append(outcome)
    families: dict[str, list[str]] = {}
    for name in order:
        if name in working:
            families.setdefault(working[name][0].family, []).append(name)
    ranked = sorted(families, key=lambda f: _rank(families[f], working), reverse=True)
    if not ranked:
        return []
    names = families[ranked[0]]
    wanted = (named or {}).get(ranked[0])
    chosen = _evenly(names, tiers) if wanted is None else _nearest(wanted, names, order)
    why = f"{len(names)} of this family's sizes work"
    choices = [
        _choice(working[name], tier, why)
        for name, tier in zip(chosen, _tier_names(len(chosen)), strict=True)
    ]
    across = [name for name in also if name in working and name not in chosen]
    choices += [
        _choice(working[name], "cross-family", "works, for comparison between families")
        for name in across
    ]
    if len(ranked) > 1 and len({choice.family for choice in choices}) == 1:
        second = max(families[ranked[1]], key=lambda name: best_outcome(working[name]).coherent)
        why = f"the best model of the next family, {ranked[1]}"
        choices.append(_choice(working[second], "cross-family", why))
    return choices


def _rank(names: Sequence[str], working: Mapping[str, Sequence[Outcome]]) -> tuple[int, float]:
    return len(names), sum(best_outcome(working[name]).coherent for name in names)


def _evenly(names: Sequence[str], count: int) -> list[str]:
    """So many names from first to last, both ends included."""
    count = min(count, len(names))
    return [names[round(i * (len(names) - 1) / max(1, count - 1))] for i in range(count)]


def _nearest(wanted: Sequence[str], there: Sequence[str], order: Sequence[str]) -> list[str]:
    """The wanted names that are there, and for each other one the nearest left, in order."""
    taken = [name for name in wanted if name in there]
    for name in wanted:
        left = [other for other in there if other not in taken]
        if name not in there and left:
            taken.append(min(left, key=lambda other: abs(order.index(other) - order.index(name))))
    return sorted(taken, key=order.index)


def _choice(found: Sequence[Outcome], tier: str, reason: str) -> SizeChoice:
    best = best_outcome(found)
    methods = dict.fromkeys([best.method, *(outcome.method for outcome in found)])
    return SizeChoice(
        best.model, best.family, tier, best.layer_idx, best.strength, reason, tuple(methods)
    )


def _tier_names(count: int) -> list[str]:
    if count <= 3:
        return [[], ["small"], ["small", "large"], ["small", "medium", "large"]][count]
    return ["small", *[f"medium {i}" for i in range(1, count - 1)], "large"]
