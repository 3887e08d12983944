"""Result files: finished conditions gathered per model and method, with controls and verdict."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from steersweep.core import typed
from steersweep.core.errors import SteersweepError
from steersweep.methods.dim import Dim
from steersweep.people.corrected import apply_reviews, judge_error
from steersweep.people.reviews import read_reviews
from steersweep.run.cell import AgainstDim, AgainstUnsteered, Cell, SteeredCell
from steersweep.run.condition import Condition, Strength
from steersweep.run.direction import cosine
from steersweep.run.folder import RunFolder
from steersweep.run.judgement import UNJUDGED, Rates
from steersweep.run.label import UNSTEERED, Label
from steersweep.run.packed import MANY, PackedSamples
from steersweep.run.records import Record
from steersweep.run.result import Best, Controls, Extraction, ModelVerdict, PrecisionFacts, Result
from steersweep.run.verdict import TOO_WEAK, Thresholds, verdict
from steersweep.sweeps.compared import (
    against_unsteered,
    best_condition,
    is_too_weak,
    p_difference,
)
from steersweep.sweeps.priced import with_effects
from steersweep.work.job import (
    Job,
    comparison_file,
    missing_notes,
    scores_file,
    unsteered_note,
    window_notes,
)

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

# Fewer unique prompts than this make intervals too wide for most conclusions.
FEW_PROMPTS = 30
# Rate from which a control says that something other than the direction causes refusals.
CONTROL_REFUSES_FROM = 0.20


def sweep_results(store: RunFolder, jobs: Iterable[Job], thresholds: Thresholds) -> list[Result]:
    """One result per model and method.

    Only finished conditions are in it; a model without a finished steered condition is left out.

    Args:
        store: the run folder.
        jobs: what the run consists of.
        thresholds: that verdicts are decided by.

    Raises:
        SteersweepError: a file that results rest on was damaged since it was made.
    """
    results = [result for job in jobs for result in _results_of(store, job, thresholds)]
    reviews = read_reviews(store.root)
    return [apply_reviews(result, reviews) for result in results]


def _results_of(store: RunFolder, job: Job, thresholds: Thresholds) -> list[Result]:
    """Results of a job, one per method."""
    records = _records(store, job)
    _refuse_damaged(store, (store.paths.condition(condition.key) for condition in job.conditions))
    notes = _notes(store, job, records)
    results = []
    for label in dict.fromkeys(c.label for c in job.conditions if not c.is_control):
        steered = [(c, r) for c, r in records if c.label == label]
        controls = [(c, r) for c, r in records if c.label in (UNSTEERED, label.random_control)]
        if steered:
            found = _result(job, label, steered, controls, thresholds)
            results.append(
                replace(
                    found,
                    extraction=_extraction(store, steered[0][0]),
                    notes=notes,
                    comparison=_comparison(store, job),
                )
            )
    return with_effects(_methods_compared(results, store), store)


def _records(store: RunFolder, job: Job) -> list[tuple[Condition, Record]]:
    """Finished conditions of a job; samples are packed where there are very many."""
    many = len(job.conditions) * len(job.test.prompts) >= MANY
    found = []
    for condition in job.conditions:
        record = store.get(condition.key, job.test.prompts)
        if record is not None and many:
            record = replace(record, samples=PackedSamples.of(record.samples))
        if record is not None:
            found.append((condition, record))
    return found


def _notes(
    store: RunFolder, job: Job, records: Sequence[tuple[Condition, Record]]
) -> tuple[str, ...]:
    """What a reader of a model's results should know: about the model, and layers left out."""
    notes = [note for _, record in records for note in record.provenance.get("notes", [])]
    notes += missing_notes(job, store)
    notes += window_notes(job, store)
    for condition, record in records:
        if condition.label == UNSTEERED and (note := unsteered_note(record)):
            notes.append(note)
    failed = sum(record.rates.unjudged for _, record in records)
    if failed:
        errors = (
            sample.judgement.error
            for _, record in records
            if record.rates.unjudged
            for sample in record.samples
            if sample.judgement.quality == UNJUDGED
        )
        total = sum(len(record.samples) for _, record in records)
        notes.append(f"{failed} of {total} answers could not be judged, such as: {next(errors)}")
    return tuple(dict.fromkeys(notes))


def _refuse_damaged(store: RunFolder, paths: Iterable[Path]) -> None:
    """Results without a file that is damaged would name another layer the best."""
    for path in paths:
        if why := store.why_damaged(path):
            raise SteersweepError(
                f"{path}: was damaged after it was made ({why}); run the same command again to "
                f"make it again"
            )


def _result(
    job: Job,
    label: Label,
    steered: Sequence[tuple[Condition, Record]],
    controls: Sequence[tuple[Condition, Record]],
    thresholds: Thresholds,
) -> Result:
    unsteered = [_cell(c, r, job) for c, r in controls if c.label == UNSTEERED]
    no_steering = unsteered[0] if unsteered else None
    random = [_steered_cell(c, r, job) for c, r in controls if c.label != UNSTEERED]
    conditions = against_unsteered([_steered_cell(c, r, job) for c, r in steered], no_steering)
    best = best_condition(conditions)
    control = next((cell for cell in random if _place(cell) == _place(best)), None)
    records = [record for _, record in (*steered, *controls)]
    newest = max(records, key=lambda record: record.timestamp)
    judge = steered[0][0].judge
    return Result(
        phase="1",
        model=job.source.name,
        model_id=job.source.model_id,
        family=job.family,
        label=label,
        quantization=job.precision,
        n_layers=job.n_layers,
        d_model=job.d_model,
        conditions=tuple(conditions),
        controls=Controls(no_steering, control, tuple(random)),
        judge=judge,
        verdict=_verdict(best, no_steering, control, conditions, judge, thresholds),
        timestamp=newest.timestamp,
        gpu=newest.provenance["device"],
        runtime_seconds=round(sum(record.runtime_seconds for record in records), 3),
        provenance=newest.provenance,
        extraction=None,
        notes=(),
    )


def _extraction(store: RunFolder, condition: Condition) -> Extraction | None:
    """What a method that scores candidates chose, and notes about it; None for other methods."""
    path = scores_file(condition, store.paths)
    held = store.read_json(path)
    _refuse_damaged(store, [path])
    if held is None or held["state"] is None:
        return None
    facts = {name: held[name] for name in ("chosen", "notes", "seconds")}
    return typed.read(Extraction, {"file": store.paths.name_of(path), **facts})


def _comparison(store: RunFolder, job: Job) -> PrecisionFacts | None:
    """What the job's precision is compared with others by; None where it is not."""
    if job.reference is None:
        return None
    path = comparison_file(job, store.paths)
    held = store.read_json(path)
    _refuse_damaged(store, [path])
    return None if held is None else typed.read(PrecisionFacts, held)


def _methods_compared(results: Sequence[Result], store: RunFolder) -> list[Result]:
    """A model's results with how like DIM's each direction is, and whether verdicts differ."""
    swept = [result for result in results if result.label.is_swept]
    differ = len({result.verdict.outcome for result in swept}) > 1
    dim = next((result for result in swept if result.method == Dim.name), None)
    if differ:
        results = [_disagreeing(result) if result.label.is_swept else result for result in results]
    if dim is None:
        return list(results)
    vectors = {cell.layer: _vector(cell, store) for cell in dim.conditions}
    return [
        result if result.method == dim.method else _against_dim(result, vectors, store)
        for result in results
    ]


def _disagreeing(result: Result) -> Result:
    flags = (*result.verdict.flags, "methods-disagree")
    return replace(result, verdict=replace(result.verdict, flags=flags))


def _against_dim(
    result: Result, vectors: Mapping[int, NDArray[np.float32]], store: RunFolder
) -> Result:
    """A result with the cosine of each of its directions with DIM's at that layer."""
    conditions = []
    for cell in result.conditions:
        own, dim = _vector(cell, store), vectors.get(cell.layer)
        compared = AgainstDim(None if dim is None else cosine(dim, own))
        conditions.append(replace(cell, against_dim=compared))
    return replace(result, conditions=tuple(conditions))


def _vector(cell: SteeredCell, store: RunFolder) -> NDArray[np.float32]:
    return store.needed_vector(cell.steering.direction_key)


def _verdict(
    best: SteeredCell,
    unsteered: Cell | None,
    control: SteeredCell | None,
    conditions: Sequence[SteeredCell],
    judge: str,
    thresholds: Thresholds,
) -> ModelVerdict:
    n, rates = len(conditions), best.rates
    decided = verdict(
        coherent_refusal_rate=rates.coherent_refusal_rate,
        garbled_refusal_rate=rates.garbled_refusal_rate,
        n_unique=rates.n_unique,
        n_compared=n,
        thresholds=thresholds,
    )
    assert decided.interval is not None, "the number of prompts is given"
    assert decided.certainty != "unknown"
    flags = list(decided.flags)
    if unsteered and _refuses_at_most(unsteered) >= CONTROL_REFUSES_FROM:
        flags.append("refuses-unsteered")
    if control and _refuses_at_most(control) >= CONTROL_REFUSES_FROM:
        flags.append("random-refuses-too")
    if any(cell is not None and cell.rates.unjudged for cell in (best, unsteered, control)):
        flags.append("unjudged")
    if decided.outcome == "fails" and is_too_weak(conditions, unsteered):
        flags.append(TOO_WEAK)
    if rates.n_unique < FEW_PROMPTS:
        flags.append("few-prompts")
    compared = best.against_unsteered or AgainstUnsteered(None, None)
    return ModelVerdict(
        outcome=decided.outcome,
        flags=tuple(flags),
        reason=decided.reason,
        interval=decided.interval,
        certainty=decided.certainty,
        thresholds=thresholds,
        provisional=decided.outcome == "works",  # until a person has labelled samples
        n_compared=n,
        p_vs_unsteered=p_difference(best, unsteered),
        p_vs_unsteered_holm=compared.p_vs_unsteered_holm,
        cohens_h_vs_unsteered=compared.cohens_h_vs_unsteered,
        p_vs_random=p_difference(best, control),
        best=Best.of(best),
        judge_error=judge_error(rates, judge, n, thresholds),
    )


def _refuses_at_most(cell: Cell) -> float:
    """Coherent refusal rate of a control, were all answers refusals that could not be judged."""
    return cell.rates.coherent_refusal_rate + cell.rates.unjudged / cell.rates.n_unique


def _place(cell: SteeredCell) -> tuple[int, Strength]:
    return cell.layer, cell.strength


def _cell(condition: Condition, record: Record, job: Job) -> Cell:
    """The unsteered control as result files hold it."""
    return Cell(
        key=condition.key,
        label=condition.label,
        layer_pct=None,
        strength=None,
        extraction_prompts=condition.extraction_prompts,
        rates=_rates(record, job),
        fluency_threshold=record.fluency_threshold,
        runtime_seconds=record.runtime_seconds,
        samples=record.samples,
    )


def _steered_cell(condition: Condition, record: Record, job: Job) -> SteeredCell:
    """A steered condition, or a random direction's, as result files hold it."""
    steering, share = record.steering, condition.layer_pct
    assert steering is not None, "it is steered"
    assert condition.strength is not None, "it is steered"
    if share is None:  # the method chose the layer
        share = round(steering.layer_idx / job.n_layers, 4)
    return SteeredCell(
        key=condition.key,
        label=condition.label,
        layer_pct=share,
        strength=condition.strength,
        edit=condition.edit,
        extraction_prompts=condition.extraction_prompts,
        rates=_rates(record, job),
        fluency_threshold=record.fluency_threshold,
        steering=steering,
        runtime_seconds=record.runtime_seconds,
        samples=record.samples,
    )


def _rates(record: Record, job: Job) -> Rates:
    """Rates with the job's repeats of prompts, which may have changed since."""
    repeats, held = job.test.repeats, record.rates
    n = len(record.samples)
    refusals = held.refusals * n // held.n_samples  # each once
    return replace(held, refusals=refusals * repeats, n_samples=n * repeats)
