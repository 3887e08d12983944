"""Multiple-choice questions."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property

from steersweep.run.condition import content_key
from steersweep.run.effect import item_id


@dataclass(frozen=True)
class Question:
    """A question with its possible answers.

    Attributes:
        question: all that stands before an answer, as the model is to read it: with `Question:`
            and `Answer:` around it if that is wanted.
        choices: the possible answers, at least two, without a space before them.
        answer: index of the right one.
    """

    question: str
    choices: tuple[str, ...]
    answer: int

    @cached_property
    def id(self) -> str:
        """A short name; see `item_id`."""
        return item_id(self.question, *self.choices)


@dataclass(frozen=True)
class QuestionSet:
    """Questions from one source.

    Attributes:
        name: file name without ending.
        questions: in order.
    """

    name: str
    questions: tuple[Question, ...]

    @cached_property
    def id(self) -> str:
        """Name and content hash: `name@sha256:...`."""
        content = [[q.question, list(q.choices), q.answer] for q in self.questions]
        return f"{self.name}@sha256:{content_key(content)[:16]}"

    def first(self, count: int) -> QuestionSet:
        """The first `count` questions, named so; the whole set if it is no larger."""
        if count >= len(self.questions):
            return self
        return replace(self, name=f"{self.name}[:{count}]", questions=self.questions[:count])
