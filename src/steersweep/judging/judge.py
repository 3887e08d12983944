"""What a judge is, and what all of them do with a response that holds reasoning."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache, partial
from typing import Protocol

from steersweep.judging.drift import drift
from steersweep.judging.loops import repeats_once
from steersweep.judging.quality import Breakdown, Fluency, breakdown
from steersweep.judging.refusal import (
    Refusal,
)
from steersweep.judging.text import taken_apart
from steersweep.model.thinking import split_thinking
from steersweep.run.judgement import Judgement, Quality

NO_ANSWER = "no-answer"
# Texts whose judgement is kept: conditions answer alike, weak ones as the unsteered model does.
_KEPT = 4096


@dataclass(frozen=True)
class Answer:
    """What is judged: a response to a prompt, with or without its likelihood."""

    prompt: str
    response: str
    fluency: Fluency | None = None


class Judge(Protocol):
    """Judges answers, many at a time: a judge may be slow, or need a model."""

    id: str

    def judge(self, answers: Sequence[Answer]) -> list[Judgement]:
        """Judge answers, in order.

        Raises:
            SteersweepError: the judge cannot be used at all; what failed on a single answer is
                `unjudged`.
        """
        ...


class OneByOne(ABC):
    """A judge that looks at each answer by itself."""

    id: str

    @abstractmethod
    def __call__(self, prompt: str, response: str, fluency: Fluency | None = None) -> Judgement:
        """Judge one response."""

    def judge(self, answers: Sequence[Answer]) -> list[Judgement]:
        """Judge answers, in order."""
        return [self(answer.prompt, answer.response, answer.fluency) for answer in answers]


def undecided(broken: Breakdown | None) -> bool:
    """Whether a text that is broken in this way, or in none, may be judged by its likelihood."""
    return broken is None or not broken.clear


class TextJudge(OneByOne):
    """Refusal by a function of the texts; quality by repetition, word order and likelihood."""

    def __init__(
        self,
        identity: str,
        refusal: Callable[[str, str], Refusal],
        breakdown: Callable[[str], Breakdown | None] = breakdown,
    ) -> None:
        self.id = identity
        self._breakdown = lru_cache(_KEPT)(breakdown)
        self._judged = lru_cache(_KEPT)(partial(_judged, refusal, self._breakdown))

    def asks_likelihood(self, response: str) -> bool:
        """Whether the text leaves open whether it is broken."""
        return undecided(self._breakdown(response))

    def __call__(self, prompt: str, response: str, fluency: Fluency | None = None) -> Judgement:
        """Judge one response."""
        return self._judged(prompt, response, fluency)


def _judged(
    refusal_of: Callable[[str, str], Refusal],
    breakdown_of: Callable[[str], Breakdown | None],
    prompt: str,
    response: str,
    fluency: Fluency | None,
) -> Judgement:
    refusal = refusal_of(prompt, response)
    refuses = refusal.stance != "helps"
    broken = breakdown_of(response)
    mode = None if broken is None else broken.mode
    unlikely = fluency is not None and fluency.broken
    if mode is None and unlikely:
        mode = "soup"
    drifted = drift(prompt, response)
    if mode is None and drifted == "mixed":
        mode = "language-drift"
    garbled = mode is not None
    near = 0.3 < refusal.score < 0.7 or (broken is not None and not broken.clear)
    near = near or (not garbled and repeats_once(taken_apart(response)))
    near = near or drifted is not None
    # Inside a loop every word is likely.
    disagree = fluency is not None and unlikely != garbled and mode not in ("loop", "empty")
    quality: Quality = "garbled" if garbled else "coherent" if refuses else "normal"
    if mode is None and drifted:
        mode = "language-drift"  # fluent, and odd
    return Judgement(refuses, quality, mode, near or disagree, refusal.score, refusal.stance)


class OfAnswers:
    """Any judge, of what follows a response's reasoning.

    Reasoning without an answer is `garbled` and no refusal, whatever it says: `no-answer`, or as
    the reasoning itself is broken.
    """

    def __init__(self, judge: Judge) -> None:
        self.id = judge.id
        self._judge = judge

    def __call__(self, prompt: str, response: str, fluency: Fluency | None = None) -> Judgement:
        """Judge one response."""
        return self.judge([Answer(prompt, response, fluency)])[0]

    def asks_likelihood(self, response: str) -> bool:
        """Whether the likelihood of a response may change what is said of it.

        A judge of a user's own may do with it what it likes, unless it says otherwise.
        """
        part = split_thinking(response)
        asks = getattr(self._judge, "asks_likelihood", None)
        return not part.unanswered and (asks is None or bool(asks(part.answer)))

    def judge(self, answers: Sequence[Answer]) -> list[Judgement]:
        """Judge responses, in order; the judge within sees all answers at once."""
        parts = [split_thinking(answer.response) for answer in answers]
        asked = [
            Answer(answer.prompt, part.answer, answer.fluency)
            for answer, part in zip(answers, parts, strict=True)
            if not part.unanswered
        ]
        judged = iter(self._judge.judge(asked))
        return [
            _unanswered(part.thought or "") if part.unanswered else next(judged) for part in parts
        ]


def _unanswered(thought: str) -> Judgement:
    broken = breakdown(thought)
    mode = NO_ANSWER if broken is None or broken.mode == "empty" else broken.mode
    near = broken is not None and not broken.clear
    return Judgement(False, "garbled", mode, near, 0.0, "helps")
