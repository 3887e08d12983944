"""Does a text stammer: letters or syllables again and again, with dots or dashes between?

`R... R... R... refuse`, `c-c-c-cannot`, `К... К... К... не могу`. One such slip in a sentence is
how people write halting speech, and `ha-ha-ha` is a word. Broken is a text that is mostly this.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import groupby, pairwise

from steersweep.judging.text import Text

# Vowel signs, tones and accents belong to their letter.
_MARKS = (
    "\u0300-\u036f\u064b-\u065f\u0900-\u0dff\u0e31\u0e34-\u0e3a\u0e47-\u0e4e\u0eb1\u0eb4-\u0ecd"
)
_WORD = re.compile(rf"(?:[^\W\d_]|[{_MARKS}])+(?:['’][^\W\d_]+)*")
_DOTS, _DASHES = ".…‥⋯·。、", "-‐‑–—―~〜*•_/|"
_ANY = re.escape(_DOTS + _DASHES)
_PARTED = re.compile(rf"[{_ANY}][{_ANY}\s]*")
_GAP = re.compile(rf"\s*[{re.escape(_DOTS)}\s]+|\s*[{re.escape(_DASHES)}]+[^\S\n]*|[,\s]+")
_HALTING = re.compile(r"\.\s?\.|[…‥⋯]|[–—―]|\s[-~]+\s|。。")
_LONGEST = 6  # letters of what is said again; a longer word is no syllable
_WHOLE_WORD = 4  # letters from which it may be a word of its own
_WORDS_OF_ONE = frozenset("aioyeuàéèóúäюяиавоуксw")  # in many languages, single letters are words
_FEWEST, _FEWEST_SLIPS = 2, 4
_SHARE, _SHARE_OF_WORDS = 0.4, 0.5
_SHARE_HALTING = 1 / 3  # of a text with pauses


@dataclass(frozen=True)
class _Run:
    """A fragment said again and again.

    Attributes:
        times: how often, before the word that it becomes, if it becomes one.
        completed: whether it does.
        kind: of the gaps within it: `halting`, `dash`, `dot` or `plain`.
        fragment: what is said, in lower case.
    """

    times: int
    completed: bool
    kind: str
    fragment: str

    @property
    def again(self) -> int:
        """How many of its words are there only because of the stammer."""
        return self.times if self.completed else self.times - 1

    @property
    def counts(self) -> bool:
        """Whether it may be a stammer at all."""
        if self.kind == "plain":
            is_letter = len(self.fragment) == 1 and self.fragment not in _WORDS_OF_ONE
            return is_letter and self.completed and self.times >= 3
        if self.kind == "dot":  # `R. R. R. refuse`, and neither initials nor `A. Apple`
            return self.times >= 2 and (self.completed or len(self.fragment) == 1)
        return True

    @property
    def is_strong(self) -> bool:
        """Whether it is more than a slip."""
        if self.completed:
            return self.times >= 2
        return self.times >= (3 if self.kind == "halting" else 4)


def stammers(text: Text) -> bool:
    """Whether a text is mostly fragments said again, or letters with pauses between."""
    pauses = any(pause in text.lowered for pause in ("..", "…", ". ."))
    if pauses and _LETTERS_APART.search(text.lowered):
        return True
    if not _may_stammer(text):
        return False
    words = [*_WORD.finditer(text.lowered)]
    runs = [run for run in _runs(text.lowered, words) if run.counts]
    again = sum(run.again for run in runs)
    halting = any(run.is_strong and run.kind == "halting" for run in runs)
    if again < max(_FEWEST, (_SHARE_HALTING if halting else _SHARE) * len(words)):
        return False
    if any(run.is_strong and (run.completed or len(run.fragment) < _WHOLE_WORD) for run in runs):
        return True
    if any(run.is_strong for run in runs):
        return again >= _SHARE_OF_WORDS * len(words)
    slips = [run for run in runs if run.completed or run.kind == "halting"]
    return sum(run.again for run in slips) >= _FEWEST_SLIPS and not _is_alphabet(slips)


# `R... e... f... u... s... e...`, and neither `A... B... C...` nor signs that are words.
_LETTER = "[^\\W\\d_\\u0e00-\\u0eff\\u3040-\\u30ff\\u3400-\\u9fff\\uac00-\\ud7af]"
_LETTERS_APART = re.compile(rf"(?<!\w)(?!a\W+b\W+c\b)(?:{_LETTER}\s?(?:\.\s?\.[.\s]*|…\s?)){{5,}}")


def _may_stammer(text: Text) -> bool:
    """Whether words around a sign begin alike at least twice; quick, and so of few texts."""
    # Most texts say no word twice running, and need not be searched for letters.
    may_say_again = text.says_word_twice or not text.is_ascii
    if may_say_again and _LETTERS_AGAIN.search(text.lowered):
        return True
    parts = _PARTED.split(text.lowered)
    found = 0
    for before, after in pairwise(parts):
        last = before.rsplit(None, 1)[-1:]
        found += bool(last) and last[0][0] == after[:1]
    return found >= _FEWEST


_LETTERS_AGAIN = re.compile(r"(?<!\w)([^\W\d_])(?:,?\s+\1){2,},?\s+\1[^\W\d_]")


def _runs(lowered: str, words: list[re.Match[str]]) -> Iterator[_Run]:
    """Every fragment that is said again at once, or becomes a word at once."""
    i = 0
    while i < len(words) - 1:
        fragment = words[i].group()
        kinds: list[str] = []
        completed = False
        while i + len(kinds) + 1 < len(words) and not completed:
            this, other = words[i + len(kinds)], words[i + len(kinds) + 1]
            if not _again(fragment, other.group()):
                break
            kind = _kind(lowered[this.end() : other.start()])
            if kind is None:
                break
            if kinds and (kind == "plain") != (kinds[0] == "plain"):
                break
            completed = other.group() != fragment
            kinds.append(kind)
        if kinds:
            worst = next(name for name in ("plain", "dot", "dash", "halting") if name in kinds)
            yield _Run(len(kinds) + (not completed), completed, worst, fragment)
        i += max(1, len(kinds))


def _again(fragment: str, word: str) -> bool:
    """Whether a word is a fragment again, the word that it begins, or what is left of it."""
    shorter = min(fragment, word, key=len)
    return len(shorter) <= _LONGEST and fragment[: len(shorter)] == word[: len(shorter)]


def _kind(gap: str) -> str | None:
    """What stands between two words: see `_Run.kind`; None: something else."""
    if not _GAP.fullmatch(gap):
        return None
    if gap.isspace() or not gap.strip(", \n\t"):
        return "plain"
    if _HALTING.search(gap):
        return "halting"
    return "dot" if gap.strip()[0] in _DOTS else "dash"


def _is_alphabet(slips: list[_Run]) -> bool:
    """`A-apple B-banana C-cherry`: letters in their order, each once."""
    letters = [run.fragment for run in slips]
    return all(len([*same]) == 1 for _, same in groupby(letters)) and letters == sorted(letters)
