"""Does English prose look worn: few words again and again, many negations, no end of a sentence?

A logistic regression over a dozen plain measures, fitted by `benchmarks/judge.py` on answers whose
texts were read. It finds what no single measure does, in answers of models it has not seen too.
"""

from __future__ import annotations

import json
import math
import re
from collections import Counter
from collections.abc import Sequence
from functools import cache
from importlib import resources
from operator import mul
from typing import Any

from steersweep.judging.english import English

_NEGATIONS = frozenset(("not", "no", "nor", "never", "cannot"))
_SENTENCE = re.compile(r"[.!?\n]+")
_QUOTES = '"“”'
_LONG_SENTENCE = 35  # words
_FEWEST_WORDS = 15
WORN_FROM, CLEAR_FROM = 1.5, 3.0  # log-odds

MEASURES = (
    "circling", "damage", "repeated of 25", "repeated of 40", "most frequent", "negations",
    "joints", "long sentence", "unknown words", "order", "quotes", "colons",
)  # fmt: skip


def measures(
    text: str,
    words: Sequence[str],
    circling: float,
    damage: int,
    order: float,
    unknown: float,
    english: English,
) -> list[float]:
    """What the regression looks at, in the order of `MEASURES`.

    Args:
        text: what was said.
        words: its words in lower case.
        circling: see `loops.circles`.
        damage: see `damage.points`.
        order: see `English.order`.
        unknown: share of words that English has not.
        english: which words are common.
    """
    n = max(1, len(words))
    times = Counter(words)
    most = max((k for w, k in times.items() if len(w) > 4 or w not in english.common), default=0)
    longest = max((part.count(" ") for part in _SENTENCE.split(text)), default=0)
    negations = sum(k for w, k in times.items() if w in _NEGATIONS or w.endswith("n't"))
    return [
        min(2.0, circling),
        min(4.0, float(damage)),
        _repeated(words, 25),
        _repeated(words, 40),
        most / n,
        10 * negations / n,
        10 * (times["and"] + times["or"]) / n,
        max(0, longest - _LONG_SENTENCE) / 20,
        unknown,
        order,
        5 * sum(map(text.count, _QUOTES)) / n,
        5 * text.count(":") / n,
    ]


def _repeated(words: Sequence[str], size: int) -> float:
    """Largest share of words said before, in any stretch of so many words."""
    if len(words) < _FEWEST_WORDS:
        return 0.2
    size = min(size, len(words))
    starts = range(0, len(words) - size + 1, 8)
    return 1 - min(len(set(words[start : start + size])) for start in starts) / size


class Wear:
    """A fitted logistic regression over `MEASURES`."""

    def __init__(self, data: dict[str, Any]) -> None:
        self._intercept = float(data["intercept"])
        self._weights: list[float] = [float(data["weights"][name]) for name in MEASURES]

    def __call__(self, values: Sequence[float]) -> float:
        """Log-odds that a text with these measures is broken."""
        return math.fsum((self._intercept, *map(mul, self._weights, values)))


@cache
def shipped_wear() -> Wear:
    """The regression as the package has it."""
    text = (resources.files("steersweep.judging") / "worn.json").read_text("utf-8")
    return Wear(json.loads(text))
