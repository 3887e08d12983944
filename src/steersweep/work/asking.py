"""Has cells of a search answer prompts, on a loaded model; each answers as a condition."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

from steersweep.core.errors import InputError, SteersweepError
from steersweep.model.rendering import test_rendered
from steersweep.prompts.prompts import TestSet
from steersweep.run.condition import Condition, Strength, in_batches
from steersweep.run.decoding_settings import DecodingSettings
from steersweep.run.folder import RunFolder
from steersweep.run.records import Record
from steersweep.search.search import STRENGTHS, Cell, Outcome
from steersweep.work.bench import Bench
from steersweep.work.job import Job, missing_notes

SHORT = 24  # new tokens that show whether a text breaks
OUTCOMES = {"coherent": Outcome.REFUSES, "garbled": Outcome.BROKEN}  # any other quality: OTHER


def outcomes(record: Record) -> list[Outcome]:
    """What each answer of a condition is."""
    return [OUTCOMES.get(sample.judgement.quality, Outcome.OTHER) for sample in record.samples]


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
        rows: answers by kind: `whole`, `short`, and others that callers name.
        lengths: new tokens of each answer that is not short.
        tokens: of all answers.
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
        self.answers("whole", [job.conditions[0]], job.test)

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
        self, cells: Sequence[Cell], test: TestSet, *, short: bool
    ) -> dict[Cell, Sequence[Outcome]]:
        """Outcomes of cells, by prompt."""
        new = self._job.conditions[0].max_new_tokens
        length = min(SHORT, new) if short else new
        conditions = [self.condition(cell, test, length) for cell in cells]
        records = self.answers("short" if short else "whole", conditions, test)
        return {
            cell: outcomes(records[condition.key])
            for cell, condition in zip(cells, conditions, strict=True)
        }

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

    def answers(
        self, kind: str, conditions: Sequence[Condition], test: TestSet
    ) -> Mapping[str, Record]:
        """Records of conditions on some prompts, by key: those that are there, others made now.

        Raises:
            SteersweepError: a record was damaged meanwhile.
        """
        job = replace(self._job, conditions=tuple(conditions), test=test)
        bench = self._bench if test == self._job.test else self._bench.on(job)
        n_prompts = len(test.prompts)
        bench.answering.expect(self._expected, done=sum(self.rows.values()))
        found: dict[str, Record] = {}
        for batch in in_batches(conditions, n_prompts, bench.max_rows):
            if all(self._has(bench, c, test) for c in batch.conditions):
                bench.answering.skip(len(batch.conditions) * n_prompts)
            else:
                for made in bench.run(batch):
                    self._store.put(made)
            for condition in batch.conditions:
                record = self._store.get(condition.key, test.prompts)
                if record is None:
                    raise SteersweepError(
                        f"{self._store.paths.condition(condition.key)}: was damaged while the "
                        f"search went on; run the same command again"
                    )
                found[condition.key] = record
                self._told(1)
                lengths = [sample.n_tokens for sample in record.samples]
                self.tokens += sum(lengths)
                if kind != "short":
                    self.lengths += lengths
            self.rows[kind] = self.rows.get(kind, 0) + len(batch.conditions) * n_prompts
        return found

    def _has(self, bench: Bench, condition: Condition, test: TestSet) -> bool:
        held = self._store.get(condition.key, test.prompts) is not None
        return held and bench.has_direction(condition)
