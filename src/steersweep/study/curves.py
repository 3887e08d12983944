"""The shape of a size curve, and what results say of models that were left out. Pure functions."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal

from steersweep.study.plan import Dropped

Shape = Literal[
    "rises throughout",
    "rises over all, not monotone",
    "falls throughout",
    "falls over all, not monotone",
    "peak",
    "not monotone",
    "flat within intervals",
    "undecided",
]

LARGEST_AT_PEAK = "peak at the largest size"
COHERENT_FROM_40 = "coherent at least 0.40"
PRECISION_MATTERS = "precision matters and budget remains"


def differences(
    intervals: Sequence[tuple[float, float]],
) -> tuple[set[tuple[int, int]], set[tuple[int, int]]]:
    """Pairs of points, an earlier and a later one, that rise and that fall.

    Two points differ if their 95 % intervals do not overlap.
    """
    pairs = [(i, j) for j in range(len(intervals)) for i in range(j)]
    rises = {(i, j) for i, j in pairs if intervals[j][0] > intervals[i][1]}
    falls = {(i, j) for i, j in pairs if intervals[j][1] < intervals[i][0]}
    return rises, falls


def is_peak(rises: Iterable[tuple[int, int]], falls: Iterable[tuple[int, int]]) -> bool:
    """Whether a point lies above an earlier and a later one, and none lies below two such."""
    up, down = set(rises), set(falls)
    peaked = any(j == k for _, j in up for k, _ in down)
    return peaked and not any(j == k for _, j in down for k, _ in up)


def curve_shape(
    rates: Sequence[float], intervals: Sequence[tuple[float, float]], flat_within: float
) -> Shape:
    """The shape of a size curve, small to large.

    Two sizes differ if their 95 % intervals do not overlap. Where some larger size lies above a
    smaller one and none below, the curve rises: throughout, if no rate is below the one before it;
    over all, if the last rate is above the first; else it is only not monotone. Falling is the same
    turned round. With rises and falls it has a peak (see `is_peak`) or is not monotone. Where no
    two sizes differ it is flat within intervals if all together span at most three times
    `flat_within`; else, and with fewer than two sizes, undecided.

    Args:
        rates: by size, 0 to 1.
        intervals: their 95 % intervals.
        flat_within: half the width of what counts as flat, as a rate.
    """
    rises, falls = differences(intervals)
    if rises and falls:
        return "peak" if is_peak(rises, falls) else "not monotone"
    if rises:
        return _direction(rates, "rises throughout", "rises over all, not monotone")
    if falls:
        turned = [-rate for rate in rates]
        return _direction(turned, "falls throughout", "falls over all, not monotone")
    flat = len(intervals) > 1 and is_flat(intervals, flat_within)
    return "flat within intervals" if flat else "undecided"


def _direction(rates: Sequence[float], throughout: Shape, over_all: Shape) -> Shape:
    if all(b >= a for a, b in pairwise(rates)):
        return throughout
    return over_all if rates[-1] > rates[0] else "not monotone"


def is_flat(intervals: Sequence[tuple[float, float]], flat_within: float) -> bool:
    """Whether all intervals together span at most three times `flat_within`."""
    span = max(high for _, high in intervals) - min(low for low, _ in intervals)
    return span <= 3 * flat_within


@dataclass(frozen=True)
class SizeCurve:
    """What a size curve says of sizes beyond it.

    Attributes:
        shape: its name.
        rates: coherent refusal rates, small to large.
        has_largest: whether the plan's largest size of the family is among them.
    """

    shape: Shape
    rates: tuple[float, ...]
    has_largest: bool

    @property
    def largest_at_peak(self) -> bool:
        """Whether rates fall somewhere, and the plan's largest size is above all others."""
        return (
            self.has_largest
            and len(self.rates) > 1
            and self.rates[-1] > max(self.rates[:-1])
            and any(b < a for a, b in pairwise(self.rates))
        )


def triggers(
    dropped: Iterable[Dropped],
    after: str,
    *,
    curves: Mapping[str, SizeCurve] | None = None,
    coherent: Mapping[str, float] | None = None,
    sensitive: Sequence[str] = (),
    left_usd: float | None = None,
) -> list[str]:
    """Dropped models to think of again.

    Args:
        dropped: the plan's list.
        after: the phase that has ended.
        curves: by family, the size curve of its best method.
        coherent: by family, the best coherent rate; only families that were tested.
        sensitive: where precision changed something, in words.
        left_usd: what is left of the budget; None: no stop.
    """
    found = []
    for entry in dropped:
        if entry.after != after:
            continue
        curve, rate = (curves or {}).get(entry.family), (coherent or {}).get(entry.family, 0.0)
        if entry.when == LARGEST_AT_PEAK and curve is not None and curve.largest_at_peak:
            found.append(
                f"{entry.model}: the {entry.family} rates are not monotone and the largest size is "
                f"at the peak (curve: {curve.shape}); a larger one would show whether it is one"
            )
        if entry.when == COHERENT_FROM_40 and rate >= 0.40:
            found.append(
                f"{entry.model}: {entry.family} reached {rate:.0%} coherent, at least 40 %"
            )
        if entry.when == PRECISION_MATTERS and sensitive and left_usd != 0:
            left = "no stop on money" if left_usd is None else f"{left_usd:.2f} USD left"
            found.append(f"{entry.model}: precision matters ({'; '.join(sensitive)}); {left}")
    return found
