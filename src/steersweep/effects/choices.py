"""Multiple choice by the likelihood of the answers."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import accumulate, pairwise

from torch import Tensor

from steersweep.core.errors import InputError
from steersweep.effects.effect import Given
from steersweep.effects.likelihoods import answered, begins_with, plain_ids
from steersweep.effects.questions import QuestionSet
from steersweep.model.chat_model import ChatModel
from steersweep.run.effect import SHARE, Measured
from steersweep.steer.continuations import Continuation, log_likelihoods
from steersweep.steer.edit import Edit


class Choices:
    """Whether the right one of several answers is the likeliest after a question.

    As lm-evaluation-harness scores multiple choice, without examples before the question:

    - `plain` (its `acc`): the answer whose tokens together have the highest log-probability after
      the question and a space; the first of equals.
    - `plain by length` (its `acc_norm`): the same of the log-probability divided by the number of
      characters of the answer, the space not counted.
    - `chat` and `chat by length`: the same with the question as the user's message in the chat
      template, and the answer, without a space, as the model's.

    The answer's tokens are new tokens, for edits of prompts or of new tokens only. An item is a
    question, its value 1 or 0.
    """

    name = "choices"

    def measure(
        self, chat: ChatModel, edits: Sequence[Edit | None], given: Given
    ) -> list[tuple[Measured, ...]]:
        """See `Effect.measure`."""
        sizes, questions = given.sizes, given.questions
        plain, chats = questions.first(sizes.questions), questions.first(sizes.chat_questions)
        asked = [*plain_pairs(chat, plain), *_pairs(chat, chats, answered)]
        if not asked:
            raise InputError("choices: there are no questions")
        found = log_likelihoods(
            chat, asked, edits, max_rows=given.max_rows, on_share=given.on_share
        )
        n = sum(len(question.choices) for question in plain.questions)
        return [
            (
                *_scored(self.name, plain, "plain", of_edit[:n]),
                *_scored(self.name, chats, "chat", of_edit[n:]),
            )
            for of_edit in found
        ]


def plain_pairs(chat: ChatModel, asked: QuestionSet) -> list[Continuation]:
    """Every answer of every question after it, outside the template.

    Raises:
        InputError: one spells a control token that this tokenizer cannot take for text.
    """
    return _pairs(chat, asked, _plain)


def likeliest(logs: Sequence[float], choices: Sequence[str], *, by_length: bool) -> int:
    """Which answer has the highest log-probability, or the highest per character.

    Args:
        logs: of all its tokens together, by answer, in nats.
        choices: the answers.
        by_length: whether to divide by the number of characters.
    """
    scores = [
        log / len(choice) if by_length else log for log, choice in zip(logs, choices, strict=True)
    ]
    return max(range(len(scores)), key=scores.__getitem__)


def _scored(
    effect: str, asked: QuestionSet, variant: str, logs: Sequence[Tensor]
) -> list[Measured]:
    """Both ways to score, of the log-probabilities of all answers, `[question x answer]`."""
    questions = asked.questions
    sums = [float(of_answer.sum()) for of_answer in logs]
    ends = accumulate((len(question.choices) for question in questions), initial=0)
    by_question = [sums[start:stop] for start, stop in pairwise(ends)]
    return [
        Measured(
            effect,
            SHARE,
            asked.id,
            tuple(question.id for question in questions),
            tuple(
                float(likeliest(some, q.choices, by_length=by_length) == q.answer)
                for q, some in zip(questions, by_question, strict=True)
            ),
            (1,) * len(questions),
            f"{variant} by length" if by_length else variant,
        )
        for by_length in (False, True)
        if questions
    ]


_Way = Callable[[ChatModel, str, str, str], Continuation]


def _pairs(chat: ChatModel, asked: QuestionSet, way: _Way) -> list[Continuation]:
    """Every answer of every question after it."""
    found = []
    for number, question in enumerate(asked.questions, 1):
        name = f"{asked.name}, question {number}"
        for choice in question.choices:
            pair = way(chat, question.question, choice, name) if choice else None
            if pair is None or not pair.token_ids or not pair.prompt_ids:
                raise InputError(
                    f"{name}: {'an answer' if question.question.strip() else 'the question'} is "
                    f"empty; leave it out"
                )
            length = len(pair.prompt_ids) + len(pair.token_ids)
            if chat.max_positions is not None and length > chat.max_positions:
                raise InputError(
                    f"{name}: {length} tokens with an answer, and {chat.source.model_id} was made "
                    f"for at most {chat.max_positions}; leave it out"
                )
            found.append(pair)
    return found


def _plain(chat: ChatModel, question: str, choice: str, name: str) -> Continuation:
    """Both are tokenized as one text, cut where the tokens of the question alone end."""
    # White space at the end of the question would be a token of its own there.
    kept = question.rstrip()
    before = [*begins_with(chat), *plain_ids(chat, kept, name)]
    whole = [*begins_with(chat), *plain_ids(chat, f"{question} {choice}", name)]
    return Continuation(before, whole[len(before) :])
