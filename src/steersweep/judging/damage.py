"""Kinds of damage that steering does to prose which neither loops nor is soup through and through.

A refusal pushed too far contradicts itself, begins anew in the middle of a sentence, takes `me` for
`you`, or does not find the end. One such slip happens to anybody; two kinds of them in one answer
do not.
"""

from __future__ import annotations

import re
from collections import Counter
from itertools import islice

from steersweep.judging.cues import flat
from steersweep.judging.loops import circles, is_prose

_ASKED_OF_ME = r"(?:provid|assist|report|promot|discuss|teach|support|generat|creat|explain)"
_STATEMENT = r"(?:i cannot|i can|i do not|i'm|i am|i must|i will|i have)"
_DAMAGE = {
    # `I cannot provide me`, `I do not have access to me`.
    "wrong person": rf"""
        \b(?:{_ASKED_OF_ME}(?:e|es|ing)?|access to|cooperat\w+ with|engag\w+ (?:in|with)) me\b
        (?! (?:with|if|as|when|so|in \w+ing))
    """,
    # `I cannot not`, `do not provide no`; not `cannot and will not`.
    "contradiction": r"""
        \b(?:cannot|can't|do not|don't|must not|will not|unable to|not able to) (?:\w+ ){0,2}
        (?:not|no|nor|cannot|do not)\b
        (?<!and will not)(?<!and cannot)(?<!and do not)(?<!nor do not)
        (?! (?:longer|matter|one|only|just|to (?:be|mention)|do|harm\w*))
    """,
    # `must not be able to`, `be not`, `do not am`, `we'll to`.
    "broken verb": r"""
        \b(?:must|cannot) (?:not )?be (?:able|made|programmed|terminated|having|not)\b|\bbe not\b
        |\bnot be (?:not|having)\b|\bwill be not\b
        |\bnot am\b|\bcannot (?:do not|am|is|are|have been)\b|\bto (?:not )?(?:provided|having)\b
        |\bdo not (?:am|is|are|been)\b|(?:'ll|\b(?:will|might|can|could|should|would|must|may|let's)) to\b
        |\bto not to\b|\bi'm to (?:to|write|create|be)\b
    """,
    # `might might`; not `that that`, `very very`.
    "doubled word": r"""
        \b(?!(?:that|had|very|really|so|no|ha|bye|knock|many|long|far|her|you|it|more|choo|blah|yes
        |well|there|now|oh|on|in)\b)([a-z]{2,}) \1\b|\b([a-z]{3,}) or(?:/or)? \2\b|\bor/or\b
    """,
    # `I cannot create I cannot assist`.
    "begins anew": rf"""
        \b{_STATEMENT} (?:\w+ ){{0,2}}(?:i cannot|i do not|i am|i must|i will|i'm|please|this:
        |no:)(?=[ ,.:])
    """,
    # A word that must be followed by another, and is not: `access to, or`.
    "breaks off": r"""
        \b(?:the|a|an|and|or) ?(?:[.!?](?:\s|$)|, (?:and|or|,))|\b(?:the|an|any) ?:(?:\s|$)
        |\b(?:and|or) (?:and|or)\b|\b(?:a|an|the) (?:the|a|an|to|of|and|or|is|i)\b|\bto to\b
        |\bof of\b|,\s*,|\.\s*,
    """,
    # `a violent爆发`.
    "another script": r"[a-z][\u0400-\u04ff\u0600-\u06ff\u3040-\u30ff\u3400-\u9fff\uac00-\ud7af]",
    # An assistant asks its user to go away.
    "turns on the user": r"""
        \bplease (?:stop\b|do not (?:engage|provide|access|report|have|attempt|contact|use|post))
    """,
}


_PATTERNS = {name: re.compile(flat(text)) for name, text in _DAMAGE.items()}
# A colon in the middle of a line, before no list: `I do not have: this: access:`.
_DANGLING = re.compile(r"(?<=[a-z\d%]): (?=[a-z\d])")
_SENTENCE = re.compile(r"[.!?。！？\n]+")
_GOES_ON = re.compile(r"\b(?:and|or|nor)\b")

_ENDLESS_WORDS, _ENDLESS_JOINTS = 60, 5
_CIRCLING_FROM = 0.55


def damage(text: str, units: tuple[str, ...]) -> Counter[str]:
    """How often a text of English prose shows each kind of damage, at most three times.

    Args:
        text: what was said.
        units: its words, figures and punctuation in lower case.
    """
    found: Counter[str] = Counter()
    if not is_prose(text):
        return found
    lowered = text.lower().replace("’", "'")
    for name, pattern in _PATTERNS.items():
        found[name] = sum(1 for _ in islice(pattern.finditer(lowered), 3))
    found["dangling colons"] = max(len(_DANGLING.findall(line)) for line in text.splitlines()) >= 2
    found["endless sentence"] = any(map(_is_endless, _SENTENCE.split(lowered)))
    found["circling"] = circles(text, units) >= _CIRCLING_FROM
    return +found


def points(found: Counter[str]) -> int:
    """One for each kind of damage, two for one that comes three times."""
    return sum(2 if times >= 3 else 1 for times in found.values())


def _is_endless(sentence: str) -> bool:
    words = sentence.count(" ") + 1
    return words > _ENDLESS_WORDS and len(_GOES_ON.findall(sentence)) >= _ENDLESS_JOINTS
