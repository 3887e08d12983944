"""Runs one job: loads its model, and generates, judges and saves the conditions it lacks.

A job that lacks nothing needs neither its model nor torch, whose import takes seconds.
"""

from __future__ import annotations

import platform
from collections.abc import Sequence
from typing import TYPE_CHECKING

from steersweep.budget.estimate import EFFECTS, GENERATION, JUDGING, LIKELIHOODS, LOADING
from steersweep.budget.shapes import ModelShape
from steersweep.core.errors import InputError, NumericalError
from steersweep.core.precision_labels import runs_as
from steersweep.methods.method import METHODS
from steersweep.model.memory import free_memory, model_shape
from steersweep.model.rendering import extraction_rendered, test_rendered
from steersweep.run.condition import Condition
from steersweep.run.folder import RunFolder
from steersweep.run.label import UNSTEERED
from steersweep.search.search import STRENGTHS
from steersweep.search.window import MOST
from steersweep.work.batches import in_batches
from steersweep.work.expected import APART, CHECKS, COMPARISON, expected_seconds
from steersweep.work.job import (
    ALREADY,
    Job,
    OnProgress,
    Progress,
    breaks_of,
    effects_missing,
    found_by,
    missing_notes,
    placeable,
    target_of,
    unfinished,
    unsteered_note,
    window_notes,
)
from steersweep.work.overflow import FROM, as_it_runs, note_overflow
from steersweep.work.preparation import Preparation
from steersweep.work.stages import Stages, share_done

if TYPE_CHECKING:
    from steersweep.model.chat_model import ChatModel
    from steersweep.work.bench import Bench

_LOADING_S = 5.0  # until a model's size is known
_NOT_YET = 0.999


def run_job(job: Job, store: RunFolder, on_progress: OnProgress = lambda _progress: None) -> None:
    """Compute every condition of `job` that `store` lacks; save each batch as it finishes.

    Where fp16 gives NaN or infinity the job runs again in bf16, once; see `overflow`. So it does
    from the start where its model has overflowed in this run folder before.

    Raises:
        as `_run_job`.
    """
    job = as_it_runs(job, store)
    try:
        return _run_job(job, store, on_progress)
    except NumericalError as error:
        if runs_as(job.precision) != FROM:
            raise
        note_overflow(job, store, error)
    free_memory()
    return _run_job(as_it_runs(job, store), store, on_progress)


def _run_job(job: Job, store: RunFolder, on_progress: OnProgress) -> None:
    """Compute every condition of `job` that `store` lacks; save each batch as it finishes.

    A job for checks alone ends after these. Conditions that are there are neither computed nor
    touched, with one exception to the first: a
    batch of which only some conditions were saved when a run was killed is generated again as a
    whole, so that the missing ones come out the same to the last bit. Where a method drops every
    candidate and so chooses no layer, the conditions at its choice are left out.

    Rows per batch follow free memory, and are halved where that was too little; and they follow
    time, so that something is saved every minute. `rows` in a record's provenance says how many a
    batch was allowed.

    Raises:
        InputError, NumericalError: see `ChatModel.load`, `extract_directions` and `generate`.
        InputError: the weights found here are not those the job was made for.
        OutOfMemory: the model does not fit, or not a single row beside it.
        SteersweepError: the model is not what it should be; see `smoke`.
    """
    conditions = placeable(job, store)
    done = _done(conditions, job, store)
    told = Told(job, len(conditions), on_progress)
    told.done = len(done)
    if not job.checks_only and not unfinished(job, store) and not effects_missing(job, store):
        Preparation(job, store).forget()
        return told(ALREADY, ended=True)
    n_prompts = len(job.test.prompts)
    # Of a window's twelve strengths five are run.
    likely = len(conditions) * MOST // len(STRENGTHS) * n_prompts if job.window else None
    bench = open_bench(job, store, told, rows=likely)
    if bench is None:
        return told("finished", ended=True)
    asked = 0
    if job.window and breaks_of(job, store) is None:
        from steersweep.work.window import find_window

        asked = find_window(bench, job, store, likely or 0)
    conditions = placeable(job, store)
    if asked:  # the unsteered answers are there now
        done = _done(conditions, job, store)
    done = {c.key for c in conditions if c.key in done and bench.has_direction(c)}
    told.total = len(conditions)
    told.rows = None
    for note in window_notes(job, store):
        told("window", warning=note)
    missing_layers = missing_notes(job, store)
    for note in missing_layers:
        told("directions", warning=note)
    if missing_layers and all(condition.is_control for condition in conditions):
        raise InputError(
            f"{job.source.model_id}: nothing to sweep: {'; '.join(missing_layers)}; choose other "
            f"layers or extraction prompts"
        )
    bench.answering.expect(len(conditions) * n_prompts + asked, done=asked)
    missing = {condition.key for condition in conditions} - done
    for batch in in_batches([(c, n_prompts) for c in conditions], bench.max_rows):
        for record in bench.run(batch, missing):
            store.put(record)
            if record.condition.label == UNSTEERED and (thinks := unsteered_note(record)):
                told("saved", warning=thinks)
            told.done += 1
        told("saved")
    store.keep_finished()
    told.stages.finish(GENERATION, LIKELIHOODS, JUDGING)
    measure(bench, job, store, told)
    if job.reference is not None:
        from steersweep.work.comparing import keep_comparison

        told.begin(COMPARISON)
        keep_comparison(bench)
        told.stages.end()
    bench.prepared.forget()
    return told("finished", ended=True)


def _done(conditions: Sequence[Condition], job: Job, store: RunFolder) -> set[str]:
    """Keys of the conditions that are there."""
    found = {c.key for c in conditions if store.finished(c.key, job.test.prompts) is not None}
    store.keep_finished()
    return found


def measure(bench: Bench, job: Job, store: RunFolder, told: Told) -> None:
    """Measure the effects that a job asks for, of its finished conditions.

    Raises:
        InputError, LostDirection: see `measure_effects`.
    """
    target = target_of(job, store) if job.effects else None
    if target is None:
        return
    from steersweep.work.measuring import measure_effects

    def on_share(share: float, what: str) -> None:
        told.stages.at(share)
        told(what)

    told.begin(EFFECTS)
    measure_effects(bench.chat, store, job.effects, target, bench.rows, on_share)
    told.stages.end()


def open_bench(job: Job, store: RunFolder, told: Told, *, rows: int | None = None) -> Bench | None:
    """A job's model with its directions, checked; None for a job of checks alone, after these.

    Args:
        job: the job.
        store: its run folder.
        told: tells what goes on.
        rows: answers that are expected; None: of all conditions to all prompts.

    Raises:
        as `_run_job`.
    """
    from steersweep.work.bench import Bench

    for own in job.own_methods.values():
        METHODS.add(own)
    told.rows = rows
    chat, shape = _open(job, told, rows)
    notes = _check(chat, job, store, told)
    if job.checks_only:
        return None
    return Bench(chat, job, store, shape, notes=notes, stages=told.stages, tell=told)


class Told:
    """Tells a job's progress."""

    def __init__(self, job: Job, total: int, on_progress: OnProgress) -> None:
        self.stages = Stages({LOADING: _LOADING_S}, apart=APART)
        self.total = total
        self.done = 0
        self.rows: int | None = None  # where they are not those of all conditions
        self._job = job
        self._on_progress = on_progress

    def __call__(self, note: str, *, warning: str = "", ended: bool = False) -> None:
        """Tell what goes on now."""
        now = self.stages.now()
        known = len(now) > 1  # what it will do, and not only that the model is being loaded
        fraction = 1.0 if ended else min(_NOT_YET, share_done(now)) if known else 0.0
        self._on_progress(
            Progress(
                self._job.source.name,
                self.done,
                self.total,
                fraction,
                note,
                self.total * len(self._job.test.prompts) if self.rows is None else self.rows,
                warning=warning,
                stages=now,
            )
        )

    def count(self, conditions: int) -> None:
        """Conditions were finished."""
        self.done += conditions

    def begin(self, stage: str) -> None:
        """A stage begins, or goes on."""
        self.stages.begin(stage)
        self(stage)


def _open(job: Job, told: Told, rows: int | None) -> tuple[ChatModel, ModelShape]:
    """Load a job's model, and expect what its size makes of the job."""
    told.begin(LOADING)
    chat = _load(job)
    shape = model_shape(chat.model.config, chat.model)
    told.stages.end()
    told.stages.expect(expected_seconds(job, shape, chat.device.type, rows=rows))
    return chat, shape


def _check(chat: ChatModel, job: Job, store: RunFolder, told: Told) -> tuple[str, ...]:
    """Make the checks that a job needs; what a user should know of the model."""
    from steersweep.smoke.required import check_for_run

    def on_check(name: str, share: float) -> None:
        told.stages.at(share)
        told(f"{name} is checked")

    told.begin(CHECKS)
    notes = check_for_run(
        chat,
        store,
        every=job.smoke,
        accept_mismatch=job.accept_mismatch,
        on_check=on_check,
    )
    told.stages.end()
    notes += (job.instead_of,) if job.instead_of else ()
    for note in notes:
        told(CHECKS, warning=note)
    return notes


def _load(job: Job) -> ChatModel:
    """The job's model, if it is the one the conditions were made for."""
    from steersweep.model.chat_model import ChatModel

    chat = ChatModel.load(
        job.source,
        precision=job.precision,
        device=job.device,
        date=job.date,
        special_tokens=job.special_tokens,
        template_options=job.template_options,
        system=job.system,
    )
    expected = job.conditions[0].model_fingerprint
    if chat.fingerprint != expected:
        raise InputError(
            f"{job.source.model_id}: the weights in {job.source.location} are not those this "
            f"run began with (fingerprint {expected} then, {chat.fingerprint} now)"
        )
    _check_prompts(chat, job)
    return chat


def _check_prompts(chat: ChatModel, job: Job) -> None:
    """See that prompts become the same tokens here as where the job was made."""
    extraction = {p: extraction_rendered(chat.renderer, p) for p in {*job.extraction.values()}}
    same = test_rendered(chat.renderer, job.test) == job.conditions[0].test_rendered
    for method, prompts in job.extraction.items():
        made_for = {c.extraction_rendered for c in found_by(method, job)}
        same = same and made_for <= {extraction[prompts], None}  # None: rests on no prompts
    if not same:
        import transformers

        raise InputError(
            f"{job.source.model_id}: prompts do not become the tokens that this job was made for; "
            f"tokenizer, template or libraries differ (transformers {transformers.__version__} on "
            f"{platform.node()}). Install the versions that the run began with"
        )
