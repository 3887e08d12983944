"""Which words English has, and which kinds of words follow each other in it."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterable, Sequence
from functools import cache
from importlib import resources
from itertools import pairwise
from typing import Any, TypeVar

# fmt: off
_ENDINGS = frozenset((
    "s", "es", "ed", "d", "ing", "ly", "er", "r", "est", "al", "ness", "ful", "less", "ment",
))
_KIND_OF_ENDING = {
    "ing": "-ing", "ed": "-ed", "ly": "-ly", "er": "-er", "or": "-er", "est": "-est",
    "tion": "-n", "sion": "-n", "ment": "-n", "ness": "-n", "ity": "-n",
    "ous": "-adj", "ive": "-adj", "al": "-adj", "ful": "-adj", "able": "-adj", "ible": "-adj",
    "ic": "-adj", "ss": "-w", "us": "-w", "'s": "-'s", "s": "-s",
}
# fmt: on
_SIZES = range(4, 0, -1)  # of endings, in letters
_SMOOTHING = 2.0  # added to counts of pairs
_MOST_REMEMBERED = 50_000


_T = TypeVar("_T")


class _Remembered(dict[str, _T]):
    """What a function says of words, since most words come again and again."""

    def __init__(self, function: Callable[[str], _T]) -> None:
        self._function = function

    def __missing__(self, word: str) -> _T:
        if len(self) >= _MOST_REMEMBERED:
            self.clear()
        found = self[word] = self._function(word)
        return found


class _Information(dict[tuple[str, str], float]):
    """How much likelier one of a few hundred kinds of words is after another, in nats."""

    def __init__(self, data: dict[str, Any]) -> None:
        self._pairs = {tuple(pair.split(" ")): n for pair, n in data["pairs"].items()}
        self._first: dict[str, int] = data["first"]
        self._second: dict[str, int] = data["second"]
        self._total = sum(self._first.values())

    def __missing__(self, pair: tuple[str, str]) -> float:
        a, b = pair
        expected = self._first.get(a, 0) * self._second.get(b, 0) / self._total
        found = math.log((self._pairs.get(pair, 0) + _SMOOTHING) / (expected + _SMOOTHING))
        self[pair] = found
        return found


class English:
    """Which words English has, and which kinds of words follow each other in it.

    A common word is a kind by itself; others are kinds by their ending. `benchmarks/judge.py`
    counts both.
    """

    def __init__(self, data: dict[str, Any]) -> None:
        self.common = frozenset(data["common"])
        self._words = frozenset(data["words"]) | self.common
        self._derives = _Remembered(self._is_derived).__getitem__
        self.kind = _Remembered(self._kind).__getitem__
        self._information = _Information(data)

    def unknown(self, words: Iterable[str]) -> list[str]:
        """Those words that are not known, and are derived from none that is."""
        return [word for word in words if word not in self._words and not self._derives(word)]

    def _is_derived(self, word: str) -> bool:
        word = word.removesuffix("'s").replace("-", "")
        if word in self._words or len(word) < 2:
            return True
        for size in _SIZES:
            stem = word[:-size]
            if word[-size:] in _ENDINGS and len(stem) >= 3:
                doubled = stem[:-1] if len(stem) > 3 and stem[-1] == stem[-2] else stem
                if not self._words.isdisjoint((stem, stem + "e", stem + "y", doubled)):
                    return True
        return bool(word.endswith("ies") and word[:-3] + "y" in self._words)

    def _kind(self, token: str) -> str:
        """Kind of a token: itself, by its ending, or a stop; empty for figures and symbols."""
        if token in self.common:
            return token
        if not token[0].isalpha():
            return token if token in ".,;:!?" else ""
        if not token.isascii():
            return "-x"
        kinds = (_KIND_OF_ENDING.get(token[-size:]) for size in _SIZES if size < len(token) - 2)
        return next(filter(None, kinds), "-w")

    def kinds(self, tokens: Iterable[str]) -> list[str]:
        """Kinds of the words and stops among some tokens."""
        return [kind for kind in map(self.kind, tokens) if kind]

    def order(self, tokens: Sequence[str]) -> float | None:
        """How much likelier neighbours are than by chance: mean pointwise information, in nats.

        About 1 in prose, below 0 in shuffled words. None for fewer than twelve pairs of words.
        """
        kinds = self.kinds(tokens[:200])
        n = len(kinds) - 1
        return sum(map(self._information.__getitem__, pairwise(kinds))) / n if n >= 12 else None


@cache
def shipped_english() -> English:
    """What the package knows of English."""
    text = (resources.files("steersweep.judging") / "english.json").read_text("utf-8")
    return English(json.loads(text))
