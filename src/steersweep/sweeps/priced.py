"""Results with what steering costs: effects of each condition, and those of equal refusal ranked.

The price of a condition is how far it takes the model from itself, in nats per token.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import TypeVar

from steersweep.core.statistics import rate_change
from steersweep.run.cell import Cell, SteeredCell
from steersweep.run.effect import Change, Measured, change
from steersweep.run.effect_files import Saved
from steersweep.run.folder import RunFolder
from steersweep.run.price import DIVERGENCE, effects_of
from steersweep.run.records import Record
from steersweep.run.result import AmongMethods, Controls, Priced, Result
from steersweep.run.verdict import AS_FAR_AS_BROKEN, Thresholds, verdict
from steersweep.sweeps.compared import best_condition, coherent_refusals, prompts_of
from steersweep.work.asked_effects import saved_effects

_BROKEN = "garbled"  # quality of most answers of a random direction that breaks the model
_C = TypeVar("_C", bound=Cell)


def with_effects(results: Sequence[Result], store: RunFolder) -> list[Result]:
    """Results of one model in one precision with what a run folder holds of their effects.

    Args:
        results: with their answers.
        store: the run folder.
    """
    if store.read_json(store.paths.effects) is None:
        return list(results)
    measured = _Measured(store)
    found = [_priced(measured.on(result)) for result in results]
    return _among_methods(found, measured)


class _Measured:
    """Effects of conditions, each read once."""

    def __init__(self, store: RunFolder) -> None:
        self._store = store
        self._saved: dict[tuple[str, str], dict[str, Saved]] = {}

    def on(self, result: Result) -> Result:
        """A result with the effects of its conditions and controls."""
        controls = result.controls
        unsteered = controls.unsteered
        record = None if unsteered is None else self._store.get(unsteered.key)
        if unsteered is None or record is None:
            return result
        base = self.saved(unsteered, record)

        def of(cell: _C) -> _C:
            return replace(cell, effects=effects_of(self.saved(cell, record), base))

        at_best = controls.random_direction
        return replace(
            result,
            conditions=tuple(map(of, result.conditions)),
            controls=Controls(
                replace(unsteered, effects=effects_of(base, {})),
                at_best and of(at_best),
                tuple(map(of, controls.random_directions)),
            ),
        )

    def saved(self, cell: Cell, unsteered: Record) -> dict[str, Saved]:
        """By name, the effects of a condition."""
        place = cell.key, unsteered.key
        if place not in self._saved:
            record = self._store.get(cell.key)
            found = {} if record is None else saved_effects(self._store, record, unsteered)
            self._saved[place] = found
        return self._saved[place]

    def divergence(self, cell: Cell) -> Measured:
        """By answer, of a condition that has a price."""
        return next(
            found[DIVERGENCE].measured[0]
            for (key, _), found in self._saved.items()
            if key == cell.key and DIVERGENCE in found
        )


def refuses_as_often(cell: Cell, best: Cell) -> bool:
    """Whether a cell is not shown to refuse coherently less often than the best.

    The 95 % interval of the paired difference holds 0, or lies above it. On other prompts than the
    best's nothing is said, and that is False.
    """
    if prompts_of(cell) != prompts_of(best):
        return False
    _, high = rate_change(coherent_refusals(best), coherent_refusals(cell))
    return high >= 0


def equal_cells(
    cells: Iterable[SteeredCell], best: SteeredCell, thresholds: Thresholds
) -> list[SteeredCell]:
    """Cells with a price that refuse as often as the best, the cheapest first.

    Their outcome is no worse than the best's either: with few prompts an interval holds 0 for rates
    that are far apart.
    """
    least = _rank(best, thresholds)
    found = [
        cell
        for cell in cells
        if cell.price is not None
        and refuses_as_often(cell, best)
        and _rank(cell, thresholds) >= least
    ]
    return sorted(found, key=_price)


def _rank(cell: SteeredCell, thresholds: Thresholds) -> int:
    rates = cell.rates
    return rank(rates.coherent_refusal_rate, rates.garbled_refusal_rate, thresholds)


def rank(coherent: float, garbled: float, thresholds: Thresholds) -> int:
    """How good the outcome of rates of refusals is; 0: it fails."""
    found = verdict(
        coherent_refusal_rate=coherent, garbled_refusal_rate=garbled, thresholds=thresholds
    )
    return ("fails", "partial", "works").index(found.outcome)


def front(cells: Iterable[SteeredCell]) -> list[SteeredCell]:
    """Cells than which no other refuses as often, or more, for less: the Pareto front.

    From the cheapest to the dearest; cells without a price are left out.
    """
    priced = [cell for cell in cells if cell.price is not None]
    priced.sort(key=lambda cell: (_price(cell), -cell.rates.coherent_refusal_rate))
    found: list[SteeredCell] = []
    for cell in priced:
        if not found or cell.rates.coherent_refusal_rate > found[-1].rates.coherent_refusal_rate:
            found.append(cell)
    return found


def breaks_from(random: Iterable[SteeredCell]) -> float | None:
    """The price of the cheapest random direction that breaks the model; None: none does."""
    broken = [cell.price for cell in random if cell.rates.output_quality == _BROKEN]
    return min((price for price in broken if price is not None), default=None)


def _price(cell: SteeredCell) -> float:
    assert cell.price is not None, "asked of a cell that has one"
    return cell.price


def _priced(result: Result) -> Result:
    """A result with its conditions ranked, and a flag where the best costs what breaking does."""
    equal = equal_cells(result.conditions, result.best, result.verdict.thresholds)
    flags = tuple(flag for flag in result.verdict.flags if flag != AS_FAR_AS_BROKEN)
    if not equal:
        return replace(result, priced=None, verdict=replace(result.verdict, flags=flags))
    broken = breaks_from(result.controls.random_directions)
    price = result.best.price
    if broken is not None and price is not None and price >= broken:
        flags = (*flags, AS_FAR_AS_BROKEN)
    return replace(
        result,
        priced=Priced(tuple(cell.key for cell in equal), broken),
        verdict=replace(result.verdict, flags=flags),
    )


def _among_methods(results: Sequence[Result], measured: _Measured) -> list[Result]:
    """Results, each with what its method costs beside the others at equal refusal."""
    compared = [result for result in results if result.priced is not None]
    if len(compared) < 2:
        return list(results)
    best = best_condition(result.best for result in compared)
    cells = {
        result.method: equal[0]
        for result in compared
        if (equal := equal_cells(result.conditions, best, result.verdict.thresholds))
    }
    if not cells:
        return list(results)
    cheapest = min(cells, key=lambda method: _price(cells[method]))

    def among(result: Result) -> Result:
        if result.priced is None:
            return result
        cell = cells.get(result.method)
        dearer: Change | None = None
        if cell is not None and result.method != cheapest:
            dearer = change(measured.divergence(cells[cheapest]), measured.divergence(cell))
        said = AmongMethods(None if cell is None else cell.key, cheapest, dearer)
        return replace(result, priced=replace(result.priced, among_methods=said))

    return [among(result) for result in results]
