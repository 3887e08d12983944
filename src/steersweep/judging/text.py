"""A text taken apart once, for all that look at it."""

from __future__ import annotations

import re
from functools import cached_property, lru_cache
from operator import eq

_LOOKED_AT = 1200  # characters; of longer texts the beginning and the end
_MARKUP = re.compile(r"</?[a-z|_]{1,20}>|\[(?:/?inst|eos|pad|unk)\]", re.IGNORECASE)
# Words of 500 characters and more are no words, and would make searches slow.
_TOKEN = re.compile(r"[^\W_]{1,500}(?:['’-][^\W_]{1,50})*|[^\w\s]|_+")
# Scripts that put no space between words: each sign is a unit.
_SIGNS = r"\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u9fff\uf900-\ufaff"
_UNIT = re.compile(rf"[{_SIGNS}]|[^\W_{_SIGNS}]{{1,60}}|[^\w\s]|_+")
# The same where all is ASCII, and quicker.
_ASCII_SYMBOL = r"[!-/:-@\[-^`{-\x7f\x00-\x08\x0e-\x1b]|_+"
_ASCII_TOKEN = re.compile(rf"[a-z0-9]{{1,500}}(?:['-][a-z0-9]{{1,50}})*+|{_ASCII_SYMBOL}")
_ASCII_UNIT = re.compile(rf"[a-z0-9]{{1,60}}|{_ASCII_SYMBOL}")
_ASCII_SPOKEN = re.compile(r"[a-z0-9]{1,60}")
_MAY_BE_CUT = 50  # characters of a token; the patterns cut longer ones, each in other places
_FEWEST_AGAIN = 5  # phrases, in any repeat


class Text:
    """What is looked at of a text, in its parts.

    Attributes:
        shown: the text without markup and blanks around it, its middle left out if it is long.
        blanks: blanks at its end.
        is_ascii: whether it has no other characters.
        lowered: the text in lower case, with plain apostrophes.
        tokens: its words, figures and punctuation in lower case.
        words: those that begin with a letter.
        units: words, figures and punctuation; hyphens part words, and so do signs.
        units_of_tokens: whether each token is made of whole units.
        again: how many of its phrases of three units were said before.
    """

    def __init__(self, text: str) -> None:
        if len(text) > _LOOKED_AT:
            text = text[: _LOOKED_AT // 2] + "\n" + text[-_LOOKED_AT // 2 :]
        plain = _MARKUP.sub(" ", text) if "<" in text or "[" in text else text
        self.shown = plain.strip()
        self.blanks = len(plain) - len(plain.rstrip())
        self.is_ascii = self.shown.isascii()
        self.lowered = self.shown.lower().replace("’", "'")
        pattern = _ASCII_TOKEN if self.is_ascii else _TOKEN
        self.tokens: list[str] = pattern.findall(self.lowered)
        self.words = [token for token in self.tokens if token[0].isalpha()]
        longest = max(map(len, self.tokens), default=0)
        self.units_of_tokens = self.is_ascii and longest < _MAY_BE_CUT
        units = self.units = self._units() if self.units_of_tokens else units_of(self.lowered)
        phrases = set(zip(units, units[1:], units[2:], strict=False))
        self.again = max(0, len(units) - 2) - len(phrases)

    def _units(self) -> list[str]:
        """See `Text`: of the few tokens that have several, since to search all again is slow."""
        tokens = self.tokens
        units: list[str] = []
        start = 0
        for i, token in enumerate(tokens):
            if not token.isalnum() and len(token) > 1:
                units += tokens[start:i]
                units += units_of(token)
                start = i + 1
        return units + tokens[start:]

    @property
    def says_again(self) -> bool:
        """Whether phrases come again as often as in the shortest repeat."""
        return self.again >= _FEWEST_AGAIN

    @cached_property
    def says_word_twice(self) -> bool:
        """Whether some word comes twice running."""
        return any(map(eq, self.words, self.words[1:]))

    @cached_property
    def spoken(self) -> list[str]:
        """Units that are no punctuation."""
        return [unit for unit in self.units if unit[0].isalnum()]

    @cached_property
    def line_length(self) -> float:
        """Mean length of the lines that are not empty, in characters."""
        lines = [line for line in self.shown.splitlines() if line.strip()]
        return sum(map(len, lines)) / max(1, len(lines))

    @cached_property
    def is_table(self) -> bool:
        """Whether it is a table, or has code."""
        return "```" in self.shown or self.shown.count("|") >= 4

    @cached_property
    def is_prose(self) -> bool:
        """Long lines, and neither code nor a table; verse and lists have short ones."""
        return not self.is_table and self.line_length >= 55


def units_of(lowered: str) -> list[str]:
    """See `Text.units`, of a text in lower case."""
    return (_ASCII_UNIT if lowered.isascii() else _UNIT).findall(lowered)


def spoken_of(lowered: str) -> list[str]:
    """See `Text.spoken`, of a text in lower case."""
    if lowered.isascii():
        return _ASCII_SPOKEN.findall(lowered)
    return [unit for unit in units_of(lowered) if unit[0].isalnum()]


@lru_cache(8)
def taken_apart(response: str) -> Text:
    """A response's parts; several ask for them."""
    return Text(response)
