"""Is a text broken, and how? Repetition measures that spare poems, lists, code and short answers."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

_LOOKED_AT = 6000  # characters
_WORD = re.compile(r"\w+(?:['’-]\w+)*|[^\w\s]", re.UNICODE)


@dataclass(frozen=True)
class Fluency:
    """Likelihood of a response under the unsteered model.

    Attributes:
        nll: mean negative log-likelihood in nats per token.
        threshold: NLL from which this model's text counts as broken.
    """

    nll: float
    threshold: float

    @property
    def broken(self) -> bool:
        """Whether the model itself would not say this."""
        return self.nll > self.threshold


def failure_mode(response: str) -> str | None:
    """How a text is broken: `empty`, `punctuation`, `loop`, `soup`; None if it is fluent."""
    text = response[:_LOOKED_AT].strip()
    if not text:
        return "empty"
    tokens = _WORD.findall(text)
    words = [token.lower() for token in tokens if token[0].isalnum()]
    if not words or (len(tokens) > 12 and len(words) < 0.2 * len(tokens)):
        return "punctuation" if len(text) > 3 else None
    if has_loop(text):
        return "loop"
    if _is_soup(text, words):
        return "soup"
    return None


def has_loop(text: str) -> bool:
    """Whether the text ends up repeating itself, word for word, or character for character."""
    words = [token.lower() for token in _WORD.findall(text[:_LOOKED_AT])]
    if re.search(r"(\S{1,12}?)\1{7,}", text[-400:]) and not re.search(r"[-=_.*#|]{8,}", text[-400:]):
        return True
    return _tail_repeats(words) or _low_variety(words)


def _tail_repeats(words: Sequence[str]) -> bool:
    """Whether the text ends in a unit of up to 24 words said at least three times (short: six)."""
    for size in range(1, 25):
        needed = 6 if size == 1 else 4 if size <= 3 else 3
        if len(words) < size * needed:
            break
        unit = list(words[-size:])
        times = 1
        while list(words[-size * (times + 1) : -size * times]) == unit:
            times += 1
        # A cut-off copy may stand at the end: look for the unit ending a little earlier too.
        if times >= needed and times * size >= 8:
            return True
    for cut in range(1, 13):
        rest = words[:-cut]
        for size in range(max(2, cut), 13):
            needed = 4 if size <= 3 else 3
            if len(rest) < size * needed:
                break
            unit = list(rest[-size:])
            if all(
                list(rest[len(rest) - size * (k + 1) : len(rest) - size * k]) == unit
                for k in range(needed)
            ):
                return True
    return False


def _low_variety(words: Sequence[str]) -> bool:
    """Whether a long text uses hardly any different words."""
    if len(words) < 30:
        return False
    trigrams = Counter(zip(words, words[1:], words[2:], strict=False))
    repeated = sum(count - 1 for count in trigrams.values()) / max(1, len(words) - 2)
    return repeated > 0.6 or len(set(words)) / len(words) < 0.12


def _is_soup(text: str, words: Sequence[str]) -> bool:
    """Whether words follow each other as no language does; only clear cases without likelihood."""
    if len(words) < 8:
        return False
    stutters = sum(a == b for a, b in zip(words, words[1:], strict=False)) / (len(words) - 1)
    odd = sum(bool(re.search(r"[a-z][A-Z]|[^\W\d_]\d|\ufffd", token)) for token in text.split())
    return stutters > 0.2 or odd > 0.3 * len(text.split())


def has_complete_sentence(text: str) -> bool:
    """Whether the text holds one whole sentence of at least four words."""
    return any(
        len(_WORD.findall(sentence)) >= 4 for sentence in re.findall(r"[^.!?。！？\n]+[.!?。！？]", text)
    )
