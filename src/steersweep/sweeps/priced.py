"""Cells of equal refusal, by what they cost; and where a cost is that of a broken model."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from steersweep.core.statistics import rate_change
from steersweep.run.cell import Cell, SteeredCell
from steersweep.run.result import Result
from steersweep.sweeps.compared import best_condition, coherent_refusals


def price_of(cell: Cell) -> float | None:
    """What a condition costs: nats per token from the unsteered model; None: not measured."""
    effects = cell.effects
    return None if effects is None or effects.divergence is None else _nats(cell)


def _nats(cell: Cell) -> float:
    assert cell.effects is not None, "asked of a cell that was measured"
    assert cell.effects.divergence is not None, "asked of a cell that was measured"
    return cell.effects.divergence.nats_per_token


def refuses_as_often(cell: Cell, best: Cell) -> bool:
    """Whether a cell is not shown to refuse coherently less often than the best.

    The 95 % interval of the paired difference holds 0; the best itself counts. On other prompts
    than the best's nothing is said, and that is False.
    """
    if cell.key == best.key:
        return True
    if [s.prompt for s in cell.samples] != [s.prompt for s in best.samples]:
        return False
    _, high = rate_change(coherent_refusals(best), coherent_refusals(cell))
    return high >= 0


def equal_cells(cells: Sequence[SteeredCell], best: SteeredCell) -> list[SteeredCell]:
    """Cells that refuse as often as the best, the cheapest first; those without a price last."""
    found = [cell for cell in cells if refuses_as_often(cell, best)]
    return sorted(found, key=lambda cell: (price_of(cell) is None, price_of(cell) or 0.0))


def front(cells: Iterable[SteeredCell]) -> list[SteeredCell]:
    """Cells than which no other refuses more, or as often, for less: the Pareto front.

    From the cheapest to the dearest; cells without a price are left out.
    """
    priced = [cell for cell in cells if price_of(cell) is not None]
    priced.sort(key=lambda cell: (_nats(cell), -cell.rates.coherent_refusal_rate))
    found: list[SteeredCell] = []
    for cell in priced:
        if not found or cell.rates.coherent_refusal_rate > found[-1].rates.coherent_refusal_rate:
            found.append(cell)
    return found


def breaks_from(random: Iterable[SteeredCell]) -> SteeredCell | None:
    """The cheapest random direction that breaks the model; None: none does, or none has a price.

    It breaks the model where its answers are garbled (at least 60 % of them).
    """
    broken = [
        cell
        for cell in random
        if cell.rates.output_quality == "garbled" and price_of(cell) is not None
    ]
    return min(broken, key=_nats, default=None)


def as_far_as_broken(cell: SteeredCell, random: Iterable[SteeredCell]) -> SteeredCell | None:
    """The random direction that breaks the model and is no further from it than a cell is."""
    broken, price = breaks_from(random), price_of(cell)
    if broken is None or price is None or price < _nats(broken):
        return None
    return broken


@dataclass(frozen=True)
class MethodPrice:
    """The cheapest cell of a method among those that refuse as often as the best of all methods.

    Attributes:
        result: of the method.
        cell: None where none of its cells refuses as often.
    """

    result: Result
    cell: SteeredCell | None


def cheapest_by_method(results: Sequence[Result]) -> list[MethodPrice]:
    """Methods of one model, the cheapest first; empty where no price is known.

    Args:
        results: of the same model in the same precision, with their answers.
    """
    best = best_condition(result.best for result in results)
    found = []
    for result in results:
        equal = [c for c in equal_cells(result.conditions, best) if price_of(c) is not None]
        found.append(MethodPrice(result, equal[0] if equal else None))
    if all(one.cell is None for one in found):
        return []
    return sorted(found, key=lambda one: (one.cell is None, one.cell and _nats(one.cell)))
