"""Answers of a batch of conditions, and how likely the unsteered model finds them."""

from __future__ import annotations

import time
from collections.abc import Callable, Container, Sequence
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
from steersweep.steer.edit import Edit
from steersweep.steer.sampling import sampling_of, stream_key
from steersweep.steer.steering import Generation, Row, StepInfo, generate
from steersweep.work.batches import Part
from steersweep.work.preparation import Preparation
from steersweep.work.stages import Stages

Tell = Callable[[str], None]
# What a token of the prompts' pass takes of a decoding step, about: for the time left.
_OF_A_STEP = 0.5


@dataclass(frozen=True)
class Asked:
    """Prompts of a condition to answer.

    Attributes:
        part: which.
        edit: what the condition does, or None.
        prompt_ids: token ids of these prompts.
        each: how often each of the condition's prompts stands there, one after the other.
    """

    part: Part
    edit: Edit | None
    prompt_ids: Sequence[Sequence[int]]
    each: int

    def rows(self) -> list[Row]:
        """What to generate."""
        condition = self.part.condition
        if not condition.decoding.samples:
            return [Row(ids, self.edit) for ids in self.prompt_ids]
        return [
            Row(ids, self.edit, stream_key(condition.seed, ids, index % self.each))
            for index, ids in enumerate(self.prompt_ids, self.part.start)
        ]


@dataclass(frozen=True)
class Answered:
    """What prompts of a condition were answered.

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

    @classmethod
    def joined(cls, parts: Sequence[Answered]) -> Answered:
        """Parts of a condition, in order, as one."""
        return cls(
            tuple(answer for part in parts for answer in part.answers),
            tuple(nll for part in parts for nll in part.nlls),
            sum(part.seconds for part in parts),
        )


class Answering:
    """Answers prompts of conditions.

    Args:
        chat: the model.
        rows: how many fit.
        prepared: where parts of a condition wait for its other parts.
        measure: key of the condition whose answers say what counts as unlikely.
        asks: whether the likelihood of a text may change what is said of it.
        stages: told how far it is.
        tell: told what goes on.
    """

    def __init__(
        self,
        chat: ChatModel,
        rows: RowLimit,
        prepared: Preparation,
        *,
        measure: str,
        asks: Callable[[str], bool],
        stages: Stages,
        tell: Tell,
    ) -> None:
        self._chat = chat
        self._rows = rows
        self._prepared = prepared
        self._measure = measure
        self._asks = asks
        self._stages = stages
        self._tell = tell
        self._total = 1
        self._done = 0
        self._waiting: dict[str, list[Part]] = {}  # by condition, for its last part
        self._saved: list[Part] = []

    def expect(self, rows: int, *, done: int = 0) -> None:
        """How many rows the whole job has, and how many of them were answered elsewhere."""
        self._total, self._done = rows, done

    def skip(self, rows: int) -> None:
        """Count rows as done that need not be answered again."""
        self._done += rows
        for stage in (GENERATION, LIKELIHOODS, JUDGING):
            self._stages.skip(stage, rows / self._total)

    def answered(self, batch: Sequence[Asked], missing: Container[str]) -> list[Answered | None]:
        """What each part of a batch was answered, in order; None where nothing is missing of it.

        Parts of conditions that go on in a later batch are kept until then. Where a missing part
        was not kept, all of the batch is answered, so that it comes out as it would have.

        Args:
            batch: prompts of conditions.
            missing: keys of the conditions that have no record.
        """
        self._forget_saved()
        for asked in batch:
            self._note(asked.part)
        due = [asked.part.condition.key in missing for asked in batch]
        held = [
            self._held(asked.part) if is_due else None
            for asked, is_due in zip(batch, due, strict=True)
        ]
        if sum(found is not None for found in held) == sum(due):
            self.skip(sum(len(asked.prompt_ids) for asked in batch))
            return held
        found = self._answer(batch)
        for asked, answered in zip(batch, found, strict=True):
            if not asked.part.is_last:
                self._prepared.keep_facts("answers", _rests_on(asked.part), answered.as_json())
        return [answered if is_due else None for answered, is_due in zip(found, due, strict=True)]

    def _note(self, part: Part) -> None:
        """Note which parts wait, and which need not when the caller has saved this batch."""
        key = part.condition.key
        if not part.is_last:
            self._waiting.setdefault(key, []).append(part)
        else:
            self._saved += self._waiting.pop(key, [])

    def _forget_saved(self) -> None:
        """Drop what was kept of conditions that are saved, or a long run has a file for each."""
        for part in self._saved:
            self._prepared.drop_facts("answers", _rests_on(part))
        self._saved = []

    def _held(self, part: Part) -> Answered | None:
        """A part that an earlier call kept."""
        held = None if part.is_whole else self._prepared.facts("answers", _rests_on(part))
        return None if held is None else Answered.from_json(held)

    def _answer(self, batch: Sequence[Asked]) -> list[Answered]:
        started = time.monotonic()
        first = batch[0].part.condition
        rows = [row for asked in batch for row in asked.rows()]
        share = len(rows) / self._total
        before = self._done / self._total
        prompt_steps = max(len(row.prompt_ids) for row in rows) * _OF_A_STEP

        def on_step(step: StepInfo) -> None:
            done = (prompt_steps + step.step) / (prompt_steps + step.max_steps)
            self._stages.at(before + share * done)
            self._tell(f"step {step.step}, {step.rows} rows")

        def on_share(done: float) -> None:
            self._stages.at(before + share * done)
            self._tell("likelihoods of answers")

        standing = self._prepared.standing([_rests_on(asked.part) for asked in batch])
        self._stages.begin(GENERATION)
        answers = self._rows.run(
            lambda most: generate(
                self._chat,
                rows,
                max_new_tokens=first.max_new_tokens,
                max_rows=most,
                on_step=on_step,
                standing=standing,
                is_stuck=_is_stuck if first.decoding.stop_loops else None,
                sampling=sampling_of(first.decoding),
            )
        )
        self._stages.at(before + share)
        self._stages.begin(LIKELIHOODS)
        of_row = [asked.part.condition.key for asked in batch for _ in asked.prompt_ids]
        looked_at = [
            # What the threshold rests on is looked at whole.
            self._looked_at(answer, whole=key == self._measure)
            for answer, key in zip(answers, of_row, strict=True)
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
        seconds = (time.monotonic() - started) / len(rows)
        found = []
        begin = 0
        for asked in batch:
            end = begin + len(asked.prompt_ids)
            parts = tuple(answers[begin:end]), tuple(nlls[begin:end])
            found.append(Answered(*parts, seconds * (end - begin)))
            begin = end
        return found

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


def _rests_on(part: Part) -> list[object]:
    return [part.condition.key, part.start, part.stop]
