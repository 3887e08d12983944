"""Wordings that are looked for in texts, as regular expressions."""

from __future__ import annotations

import re
from collections.abc import Mapping


def flat(pattern: str) -> str:
    """A pattern written over several lines as one; a line's indentation does not count."""
    return "".join(line.lstrip() for line in pattern.splitlines())


class Wording:
    """A regular expression; may be written over several lines, see `flat`.

    Whether a sign belongs to a word is looked up in tables of Unicode, which takes a third of a
    search. Where all is ASCII it need not be: the same is found. (Not so for the blanks `\\s`, of
    which ASCII has fewer.)
    """

    def __init__(self, pattern: str, flags: int = 0) -> None:
        self.for_any = re.compile(flat(pattern), flags)
        self.for_ascii = re.compile(flat(pattern), flags | re.ASCII)

    def of(self, text: str) -> re.Pattern[str]:
        """The expression as it is to be looked for in a text."""
        return self.for_ascii if text.isascii() else self.for_any


class Wordings:
    """Several wordings, by name."""

    def __init__(self, patterns: Mapping[str, str], flags: int = 0) -> None:
        wordings = {name: Wording(pattern, flags) for name, pattern in patterns.items()}
        self._for_any = {name: wording.for_any for name, wording in wordings.items()}
        self._for_ascii = {name: wording.for_ascii for name, wording in wordings.items()}

    def of(self, text: str) -> Mapping[str, re.Pattern[str]]:
        """The expressions as they are to be looked for in a text."""
        return self._for_ascii if text.isascii() else self._for_any
