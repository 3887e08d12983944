"""One job: a model is loaded once; its missing conditions are generated, judged and saved."""

from __future__ import annotations

import math
import platform
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property
from pathlib import Path

from torch import Tensor

from steersweep.core import provenance
from steersweep.core.errors import InputError, SteersweepError
from steersweep.core.printing import first_line
from steersweep.judging.fluency import ResponseNll, fluency_threshold, response_nll
from steersweep.judging.judge import Answer, Fluency, Judge, Judgement, get_judge
from steersweep.judging.summary import summarise
from steersweep.judging.thinking import thinking_note
from steersweep.methods.cosmic import CosmicScores
from steersweep.methods.extraction import DIM, extract_directions
from steersweep.model.chat_model import ChatModel
from steersweep.model.memory import (
    OutOfMemory,
    RowLimit,
    free_memory,
    is_out_of_memory,
    memory_model,
)
from steersweep.model.rendering import SpecialTokens, extraction_rendered, test_rendered
from steersweep.model.source import ModelSource
from steersweep.model.template_options import TemplateOptions
from steersweep.prompts.prompts import ExtractionSet, TestSet
from steersweep.run.condition import (
    AUTO,
    RANDOM,
    UNSTEERED,
    Condition,
    content_key,
    direction_file,
    extraction_file,
    in_batches,
)
from steersweep.run.direction import Direction, random_direction
from steersweep.run.folder import LostDirection, Record, RunStore, condition_file
from steersweep.smoke.required import CHECKS, check_for_run
from steersweep.steer.activations import residuals
from steersweep.steer.edit import Edit
from steersweep.steer.steering import Generation, Row, StepInfo, generate

# Where a run folder keeps what judges' servers replied.
REPLIES = "judgements/replies"
# Share of a batch's time that decoding takes; scoring and judging take the rest.
_DECODING = 0.85


@dataclass(frozen=True)
class Job:
    """The conditions that share one loaded model.

    Attributes:
        source: the model.
        family: its family, for results.
        n_layers: its decoder layers, from the config.
        d_model: width of its residual stream, from the config.
        precision: resolved precision (`fp32`, `bf16`, `fp16`, `int8`, `int4`).
        device: torch device, or `auto`: decided where the job runs.
        conditions: in a fixed order that begins with the unsteered control.
        extraction: prompts directions are extracted from, by method.
        test: prompts every condition is tested on.
        max_rows: rows per generation batch.
        moved_from: kinds of GPU it did not fit before.
        reference: precision that this one is compared with, or None; see `SweepSettings`.
        smoke: make every check of the smoke test first, and not only those of `required`.
        accept_mismatch: go on whatever these checks find.
        date: what day chat templates are told it is: the run's first.
        special_tokens: whether control tokens that a prompt spells are text or those tokens.
        notes: what a user should know of how prompts are rendered.
        template_options: variables that the chat template is given, such as `enable_thinking`.
    """

    source: ModelSource
    family: str
    n_layers: int
    d_model: int
    precision: str
    device: str
    conditions: tuple[Condition, ...]
    extraction: Mapping[str, ExtractionSet]
    test: TestSet
    max_rows: int
    moved_from: tuple[str, ...] = ()
    reference: str | None = None
    smoke: bool = False
    accept_mismatch: bool = False
    date: str | None = None
    special_tokens: SpecialTokens = "text"
    notes: tuple[str, ...] = ()
    template_options: TemplateOptions = field(default_factory=dict)


@dataclass(frozen=True)
class Progress:
    """What a job is doing, for display.

    Attributes:
        model: short name of the model.
        done: finished conditions, those of earlier runs included.
        total: conditions of the job.
        fraction: share of the whole job, counting steps inside the running batch, 0 to 1.
        note: what is going on, in a few words.
        rows: responses of the whole job.
        job: the job's name, where several run at the same time; else empty.
        warning: what a person should read, once; else empty.
    """

    model: str
    done: int
    total: int
    fraction: float
    note: str
    rows: int = 0
    job: str = ""
    warning: str = ""


OnProgress = Callable[[Progress], None]


def run_job(job: Job, store: RunStore, on_progress: OnProgress = lambda _progress: None) -> None:
    """Compute every condition of `job` that `store` lacks; save each batch as it finishes.

    Conditions that are there are neither computed nor touched, with one exception to the first: a
    batch of which only some conditions were saved when a run was killed is generated again as a
    whole, so that the missing ones come out the same to the last bit. Where a method drops every
    candidate and so chooses no layer, the conditions at its choice are left out.

    Rows per batch follow free memory, and are halved where that was too little. `rows` in a
    record's provenance says how many a batch was allowed.

    Raises:
        InputError, NumericalError: see `ChatModel.load`, `extract_directions` and `generate`.
        InputError: the weights found here are not those the job was made for.
        OutOfMemory: the model does not fit, or not a single row beside it.
        SteersweepError: the model is not what it should be; see `smoke`.
    """
    conditions = _placeable(job, store)
    done = {c.key for c in conditions if store.get(c.key, job.test.prompts) is not None}

    def tell(note: str, running: float = 0.0, warning: str = "") -> None:
        fraction = (len(done) + running) / len(conditions)
        rows = len(conditions) * len(job.test.prompts)
        on_progress(
            Progress(
                job.source.name, len(done), len(conditions), fraction, note, rows, warning=warning
            )
        )

    def warn(warning: str) -> None:
        tell("checking the model", warning=warning)

    if not unfinished(job, store):
        return tell("already finished")
    tell("loading the model")
    chat = _load(job)
    tell("checking the model")
    notes = check_for_run(
        chat,
        store.get_once,
        store.put_once,
        every=job.smoke,
        accept_mismatch=job.accept_mismatch,
    )
    for note in notes:
        warn(note)
    tell("extracting directions")
    bench = _Bench(chat, job, store, notes)
    conditions = _placeable(job, store)
    done = {c.key for c in conditions if c.key in done and bench.has_direction(c)}
    missing_layers = missing_notes(job, store)
    for layer_note in missing_layers:
        warn(layer_note)
    if missing_layers and all(condition.is_control for condition in conditions):
        raise InputError(
            f"{job.source.model_id}: nothing to sweep: {'; '.join(missing_layers)}; choose other "
            f"layers or extraction prompts"
        )
    for batch in in_batches(conditions, len(job.test.prompts), job.max_rows):
        missing = {condition.key for condition in batch} - done
        if not missing:
            continue

        def on_step(step: StepInfo, size: int = len(missing)) -> None:
            tell(
                f"step {step.step}, {step.rows} rows", size * _DECODING * step.step / step.max_steps
            )

        for record in bench.run(batch, on_step):
            store.put(record)
            if record["condition"]["method"] == UNSTEERED and (thinks := unsteered_note(record)):
                warn(thinks)
        done |= missing
        tell("saved")
    if job.reference is not None:
        bench.compare()
    return tell("finished")


def unfinished(job: Job, store: RunStore) -> int:
    """How much of a job is still to be made: conditions, and files that finished ones rest on."""
    missing = 0
    directions: set[str] = set()
    for condition in _placeable(job, store):
        record = store.get(condition.key, job.test.prompts)
        missing += record is None
        if record is not None and condition.direction is None:
            directions.add(record["result"].get("direction_file", ""))
    lost = sum(store.direction(Path(name).stem) is None for name in directions - {""})
    lost += sum(store.get_once(name) is None for name in extraction_files(job).values())
    # Checks are made again too where their file was damaged; nothing else names it.
    lost += any(name.startswith(CHECKS) for name in store.damaged)
    return missing + lost + (not _compared(job, store))


def _compared(job: Job, store: RunStore) -> bool:
    """Whether what a precision is compared by is there, or none is asked for."""
    if job.reference is None:
        return True
    held = store.get_once(comparison_file(job))
    if held is None:
        return False
    return held["activations"] is None or store.tensors(held["activations"]) is not None


def comparison_file(job: Job) -> str:
    """Where a run folder keeps what a precision is compared with the reference by."""
    first = job.conditions[0]
    sets = {c.method: c.extraction_rendered for c in job.conditions if c.extraction_rendered}
    key = content_key(
        [first.model_fingerprint, job.precision, job.reference, first.test_rendered, sets]
    )
    return f"extraction/comparison-{key}.json"


def _load(job: Job) -> ChatModel:
    """The job's model, if it is the one the conditions were made for."""
    try:
        chat = ChatModel.load(
            job.source,
            precision=job.precision,
            device=job.device,
            date=job.date,
            special_tokens=job.special_tokens,
            template_options=job.template_options,
        )
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
        reason = first_line(error)
    else:
        expected = job.conditions[0].model_fingerprint
        if chat.fingerprint != expected:
            raise InputError(
                f"{job.source.model_id}: the weights in {job.source.location} are not those this "
                f"run began with (fingerprint {expected} then, {chat.fingerprint} now)"
            )
        _check_prompts(chat, job)
        return chat
    free_memory()
    raise OutOfMemory(f"{job.source.model_id}: does not fit on {job.device}: {reason}")


def _check_prompts(chat: ChatModel, job: Job) -> None:
    """See that prompts become the same tokens here as where the job was made."""
    extraction = {p: extraction_rendered(chat.renderer, p) for p in {*job.extraction.values()}}
    same = test_rendered(chat.renderer, job.test) == job.conditions[0].test_rendered
    for method, prompts in job.extraction.items():
        made_for = {c.extraction_rendered for c in _found_by(method, job)}
        same = same and made_for <= {extraction[prompts]}
    if not same:
        import transformers

        raise InputError(
            f"{job.source.model_id}: prompts do not become the tokens that this job was made for; "
            f"tokenizer, template or libraries differ (transformers {transformers.__version__} on "
            f"{platform.node()}). Install the versions that the run began with"
        )


def _found_by(method: str, job: Job) -> list[Condition]:
    """Conditions of a job whose directions a method finds on its model."""
    return [
        c
        for c in job.conditions
        if not c.is_control and c.direction is None and c.method.removesuffix(AUTO) == method
    ]


def extraction_files(job: Job) -> dict[str, str]:
    """Where the run folder keeps what each method found, where a condition rests on it."""
    found = {method: _found_by(method, job) for method in job.extraction}
    return {method: scores_file(rest[0]) for method, rest in found.items() if rest}


def left_out(job: Job, store: RunStore) -> set[str]:
    """Keys of the conditions of a job that have no direction, as far as extraction has told.

    The method should choose the layer and its rules dropped them all, or the classes differ by no
    more than rounding there. A random direction is left out where no method has one to compare.
    """
    found = {method: store.get_once(name) for method, name in extraction_files(job).items()}
    missing = {
        method: {int(layer) for layer in held["missing"]} if held else set()
        for method, held in found.items()
    }
    nowhere = set.intersection(*missing.values()) if missing else set()

    def without(condition: Condition) -> bool:
        if condition.placed_by is not None:
            held = found[condition.placed_by.removesuffix(AUTO)]
            return held is not None and held["chosen"] is None
        of_method = nowhere if condition.is_control else missing.get(condition.method, set())
        return condition.direction is None and condition.layer in of_method

    return {condition.key for condition in job.conditions if without(condition)}


def missing_notes(job: Job, store: RunStore) -> list[str]:
    """Of every layer asked for that has no direction, why not."""
    asked = {c.layer for c in job.conditions if not c.is_control and c.direction is None}
    notes = []
    for method, name in extraction_files(job).items():
        held = store.get_once(name)
        missing = held["missing"] if held else {}
        notes += [f"{method}, {why}" for layer, why in missing.items() if int(layer) in asked]
    return notes


def unsteered_note(record: Record) -> str | None:
    """What the unsteered answers say of the model: that it thinks first, and whether it ends."""
    responses = [sample["response"] for sample in record["samples"]]
    return thinking_note(responses, record["condition"]["max_new_tokens"])


def scores_file(condition: Condition) -> str:
    """Where the scores are that a condition's method chose by."""
    return extraction_file(
        condition.method.removeprefix(f"{RANDOM}@"),
        str(condition.extraction_rendered),
        condition.model_fingerprint,
        condition.precision,
    )


def _placeable(job: Job, store: RunStore) -> tuple[Condition, ...]:
    out = left_out(job, store)
    return tuple(c for c in job.conditions if c.key not in out)


class _Bench:
    """A loaded model with its directions, ready to run conditions."""

    def __init__(
        self, chat: ChatModel, job: Job, store: RunStore, notes: tuple[str, ...] = ()
    ) -> None:
        self.chat = chat
        self.notes = notes
        self.job = job
        self.store = store
        self.prompt_ids = chat.renderer.ids_of(job.test.prompts, "test prompt")
        self.rows = _row_limit(chat, job, max(map(len, self.prompt_ids)))
        # One length per layer for all methods: strengths mean the same whatever is added.
        states = self.rows.run(  # [prompt, layer, d_model]
            lambda rows: residuals(chat, self.prompt_ids, max_rows=min(64, rows))[:, 0]
        )
        self.residual_norms = states.double().norm(dim=-1).mean(0).tolist()
        # By method and layer; the layer is None where the method chose it.
        self.directions: dict[tuple[str, int | None], Direction] = {}
        self.extraction_seconds: dict[str, float] = {}
        for method, prompts in job.extraction.items():
            self._extract(method, prompts)
        for condition in job.conditions:
            if condition.direction is not None:
                self._borrow(condition, condition.direction)
        self.facts = provenance.facts(chat.device)
        self._threshold: float | None = None

    def _extract(self, method: str, prompts: ExtractionSet) -> None:
        """Find a method's directions; scores computed by an earlier run are not computed again."""
        started = time.monotonic()
        layers = sorted({c.layer for c in self.job.conditions if c.layer is not None})
        rendered = extraction_rendered(self.chat.renderer, prompts)
        name = extraction_file(method, rendered, self.chat.fingerprint, self.chat.precision)
        held = self.store.get_once(name)
        found = self.rows.run(
            lambda rows: extract_directions(
                self.chat,
                method,
                prompts,
                layers,
                scores=CosmicScores.from_json(held["scores"]) if held and held["scores"] else None,
                max_rows=rows,
            )
        )
        chosen = found.chosen
        held = self.store.put_once(
            name,
            {
                "method": method,
                "prompts": prompts.id,
                "chosen": chosen and {"layer": chosen.layer, "position": chosen.position},
                "notes": list(found.notes),
                "seconds": time.monotonic() - started,
                "missing": {str(layer): why for layer, why in found.missing.items()},
                "scores": found.scores and found.scores.as_json(),
            },
        )
        self.extraction_seconds[method] = held["seconds"]
        places: list[tuple[int | None, Direction]] = [*found.at_layer.items()]
        if found.chosen is not None:
            places.append((None, found.chosen))
        for layer, direction in places:
            norm = self.residual_norms[direction.layer]
            self.directions[direction.method, layer] = replace(direction, residual_norm=norm)

    def _borrow(self, condition: Condition, key: str) -> None:
        """A direction found elsewhere, at this model's own layer and residual norm."""
        assert condition.layer is not None, "a borrowed direction is tried at a given layer"
        found = self.store.needed_direction(key)
        asked = condition.method.partition("@")[0], condition.extraction_prompts
        if (found.method, found.prompts) != asked or len(found.vector) != self.job.d_model:
            raise LostDirection(
                f"{direction_file(key)}: is a direction of {found.method} from {found.prompts} "
                f"with {len(found.vector)} components, which {condition} did not ask for"
            )
        norm = self.residual_norms[condition.layer]
        self.directions[condition.method, condition.layer] = replace(
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
        if batch[0].method == UNSTEERED:
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
        prompts = self.job.extraction.get(DIM)
        activations = None
        if prompts is not None:
            rendered = extraction_rendered(self.chat.renderer, prompts)
            key = content_key([rendered, self.chat.fingerprint, self.chat.precision])
            activations = self.store.put_tensors(
                f"extraction/activations-{key}.safetensors",
                lambda: {
                    "harmful": self._last_token(prompts.harmful),
                    "harmless": self._last_token(prompts.harmless),
                },
            )
        self.store.put_once(
            comparison_file(self.job),
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
        texts = [sample["response"].removeprefix(opened) for sample in record["samples"]]
        ids = [self.chat.token_ids(text) for text in texts]
        found = self.rows.run(
            lambda most: response_nll(self.chat, self.prompt_ids, ids, max_rows=most)
        )
        n_tokens = sum(len(tokens) for tokens in ids)
        total = sum(nll.mean * len(tokens) for nll, tokens in zip(found, ids, strict=True) if nll)
        return math.exp(total / n_tokens) if n_tokens else None

    def _direction(self, condition: Condition) -> Direction | None:
        if condition.method == UNSTEERED:
            return None
        if not condition.is_control:
            return self.directions[condition.method, condition.layer]
        any_method = condition.placed_by or next(iter(self.job.extraction))
        return random_direction(self.directions[any_method, condition.layer], condition.seed)

    def _edit(self, condition: Condition) -> tuple[Direction | None, Edit | None]:
        direction = self._direction(condition)
        if direction is None or condition.strength is None:
            return None, None
        multiplier = condition.strength.multiplier(direction.residual_norm)
        return direction, Edit.add(direction.vector, multiplier, direction.layer)

    def _fluency_threshold(self) -> float:
        """From the unsteered control: just computed, or saved by an earlier run."""
        if self._threshold is None:
            record = self.store.get(self.job.conditions[0].key, self.job.test.prompts)
            if record is None:
                raise SteersweepError(
                    f"{self.job.source.model_id}: the unsteered control was damaged while the run "
                    f"went on; run the same command again"
                )
            value = record["result"]["fluency_threshold"]
            self._threshold = float("inf") if value is None else float(value)
        return self._threshold

    def _direction_file(self, condition: Condition, direction: Direction) -> str:
        if condition.direction is not None:
            return direction_file(condition.direction)
        return self.store.put_direction(direction)

    def has_direction(self, condition: Condition) -> bool:
        """See that a finished condition's direction is in the run folder; it is saved if lost.

        False where what is found now is not what the record names: the record is set aside then.
        """
        direction = self._direction(condition)
        record = self.store.get(condition.key)
        if direction is None or record is None:
            return record is not None
        named = record["result"]["direction_file"]
        if self.store.direction(Path(named).stem) is not None:
            return True
        if self._direction_file(condition, direction) == named:
            return True
        self.store.set_aside(condition_file(condition.key), f"{named} is lost")
        return False

    @cached_property
    def _judge(self) -> Judge:
        return get_judge(self.job.conditions[0].judge, self.store.folder / REPLIES)

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
        result = summarise(Counter(judged), self.job.test.repeats)
        result["fluency_threshold"] = None if threshold == float("inf") else threshold
        if condition.method.removesuffix(AUTO) in self.extraction_seconds:
            seconds_spent = self.extraction_seconds[condition.method.removesuffix(AUTO)]
            result["extraction_seconds"] = seconds_spent
        if direction is not None and condition.strength is not None:
            multiplier = condition.strength.multiplier(direction.residual_norm)
            result |= {
                "layer_idx": direction.layer,
                "position": direction.position,
                "site": direction.site,
                "multiplier": multiplier,
                "relative_strength": multiplier / direction.residual_norm,
                "direction_norm": direction.raw_norm,
                "residual_norm": direction.residual_norm,
                "direction_file": self._direction_file(condition, direction),
            }
        return {
            "key": condition.key,
            "condition": asdict(condition),
            "result": result,
            "samples": [
                _sample(*parts) for parts in zip(asked, judged, answers, nlls, strict=True)
            ],
            "runtime_seconds": seconds,
            "timestamp": provenance.utc_now(),
            "provenance": {
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
        }


def _row_limit(chat: ChatModel, job: Job, prompt_tokens: int) -> RowLimit:
    new_tokens = max(condition.max_new_tokens for condition in job.conditions)
    model = memory_model(chat.model.config, chat.model)
    return RowLimit(
        job.max_rows,
        model.row(job.precision, prompt_tokens, new_tokens),
        str(chat.device),
        f"{job.source.model_id} on {job.device}",
    )


def _sample(
    asked: Answer, judgement: Judgement, answer: Generation, nll: ResponseNll | None
) -> Record:
    """A judged answer, as records hold it."""
    return {
        "prompt": asked.prompt,
        "response": asked.response,
        **judgement.fields(),
        "finish_reason": answer.finish_reason,
        "nll": None if nll is None else nll.mean,
        "nll_worst": None if nll is None else nll.worst,
        "n_tokens": len(answer.token_ids),
    }
