"""Which strengths a sweep tries where none are given, by where texts begin to break."""

from __future__ import annotations

from collections.abc import Collection

from steersweep.search.search import BELOW, STRENGTHS

MOST = 5  # strengths of a sweep


def window_strengths(breaks: Collection[int]) -> tuple[float, ...]:
    """At most five strengths of the ladder, evenly over the window of all layers together.

    From three below the lowest at which texts break, up to the last one that holds somewhere.

    Args:
        breaks: the rung from which texts break, by layer; one past the ladder where none does.
    """
    lowest = max(0, min(breaks) - BELOW)
    highest = max(lowest, min(len(STRENGTHS), max(breaks)) - 1)
    rungs = [*range(lowest, highest + 1)]
    if len(rungs) > MOST:
        last = len(rungs) - 1
        rungs = [rungs[round(i * last / (MOST - 1))] for i in range(MOST)]
    return tuple(STRENGTHS[rung] for rung in rungs)


def window_note(breaks: Collection[int]) -> str:
    """Where texts begin to break and which strengths follow, in words."""
    found = [STRENGTHS[rung] for rung in breaks if rung < len(STRENGTHS)]
    if not found:
        said = f"texts hold up to {STRENGTHS[-1]:g} of the residual norm"
    elif min(found) == max(found):
        said = f"texts begin to break at {found[0]:g} of the residual norm"
    else:
        said = f"texts begin to break at {min(found):g} to {max(found):g} of the residual norm"
    return f"{said}: strengths {', '.join(f'{value:g}' for value in window_strengths(breaks))}"
