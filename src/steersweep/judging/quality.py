"""Is a text broken, and how? Measures that spare poems, lists, tables, code and short answers.

Text alone shows loops, scrambled or shuffled words and mixed scripts. Soup in good order shows only
in its likelihood under the unsteered model, which is the `Fluency` evidence.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise

from steersweep.judging.english import English, shipped_english

_LOOKED_AT = 3000  # characters; of longer texts the beginning and the end
# Words of 500 characters and more are no words, and would make searches slow.
_TOKEN = re.compile(r"[^\W_]{1,500}(?:['’-][^\W_]{1,50})*|[^\w\s]|_+")
_MARKUP = re.compile(r"</?[a-z|_]{1,20}>|\[(?:/?inst|eos|pad|unk)\]", re.IGNORECASE)
_SENTENCE_END = frozenset(".!?。！？")


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
        mode: `empty`, `punctuation`, `loop`, `soup` or `language-drift`.
        repeats_sentence: for a loop, whether what is repeated is made of complete sentences.
        clear: whether a reader would surely say so; otherwise it is near a threshold.
    """

    mode: str
    repeats_sentence: bool = False
    clear: bool = True


def breakdown(response: str, english: English | None = None) -> Breakdown | None:
    """How a text is broken, or None if it is fluent as far as the text alone can show.

    Args:
        response: the text.
        english: what is known of English; the package's own by default.
    """
    if len(response) > _LOOKED_AT:
        response = response[: _LOOKED_AT // 2] + "\n" + response[-_LOOKED_AT // 2 :]
    text = _MARKUP.sub(" ", response).strip()
    if not text:
        return Breakdown("empty")
    tokens = tokens_of(text)
    words = [token for token in tokens if token[0].isalpha()]
    if _is_punctuation(text, tokens, words):
        return Breakdown("punctuation")
    return _loop(text, tokens, words) or _soup(text, tokens, words, english or shipped_english())


def tokens_of(text: str) -> list[str]:
    """Words, figures and punctuation of the beginning of a text, in lower case."""
    return [token.lower().replace("’", "'") for token in _TOKEN.findall(text[:_LOOKED_AT])]


# -- no words --------------------------------------------------------------------------------------


def _is_punctuation(text: str, tokens: Sequence[str], words: Sequence[str]) -> bool:
    """Hardly a word: symbols or numbers in no order. Tables, sums and emoji are spared."""
    letters = sum(map(str.isalpha, text))
    if words and letters >= 0.3 * (len(text) - text.count(" ") - text.count("\n")):
        return False
    symbols = [c for c in text if not c.isspace()]
    kinds = set(symbols)
    if not any(c.isalnum() for c in kinds):
        if any(unicodedata.category(c) == "So" and c != "\ufffd" for c in kinds):
            return len(symbols) >= 20 and len(kinds) <= 2
        return len(symbols) < 3 or len(kinds) < 4 or (letters == 0 and len(symbols) > 60)
    tail = text[-80:]
    if len(tail) == 80 and not any(c.isalnum() for c in tail) and len(set(tail)) <= 4:
        return _line_length(text) > 60  # not the rule under a table
    # Few different tokens again and again on long lines: numbers or markup without any order.
    long_lines = _line_length(text) > 100
    return long_lines and len(tokens) >= 30 and len(set(tokens)) < 0.35 * len(tokens)


def _line_length(text: str) -> float:
    lines = [line for line in text.splitlines() if line.strip()]
    return sum(map(len, lines)) / len(lines)


# -- loops -----------------------------------------------------------------------------------------


def _loop(text: str, tokens: Sequence[str], words: Sequence[str]) -> Breakdown | None:
    # The last word may be cut off, which would hide a loop.
    found = _repeated_unit(tokens) or _repeated_unit(tokens[:-1])
    if found is not None:
        unit, start = found
        sentence = sum(t[0].isalnum() for t in unit) >= 4 and bool(_SENTENCE_END & set(unit))
        # What stands before the loop must be whole too.
        whole = start < 3 or not _SENTENCE_END.isdisjoint(tokens[max(0, start - 3) : start + 1])
        whole = whole and not _stuck_on_phrase(tokens[:start])
        return Breakdown("loop", repeats_sentence=sentence and whole)
    if _stuck_on_characters(text) or _stutters(words) or _stuck_on_phrase(tokens):
        return Breakdown("loop")
    share = _circles(text, tokens, words)
    if share < _CIRCLES_BELOW:
        return Breakdown("loop", _says_sentences_again(text), clear=share < _CIRCLES_BELOW - 0.1)
    return None


def _repeated_unit(tokens: Sequence[str]) -> tuple[list[str], int] | None:
    """The unit of up to 40 tokens that the text ends in repeating and where that begins, or None.

    One token must come eight times, two or three tokens five times, longer units three times and
    over at least 16 tokens. The last copy may be cut off.
    """
    n = len(tokens)
    for size in range(1, min(41, n)):
        if tokens[n - 1 - size] != tokens[n - 1]:
            continue
        times = 8 if size == 1 else 5 if size <= 3 else 3
        needed = max(size * times, 16 if size > 3 else 0)
        if needed > n:
            continue
        # Positions from the end that equal the token one unit earlier.
        run = 0
        while run < n - size and tokens[n - 1 - run] == tokens[n - 1 - run - size]:
            run += 1
        unit = list(tokens[n - size :])
        if run + size >= needed and any(token.isalpha() or token.isdigit() for token in unit):
            if not any(token.isalpha() for token in unit) and run + size < 24:
                continue  # a row of figures, such as zeros in a matrix
            return unit, n - run - size
    return None


def _stuck_on_phrase(tokens: Sequence[str]) -> bool:
    """Three words said four times running, or up to eight three times, without a stop."""
    phrases = list(zip(tokens, tokens[1:], tokens[2:], strict=False))
    if len(phrases) - len(set(phrases)) < max(6, 0.12 * len(phrases)):
        return False
    for size in range(3, 9):
        needed = size * (3 if size == 3 else 2)
        run = 0
        for a, b in zip(tokens, tokens[size:], strict=False):
            run = run + 1 if a == b and a.isalpha() else 0
            if run >= needed:
                return True
    return False


def _stuck_on_characters(text: str) -> bool:
    """Letters repeated without a space, such as `nononononono`, or one symbol without end."""
    tail = text[-300:]
    symbols = tail[-120:]
    if len(symbols) == 120 and len(set(symbols) - {" ", "\n", "\ufe0f"}) == 1:
        return True
    if max(map(len, tail.split()), default=0) < 24:
        return False
    runs = re.finditer(r"([^\W\d_]{1,16}?)\1{3,}", tail)
    return any(len(run.group()) >= 24 for run in runs)


def _stutters(words: Sequence[str]) -> bool:
    """Every word said twice or more."""
    stutters = sum(a == b for a, b in pairwise(words))
    return stutters >= 8 and stutters > 0.3 * len(words)


_WINDOW = 40  # tokens
_CIRCLES_BELOW = 0.65


def _circles(text: str, tokens: Sequence[str], words: Sequence[str]) -> float:
    """Least share of different three-token phrases in any stretch of prose; 1 for other text.

    Lists, code and verse repeat line by line and are left to the other measures.
    """
    if len(words) < 20 or not _is_prose(text):
        return 1.0
    least = 1.0
    phrases = list(zip(tokens, tokens[1:], tokens[2:], strict=False))
    size = min(_WINDOW, len(phrases))
    for start in {*range(0, len(phrases) - size + 1, 10), len(phrases) - size}:
        least = min(least, len(set(phrases[start : start + size])) / size)
    return least


def _is_prose(text: str) -> bool:
    return _line_length(text) >= 55 and "```" not in text and text.count("|") < 4


def _says_sentences_again(text: str) -> bool:
    """Whether nearly every sentence of the text, but for the last, is whole and some come again."""
    sentences = [s.strip().lower() for s in re.split(r"(?<=[.!?])\s+|\n+", text) if s.strip()]
    whole = [s for s in sentences[:-1] if s[-1] in ".!?,*" and len(s.split()) >= 3]
    again = len(whole) - len(set(whole))
    return len(whole) >= 0.9 * (len(sentences) - 1) and again >= 0.3 * len(whole)


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
_SHUFFLED_BELOW = -0.05
_UNKNOWN_FROM = 0.28
# A colon in the middle of a line, before no list: `I do not have: this: access:`.
_DANGLING = re.compile(r"(?<=[a-z\d%]): (?=[a-z\d])")


def _soup(
    text: str, tokens: Sequence[str], words: Sequence[str], english: English
) -> Breakdown | None:
    """Words that are none, or that follow each other as in no text."""
    scripts = [script for word in words if (script := _script(word))]
    kinds = set(scripts)
    if len(kinds) >= 4 or (len(kinds) == 3 and _switches(scripts) > 0.3):
        return Breakdown("soup")
    if len(kinds) >= 2 and _switches(scripts) > 0.3 and len(scripts) >= 12:
        return Breakdown("language-drift")
    latin = [word for word in words if word.isascii()]
    if len(latin) < 12 or len(latin) < 0.8 * len(words) or len(latin) < 0.55 * len(tokens):
        return None
    common = sum(word in english.common for word in latin) / len(latin)
    unknown = [word for word in latin if not english.knows(word)]
    if common < 0.12:
        return _scrambled(words, latin, unknown)
    return _disorder(text, tokens, len(unknown) / len(latin), english) if _is_prose(text) else None


def _scrambled(
    words: Sequence[str], latin: Sequence[str], unknown: Sequence[str]
) -> Breakdown | None:
    """Words of no language that is known here, with letters in an odd order."""
    elsewhere = sum(word in _COMMON_ELSEWHERE for word in words) / len(words)
    odd = sum(_odd_spelling(word) for word in unknown) / len(latin)
    if len(unknown) > 0.5 * len(latin) and elsewhere < 0.2 and odd > 0.12:
        return Breakdown("soup", clear=odd > 0.25)
    return None


def _disorder(
    text: str, tokens: Sequence[str], unknown: float, english: English
) -> Breakdown | None:
    """English words in no order, words that English has not, or clauses that break off."""
    order = english.order(tokens)
    if order is None:
        return None
    below = _SHUFFLED_BELOW - 3 / len(tokens)  # few words say less
    if order < below and len(tokens) >= 20:
        return Breakdown("soup", clear=order < below - 0.1)
    if unknown > _UNKNOWN_FROM and order < 0.15 and len(tokens) >= 18:
        return Breakdown("soup", clear=unknown > _UNKNOWN_FROM + 0.1)
    dangling = max(len(_DANGLING.findall(line)) for line in text.splitlines())
    return Breakdown("soup", clear=dangling >= 6) if dangling >= 3 else None


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
