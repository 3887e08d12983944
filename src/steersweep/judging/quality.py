"""Is a text broken, and how? Measures that spare poems, lists, tables, code and short answers.

Text alone can show loops, scattered function words and mixed scripts. Soup of well-ordered looking
words shows only in its likelihood under the unsteered model, which is the `Fluency` evidence.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

_LOOKED_AT = 6000  # characters
_TOKEN = re.compile(r"\w+(?:['’-]\w+)*|[^\w\s]")
_SENTENCE_END = frozenset(".!?。！？")

# Words that cannot stand right after a determiner, or after a preposition.
_DETERMINERS = frozenset({"the", "a", "an", "my", "your", "our", "their", "its"})
_PREPOSITIONS = frozenset({"of", "from", "into", "with"})
_VERBS = frozenset({"is", "are", "was", "were", "be", "has", "have", "had", "do", "does", "did"})
_MODALS = frozenset({"can", "will", "would", "could", "should", "not"})
_JOINING = frozenset({"and", "or", "but", "that", "which", "who", "if", "because"})
_STOPS = frozenset({".", ",", ";", ":", "!", "?"})
_AFTER_NO_DETERMINER = (
    _DETERMINERS | _PREPOSITIONS | _VERBS | _MODALS | _JOINING | _STOPS
    | {"to", "in", "for", "it", "as", "at", "by", "i", "you", "he", "she", "we", "they"}
)  # fmt: skip
_AFTER_NO_PREPOSITION = frozenset({"of", ".", ";", "!", "is", "are", "was", "were", "or", "but"})


@dataclass(frozen=True)
class Fluency:
    """Likelihood of a response under the unsteered model.

    Attributes:
        nll: negative log-likelihood of its worst stretch, in nats per token.
        threshold: NLL from which this model's text counts as broken.
    """

    nll: float
    threshold: float

    @property
    def broken(self) -> bool:
        """Whether the model itself would not say this."""
        return self.nll > self.threshold


@dataclass(frozen=True)
class Breakdown:
    """How a text is broken.

    Attributes:
        mode: `empty`, `punctuation`, `loop` or `soup`.
        repeats_sentence: for a loop, whether what is repeated is a complete sentence.
    """

    mode: str
    repeats_sentence: bool = False


def breakdown(response: str) -> Breakdown | None:
    """How a text is broken, or None if it is fluent as far as the text alone can show."""
    text = response[:_LOOKED_AT].strip()
    if not text:
        return Breakdown("empty")
    tokens = [token.lower() for token in _TOKEN.findall(text)]
    words = [token for token in tokens if token[0].isalnum()]
    if _is_punctuation(text, words):
        return Breakdown("punctuation")
    loop = _repeated_unit(tokens)
    if loop is not None:
        sentence = sum(t[0].isalnum() for t in loop) >= 4 and bool(_SENTENCE_END & set(loop))
        return Breakdown("loop", repeats_sentence=sentence)
    if _stuck_on_characters(text) or _circles(text, words):
        return Breakdown("loop")
    if _is_soup(text, tokens, words):
        return Breakdown("soup")
    return None


def _is_punctuation(text: str, words: Sequence[str]) -> bool:
    """No word at all (a picture of symbols or emoji excepted), or ending in a run of one symbol."""
    if words:
        tail = text[-80:]
        return len(tail) == 80 and not any(c.isalnum() for c in tail) and len(set(tail)) <= 4
    symbols = {c for c in text if not c.isspace()}
    if any(unicodedata.category(c) == "So" and c != "\ufffd" for c in symbols):
        return False
    return len(symbols) < 4 or len(text) < 3


def _repeated_unit(tokens: Sequence[str]) -> list[str] | None:
    """The unit of up to 30 tokens that the text ends in repeating, or None.

    One token must come eight times, two or three tokens five times, longer units three times and
    over at least 16 tokens. The last copy may be cut off.
    """
    n = len(tokens)
    for size in range(1, 31):
        times = 8 if size == 1 else 5 if size <= 3 else 3
        needed = max(size * times, 16 if size > 3 else 0)
        if needed > n:
            break
        # Positions from the end that equal the token one unit earlier.
        run = 0
        while run < n - size and tokens[n - 1 - run] == tokens[n - 1 - run - size]:
            run += 1
        unit = list(tokens[n - size :])
        if run + size >= needed and any(token.isalpha() for token in unit):
            return unit
    return None


def _stuck_on_characters(text: str) -> bool:
    """Letters repeated without a space, such as `nononononono`."""
    runs = re.finditer(r"([^\W\d_]{1,12}?)\1{5,}", text[-300:])
    return any(len(run.group()) >= 16 for run in runs)


def _circles(text: str, words: Sequence[str]) -> bool:
    """Whether prose keeps coming back to the same few phrases.

    Lists, code and verse repeat line by line and are left to the other measures.
    """
    if len(words) < 40 or not all(len(w) < 40 for w in words):
        return False
    lines = [line for line in text.splitlines() if line.strip()]
    if len(lines) > len(words) / 14:
        return False
    # Words of three-word phrases seen before.
    seen: set[tuple[str, ...]] = set()
    again = 0
    for phrase in zip(words, words[1:], words[2:], strict=False):
        again += phrase in seen
        seen.add(phrase)
    return again / (len(words) - 2) > 0.42


def _is_soup(text: str, tokens: Sequence[str], words: Sequence[str]) -> bool:
    """Words that follow each other as in no text: only clear cases without a likelihood."""
    if len(words) < 8:
        return False
    stutters = sum(a == b and a.isalpha() for a, b in pairwise(words))
    if stutters >= 4 and stutters > 0.25 * len(words):
        return True
    if len({_script(word) for word in words if len(word) > 0} - {""}) >= 4:
        return True
    clashes = sum(
        (a in _DETERMINERS and b in _AFTER_NO_DETERMINER)
        or (a in _PREPOSITIONS and b in _AFTER_NO_PREPOSITION)
        for a, b in pairwise(tokens)
    )
    return clashes >= 3 and clashes > 0.03 * len(words)


def _script(word: str) -> str:
    """Writing system of a word, by the name of its first letter: LATIN, CYRILLIC, HANGUL, ..."""
    if not word[0].isalpha():
        return ""
    name = unicodedata.name(word[0], "").split(" ")[0]
    # Japanese mixes three scripts, and Chinese shares one with it.
    return "CJK" if name in ("CJK", "HIRAGANA", "KATAKANA") else name
