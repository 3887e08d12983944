"""A loaded model with its directions, ready to run the conditions of a job."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import cached_property
from pathlib import Path

from torch import Tensor

from steersweep.core import provenance
from steersweep.core.errors import SteersweepError
from steersweep.judging.fluency import ResponseNll, fluency_threshold, response_nll
from steersweep.judging.judge import Answer, Judge, get_judge
from steersweep.judging.quality import Fluency
from steersweep.methods.dim import Dim
from steersweep.methods.extraction import extract_directions
from steersweep.model.chat_model import ChatModel
from steersweep.model.memory import RowLimit, model_shape
from steersweep.model.rendering import extraction_rendered
from steersweep.prompts.prompts import ExtractionSet
from steersweep.run.condition import (
    Condition,
)
from steersweep.run.direction import Direction, random_direction
from steersweep.run.folder import LostDirection, RunFolder
from steersweep.run.judgement import Judgement, rates_of
from steersweep.run.label import UNSTEERED, Label
from steersweep.run.records import Record, Sample, Steering
from steersweep.steer.activations import residuals
from steersweep.steer.edit import Edit
from steersweep.steer.steering import Generation, Row, StepInfo, generate
from steersweep.work.job import Job, comparison_file
from steersweep.work.references import References


class Bench:
    """A loaded model with its directions, ready to run conditions."""

    def __init__(
        self, chat: ChatModel, job: Job, store: RunFolder, notes: tuple[str, ...] = ()
    ) -> None:
        self.chat = chat
        self.notes = notes
        self.job = job
        self.store = store
        self.prompt_ids = chat.renderer.ids_of(job.test.prompts, "test prompt")
        self.rows = _row_limit(chat, job, max(map(len, self.prompt_ids)))
        # One length per layer for all methods: strengths mean the same whatever is added.
        states = self.rows.run(  # [prompt, layer, d_model]
            lambda rows: residuals(
                chat, self.prompt_ids, site=job.edit.site, max_rows=min(64, rows)
            )[:, 0]
        )
        self.residual_norms = states.double().norm(dim=-1).mean(0).tolist()
        # By method and layer; the layer is None where the method chose it.
        self.directions: dict[tuple[Label, int | None], Direction] = {}
        self.extraction_seconds: dict[str, float] = {}
        for method, prompts in job.extraction.items():
            self._extract(method, prompts)
        for condition in job.conditions:
            if condition.direction is not None:
                self._borrow(condition, condition.direction)
        self._references = References(chat, job, self.rows)
        self.facts = provenance.facts(chat.device)
        self._threshold: float | None = None

    def _extract(self, method: str, prompts: ExtractionSet) -> None:
        """Find a method's directions; scores computed by an earlier run are not computed again."""
        started = time.monotonic()
        layers = sorted({c.layer for c in self.job.conditions if c.layer is not None})
        rendered = extraction_rendered(self.chat.renderer, prompts)
        own = self.job.own_methods.get(method)
        path = self.store.paths.scores(
            method,
            rendered,
            self.chat.fingerprint,
            self.chat.precision,
            None if own is None else own.code,
        )
        held = self.store.read_json(path)
        found = self.rows.run(
            lambda rows: extract_directions(
                self.chat,
                method,
                prompts,
                layers,
                state=held["state"] if held else None,
                max_rows=rows,
            )
        )
        chosen = found.chosen
        held = self.store.write_once(
            path,
            {
                "method": method,
                "prompts": prompts.id,
                "chosen": chosen and {"layer": chosen.layer, "position": chosen.position},
                "notes": list(found.notes),
                "seconds": time.monotonic() - started,
                "missing": {str(layer): why for layer, why in found.missing.items()},
                "state": found.state,
            },
        )
        self.extraction_seconds[method] = held["seconds"]
        places: list[tuple[int | None, Direction]] = [*found.at_layer.items()]
        if found.chosen is not None:
            places.append((None, found.chosen))
        for layer, direction in places:
            norm = self.residual_norms[direction.layer]
            label = Label.parse(direction.method)
            self.directions[label, layer] = replace(direction, residual_norm=norm)

    def _borrow(self, condition: Condition, key: str) -> None:
        """A direction found elsewhere, at this model's own layer and residual norm."""
        assert condition.layer is not None, "a borrowed direction is tried at a given layer"
        found = self.store.needed_direction(key)
        asked = condition.label.method, condition.extraction_prompts
        if (found.method, found.prompts) != asked or len(found.vector) != self.job.d_model:
            raise LostDirection(
                f"{self.store.paths.direction(key)}: is a direction of {found.method} from "
                f"{found.prompts} with {len(found.vector)} components, which {condition} did not "
                f"ask for"
            )
        norm = self.residual_norms[condition.layer]
        self.directions[condition.label, condition.layer] = replace(
            found, layer=condition.layer, residual_norm=norm
        )

    def run(self, batch: Sequence[Condition], on_step: Callable[[StepInfo], None]) -> list[Record]:
        """Generate, score and judge the conditions of one batch."""
        started = time.monotonic()
        steering = [self._edit(condition) for condition in batch]
        rows = [Row(ids, edit) for _, edit in steering for ids in self.prompt_ids]
        answers = self.rows.run(
            lambda most: generate(
                self.chat,
                rows,
                max_new_tokens=batch[0].max_new_tokens,
                max_rows=most,
                on_step=on_step,
            )
        )
        most_rows = self.rows.used
        nlls = self.rows.run(
            lambda most: response_nll(
                self.chat,
                [row.prompt_ids for row in rows],
                [answer.token_ids for answer in answers],
                max_rows=most,
            )
        )
        n = len(self.prompt_ids)
        if batch[0].label == UNSTEERED:
            self._threshold = self.rows.run(
                lambda most: fluency_threshold(
                    self.chat,
                    self.prompt_ids,
                    [answer.token_ids for answer in answers[:n]],
                    nlls[:n],
                    batch[0].seed,
                    max_rows=most,
                )
            )
        seconds = time.monotonic() - started
        return [
            self._record(
                condition,
                direction,
                answers[i * n : (i + 1) * n],
                nlls[i * n : (i + 1) * n],
                seconds / len(batch),
                most_rows,
            )
            for i, (condition, (direction, _)) in enumerate(zip(batch, steering, strict=True))
        ]

    def compare(self) -> None:
        """Keep what precisions are compared by: activations, and how good a model this still is."""
        prompts = self.job.extraction.get(Dim.name)
        activations = None
        if prompts is not None:
            rendered = extraction_rendered(self.chat.renderer, prompts)
            activations = self.store.put_tensors(
                self.store.paths.activations(
                    [rendered, self.chat.fingerprint, self.chat.precision]
                ),
                lambda: {
                    "harmful": self._last_token(prompts.harmful).numpy(),
                    "harmless": self._last_token(prompts.harmless).numpy(),
                },
            )
        self.store.write_once(
            comparison_file(self.job, self.store.paths),
            {
                "precision": self.job.precision,
                "reference": self.job.reference,
                "perplexity": self._perplexity(),
                "activations": activations,
                "extraction_seconds": self.extraction_seconds,
            },
        )

    def _last_token(self, texts: Sequence[str]) -> Tensor:
        """`resid_post` at the last prompt token, as DIM reads it, `[prompt, layer, d_model]`."""
        ids = [self.chat.prompt_ids(text) for text in texts]
        return self.rows.run(lambda most: residuals(self.chat, ids, max_rows=min(64, most))[:, 0])

    def _perplexity(self) -> float | None:
        """Of the reference precision's unsteered answers; None where it gave none.

        A precision that finds them unlikely is a weaker model, whatever steering does to it.
        """
        unsteered = replace(self.job.conditions[0], precision=str(self.job.reference))
        record = self.store.get(unsteered.key, self.job.test.prompts)
        if record is None:
            return None
        opened = self.chat.opened_thought
        texts = [sample.response.removeprefix(opened) for sample in record.samples]
        ids = [self.chat.token_ids(text) for text in texts]
        found = self.rows.run(
            lambda most: response_nll(self.chat, self.prompt_ids, ids, max_rows=most)
        )
        n_tokens = sum(len(tokens) for tokens in ids)
        total = sum(nll.mean * len(tokens) for nll, tokens in zip(found, ids, strict=True) if nll)
        return math.exp(total / n_tokens) if n_tokens else None

    def _direction(self, condition: Condition) -> Direction | None:
        if condition.label == UNSTEERED:
            return None
        if not condition.is_control:
            return self.directions[condition.label, condition.layer]
        return random_direction(self._compared(condition), condition.seed)

    def _compared(self, condition: Condition) -> Direction:
        """The direction that a random one is compared with."""
        method = condition.label.method or next(iter(self.job.extraction))
        like = Label(method, chose_layer=condition.label.chose_layer)
        return self.directions[like, condition.layer]

    def _edit(self, condition: Condition) -> tuple[Direction | None, Edit | None]:
        direction = self._direction(condition)
        if direction is None or condition.strength is None:
            return None, None
        return direction, Edit.of(
            condition.edit,
            direction.vector,
            direction.layer,
            multiplier=condition.strength.multiplier(direction.residual_norm),
            reference=self._reference(condition, direction),
        )

    def _reference(self, condition: Condition, direction: Direction) -> Tensor | None:
        """What an affine edit puts back, `[d_model]`; a random one puts back what its like does."""
        if condition.edit.operation != "affine":
            return None
        like = self._compared(condition) if condition.is_control else direction
        return self._references.at(condition.label.method, like.position, direction.layer)

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

    def _direction_file(self, condition: Condition, direction: Direction) -> str:
        if condition.direction is not None:
            return self.store.paths.name_of(self.store.paths.direction(condition.direction))
        return self.store.put_direction(direction)

    def has_direction(self, condition: Condition) -> bool:
        """See that a finished condition's direction is in the run folder; it is saved if lost.

        False where what is found now is not what the record names: the record is set aside then.
        """
        direction = self._direction(condition)
        record = self.store.get(condition.key)
        if direction is None or record is None or record.steering is None:
            return record is not None
        named = record.steering.direction_file
        if self.store.vector(Path(named).stem) is not None:
            return True
        if self._direction_file(condition, direction) == named:
            return True
        self.store.set_aside(self.store.paths.condition(condition.key), f"{named} is lost")
        return False

    @cached_property
    def _judge(self) -> Judge:
        return get_judge(self.job.conditions[0].judge, self.store.paths.replies)

    def _record(
        self,
        condition: Condition,
        direction: Direction | None,
        answers: Sequence[Generation],
        nlls: Sequence[ResponseNll | None],
        seconds: float,
        most_rows: int,
    ) -> Record:
        threshold = self._fluency_threshold()
        asked = [
            Answer(
                prompt,
                # Reasoning that the template opened is kept as reasoning.
                self.chat.opened_thought + answer.text,
                None
                if nll is None
                else Fluency(nll.worst, nll.mean, threshold, len(answer.token_ids)),
            )
            for prompt, answer, nll in zip(self.job.test.prompts, answers, nlls, strict=True)
        ]
        judged = self._judge.judge(asked)
        own = condition.label.own_method
        samples = zip(asked, judged, answers, nlls, strict=True)
        return Record(
            condition=condition,
            rates=rates_of(judged, self.job.test.repeats),
            steering=self._steering(condition, direction),
            samples=tuple(_sample(*parts) for parts in samples),
            fluency_threshold=None if threshold == float("inf") else threshold,
            extraction_seconds=None if own is None else self.extraction_seconds[own],
            runtime_seconds=seconds,
            timestamp=provenance.utc_now(),
            provenance={
                **self.facts,
                "dtype": str(self.chat.dtype).removeprefix("torch."),
                "seed": condition.seed,
                "rows": most_rows,
                **({"notes": list(self.notes)} if self.notes else {}),
                **({"moved_from": list(self.job.moved_from)} if self.job.moved_from else {}),
                "prompt_set": condition.test_prompts,
                **({"template_date": self.job.date} if self.chat.renderer.facts.dated else {}),
                **(
                    {"template_options": dict(self.job.template_options)}
                    if self.job.template_options
                    else {}
                ),
                "model_fingerprint": condition.model_fingerprint,
            },
        )

    def _steering(self, condition: Condition, direction: Direction | None) -> Steering | None:
        if direction is None or condition.strength is None:
            return None
        multiplier = condition.strength.multiplier(direction.residual_norm)
        reference = self._reference(condition, direction)
        return Steering(
            layer_idx=direction.layer,
            position=direction.position,
            site=direction.site,
            multiplier=multiplier,
            relative_strength=multiplier / direction.residual_norm,
            direction_norm=direction.raw_norm,
            residual_norm=direction.residual_norm,
            direction_file=self._direction_file(condition, direction),
            reference=None if reference is None else float(reference @ direction.vector),
        )


def _row_limit(chat: ChatModel, job: Job, prompt_tokens: int) -> RowLimit:
    new_tokens = max(condition.max_new_tokens for condition in job.conditions)
    model = model_shape(chat.model.config, chat.model)
    return RowLimit(
        job.max_rows,
        model.row(job.precision, prompt_tokens, new_tokens),
        str(chat.device),
        f"{job.source.model_id} on {job.device}",
    )


def _sample(
    asked: Answer, judgement: Judgement, answer: Generation, nll: ResponseNll | None
) -> Sample:
    return Sample(
        prompt=asked.prompt,
        response=asked.response,
        judgement=judgement,
        finish_reason=answer.finish_reason,
        nll=None if nll is None else nll.mean,
        nll_worst=None if nll is None else nll.worst,
        n_tokens=len(answer.token_ids),
    )
