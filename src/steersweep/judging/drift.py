"""Is a response in the language of its prompt, and in one language throughout?"""

from __future__ import annotations

import re
from collections import Counter
from functools import lru_cache
from typing import Literal

from steersweep.judging.wording import Wording

Drift = Literal["whole", "mixed"]

_LOOKED_AT = 1200  # characters
# Words that hardly another language of these has.
_FUNCTION_WORDS = {
    "English": (
        "the and of is are was with for that this you your what how why who when which "
        "do does can could would should have has it my tell give write describe explain "
        "from about but not they there i'm i"
    ),
    "German": (
        "der das und ist nicht ein eine ich sie mit für auf den dem wie warum wer kann "
        "von zu im auch werden wird sind einen einer aber oder mir bitte über wenn dass"
    ),
    "French": (
        "le les des et est une je vous pour dans pas que qui au ce cette sur avec "
        "comment pourquoi mais ou du ne moi être sont leur"
    ),
    "Spanish": (
        "el los las es una por con para del pero cómo qué lo está son como más puede no "
        "se su yo un escribe cuál"
    ),
    "Italian": (
        "il gli della che è un per non sono con di come perché del le una anche più "
        "questo nel alla mi scrivi"
    ),
    "Portuguese": (
        "o os as e é um uma para não com do da em que como mais por dos são você eu se ao escreva"
    ),
    "Dutch": (
        "het een van ik je niet dat met voor op zijn is maar hoe wat waarom kan aan ook "
        "naar wordt deze bij om mijn"
    ),
    "Swedish": ("och att det är som på inte jag en för med av till den kan hur vad om har"),
    "Polish": ("nie się jest na że jak dla czy są przez jako oraz"),
    "Turkish": ("bir ve bu için ile nasıl çok olarak gibi daha değil"),
    "Indonesian": (
        "yang dan di untuk dengan ini dari pada adalah tidak saya bagaimana apa dapat atau"
    ),
    "Vietnamese": ("là và của một các cho không được có trong những tôi bạn với để"),
}
_ENGLISH = frozenset(
    "the and of is are was with for that this you your to it i'm cannot can't".split()
)
# What prompts in English begin with.
_ENGLISH_FIRST = frozenset(
    "describe write tell give list explain name what how why who where".split()
)
_LANGUAGES_OF: dict[str, tuple[str, ...]] = {}
for _name, _words in _FUNCTION_WORDS.items():
    for _word in _words.split():
        _LANGUAGES_OF[_word] = (*_LANGUAGES_OF.get(_word, ()), _name)

_SCRIPTS = {
    "Japanese": "\u3040-\u30ff",
    "Chinese": "\u3400-\u9fff\uf900-\ufaff",
    "Korean": "\uac00-\ud7af\u1100-\u11ff",
    "Cyrillic": "\u0400-\u052f",
    "Arabic": "\u0600-\u06ff",
    "Hebrew": "\u0590-\u05ff",
    "Devanagari": "\u0900-\u097f",
    "Greek": "\u0370-\u03ff",
    "Thai": "\u0e00-\u0e7f",
}
_SCRIPT = {name: re.compile(f"[{signs}]") for name, signs in _SCRIPTS.items()}
_FOREIGN = re.compile(f"[{''.join(_SCRIPTS.values())}]")
_LATIN = re.compile(r"[a-zA-Z\u00c0-\u024f\u1ea0-\u1ef9]")
_WORD = re.compile(r"[^\W\d_]+(?:'[a-z]+)?")
# What a text may quote from another language.
_ASIDE = re.compile(
    r"[(（\[][^)）\]\n]{0,80}[)）\]]|[\"“«「『][^\"”»」』\n]{0,80}[\"”»」』]|`[^`]*`", re.DOTALL
)
# A prompt that is about languages may be answered in any.
_ABOUT_LANGUAGE = Wording(
    r"\b(?:translat\w*|languages?|pronounc\w*|haiku|kanji|hello|greet\w*|words? for"
    r"|say\b.{0,40}\bin"
    r"|(?:in|to|into|from) (?:english|german|french|spanish|italian|portuguese|dutch|russian"
    r"|chinese|mandarin|japanese|korean|arabic|hindi|greek|hebrew|latin|turkish|polish|swedish|thai"
    r"|vietnamese)|(?:chinese|japanese|korean|russian|arabic|hindi|greek|hebrew|thai) \w+"
    r"|übersetz\w*|auf (?:englisch|deutsch|französisch|spanisch)|tradu\w+"
    r"|en (?:inglés|anglais|español)|vertaal|in het (?:engels|duits))\b"
    r"|перевед|翻译|翻譯|翻訳|英語|英文|번역|영어|ترجم|अनुवाद",
    re.IGNORECASE,
)
_MIXED_FROM, _MIXED_TO, _MIXED_SIGNS = 0.08, 0.6, 6  # more of another script is that language
_SIGN_WEIGHT = 2  # a sign of Chinese or Japanese says about what two letters do


def drift(prompt: str, response: str) -> Drift | None:
    """Whether a response is in another language than its prompt, wholly or here and there.

    Quotations and asides in another script are no drift, and neither is anything where the prompt
    is about languages or empty.
    """
    asked = _asked(prompt[:_LOOKED_AT])
    if asked is None:
        return None
    if asked in _FUNCTION_WORDS and not _FOREIGN.search(prompt) and _is_mixed(response):
        return "mixed"
    if asked == "English" and _plainly_english(response):
        return None
    said = language_of(response)
    return "whole" if said is not None and said != asked else None


@lru_cache(1024)
def _asked(prompt: str) -> str | None:
    """The language that an answer should be in, or None where any may do."""
    return None if _ABOUT_LANGUAGE.of(prompt).search(prompt) else language_of(prompt)


def _plainly_english(response: str) -> bool:
    """Three words that English has, and hardly another language, at the beginning."""
    return len(_ENGLISH.intersection(response[:240].lower().split())) >= 3


def _is_mixed(response: str) -> bool:
    """Latin script with stretches of another, outside of quotations."""
    text = response[:_LOOKED_AT]
    if text.isascii() or not _FOREIGN.search(text):
        return False
    text = _ASIDE.sub(" ", text)
    foreign = len(_FOREIGN.findall(text)) * _SIGN_WEIGHT
    latin = len(_LATIN.findall(text))
    if foreign < _MIXED_SIGNS * _SIGN_WEIGHT or latin < 20:
        return False
    return _MIXED_FROM <= foreign / (foreign + latin) < _MIXED_TO


@lru_cache(256)
def language_of(text: str) -> str | None:
    """Name of a text's language or script, or None where a few words do not show it."""
    text = text[:_LOOKED_AT]
    if not text.isascii() and _FOREIGN.search(text):
        latin = len(_LATIN.findall(text))
        counts = {name: len(pattern.findall(text)) for name, pattern in _SCRIPT.items()}
        if sum(counts.values()) * _SIGN_WEIGHT > 2 * latin:
            if counts["Japanese"] > 0.1 * counts["Chinese"]:
                return "Japanese"
            return max(counts, key=lambda name: counts[name])
    words = [word.lower() for word in _WORD.findall(text)]
    different = set(words)  # a loop says one word without end
    hits = Counter(name for word in different for name in _LANGUAGES_OF.get(word, ()))
    (best, most), (_, second) = [*hits.most_common(2), ("", 0), ("", 0)][:2]
    if most >= max(2, 0.12 * len(different)) and second <= 0.6 * most:
        return best
    if words and words[0] in _ENGLISH_FIRST and text.isascii():
        return "English"
    return None
