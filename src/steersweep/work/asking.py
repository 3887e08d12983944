"""Has cells of a search answer prompts, on a loaded model; each answers as a condition."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

from steersweep.core.errors import InputError, SteersweepError
from steersweep.model.rendering import test_rendered
from steersweep.prompts.prompts import TestSet
from steersweep.run.condition import Condition, Strength
from steersweep.run.decoding_settings import DecodingSettings
from steersweep.run.folder import RunFolder
from steersweep.run.records import Record
from steersweep.search.search import STRENGTHS, Cell, Outcome, Span
from steersweep.work.batches import in_batches
from steersweep.work.bench import Bench
from steersweep.work.job import Job, missing_notes

SHORT = 24  # new tokens that show whether a text breaks
OUTCOMES = {"coherent": Outcome.REFUSES, "garbled": Outcome.BROKEN}  # any other quality: OTHER


def outcomes(record: Record) -> list[Outcome]:
    """What each answer of a condition is."""
    return [OUTCOMES.get(sample.judgement.quality, Outcome.OTHER) for sample in record.samples]


@dataclass(frozen=True)
class Question:
    """A condition that is asked some prompts.

    Attributes:
        kind: of answers: `whole`, `short`, or another that callers name.
        condition: what is asked.
        test: the prompts.
    """

    kind: str
    condition: Condition
    test: TestSet


class Asking:
    """Has cells answer prompts; what a run folder holds is not asked again.

    Args:
        bench: the model, with a direction of every method at every layer.
        job: of the bench: the unsteered control first, whose prompts say how long the residual
            stream is and what fluent text looks like.
        store: the run folder.
        told: told how many conditions were answered.
        expected: answers in all, for the time left.

    Attributes:
        rows: answers by kind of question.
        lengths: new tokens of each answer that is not short.
        tokens: of all answers.
        asked: of each cell, the condition that answered last.
    """

    def __init__(
        self, bench: Bench, job: Job, store: RunFolder, told: Callable[[int], None], expected: int
    ) -> None:
        self._bench = bench
        self._job = job
        self._store = store
        self._told = told
        self._expected = expected
        self._likes = {(c.label.method, c.layer): c for c in job.conditions if c.label.is_swept}
        self.rows: dict[str, int] = {}
        self.lengths: list[int] = []
        self.tokens = 0
        self.asked: dict[Cell, Record] = {}

    @property
    def unsteered(self) -> Question:
        """The unsteered control, which is asked before any cell."""
        return Question("whole", self._job.conditions[0], self._job.test)

    @property
    def places(self) -> dict[str, list[int]]:
        """Layers that have a direction, by method.

        Raises:
            InputError: none has.
        """
        found: dict[str, list[int]] = {method: [] for method in self._job.extraction}
        for label, layer in sorted(self._bench.directions, key=lambda key: key[1] or 0):
            if layer is not None and label.is_swept and (label.method, layer) in self._likes:
                found[str(label.method)].append(layer)
        if not any(found.values()):
            why = "; ".join(missing_notes(self._job, self._store))
            raise InputError(
                f"{self._job.source.model_id}: nothing to sweep: {why}; choose other layers or "
                f"extraction prompts"
            )
        return found

    def ask(
        self, spans: Sequence[Span], prompts: Callable[[int, int], TestSet], *, short: bool
    ) -> dict[Cell, Sequence[Outcome]]:
        """Outcomes of cells, by prompt.

        Args:
            spans: which prompts each cell is asked.
            prompts: those from one number to before another.
            short: whether a few tokens are enough.
        """
        new = self._job.conditions[0].max_new_tokens
        length = min(SHORT, new) if short else new
        questions = []
        for span in spans:
            test = prompts(span.start, span.stop)
            condition = self.condition(span.cell, test, length)
            questions.append(Question("short" if short else "whole", condition, test))
        records = self.answers(questions)
        found = {
            span.cell: records[question.condition.key]
            for span, question in zip(spans, questions, strict=True)
        }
        self.asked |= found
        return {cell: outcomes(record) for cell, record in found.items()}

    def condition(self, cell: Cell, test: TestSet, max_new_tokens: int) -> Condition:
        """The condition that a cell is on some prompts; a search goes by greedy answers."""
        like = self._likes[cell.method, cell.layer]
        return replace(
            like,
            decoding=DecodingSettings(like.decoding.stop_loops),
            strength=Strength("relative", STRENGTHS[cell.rung]),
            test_prompts=test.id,
            test_rendered=test_rendered(self._bench.chat.renderer, test),
            max_new_tokens=max_new_tokens,
        )

    def answers(self, questions: Sequence[Question]) -> Mapping[str, Record]:
        """Records of conditions, by key: those that are there, others made now.

        Raises:
            SteersweepError: a record was damaged meanwhile.
        """
        bench = self._bench
        for question in questions:
            bench.put(question.test)
        asked = {question.condition.key: question for question in questions}
        missing = {key for key, question in asked.items() if not self._has(question)}
        bench.answering.expect(self._expected, done=sum(self.rows.values()))
        sizes = [(q.condition, len(q.test.prompts)) for q in questions]
        found: dict[str, Record] = {}
        for batch in in_batches(sizes, bench.max_rows):
            for made in bench.run(batch, missing):
                self._store.put(made)
            for part in batch:
                if part.is_last:
                    key = part.condition.key
                    found[key] = self._record(asked[key])
                    self._told(1)
        return found

    def _record(self, question: Question) -> Record:
        """What was answered; counted."""
        key = question.condition.key
        record = self._store.get(key, question.test.prompts)
        if record is None:
            raise SteersweepError(
                f"{self._store.paths.condition(key)}: was damaged while the search went on; run "
                f"the same command again"
            )
        lengths = [sample.n_tokens for sample in record.samples]
        self.tokens += sum(lengths)
        if question.kind != "short":
            self.lengths += lengths
        self.rows[question.kind] = self.rows.get(question.kind, 0) + len(lengths)
        return record

    def _has(self, question: Question) -> bool:
        held = self._store.get(question.condition.key, question.test.prompts) is not None
        return held and self._bench.has_direction(question.condition)
