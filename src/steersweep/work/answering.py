"""Answers of a batch of conditions, and how likely the unsteered model finds them."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from steersweep.budget.estimate import GENERATION, JUDGING, LIKELIHOODS
from steersweep.judging.fluency import ResponseNll, response_nll
from steersweep.judging.loops import is_loop
from steersweep.judging.quality import LIKELIHOOD_TOKENS
from steersweep.judging.text import Text
from steersweep.model.chat_model import ChatModel
from steersweep.model.memory import RowLimit
from steersweep.model.thinking import split_thinking
from steersweep.run.condition import Condition, ConditionBatch
from steersweep.run.label import UNSTEERED
from steersweep.steer.edit import Edit
from steersweep.steer.sampling import sampling_of, stream_key
from steersweep.steer.steering import Generation, Row, StepInfo, generate
from steersweep.work.preparation import Preparation
from steersweep.work.stages import Stages

Tell = Callable[[str], None]
# What a token of the prompts' pass takes of a decoding step, about: for the time left.
_OF_A_STEP = 0.5


@dataclass(frozen=True)
class Answered:
    """What a condition's prompts were answered.

    Attributes:
        answers: in the order of the prompts.
        nlls: of the answers; None where nothing was asked.
        seconds: it took, a share of its batch's.
    """

    answers: tuple[Generation, ...]
    nlls: tuple[ResponseNll | None, ...]
    seconds: float

    def as_json(self) -> dict[str, Any]:
        """Plain data that `from_json` reads."""
        return asdict(self)

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> Answered:
        """What `as_json` wrote."""
        answers = (Generation(**{**a, "token_ids": tuple(a["token_ids"])}) for a in data["answers"])
        nlls = (None if nll is None else ResponseNll(**nll) for nll in data["nlls"])
        return cls(tuple(answers), tuple(nlls), data["seconds"])


class Answering:
    """Answers the prompts of a job.

    Args:
        chat: the model.
        prompt_ids: of the test prompts.
        rows: how many fit.
        each: how often each prompt stands there, one after the other.
        prepared: where parts of a condition wait for its other parts.
        sets_threshold: whether what counts as unlikely rests on the unsteered control's answers.
        asks: whether the likelihood of a text may change what is said of it.
        stages: told how far it is.
        tell: told what goes on.
    """

    def __init__(
        self,
        chat: ChatModel,
        prompt_ids: Sequence[Sequence[int]],
        rows: RowLimit,
        prepared: Preparation,
        *,
        each: int,
        sets_threshold: bool,
        asks: Callable[[str], bool],
        stages: Stages,
        tell: Tell,
    ) -> None:
        self._chat = chat
        self._prompt_ids = prompt_ids
        self._rows = rows
        self._prepared = prepared
        self._each = each
        self._sets_threshold = sets_threshold
        self._asks = asks
        self._stages = stages
        self._tell = tell
        self._total = 1
        self._done = 0

    def expect(self, rows: int, *, done: int = 0) -> None:
        """How many rows the whole job has, and how many of them were answered elsewhere."""
        self._total, self._done = rows, done

    def skip(self, rows: int) -> None:
        """Count rows as done that need not be answered again."""
        self._done += rows
        for stage in (GENERATION, LIKELIHOODS, JUDGING):
            self._stages.skip(stage, rows / self._total)

    def answered(self, batch: ConditionBatch, edits: Sequence[Edit | None]) -> list[Answered]:
        """What each condition of a batch answered, in order.

        Args:
            batch: the conditions.
            edits: what each of them does.
        """
        if len(batch.parts) == 1:
            return self._answer(batch.conditions, batch.parts[0], edits)
        (condition,) = batch.conditions
        parts = [self._part(condition, part, edits) for part in batch.parts]
        return [
            Answered(
                tuple(answer for part in parts for answer in part.answers),
                tuple(nll for part in parts for nll in part.nlls),
                sum(part.seconds for part in parts),
            )
        ]

    def _part(
        self,
        condition: Condition,
        part: tuple[int, int],
        edits: Sequence[Edit | None],
    ) -> Answered:
        """A part of a condition's prompts: kept by a run that was killed, or answered now."""
        rests_on = [condition.key, *part]
        held = self._prepared.facts("answers", rests_on)
        if held is not None:
            self.skip(part[1] - part[0])
            return Answered.from_json(held)
        (found,) = self._answer([condition], part, edits)
        self._prepared.keep_facts("answers", rests_on, found.as_json())
        return found

    def _answer(
        self,
        conditions: Sequence[Condition],
        part: tuple[int, int],
        edits: Sequence[Edit | None],
    ) -> list[Answered]:
        started = time.monotonic()
        asked = self._prompt_ids[slice(*part)]
        decoding = conditions[0].decoding
        keys = self._streams(conditions[0], part)
        rows = [Row(ids, edit, key) for edit in edits for ids, key in zip(asked, keys, strict=True)]
        share = len(rows) / self._total
        before = self._done / self._total
        prompt_steps = max(map(len, asked)) * _OF_A_STEP

        def on_step(step: StepInfo) -> None:
            done = (prompt_steps + step.step) / (prompt_steps + step.max_steps)
            self._stages.at(before + share * done)
            self._tell(f"step {step.step}, {step.rows} rows")

        def on_share(done: float) -> None:
            self._stages.at(before + share * done)
            self._tell("likelihoods of answers")

        standing = self._prepared.standing([[c.key for c in conditions], *part])
        self._stages.begin(GENERATION)
        answers = self._rows.run(
            lambda most: generate(
                self._chat,
                rows,
                max_new_tokens=conditions[0].max_new_tokens,
                max_rows=most,
                on_step=on_step,
                standing=standing,
                is_stuck=_is_stuck if decoding.stop_loops else None,
                sampling=sampling_of(decoding),
            )
        )
        self._stages.at(before + share)
        self._stages.begin(LIKELIHOODS)
        # What the threshold rests on is looked at whole.
        whole = self._sets_threshold and conditions[0].label == UNSTEERED
        n = len(asked)
        looked_at = [
            self._looked_at(answer, whole=whole and index < n)
            for index, answer in enumerate(answers)
        ]
        nlls = self._rows.run(
            lambda most: response_nll(
                self._chat,
                [row.prompt_ids for row in rows],
                looked_at,
                max_rows=most,
                on_share=on_share,
            )
        )
        self._done += len(rows)
        self._stages.at(self._done / self._total)
        seconds = (time.monotonic() - started) / len(conditions)
        return [
            Answered(tuple(answers[i : i + n]), tuple(nlls[i : i + n]), seconds)
            for i in range(0, len(rows), n)
        ]

    def _streams(self, condition: Condition, part: tuple[int, int]) -> Sequence[int]:
        """Of a part of the prompts, the keys of the random numbers that answers are drawn with."""
        if not condition.decoding.samples:
            return [0] * (part[1] - part[0])
        return [
            stream_key(condition.seed, self._prompt_ids[index], index % self._each)
            for index in range(*part)
        ]

    def _looked_at(self, answer: Generation, *, whole: bool) -> tuple[int, ...]:
        """The tokens of an answer whose likelihood is asked for; none where its text decides.

        All of what begins with reasoning: what is judged follows it.
        """
        if whole:
            return answer.token_ids
        if not self._asks(answer.text):
            return ()
        if split_thinking(self._chat.opened_thought + answer.text).thought is not None:
            return answer.token_ids
        return answer.token_ids[:LIKELIHOOD_TOKENS]


def _is_stuck(text: str) -> bool:
    return is_loop(Text(text))
