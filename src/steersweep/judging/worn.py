"""Does English prose look worn: few words again and again, many negations, no end of a sentence?

A logistic regression over a dozen plain measures, fitted by `benchmarks/judge.py` on answers whose
texts were read. It finds what no single measure does, in answers of models it has not seen too.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Sequence
from functools import cache
from importlib import resources

from steersweep.judging.english import English

_NEGATION = re.compile(r"\b(?:not|no|nor|never|cannot)\b|n't\b")
_JOINT = re.compile(r"\b(?:or|and)\b")
_SENTENCE = re.compile(r"[.!?\n]+")
_QUOTES = re.compile(r"[\"“”]")
_LONG_SENTENCE = 35  # words
_FEWEST_WORDS = 15
WORN_FROM, CLEAR_FROM = 1.5, 3.0  # log-odds

MEASURES = (
    "circling", "damage", "repeated of 25", "repeated of 40", "most frequent", "negations",
    "joints", "long sentence", "unknown words", "order", "quotes", "colons",
)  # fmt: skip


def measures(
    text: str, tokens: Sequence[str], circling: float, damage: int, order: float, english: English
) -> list[float]:
    """What the regression looks at, in the order of `MEASURES`.

    Args:
        text: what was said.
        tokens: its words, figures and punctuation in lower case.
        circling: see `loops.circles`.
        damage: see `damage.points`.
        order: see `English.order`.
        english: which words are known.
    """
    words = [token for token in tokens if token[0].isalpha()]
    n = max(1, len(words))
    lowered = text.lower()
    times = Counter(word for word in words if len(word) > 4 or word not in english.common)
    longest = max((part.count(" ") for part in _SENTENCE.split(text)), default=0)
    latin = [word for word in words if word.isascii()]
    unknown = sum(not english.knows(word) for word in latin) / max(1, len(latin))
    return [
        min(2.0, circling),
        min(4.0, float(damage)),
        _repeated(words, 25),
        _repeated(words, 40),
        max(times.values(), default=0) / n,
        10 * len(_NEGATION.findall(lowered)) / n,
        10 * len(_JOINT.findall(lowered)) / n,
        max(0, longest - _LONG_SENTENCE) / 20,
        unknown,
        order,
        5 * len(_QUOTES.findall(text)) / n,
        5 * text.count(":") / n,
    ]


def _repeated(words: Sequence[str], size: int) -> float:
    """Largest share of words said before, in any stretch of so many words."""
    if len(words) < _FEWEST_WORDS:
        return 0.2
    size = min(size, len(words))
    starts = range(0, len(words) - size + 1, 8)
    return 1 - min(len(set(words[start : start + size])) for start in starts) / size


def wear(values: Sequence[float]) -> float:
    """Log-odds that a text with these measures is broken."""
    intercept, weights = _fitted()
    return intercept + sum(w * value for w, value in zip(weights, values, strict=True))


@cache
def _fitted() -> tuple[float, list[float]]:
    text = (resources.files("steersweep.judging") / "worn.json").read_text("utf-8")
    fitted = json.loads(text)
    return fitted["intercept"], [fitted["weights"][name] for name in MEASURES]
