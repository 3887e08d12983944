"""Kinds of damage that steering does to prose which neither loops nor is soup through and through.

A refusal pushed too far contradicts itself, begins anew in the middle of a sentence, takes `me` for
`you`, or does not find the end. One such slip happens to anybody; two kinds of them in one answer
do not.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from itertools import compress, islice, pairwise
from operator import eq

from steersweep.judging.text import Text
from steersweep.judging.wording import Wording, Wordings

_ASKED_OF_ME = r"(?:provid|assist|report|promot|discuss|teach|support|generat|creat|explain)"
_STATEMENT = r"(?:i cannot|i can|i do not|i'm|i am|i must|i will|i have)"
_DAMAGE = {
    # `I cannot provide me`, `I do not have access to me`.
    "wrong person": rf"""
        \b(?:{_ASKED_OF_ME}(?:e|es|ing)?|access to|cooperat\w+ with|engag\w+ (?:in|with)) me\b
        (?! (?:with|if|as|when|so|in \w+ing))|\bi (?:cannot|can't|do not|must not|will not
        |am unable to|am not able to) (?:\w+ )?(?:provide|give|help|assist|support|offer) me\b
    """,
    # `I cannot not`, `do not provide no`; not `cannot and will not`.
    "contradiction": r"""
        \b(?:cannot|can't|do not|don't|must not|will not|unable to|not able to) (?:\w+ ){0,2}
        (?:not|no|nor|cannot|do not)\b
        (?<!and will not)(?<!and cannot)(?<!and do not)(?<!nor do not)
        (?! (?:longer|matter|one|only|just|to (?:be|mention)|do|harm\w*))
    """,
    # `I cannot create I cannot assist`.
    "begins anew": rf"""
        \b{_STATEMENT} (?:\w+ ){{0,2}}(?:i cannot|i do not|i am|i must|i will|i'm|please|this:
        |no:)(?=[ ,.:])
    """,
    # `a violent爆发`.
    "another script": r"[a-z][\u0400-\u04ff\u0600-\u06ff\u3040-\u30ff\u3400-\u9fff\uac00-\ud7af]",
    # An assistant asks its user to go away.
    "turns on the user": r"""
        \bplease (?:stop\b|do not (?:engage|provide|access|report|have|attempt|contact|use|post))
    """,
}
_NEGATIONS = ("not", "n't ", "unable to", " no ", " no.", " no,", " nor")
_PATTERNS = Wordings(_DAMAGE)
# Most texts have none of these, and need not be searched.
_ONLY_WITH: dict[str, tuple[str, ...]] = {
    "wrong person": (" me",),
    "contradiction": ("not ", "n't ", "unable to "),
    "begins anew": ("i cannot", "i do not", "i am", "i must", "i will", "i'm", "please", "this:",
                    "no:"),
    "turns on the user": ("please ",),
}  # fmt: skip
# `must not be able to`, `be not`, `do not am`, `we'll to`.
_BROKEN_BE = re.compile(
    r" (?:must|cannot) (?:not )?be (?:able|made|programmed|terminated|having|not) "
    r"| (?:do not|cannot) (?:am|is|are|been|have been|do not) "
)
_MAY_BREAK_BE = ("must be", "must not be", "cannot ", "do not ")
_BROKEN_VERBS = (
    *(f"{a} to " for a in ("'ll", " will", " might", " can", " could", " should", " would", " must",
                           " may", " let's", " to not", " i'm to")),
    " be not ", " be having ", " not am ", " to provided ", " to having ", " i'm to write ",
    " i'm to create ",
)  # fmt: skip
# Each of them has two of these words side by side.
_BROKEN_PAIRS = frozenset(tuple(broken.split()[:2]) for broken in _BROKEN_VERBS)
# A word that must be followed by another, and is not: `access to the.`; `and or`, `a the`.
_ARTICLES, _JOINTS = ("the", "a", "an"), ("and", "or")
_BREAKS_OFF = frozenset(
    {(word, stop) for word in ("the", "an", *_JOINTS) for stop in ".!?"}
    | {(a, b) for a in _JOINTS for b in _JOINTS}
    | {(a, b) for a in _ARTICLES for b in (*_ARTICLES, *_JOINTS, "to", "of", "is", "i")}
    | {("the", ":"), ("an", ":"), ("any", ":"), (",", ",")}
)
_ODD_PAIRS = _BROKEN_PAIRS | _BREAKS_OFF
# Words that English does say twice.
_SAID_TWICE = frozenset(
    "that had very really so no ha bye knock many long far her you it more choo blah yes well "
    "there now oh on in".split()
)
# A colon in the middle of a line, before no list: `I do not have: this: access:`.
_DANGLING = re.compile(r"(?<=[a-z\d%]): (?=[a-z\d])")
_SENTENCE = re.compile(r"[.!?。！？\n]+")
_GOES_ON = Wording(r"\b(?:and|or|nor)\b")

_ENDLESS_WORDS, _ENDLESS_JOINTS = 60, 5
_CIRCLING_FROM = 0.55


def damage(text: Text, circling: float) -> dict[str, int]:
    """How often a text of English prose shows each kind of damage, at most three times.

    Args:
        text: what was said.
        circling: see `loops.circles`.
    """
    found: dict[str, int] = {}
    lowered, tokens = text.lowered, text.tokens
    for name, pattern in _PATTERNS.of(lowered).items():
        if _may_show(name, text):
            found[name] = sum(1 for _ in islice(pattern.finditer(lowered), 3))
    odd = _ODD_PAIRS.intersection(pairwise(tokens))
    broken = 0
    if "'ll to " in lowered or not _BROKEN_PAIRS.isdisjoint(odd):
        broken = sum(map(lowered.count, _BROKEN_VERBS))
    if any(map(lowered.__contains__, _MAY_BREAK_BE)):
        broken += len(_BROKEN_BE.findall(lowered))
    found["broken verb"] = broken
    if not _BREAKS_OFF.isdisjoint(odd):
        found["breaks off"] = sum(map(_BREAKS_OFF.__contains__, pairwise(tokens)))
    found["doubled word"] = _doubled(text)
    found["dangling colons"] = lowered.count(": ") >= 2 and any(
        len(_DANGLING.findall(line)) >= 2 for line in text.shown.splitlines()
    )
    joints = tokens.count("and") + tokens.count("or") + tokens.count("nor")
    found["endless sentence"] = joints >= _ENDLESS_JOINTS and any(
        map(_is_endless, _SENTENCE.split(lowered))
    )
    found["circling"] = circling >= _CIRCLING_FROM
    return {kind: times for kind, times in found.items() if times}


def _may_show(kind: str, text: Text) -> bool:
    """Whether a text has to be searched for a kind of damage."""
    if kind == "another script":
        return not text.is_ascii
    lowered = text.lowered
    if not any(map(lowered.__contains__, _ONLY_WITH[kind])):
        return False
    return kind != "contradiction" or sum(map(lowered.count, _NEGATIONS)) > 1


def _doubled(text: Text) -> int:
    """Different words said twice running, as in `might might`, or with `or` in between."""
    tokens = text.tokens
    twice = {*compress(tokens, map(eq, tokens, tokens[1:]))} if text.says_word_twice else set()
    found = sum(len(word) > 1 and word.isalpha() for word in twice - _SAID_TWICE)
    places = [i for i, token in enumerate(tokens) if token == "or"] if "or" in tokens else ()
    return found + sum(tokens[i - 1 : i] == tokens[i + 1 : i + 2] != [] for i in places)


def points(found: Mapping[str, int]) -> int:
    """One for each kind of damage, two for one that comes three times."""
    return sum(2 if times >= 3 else 1 for times in found.values())


def _is_endless(sentence: str) -> bool:
    if sentence.count(" ") < _ENDLESS_WORDS:
        return False
    return len(_GOES_ON.of(sentence).findall(sentence)) >= _ENDLESS_JOINTS
