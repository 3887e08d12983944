"""Telling a model's reasoning from its answer, in the formats that models write.

Only reasoning at the beginning of a response is taken for it: an answer may speak of such tags, or
hold them in code. A closing tag without an opening one ends reasoning too, where the chat template
wrote the opening one into the prompt.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import islice

_NAMES = r"think|thinking|thought|thoughts|reasoning|reason|reflection|scratchpad|analysis"
_TAG_NAMES = rf"(?:[a-z]{{1,12}}[:_])?(?:{_NAMES})"
# Pairs of opening and closing markers; `{name}` stands for the same name in both.
_PAIRS = (
    (rf"<(?P<name>{_TAG_NAMES})>", r"</{name}>"),
    (rf"\[(?P<name>{_NAMES})\]", r"\[/{name}\]"),
    (r"<\|begin_of_(?P<name>thought|thinking|reasoning)\|>", r"<\|end_of_{name}\|>"),
    (r"<\|start_(?P<name>thinking|reasoning|thought)\|>", r"<\|end_{name}\|>"),
    (rf"<\|(?P<name>{_NAMES})\|>", r"<\|/{name}\|>"),
    (rf"◁(?P<name>{_NAMES})▷", r"◁/{name}▷"),
    (r"<\|inner_(?P<name>prefix)\|>", r"<\|inner_suffix\|>"),
    (r"<\|channel>(?P<name>thought)\b", r"<channel\|>"),
    (r"<unused94>(?P<name>thought)?", r"<unused95>"),
    (r"(?P<name>here is my thought process:)", r"here is my response:"),
    # Channels: everything before the last one is reasoning or calls of tools.
    (
        r"(?:<\|start\|>assistant)?<\|channel\|>\s*(?P<name>analysis|commentary)\b",
        r"<\|channel\|>\s*final\s*(?:<\|constrain\|>\w*\s*)?<\|message\|>",
    ),
    (r"(?P<name>analysis|commentary)(?=[A-Z\"'])", r"assistant\s?final"),
)
_OPENINGS = tuple((re.compile(rf"\s*{opening}", re.I), closing) for opening, closing in _PAIRS)
# Where no opening marker is in the text.
_ANY_CLOSING = re.compile(
    rf"</{_TAG_NAMES}>|\[/(?:{_NAMES})\]|<\|end_of_(?:thought|thinking|reasoning)\|>"
    rf"|<\|end_(?:thinking|reasoning|thought)\|>|◁/(?:{_NAMES})▷",
    re.I,
)
_ANY_OPENING = re.compile(
    "|".join(re.sub(r"\?P<name>", "?:", opening) for opening, _ in _PAIRS[:7]), re.I
)
# What may stand around an answer that follows reasoning.
_AROUND_ANSWER = re.compile(
    r"</?(?:answer|response|output|final|solution)>|<\|(?:begin|end)_of_solution\|>"
    r"|<\|(?:start|end)_response\|>|<\|channel\|>\s*final\s*(?:<\|constrain\|>\w*\s*)?<\|message\|>"
    r"|<\|(?:return|end)\|>",
    re.I,
)
_FINAL_FIRST = re.compile(
    r"\s*(?:<\|start\|>assistant)?<\|channel\|>\s*final\s*(?:<\|constrain\|>\w*\s*)?<\|message\|>"
)
_OTHER_MARKERS = re.compile(
    r"<\|(?:start|channel|message|constrain|inner_suffix)\|>|<\|channel>|<channel\|>|<unused9[45]>"
)
# Without one of these a text holds no marker; most answers have none of them.
_SIGNS = ("<", "[", "◁")
_WORDS_FIRST = ("here is my thought", "analysis", "commentary")
_MOST_BLOCKS = 100
_QUOTES = "`'\"“”‘’«»"


@dataclass(frozen=True)
class Parts:
    """A response taken apart.

    Attributes:
        thought: the reasoning, or None where there is none.
        answer: what follows it; empty where the reasoning never ends or nothing follows.
    """

    thought: str | None
    answer: str

    @property
    def unanswered(self) -> bool:
        """Whether the response is reasoning and nothing else."""
        return self.thought is not None and not self.answer


def split_thinking(response: str) -> Parts:
    """Reasoning and answer of a response.

    Blocks within blocks end with the outer one, and blocks that follow each other are one. Tags
    that are quoted, or that stand within the prose of an ordinary answer, are part of it.
    """
    if not _may_hold_markers(response):
        return Parts(None, response)
    thoughts, rest = _leading_blocks(response)
    if not thoughts:
        end = _unopened_end(response)
        if end is None:
            return Parts(None, _FINAL_FIRST.sub("", response))
        thoughts, rest = [response[: end.start()]], _leading_blocks(response[end.end() :])[1]
    elif (end := _unopened_end(rest)) is not None:
        thoughts.append(rest[: end.start()])
        rest = rest[end.end() :]
    return Parts("\n".join(t.strip() for t in thoughts), _without_later_blocks(rest))


def _may_hold_markers(text: str) -> bool:
    return any(sign in text for sign in _SIGNS) or text[:60].lstrip().lower().startswith(
        _WORDS_FIRST
    )


def _leading_blocks(text: str) -> tuple[list[str], str]:
    """All the reasoning that a text begins with, and what follows it."""
    thoughts: list[str] = []
    rest: str | None = text
    while rest and len(thoughts) < _MOST_BLOCKS and (found := _leading_block(rest)) is not None:
        thought, rest = found
        thoughts.append(thought)
    return thoughts, rest or ""


def _leading_block(text: str) -> tuple[str, str | None] | None:
    """The reasoning that a text begins with and what follows, None where it never ends; or None."""
    for opening, closing in _OPENINGS:
        begin = opening.match(text)
        if begin is None:
            continue
        name = begin["name"] or ""
        either = re.compile(
            f"(?P<close>{closing.replace('{name}', re.escape(name))})|(?P<open>{opening.pattern})",
            re.I,
        )
        depth, last = 1, None
        for mark in islice(either.finditer(text, begin.end()), _MOST_BLOCKS):
            if _is_mention(text, mark):
                continue
            if mark["open"] is not None:
                depth += closing.count("{name}") > 0  # only tags lie within each other
                continue
            last, depth = mark, depth - 1
            if depth == 0:
                break
        if last is None or depth:
            return text[begin.end() :], None
        return text[begin.end() : last.start()], text[last.end() :]
    return None


def _unopened_end(text: str) -> re.Match[str] | None:
    """The closing marker of reasoning whose opening one is not in the text, or None."""
    found = None
    for mark in islice(_ANY_CLOSING.finditer(text), _MOST_BLOCKS):
        if _is_mention(text, mark):
            continue
        if found is None and _ANY_OPENING.search(text, 0, mark.start()):
            return None  # a pair within an answer
        found = mark
    return found


def _is_mention(text: str, mark: re.Match[str]) -> bool:
    """Whether a marker is spoken of: quoted, in code, or a word of a sentence."""
    shown = mark.group()
    start = mark.start() + len(shown) - len(shown.lstrip())
    before, after = text[max(0, start - 40) : start], text[mark.end() : mark.end() + 40]
    if any(mark in _QUOTES for mark in (*before[-1:], *after[:1])):
        return True
    if text.count("```", 0, start) % 2:
        return True
    # `Use </think> to close it`: on one line with a word before and a small letter after.
    word_before = re.search(r"[\w,(] $", before) is not None
    return word_before and re.match(r"[ ]?[a-z(]|[ ]?[.,;:)]", after) is not None


def _without_later_blocks(answer: str) -> str:
    """An answer after reasoning, without reasoning that begins again on a line of its own."""
    kept, rest = "", _AROUND_ANSWER.sub("", answer).strip()
    for mark in islice(_ANY_OPENING.finditer(rest), _MOST_BLOCKS):
        if rest[: mark.start()].endswith("\n"):
            found = _leading_block(rest[mark.start() :])
            kept = rest[: mark.start()]
            rest = (found and found[1]) or ""
            break
    return (kept + rest).strip()


def opened_thought(rendered: str) -> str:
    """The end of a prompt from the marker on that opens reasoning and does not close it, or "".

    Args:
        rendered: the rendered prompt after the user's text.
    """
    for start in range(len(rendered)):
        if rendered[start] in "".join(_SIGNS):
            found = _leading_block(rendered[start:])
            if found is not None and found[1] is None:
                return rendered[start:]
    return ""


def is_marker(token: str) -> bool:
    """Whether a special token marks reasoning, channels or the answer after them."""
    return any(
        pattern.fullmatch(token)
        for pattern in (_ANY_OPENING, _ANY_CLOSING, _AROUND_ANSWER, _OTHER_MARKERS)
    )


def thinking_note(responses: Sequence[str], max_new_tokens: int) -> str | None:
    """What to say of a model whose unsteered answers begin with reasoning; None if they do not."""
    parts = [split_thinking(response) for response in responses]
    thinking = [part for part in parts if part.thought is not None]
    if not thinking:
        return None
    cut = sum(part.unanswered for part in thinking)
    said = (
        f"the model thinks before it answers ({len(thinking)} of {len(parts)} unsteered answers); "
        f"only what follows the reasoning is judged"
    )
    if not cut:
        return said
    return (
        f"{said}, and {cut} have no answer within {max_new_tokens} tokens: those count as garbled, "
        f"no-answer, so raise max_new_tokens"
    )
