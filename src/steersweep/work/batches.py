"""Which prompts of which conditions are answered together."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from steersweep.run.condition import Condition

_WHOLE = 1.25  # times as many batches, at most, to keep conditions whole


@dataclass(frozen=True)
class Part:
    """Prompts of a condition that are answered in one batch.

    Attributes:
        condition: whose.
        start: the first of them.
        stop: the one after the last.
        n_prompts: that the condition has in all.
    """

    condition: Condition
    start: int
    stop: int
    n_prompts: int

    @property
    def is_whole(self) -> bool:
        """Whether these are all prompts of the condition."""
        return self.stop - self.start == self.n_prompts

    @property
    def is_last(self) -> bool:
        """Whether the condition is answered when these are, since its parts follow in order."""
        return self.stop == self.n_prompts


def in_batches(asked: Sequence[tuple[Condition, int]], max_rows: int) -> Iterator[tuple[Part, ...]]:
    """Conditions in batches of at most `max_rows` rows.

    Conditions stay whole where that takes hardly more batches; otherwise all rows are dealt out in
    batches of equal size, and a condition may begin in one and end in a later one.

    A function of the full list only, never of what is already done: arithmetic on a batch may
    differ in the last bit with its size, so a continued run must form the same batches to write
    the same results.

    Args:
        asked: each condition with its number of prompts.
        max_rows: of a batch.
    """
    total = sum(n_prompts for _, n_prompts in asked)
    fewest = -(-total // max_rows)
    whole = _whole_batches(asked, max_rows)
    if whole is not None and len(whole) <= _WHOLE * fewest:
        yield from whole
        return
    ends = [total * batch // fewest for batch in range(1, fewest + 1)]
    parts: list[Part] = []
    done = 0
    for condition, n_prompts in asked:
        start = 0
        while start < n_prompts:
            stop = min(n_prompts, start + ends[0] - done)
            parts.append(Part(condition, start, stop, n_prompts))
            done += stop - start
            start = stop
            if done == ends[0]:
                yield tuple(parts)
                parts = []
                ends.pop(0)


def _whole_batches(
    asked: Sequence[tuple[Condition, int]], max_rows: int
) -> list[tuple[Part, ...]] | None:
    """Whole conditions, in order, as many in a batch as fit; None where one does not fit at all."""
    batches: list[list[Part]] = []
    left = 0
    for condition, n_prompts in asked:
        if n_prompts > max_rows:
            return None
        if n_prompts > left:
            batches.append([])
            left = max_rows
        batches[-1].append(Part(condition, 0, n_prompts, n_prompts))
        left -= n_prompts
    return [tuple(batch) for batch in batches]
