"""Which cells of a search are as good as its best, asked for as long as that is open."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from steersweep.search.search import Cell, Outcome, Search

Outcomes = Sequence[Outcome]


def equals(
    search: Search,
    cells: Sequence[Cell],
    best: Cell,
    is_equal: Callable[[Outcomes, Outcomes], bool],
) -> list[Cell]:
    """The cells that are as good as the best on all prompts that the best has answered.

    They answer what they lack in the rounds of the search, and are dropped as soon as they are not.
    Where the budget ends before, those that have not answered everything are left out.

    Args:
        search: that has ended.
        cells: which may be as good.
        best: what they are compared with.
        is_equal: by the outcomes of the best and of a cell on the same prompts.
    """
    whole = len(search.seen[best].whole)

    def still(some: Sequence[Cell], stop: int) -> list[Cell]:
        found = []
        for cell in some:
            mine = search.seen[cell].whole[:stop]
            if is_equal(search.seen[best].whole[: len(mine)], mine):
                found.append(cell)
        return found

    left = still(cells, whole)
    for stop in (stop for stop in search.rounds if stop <= whole):
        if not search.affords(left, stop):
            return [cell for cell in left if len(search.seen[cell].whole) == whole]
        search.answer(left, stop)
        left = still(left, stop)
    return left
