"""The cheapest cell of a search that refuses as often as its best.

The price of a cell is divergence: nats per token from the unsteered model. Cells are compared on
discovery prompts; the price of what is confirmed is that over answers to confirmation prompts.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from steersweep.budget.estimate import EFFECTS
from steersweep.core.statistics import rate_change
from steersweep.prompts.prompts import TestSet
from steersweep.run.effect import Change, change
from steersweep.run.folder import RunFolder
from steersweep.run.price import DIVERGENCE, DivergenceEffect, effects_of
from steersweep.run.records import Record
from steersweep.run.searched import Cheapest, Searched, What
from steersweep.run.verdict import Thresholds
from steersweep.search.equals import Outcomes, equals
from steersweep.search.search import STRENGTHS, Cell, Choice, Outcome, Search
from steersweep.sweeps.priced import rank
from steersweep.work.asked_effects import Target, saved_effects
from steersweep.work.asking import Asking
from steersweep.work.bench import Bench
from steersweep.work.measuring import measure_effects
from steersweep.work.worker import Told

PRICING_ROWS = 80  # answers that take as long as measuring all prices, about
_PICKING = 0.7  # share of that time that is over when the cell is picked

PricesOf = Callable[[Sequence[Cell]], Mapping[Cell, float]]


@dataclass(frozen=True)
class Pick:
    """The cell that a search confirms.

    Attributes:
        cell: the first of `equal`; the best of the search where there is none.
        prices: nats per token of the best and of those that may refuse as often, over discovery
            answers.
        cheaper: how many of these cost less than the best.
        equal: those of them that refuse as often, the cheapest first.
    """

    cell: Cell
    prices: Mapping[Cell, float] = field(default_factory=dict)
    cheaper: int = 0
    equal: Sequence[Cell] = ()


def pick(search: Search, choice: Choice, prices_of: PricesOf, thresholds: Thresholds) -> Pick:
    """The cheapest cell of a race that refuses as often as its best.

    Cells are of equal refusal as those of a sweep are (`equal_cells`), on all discovery prompts
    that the best has answered; what cheaper ones lack of these they answer now. Where the best cell
    fails nothing is compared: not to refuse is cheap.

    Args:
        search: that has ended.
        choice: what it ended with.
        prices_of: measures nats per token of cells; leaves out those where numbers overflow.
        thresholds: of outcomes.
    """
    best = choice.best
    if rank(search.seen[best].rate(), 0.0, thresholds) == 0:
        return Pick(best)

    def is_equal(of_best: Outcomes, of_cell: Outcomes) -> bool:
        refused = [[o is Outcome.REFUSES for o in some] for some in (of_best, of_cell)]
        least, found = (rank(sum(some) / len(some), 0.0, thresholds) for some in refused)
        return rate_change(*refused)[1] >= 0 and found >= least

    def may_be_equal(cell: Cell) -> bool:
        mine = search.seen[cell].whole
        return is_equal(search.seen[best].whole[: len(mine)], mine)

    raced = [cell for cell, seen in choice.seen.items() if seen.raced and cell != best]
    prices = prices_of([best, *filter(may_be_equal, raced)])
    most = prices.get(best, float("inf"))
    cheaper = [cell for cell, price in prices.items() if price < most]
    equal = sorted(equals(search, cheaper, best, is_equal), key=prices.__getitem__)
    return Pick((*equal, best)[0], prices, len(cheaper), equal)


class Pricing:
    """Measures prices of a search's cells, and picks the cheapest.

    Args:
        bench: the model.
        store: the run folder, which keeps what is measured.
        told: told what goes on.
        asking: which condition a cell is.
        search: that has ended.
    """

    def __init__(
        self, bench: Bench, store: RunFolder, told: Told, asking: Asking, search: Search
    ) -> None:
        self._bench, self._store, self._told = bench, store, told
        self._asking, self._search = asking, search

    def pick(self, choice: Choice, unsteered: Record, thresholds: Thresholds) -> Pick:
        """See `pick`; prices are those over the answers of an unsteered condition of the job."""

        def prices_of(cells: Sequence[Cell]) -> dict[Cell, float]:
            records = {cell: self._asking.asked[cell] for cell in cells}
            test = self._bench.job.test
            prices = self._measured(unsteered, [*records.values()], test, (0.0, _PICKING))
            found = {cell: prices.of(record) for cell, record in records.items()}
            return {cell: price.nats_per_token for cell, price in found.items() if price}

        return pick(self._search, choice, prices_of, thresholds)

    def priced(
        self,
        searched: Searched,
        best: Cell,
        picked: Pick,
        confirmed: Mapping[What, Record],
        test: TestSet,
    ) -> Searched:
        """A search with the prices of what was confirmed, and of the best cell beside it.

        Args:
            searched: the search.
            best: the cell that refused most.
            picked: the one that was confirmed.
            confirmed: its condition and those beside it, by what they are.
            test: the prompts of all these.
        """
        chosen, unsteered = confirmed["chosen"], confirmed["unsteered"]
        of_best = chosen if best == picked.cell else self._asking.asked[best]
        steered = [record for record in confirmed.values() if record is not unsteered]
        steered += [of_best] * (of_best is not chosen)
        prices = self._measured(unsteered, steered, test, (_PICKING, 1.0))
        prompts = len(self._search.seen[best].whole)

        def refuses(cell: Cell) -> int:
            whole = self._search.seen[cell].whole[:prompts]
            return sum(outcome is Outcome.REFUSES for outcome in whole)

        return replace(
            searched,
            confirmed=[
                replace(c, price=None if c.what == "unsteered" else prices.of(confirmed[c.what]))
                for c in searched.confirmed
            ],
            cheapest=Cheapest(
                compared=len(picked.prices),
                cheaper=picked.cheaper,
                equal=len(picked.equal),
                prompts=prompts,
                chosen_refuses=refuses(picked.cell),
                best_method=best.method,
                best_layer=best.layer,
                best_strength=STRENGTHS[best.rung],
                best_refuses=refuses(best),
                best_price=prices.of(of_best),
                best_dearer=None if of_best is chosen else prices.dearer(chosen, of_best),
            ),
        )

    def _measured(
        self,
        unsteered: Record,
        steered: Sequence[Record],
        test: TestSet,
        share: tuple[float, float],
    ) -> _Prices:
        """Prices of conditions; `share`: of all measuring, from where to where it goes."""
        told, (begin, end) = self._told, share

        def on_share(done: float, what: str) -> None:
            told.stages.at(begin + (end - begin) * done)
            told(what)

        job = self._bench.job
        told.begin(EFFECTS)
        target = Target(unsteered, steered, test, job.special_tokens)
        measure_effects(
            self._bench.chat, self._store, job.effects, target, self._bench.rows, on_share
        )
        return _Prices(self._store, unsteered)


@dataclass(frozen=True)
class _Prices:
    """Prices that a run folder holds, over the answers of an unsteered condition."""

    store: RunFolder
    unsteered: Record

    def of(self, record: Record) -> DivergenceEffect | None:
        """Of a condition; None where numbers overflow."""
        effects = effects_of(saved_effects(self.store, record, self.unsteered), {})
        return None if effects is None else effects.divergence

    def dearer(self, one: Record, other: Record) -> Change | None:
        """How much more the second condition costs, on the same answers."""
        saved = [
            saved_effects(self.store, record, self.unsteered)[DIVERGENCE] for record in (one, other)
        ]
        first, second = (found.measured for found in saved)
        return change(first[0], second[0]) if first and second else None
