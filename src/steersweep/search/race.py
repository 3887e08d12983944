"""Which of several cells can no longer be the best: sequential tests on paired prompts.

Two cells that answer the same prompts differ on some of them. If a cell is at least as good as
another, each such prompt goes its way with probability at least one half, whatever came before. A
mixture of bets against that (Robbins 1970; uniform over the probabilities above one half) is a
supermartingale, so by Ville's inequality it ever reaches `1 / p` with probability at most `p`,
however often one looks and whenever one stops. Cells are dropped as in successive elimination
(Even-Dar, Mannor and Mansour 2006): the best of K cells survives with probability at least
`1 - error` when `error / (K - 1)` is spent on each of its rivals.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TypeVar

T = TypeVar("T")


def log_evidence(won: int, lost: int) -> float:
    """Log of the evidence that a rival is better, after so many prompts won and lost by it.

    Args:
        won: prompts on which the rival alone refused in fluent text.
        lost: prompts on which the other alone did.
    """
    from scipy.special import betainc, betaln

    # Twice the integral of (2 p)^won (2 (1 - p))^lost over p from one half to one.
    above = float(betainc(lost + 1, won + 1, 0.5))
    if above == 0.0:
        return -math.inf
    log_beta = float(betaln(won + 1, lost + 1))
    return math.log(2) * (won + lost + 1) + log_beta + math.log(above)


def beaten(
    results: Mapping[T, Sequence[bool]], *, error: float, rivals: int | None = None
) -> dict[T, T]:
    """Cells that are not the best, each with the one that beats it.

    Args:
        results: of each cell: whether it worked, prompt by prompt in one order for all; where one
            has fewer, the prompts that both have are compared.
        error: chance, at most, that the best one is ever among them.
        rivals: that a cell may ever be compared with; by default the others given.
    """
    count = len(results) - 1 if rivals is None else rivals
    needed = math.log(max(1, count) / error)
    found: dict[T, T] = {}
    for cell, mine in results.items():
        best = -math.inf
        for other, theirs in results.items():
            pairs = [*zip(theirs, mine, strict=False)]
            won, lost = sum(a and not b for a, b in pairs), sum(b and not a for a, b in pairs)
            evidence = log_evidence(won, lost)
            if other != cell and evidence >= needed and evidence > best:
                found[cell], best = other, evidence
    return found
