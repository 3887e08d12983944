"""Runs one job: loads its model, and generates, judges and saves the conditions it lacks."""

from __future__ import annotations

import platform

from steersweep.core.errors import InputError, NumericalError
from steersweep.core.printing import first_line
from steersweep.methods.method import METHODS
from steersweep.model.chat_model import ChatModel
from steersweep.model.memory import OutOfMemory, free_memory, is_out_of_memory
from steersweep.model.rendering import extraction_rendered, test_rendered
from steersweep.run.condition import in_batches
from steersweep.run.folder import RunFolder
from steersweep.run.label import UNSTEERED
from steersweep.smoke.required import check_for_run
from steersweep.steer.steering import StepInfo
from steersweep.work.bench import Bench
from steersweep.work.job import (
    Job,
    OnProgress,
    Progress,
    found_by,
    missing_notes,
    placeable,
    unfinished,
    unsteered_note,
)
from steersweep.work.overflow import FROM, as_it_runs, note_overflow

# Share of a batch's time that decoding takes; scoring and judging take the rest.
_DECODING = 0.85


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
        if job.precision != FROM:
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

    Rows per batch follow free memory, and are halved where that was too little. `rows` in a
    record's provenance says how many a batch was allowed.

    Raises:
        InputError, NumericalError: see `ChatModel.load`, `extract_directions` and `generate`.
        InputError: the weights found here are not those the job was made for.
        OutOfMemory: the model does not fit, or not a single row beside it.
        SteersweepError: the model is not what it should be; see `smoke`.
    """
    conditions = placeable(job, store)
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

    if not job.checks_only and not unfinished(job, store):
        return tell("already finished")
    for own in job.own_methods.values():
        METHODS.add(own)
    tell("loading the model")
    chat = _load(job)
    tell("checking the model")
    notes = check_for_run(
        chat,
        store,
        every=job.smoke,
        accept_mismatch=job.accept_mismatch,
    )
    notes += (job.instead_of,) if job.instead_of else ()
    for note in notes:
        warn(note)
    if job.checks_only:
        return tell("finished")
    tell("extracting directions")
    bench = Bench(chat, job, store, notes)
    conditions = placeable(job, store)
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
            if record.condition.label == UNSTEERED and (thinks := unsteered_note(record)):
                warn(thinks)
        done |= missing
        tell("saved")
    if job.reference is not None:
        bench.compare()
    return tell("finished")


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
        made_for = {c.extraction_rendered for c in found_by(method, job)}
        same = same and made_for <= {extraction[prompts]}
    if not same:
        import transformers

        raise InputError(
            f"{job.source.model_id}: prompts do not become the tokens that this job was made for; "
            f"tokenizer, template or libraries differ (transformers {transformers.__version__} on "
            f"{platform.node()}). Install the versions that the run began with"
        )
