"""A loaded model with its directions, ready to run the conditions of a job."""

from __future__ import annotations

from collections.abc import Callable, Container, Sequence
from functools import cached_property, partial

from steersweep.budget.estimate import JUDGING
from steersweep.budget.shapes import ModelShape
from steersweep.core import provenance
from steersweep.core.errors import SteersweepError
from steersweep.judging.fluency import ResponseNll, fluency_threshold
from steersweep.judging.judge import Answer, OfAnswers
from steersweep.judging.judges import get_judge
from steersweep.judging.quality import Fluency
from steersweep.model.chat_model import ChatModel
from steersweep.model.memory import RowLimit
from steersweep.prompts.prompts import TestSet
from steersweep.run.condition import Condition
from steersweep.run.folder import RunFolder
from steersweep.run.judgement import Judgement, rates_of
from steersweep.run.label import UNSTEERED
from steersweep.run.records import Record, Sample
from steersweep.steer.activations import residuals
from steersweep.steer.steering import Generation, can_stand
from steersweep.work.answering import Answered, Answering, Asked
from steersweep.work.batches import Part
from steersweep.work.directions import Directions
from steersweep.work.expected import PROMPTS
from steersweep.work.job import Job
from steersweep.work.pace import MANY, Clock, rows_in_time, step_seconds
from steersweep.work.preparation import WORTH_KEEPING, Preparation
from steersweep.work.stages import Stages


class Bench:
    """A loaded model with its directions, ready to run conditions."""

    def __init__(
        self,
        chat: ChatModel,
        job: Job,
        store: RunFolder,
        shape: ModelShape,
        *,
        notes: tuple[str, ...] = (),
        stages: Stages,
        tell: Callable[[str], None],
    ) -> None:
        self.chat = chat
        self.notes = notes
        self.job = job
        self.store = store
        self._stages = stages
        self._tell = tell
        self.prepared = Preparation(job, store)
        self.prompt_ids = chat.renderer.ids_of(job.test.asked, "test prompt")
        self._tests = {job.test.id: (job.test, self.prompt_ids)}
        self.shape = shape
        self.rows = self._row_limit(job.max_rows)
        # One length per layer for all methods: strengths mean the same whatever is added.
        self.residual_norms, self.max_rows = self._read_prompts()
        self.rows = self._row_limit(self.max_rows)
        self.directions = Directions(
            chat,
            job,
            store,
            self.prepared,
            self.rows,
            residual_norms=self.residual_norms,
            stages=stages,
            tell=tell,
        )
        self.answering = Answering(
            chat,
            self.rows,
            self.prepared,
            measure=job.conditions[0].key,
            asks=self._asks_likelihood,
            stages=stages,
            tell=tell,
        )
        self._parts: dict[str, list[Answered]] = {}  # of conditions that go on in later batches
        self.facts = provenance.facts(chat.device)
        self._threshold: float | None = None

    def put(self, test: TestSet) -> None:
        """Take other prompts, of which conditions may be asked too.

        Lengths of the residual stream stay those of the job's prompts, so strengths mean the same.
        So does what counts as unlikely text.
        """
        if test.id not in self._tests:
            ids = self.chat.renderer.ids_of(test.asked, "test prompt")
            self._tests[test.id] = test, ids
            self.rows.fit(self._row_bytes())

    def _row_limit(self, most: int) -> RowLimit:
        job = self.job
        what = f"{job.source.model_id} on {job.device}"
        return RowLimit(most, self._row_bytes(), str(self.chat.device), what)

    def _row_bytes(self) -> int:
        """What a row of the longest prompt takes."""
        new_tokens = max(condition.max_new_tokens for condition in self.job.conditions)
        longest = max(len(ids) for _, prompts in self._tests.values() for ids in prompts)
        return self.shape.row(self.job.precision, longest, new_tokens)

    def _read_prompts(self) -> tuple[list[float], int]:
        """Mean length of the residual stream at each layer, and rows of a batch in a minute.

        Both are kept: a run that goes on forms the same batches, to write the same results.
        """
        job, chat = self.job, self.chat
        rests_on = [job.conditions[0].test_rendered, job.edit.site, job.max_rows]
        self._begin(PROMPTS)
        held = self.prepared.facts("test prompts", rests_on)
        if held is None:
            clock = Clock(chat.device.type)
            states = self.rows.run(  # [prompt, layer, d_model]
                lambda rows: residuals(
                    chat,
                    self.prompt_ids[:: job.test.each],
                    site=job.edit.site,
                    max_rows=min(64, rows),
                    on_share=self._at,
                )[:, 0]
            )
            seconds = clock.seconds()
            rows = self._rows_in_time(seconds)
            held = {
                "norms": states.double().norm(dim=-1).mean(0).tolist(),
                "rows": min(rows, job.max_rows),
            }
            if rows < 4 * job.max_rows or seconds > WORTH_KEEPING:
                self.prepared.keep_facts("test prompts", rests_on, held)
        self._stages.end()
        return held["norms"], held["rows"]

    def _rows_in_time(self, seconds: float) -> int:
        """Rows of a batch in a minute, by the time that the test prompts took."""
        find = partial(
            rows_in_time,
            self.job,
            self.shape,
            self.chat.device.type,
            tokens=sum(map(len, self.prompt_ids[:: self.job.test.each])),
            seconds=seconds,
            stands=can_stand(self.chat),
        )
        rows = find()
        if rows >= self.job.max_rows:
            return rows
        # It matters: look closer.
        steps = self.rows.run(
            lambda most: step_seconds(self.chat, self.prompt_ids, min(most, MANY))
        )
        return rows if steps is None else find(steps=steps)

    def _begin(self, stage: str) -> None:
        self._stages.begin(stage)
        self._tell(stage)

    def _at(self, share: float) -> None:
        self._stages.at(share)
        self._tell(self._stages.current)

    def run(self, batch: Sequence[Part], missing: Container[str]) -> list[Record]:
        """Generate, score and judge what is in a batch.

        Args:
            batch: one of `in_batches`, in whose order they are run.
            missing: keys of the conditions that have no record.

        Returns:
            Records of the missing conditions that are answered to the end now.
        """
        if not any(part.condition.key in missing for part in batch):
            self.answering.skip(sum(part.stop - part.start for part in batch))
            return []
        found = self.answering.answered([self._asked(part) for part in batch], missing)
        ended: list[tuple[Condition, Answered]] = []
        for part, answered in zip(batch, found, strict=True):
            if answered is not None:
                parts = self._parts.setdefault(part.condition.key, [])
                parts.append(answered)
                if part.is_last:
                    del self._parts[part.condition.key]
                    ended.append((part.condition, Answered.joined(parts)))
        for condition, answered in ended:
            if condition.key == self.job.conditions[0].key and condition.label == UNSTEERED:
                self._threshold = self._threshold_of(condition, answered)
        self._stages.begin(JUDGING)
        return [self._record(condition, answered) for condition, answered in ended]

    def _asked(self, part: Part) -> Asked:
        test, ids = self._tests[part.condition.test_prompts]
        return Asked(
            part, self.directions.edit(part.condition), ids[part.start : part.stop], test.each
        )

    def _threshold_of(self, unsteered: Condition, answered: Answered) -> float:
        """What counts as unlikely text, by answers of the unsteered control."""
        return self.rows.run(
            lambda most: fluency_threshold(
                self.chat,
                self.prompt_ids,
                [answer.token_ids for answer in answered.answers],
                answered.nlls,
                unsteered.seed,
                max_rows=most,
            )
        )

    def _fluency_threshold(self) -> float:
        """From the unsteered control: just computed, or saved by an earlier run."""
        if self._threshold is None:
            record = self.store.get(self.job.conditions[0].key, self.job.test.prompts)
            if record is None:
                raise SteersweepError(
                    f"{self.job.source.model_id}: the unsteered control was damaged while the run "
                    f"went on; run the same command again"
                )
            value = record.fluency_threshold
            self._threshold = float("inf") if value is None else value
        return self._threshold

    def has_direction(self, condition: Condition) -> bool:
        """See that a finished condition's direction is in the run folder; it is saved if lost.

        False where what is found now is not what the record names: the record is set aside then.
        """
        test, _ = self._tests[condition.test_prompts]
        return self.directions.is_kept(condition, test.prompts)

    @cached_property
    def _judge(self) -> OfAnswers:
        return get_judge(self.job.conditions[0].judge, self.store.paths.replies)

    def _asks_likelihood(self, text: str) -> bool:
        return self._judge.asks_likelihood(self.chat.opened_thought + text)

    def _record(self, condition: Condition, answered: Answered) -> Record:
        test, _ = self._tests[condition.test_prompts]
        answers, nlls = answered.answers, answered.nlls
        threshold = self._fluency_threshold()
        asked = [
            Answer(
                test.question(prompt),
                # Reasoning that the template opened is kept as reasoning.
                self.chat.opened_thought + answer.text,
                None if nll is None else Fluency(nll.worst, nll.mean, threshold, nll.n_tokens),
            )
            for prompt, answer, nll in zip(test.prompts, answers, nlls, strict=True)
        ]
        judged = self._judge.judge(asked)
        own = condition.label.own_method
        samples = zip(test.prompts, asked, judged, answers, nlls, strict=True)
        return Record(
            condition=condition,
            rates=rates_of(judged, test.repeats, each=test.each),
            steering=self.directions.steering(condition),
            samples=tuple(
                _sample(*parts, repeat=index % test.each) for index, parts in enumerate(samples)
            ),
            fluency_threshold=None if threshold == float("inf") else threshold,
            extraction_seconds=None if own is None else self.directions.seconds[own],
            runtime_seconds=answered.seconds,
            timestamp=provenance.utc_now(),
            provenance={
                **self.facts,
                "dtype": str(self.chat.dtype).removeprefix("torch."),
                "seed": condition.seed,
                "rows": self.rows.used,
                **({"notes": list(self.notes)} if self.notes else {}),
                **({"moved_from": list(self.job.moved_from)} if self.job.moved_from else {}),
                "prompt_set": condition.test_prompts,
                **(
                    {"template_date": self.job.date}
                    if self.chat.renderer.template.facts.dated
                    else {}
                ),
                **(
                    {"template_options": dict(self.job.template_options)}
                    if self.job.template_options
                    else {}
                ),
                **({} if self.job.system is None else {"system": self.job.system}),
                **(
                    {"decoding": condition.decoding.as_json()} if condition.decoding.samples else {}
                ),
                "model_fingerprint": condition.model_fingerprint,
            },
        )


def _sample(
    prompt: str,
    asked: Answer,
    judgement: Judgement,
    answer: Generation,
    nll: ResponseNll | None,
    repeat: int,
) -> Sample:
    return Sample(
        prompt=prompt,
        response=asked.response,
        judgement=judgement,
        finish_reason=answer.finish_reason,
        nll=None if nll is None else nll.mean,
        nll_worst=None if nll is None else nll.worst,
        n_tokens=len(answer.token_ids),
        asked="" if asked.prompt == prompt else asked.prompt,
        repeat=repeat,
    )
