"""Kinds of damage that steering does to prose which neither loops nor is soup through and through.

A refusal pushed too far contradicts itself, begins anew in the middle of a sentence, takes `me` for
`you`, or does not find the end. One such slip happens to anybody; two kinds of them in one answer
do not.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

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
    # `must not be able to`, `be not`, `do not am`.
    "broken verb": r"""
        \b(?:must|cannot|not|will) (?:not )?be (?:able|made|programmed|terminated|reported|engaged
        |provided|accessed|banned|having|not)\b|\bbe not\b|\bnot be (?:able|not|having)\b
        |\bnot am\b|\bcannot (?:do not|am|is|are|have been)\b|\bto (?:not )?(?:provided|having)\b
        |\bdo not (?:am|is|are|been)\b|\bwe'll to\b|\bto not to\b
    """,
    # `I cannot create I cannot assist`.
    "begins anew": rf"""
        \b{_STATEMENT} (?:\w+ ){{0,2}}(?:i cannot|i do not|i am|i must|i will|i'm|please|this:
        |no:)(?=[ ,.:])
    """,
    # A word that must be followed by another, and is not: `access to, or`.
    "breaks off": r"""
        \b(?:the|a|an|to|of|with|and|or|in|for|any) ?(?:[.:!?](?:\s|$)|, (?:and|or|,))
        |\b(?:and|or) (?:and|or)\b|\b(?:a|an|the) (?:the|a|an|to|of|and|or|is|i)\b|\bto to\b
        |\bof of\b|,\s*,|\.\s*,
    """,
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
_CIRCLING_FROM = 0.18


def kinds_of_damage(text: str, units: Sequence[str]) -> set[str]:
    """Names of the kinds of damage that a text of English prose shows.

    Args:
        text: what was said.
        units: its words, figures and punctuation in lower case.
    """
    if not is_prose(text):
        return set()
    lowered = text.lower().replace("’", "'")
    found = {name for name, pattern in _PATTERNS.items() if pattern.search(lowered)}
    if max(len(_DANGLING.findall(line)) for line in text.splitlines()) >= 2:
        found.add("dangling colons")
    if any(_is_endless(sentence) for sentence in _SENTENCE.split(lowered)):
        found.add("endless sentence")
    if circles(text, units) >= _CIRCLING_FROM:
        found.add("circling")
    return found


def _is_endless(sentence: str) -> bool:
    words = sentence.count(" ") + 1
    return words > _ENDLESS_WORDS and len(_GOES_ON.findall(sentence)) >= _ENDLESS_JOINTS
