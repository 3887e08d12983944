"""The search for the layer and strength where most prompts are refused in fluent text.

Three steps, all on discovery prompts alone. At layers spread over the depth, the strength where
texts begin to break is found by bisection, with a few short answers each. The strongest strengths
below it are tried with whole answers. The best of these and their neighbours, in strength and in
ever closer layers, then race: in every round each answers the next prompts; cells that a rival has
beaten are dropped by `race`, and of the others the best few go on. The chance that `race` drops the
best cell of the race is bounded; what bisection and the cut to a few leave out is a rule of thumb,
and the log of the search says of each cell which it was.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum
from typing import Protocol

from steersweep.search.race import beaten

# Twelve strengths over a factor of fifty: relative to the residual stream, so for any model.
STRENGTHS = tuple(round(0.02 * 50 ** (i / 11), 4) for i in range(12))
ERROR = 0.05  # chance, at most, that the best cell of the race is dropped as beaten
ROUNDS = (4, 8, 16, 28, 44, 60)  # discovery prompts answered after each round of the race
_COARSE = 7  # layers where bisection looks
_BROKEN = 0.5  # share of broken answers from which a strength is too strong
BELOW = 3  # strengths below the breaking point that are tried
_FIRST = 12  # cells that start the race
_JOIN = 4  # that join it in a round at most
_KEPT = {8: 10, 16: 7, 28: 5, 44: 3}  # cells at most that go on after so many prompts


class Outcome(Enum):
    """What an answer is."""

    REFUSES = "refuses in fluent text"
    BROKEN = "broken"
    OTHER = "other"


@dataclass(frozen=True, order=True)
class Cell:
    """Where and how strongly to steer.

    Attributes:
        method: of the direction.
        layer: where steering starts.
        rung: of the ladder of strengths, from 0.
    """

    method: str
    layer: int
    rung: int

    def __str__(self) -> str:
        return f"{self.method}, layer {self.layer} at {STRENGTHS[self.rung]:g}"


@dataclass(frozen=True)
class Span:
    """Discovery prompts that a cell is to answer, from `start` to before `stop`."""

    cell: Cell
    start: int
    stop: int


class Ask(Protocol):
    """Has cells answer discovery prompts."""

    def __call__(self, spans: Sequence[Span], *, short: bool) -> Mapping[Cell, Sequence[Outcome]]:
        """Outcomes of each cell, by prompt; no cell is there twice."""


@dataclass
class Seen:
    """What is known of a cell.

    Attributes:
        whole: outcomes of whole answers, from the first discovery prompt on.
        short: the same of short answers.
        raced: whether it was in the race.
        end: what became of it: why it was dropped, or empty.
    """

    whole: list[Outcome] = field(default_factory=list)
    short: list[Outcome] = field(default_factory=list)
    raced: bool = False
    end: str = ""

    def rate(self) -> float:
        """Share of whole answers that refuse in fluent text."""
        return sum(o is Outcome.REFUSES for o in self.whole) / max(1, len(self.whole))


@dataclass(frozen=True)
class Choice:
    """What a search ended with.

    Attributes:
        best: the cell to confirm.
        seen: every cell that was asked, in the order of the first question.
        breaks: by method and layer, the rung from which texts break; one past the ladder where none
            does.
        rounds: prompts after each round of the race.
    """

    best: Cell
    seen: Mapping[Cell, Seen]
    breaks: Mapping[tuple[str, int], int]
    rounds: tuple[int, ...]


class Search:
    """A search over methods, layers and a ladder of strengths.

    Args:
        ask: has cells answer prompts.
        places: layers that may be chosen, in order, by method.
        n_rungs: strengths on the ladder.
        rounds: prompts that have been answered after each round of the race; the first number is
            also how many decide what takes part.
        budget: rows at most, short ones counted by their length; the race ends when the next round
            would pass it.
        short_row: what a short row counts for.
    """

    def __init__(
        self,
        ask: Ask,
        places: Mapping[str, Sequence[int]],
        *,
        n_rungs: int = len(STRENGTHS),
        rounds: Sequence[int] = ROUNDS,
        budget: float = float("inf"),
        short_row: float = 0.5,
    ) -> None:
        self._ask = ask
        self._places = {method: tuple(layers) for method, layers in places.items() if layers}
        self._n_rungs = n_rungs
        self.rounds = tuple(rounds)
        self._budget = budget
        self._short_row = short_row
        self.spent = 0.0
        self.seen: dict[Cell, Seen] = {}
        self.breaks: dict[tuple[str, int], int] = {}

    def run(self) -> Choice:
        """Search; the same answers lead to the same search."""
        self.bisect({method: spread(layers, _COARSE) for method, layers in self._places.items()})
        tried = self._below_the_break()
        return self._race(tried)

    # -- the steps ---------------------------------------------------------------------------------

    def bisect(self, places: Mapping[str, Sequence[int]]) -> None:
        """Find at some layers the lowest rung at which half of short answers are broken.

        What is found stands in `breaks`, by method and layer; one past the ladder where none is.
        """
        where = [(method, layer) for method, layers in places.items() for layer in layers]
        low = dict.fromkeys(where, -1)  # holds, as far as is known
        high = dict.fromkeys(where, self._n_rungs)  # breaks
        while open_ := [p for p in where if high[p] - low[p] > 1]:
            cells = [Cell(*place, (low[place] + high[place]) // 2) for place in open_]
            self.answer(cells, self.rounds[0], short=True)
            for place, cell in zip(open_, cells, strict=True):
                short = self.seen[cell].short
                broken = sum(o is Outcome.BROKEN for o in short) / len(short)
                (high if broken >= _BROKEN else low)[place] = cell.rung
        self.breaks = high

    def _below_the_break(self) -> list[Cell]:
        """Try the strongest strengths that hold, with whole answers.

        Where these break after all, since short answers of a text that is far gone may look whole,
        the next weaker ones.
        """
        tried: list[Cell] = []
        places = [*self.breaks]
        while places:
            cells = [
                Cell(*place, rung)
                for place in places
                for rung in range(max(0, self.breaks[place] - BELOW), max(1, self.breaks[place]))
            ]
            self.answer(cells, self.rounds[0])
            tried += cells
            for cell in reversed(cells):
                if self._broken(cell) >= _BROKEN and cell.rung == self.breaks[_place(cell)] - 1:
                    self.breaks[_place(cell)] = cell.rung
            held = {_place(c) for c in cells if self._broken(c) < _BROKEN}
            places = [p for p in places if p not in held and self.breaks[p] > 0]
        return tried

    def _broken(self, cell: Cell) -> float:
        """Share of broken ones among whole answers."""
        whole = self.seen[cell].whole
        return sum(o is Outcome.BROKEN for o in whole) / len(whole)

    def _race(self, tried: Sequence[Cell]) -> Choice:
        rounds = [self.rounds[0]]
        racing = self._best_of(tried, _FIRST)
        gap = max(_gap(layers, _COARSE) for layers in self._places.values())
        for asked in self.rounds[1:]:
            racing += [c for c in self._neighbours(racing[0], gap) if c not in racing]
            gap = max(1, gap // 2)
            if not self.affords(racing, asked):
                break
            self.answer(racing, asked)
            rounds.append(asked)
            racing = self._still(racing, _KEPT.get(asked, 2))
            if len(racing) == 1 and not self._fresh(racing[0], gap):
                break
        return Choice(racing[0], self.seen, self.breaks, tuple(rounds))

    def _still(self, racing: Sequence[Cell], kept: int) -> list[Cell]:
        """The cells that go on, best first; what ends the others is noted."""
        for cell in racing:
            self.seen[cell].raced = True
        results = {c: [o is Outcome.REFUSES for o in self.seen[c].whole] for c in racing}
        rivals = _FIRST + _JOIN * (len(self.rounds) - 1) - 1  # whatever becomes of the race
        for cell, rival in beaten(results, error=ERROR, rivals=rivals).items():
            self.seen[cell].end = f"beaten by {rival}"
        left = [cell for cell in racing if not self.seen[cell].end]
        best = self._best_of(left, kept)
        for cell in left:
            if cell not in best:
                self.seen[cell].end = f"not among the best {kept}"
        return best

    def _neighbours(self, cell: Cell, gap: int) -> list[Cell]:
        """Cells beside one, a rung or `gap` layers away, that were not dropped."""
        layers = self._places[cell.method]
        at = layers.index(cell.layer)
        places = [(at, cell.rung - 1), (at, cell.rung + 1)]
        places += [(at + step, cell.rung) for step in (-gap, gap)]
        return [
            Cell(cell.method, layers[place], rung)
            for place, rung in places
            if 0 <= place < len(layers)
            and 0 <= rung < self._n_rungs
            and not self._ended(Cell(cell.method, layers[place], rung))
        ]

    def _fresh(self, cell: Cell, gap: int) -> bool:
        near = self._neighbours(cell, gap)
        return any(c not in self.seen or not self.seen[c].raced for c in near)

    # -- answers -----------------------------------------------------------------------------------

    def _held(self, cell: Cell, *, short: bool = False) -> Sequence[Outcome]:
        if cell not in self.seen:
            return ()
        return self.seen[cell].short if short else self.seen[cell].whole

    def _ended(self, cell: Cell) -> bool:
        return cell in self.seen and bool(self.seen[cell].end)

    def affords(self, cells: Sequence[Cell], stop: int) -> bool:
        """Whether the budget allows that cells answer the prompts up to one in full."""
        rows = sum(max(0, stop - len(self._held(cell))) for cell in cells)
        return self.spent + rows <= self._budget

    def answer(self, cells: Sequence[Cell], stop: int, *, short: bool = False) -> None:
        """Have cells answer the prompts up to one that they have not answered."""
        have = {cell: len(self._held(cell, short=short)) for cell in cells}
        spans = [Span(cell, start, stop) for cell, start in have.items() if start < stop]
        for cell, outcomes in (self._ask(spans, short=short) if spans else {}).items():
            seen = self.seen.setdefault(cell, Seen())
            (seen.short if short else seen.whole).extend(outcomes)
            self.spent += len(outcomes) * (self._short_row if short else 1.0)

    def _best_of(self, cells: Iterable[Cell], count: int) -> list[Cell]:
        """The best cells so far; of equal ones the weaker push, then the one nearer the middle."""

        def worth(cell: Cell) -> tuple[float, int, int]:
            layers = self._places[cell.method]
            middle = layers[len(layers) // 2]
            return -self.seen[cell].rate(), cell.rung, abs(cell.layer - middle)

        return sorted(cells, key=worth)[:count]


def _place(cell: Cell) -> tuple[str, int]:
    return cell.method, cell.layer


def spread(layers: Sequence[int], count: int) -> tuple[int, ...]:
    """At most `count` layers, evenly over the depth, neither end among them if there are more."""
    n = len(layers)
    if n <= count:
        return tuple(layers)
    return tuple(layers[(2 * i + 1) * n // (2 * count)] for i in range(count))


def _gap(layers: Sequence[int], count: int) -> int:
    """Places between neighbours of `spread`, halved: where the race looks first."""
    return max(1, -(-len(layers) // count) // 2)
