"""Is a text broken, and how? Measures that spare poems, lists, tables, code and short answers.

Text alone shows loops, stammers, scrambled or shuffled words and mixed scripts. Soup in good order
shows only in its likelihood under the unsteered model, which is the `Fluency` evidence.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise

from steersweep.judging.english import English, shipped_english
from steersweep.judging.loops import is_loop
from steersweep.judging.prose import is_soup, prose_of
from steersweep.judging.stammer import stammers
from steersweep.judging.text import Text, taken_apart
from steersweep.judging.worn import Wear, shipped_wear

_BLANKS = 24  # at the end: stuck on spaces or empty lines


# Tokens of a response whose likelihood is asked for, from its beginning. Where more were asked on
# real answers, no verdict got better: broken text is unlikely early, and what falls apart later
# does so in ways that its words show.
LIKELIHOOD_TOKENS = 32


@dataclass(frozen=True)
class Fluency:
    """Likelihood of a response under the unsteered model.

    Attributes:
        nll: negative log-likelihood of its worst stretch, in nats per token.
        mean: of all tokens that were looked at, in nats per token.
        threshold: NLL of a worst stretch from which this model's text counts as broken.
        n_tokens: tokens that were looked at, most often the first `LIKELIHOOD_TOKENS`.
    """

    nll: float
    mean: float
    threshold: float
    n_tokens: int

    @property
    def broken(self) -> bool:
        """Whether the model itself would not say this.

        The worst stretch alone misleads: a rare name or a strange joke costs as much. Broken text
        is unlikely on the whole too. In a short answer one unexpected word is much of the whole,
        so more is needed.
        """
        if self.nll <= self.threshold or not self.n_tokens:
            return False
        needed = _UNLIKELY + _UNLIKELY_SHORT / self.n_tokens
        return (self.nll + self.mean) / 2 > needed * self.threshold


_UNLIKELY, _UNLIKELY_SHORT = 1.05, 4.0  # times the threshold; more for each token that is missing


@dataclass(frozen=True)
class Breakdown:
    """How a text is broken.

    Attributes:
        mode: `empty`, `punctuation`, `loop`, `soup` or `language-drift`.
        clear: whether a reader would surely say so; otherwise it is near a threshold.
    """

    mode: str
    clear: bool = True


def breakdown(
    response: str, english: English | None = None, wear: Wear | None = None
) -> Breakdown | None:
    """How a text is broken, or None if it is fluent as far as the text alone can show.

    Args:
        response: the text.
        english: what is known of English; the package's own by default.
        wear: how worn prose is told; the package's own by default.
    """
    text = taken_apart(response)
    if not text.shown:
        return Breakdown("empty")
    if _is_punctuation(text):
        return Breakdown("punctuation")
    if text.blanks >= _BLANKS or is_loop(text) or stammers(text):
        return Breakdown("loop")
    return _soup(text, english or shipped_english(), wear or shipped_wear())


# -- no words --------------------------------------------------------------------------------------


def _is_punctuation(looked_at: Text) -> bool:
    """Hardly a word: symbols or numbers in no order. Tables, sums and emoji are spared."""
    text, tokens, words = looked_at.shown, looked_at.tokens, looked_at.words
    if sum(map(len, words)) >= 0.3 * len(text):
        return False
    letters = sum(map(str.isalpha, text))
    if words and letters >= 0.3 * (len(text) - text.count(" ") - text.count("\n")):
        return False
    symbols = [c for c in text if not c.isspace()]
    kinds = set(symbols)
    if not any(c.isalnum() for c in kinds):
        if any(unicodedata.category(c) == "So" and c != "\ufffd" for c in kinds):
            return len(symbols) >= 20 and len(kinds) <= 2
        short = len(symbols) < 3 or len(kinds) < 4
        return short or (len(symbols) > 60 and not _in_brackets(symbols))
    tail = text[-80:]
    if len(tail) == 80 and not any(c.isalnum() for c in tail) and len(set(tail)) <= 4:
        return looked_at.line_length > 60  # not the rule under a table
    # Few different tokens again and again on long lines: numbers or markup without any order.
    long_lines = looked_at.line_length > 100
    return long_lines and len(tokens) >= 30 and len(set(tokens)) < 0.35 * len(tokens)


def _in_brackets(symbols: Sequence[str]) -> bool:
    """Whether brackets open and close as in code."""
    return all(
        symbols.count(a) == symbols.count(b) > 0 for a, b in ("[]", "()", "{}") if a in symbols
    ) and any(a in symbols for a in "[({")


# -- soup ------------------------------------------------------------------------------------------

# Enough of these words, and the text means to be in a language this module cannot judge.
_COMMON_ELSEWHERE = frozenset(
    "de la el los las que en y un una es por con para del se no su al lo "
    "le les des et est une du dans pour qui sur pas au ce il je vous "
    "der die das und ist ein eine nicht zu den mit von auf für ich sie dem im es "
    "di che e non per con sono il della nel o do da em um uma não os com "
    "het een van en dat niet voor op zijn met te w na się jest nie do to że z i "
    "och att det som på är inte med för ett og av til ikke er på "
    "ja on ei se että ve bir bu için ile da ne và của là các một cho không được "
    "yang dan di untuk dengan ini dari pada wa ya na kwa ni katika ka ke o te i he "
    "az és hogy nem egy si nu ca cu pe este în".split()
)
_SPELT_FROM = 15  # words
_NO_ENGLISH = 0.12  # share of common words


def _soup(text: Text, english: English, wear: Wear) -> Breakdown | None:
    """Words that are none, or that follow each other as in no text."""
    words = text.words
    scripts = [] if text.is_ascii else [s for word in words if (s := _script(word))]
    kinds = set(scripts)
    if len(kinds) >= 4 or (len(kinds) == 3 and _switches(scripts) > 0.3):
        return Breakdown("soup")
    if len(kinds) >= 2 and _switches(scripts) > 0.3 and len(scripts) >= 12:
        return Breakdown("language-drift")
    if len(words) >= _SPELT_FROM and text.is_ascii and _is_spelt_out(words):
        return Breakdown("soup")
    prose = prose_of(text, english)
    if prose is None:
        return None
    if prose.common < _NO_ENGLISH:
        return _scrambled(words, prose.words, english)
    clear = is_soup(prose, wear)
    return None if clear is None else Breakdown("soup", clear)


def _is_spelt_out(words: Sequence[str]) -> bool:
    """Single letters, few of them different."""
    return sum(map(len, words)) < 1.3 * len(words) and len(set(words)) < 0.6 * len(words)


def _scrambled(words: Sequence[str], latin: Sequence[str], english: English) -> Breakdown | None:
    """Words of no language that is known here, with letters in an odd order."""
    unknown = english.unknown(latin)
    elsewhere = sum(word in _COMMON_ELSEWHERE for word in words) / len(words)
    odd = sum(_odd_spelling(word) for word in unknown) / len(latin)
    if len(unknown) > 0.5 * len(latin) and elsewhere < 0.2 and odd > 0.12:
        return Breakdown("soup", clear=odd > 0.25)
    return None


def _switches(scripts: Sequence[str]) -> float:
    """Share of neighbouring words in different scripts."""
    return sum(a != b for a, b in pairwise(scripts)) / max(1, len(scripts) - 1)


@lru_cache(50_000)
def _script(word: str) -> str:
    """Writing system of a word, by the name of its first letter: LATIN, CYRILLIC, HANGUL, ..."""
    name = unicodedata.name(word[0], "").split(" ")[0]
    # Japanese mixes three scripts, and Chinese shares one with it.
    return "CJK" if name in ("CJK", "HIRAGANA", "KATAKANA") else name


def _odd_spelling(word: str) -> bool:
    """Letters in an order that hardly any language has: no vowel, or four consonants in a row."""
    if len(word) < 3:
        return False
    return not re.search(r"[aeiouy]", word) or bool(
        re.search(r"[^aeiouyhs\W]{4}|^[^aeiouy]{4}", word)
    )
