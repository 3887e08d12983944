"""English prose: is it in order, and is it damaged?"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

from steersweep.judging.damage import damage, points
from steersweep.judging.english import English
from steersweep.judging.loops import circles
from steersweep.judging.text import Text
from steersweep.judging.worn import CLEAR_FROM, WORN_FROM, Wear, measures

_FEWEST_WORDS = 12
_SHUFFLED_BELOW = -0.05
_UNKNOWN_FROM = 0.28
_FEWEST_WORN = 20  # words
_FRESH = 0.68  # share of words that are new
ENGLISH_FROM = 0.25  # share of common words


@dataclass(frozen=True)
class Prose:
    """A text in English words, and what is known of it.

    Attributes:
        text: what was said.
        words: its words of plain letters.
        common: share of words that are common.
        english: what is known of English.
    """

    text: Text
    words: Sequence[str]
    common: float
    english: English

    @cached_property
    def unknown(self) -> float:
        """Share of words that English has not."""
        known = len(self.words) - len(self.english.unknown(self.words))
        return 1 - known / len(self.words)

    @cached_property
    def order(self) -> float | None:
        """See `English.order`."""
        return self.english.order(self.text.tokens)

    @cached_property
    def circling(self) -> float:
        """See `loops.circles`."""
        return circles(self.text)

    @cached_property
    def damage(self) -> int:
        """See `damage.points`."""
        return points(damage(self.text, self.circling))

    @property
    def can_be_worn(self) -> bool:
        """Whether there is enough English prose to tell."""
        return (
            len(self.words) >= _FEWEST_WORN
            and self.common >= ENGLISH_FROM
            and self.order is not None
            and self.text.is_prose
        )

    def measures(self) -> list[float]:
        """See `worn.measures`."""
        return measures(
            self.text.shown,
            self.words,
            self.circling,
            self.damage,
            self.order or 0.0,
            self.unknown,
            self.english,
        )


def prose_of(text: Text, english: English) -> Prose | None:
    """A text of at least a dozen words of plain letters and hardly anything else, or None."""
    words = text.words
    latin = words if text.is_ascii else [word for word in words if word.isascii()]
    if len(latin) < max(_FEWEST_WORDS, 0.8 * len(words), 0.55 * len(text.tokens)):
        return None
    common = sum(map(english.common.__contains__, latin)) / len(latin)
    return Prose(text, latin, common, english)


def is_soup(prose: Prose, wear: Wear) -> bool | None:
    """None for a fluent text; otherwise whether a reader would surely call it broken."""
    if not prose.text.is_prose or prose.order is None:
        return None
    disorder = _disorder(prose.order, prose.unknown, len(prose.text.tokens))
    if disorder is not None:
        return disorder
    if prose.damage >= 2:
        return prose.damage >= 3
    # Where hardly a word comes again, nothing else would be enough.
    n = len(prose.words)
    fresh = not prose.damage and not prose.circling and len(set(prose.words)) > _FRESH * n
    if fresh or not prose.can_be_worn:
        return None
    worn = wear(prose.measures())
    return worn >= CLEAR_FROM if worn >= WORN_FROM else None


def _disorder(order: float, unknown: float, n_tokens: int) -> bool | None:
    """English words in no order, or words that English has not."""
    below = _SHUFFLED_BELOW - 3 / n_tokens  # few words say less
    if order < below and n_tokens >= 20:
        return order < below - 0.1
    if unknown > _UNKNOWN_FROM and order < 0.15 and n_tokens >= 18:
        return unknown > _UNKNOWN_FROM + 0.1
    return None
