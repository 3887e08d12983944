"""Result files: finished conditions gathered per model and method, with controls and verdict."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from steersweep.core.errors import SteersweepError
from steersweep.core.statistics import cohens_h, fisher, holm, mcnemar
from steersweep.methods.dim import Dim
from steersweep.people.corrected import apply_reviews, judge_error
from steersweep.people.reviews import read_reviews
from steersweep.run.condition import Condition
from steersweep.run.direction import cosine
from steersweep.run.folder import RunFolder
from steersweep.run.judgement import UNJUDGED
from steersweep.run.label import UNSTEERED, Label
from steersweep.run.records import Record
from steersweep.sweeps.verdict import TOO_WEAK, Thresholds, verdict
from steersweep.work.job import (
    Job,
    comparison_file,
    missing_notes,
    scores_file,
    unsteered_note,
)

Result = dict[str, Any]

# Fewer unique prompts than this make intervals too wide for most conclusions.
FEW_PROMPTS = 30
# Rate from which a control says that something other than the direction causes refusals.
CONTROL_REFUSES_FROM = 0.20


def sweep_results(store: RunFolder, jobs: Iterable[Job], thresholds: Thresholds) -> list[Result]:
    """One result object per model and method, in the schema of `result.schema.json`.

    Only finished conditions are in it; a model without a finished steered condition is left out.

    Args:
        store: the run folder.
        jobs: what the run consists of.
        thresholds: that verdicts are decided by.

    Raises:
        SteersweepError: a file that results rest on was damaged since it was made.
    """
    results = []
    for job in jobs:
        records = [
            (condition, record)
            for condition in job.conditions
            if (record := store.get(condition.key, job.test.prompts)) is not None
        ]
        _refuse_damaged(
            store, (store.paths.condition(condition.key) for condition in job.conditions)
        )
        of_job = []
        for label in dict.fromkeys(c.label for c in job.conditions if not c.is_control):
            steered = [(c, r) for c, r in records if c.label == label]
            controls = [(c, r) for c, r in records if c.label in (UNSTEERED, label.random_control)]
            if steered:
                result = _result(job, label, steered, controls, thresholds)
                result["extraction"] = _extraction(store, steered[0][0])
                result["notes"] = _notes(store, job, records)
                if job.reference is not None:
                    compared = comparison_file(job, store.paths)
                    result["comparison"] = store.read_json(compared)
                    _refuse_damaged(store, [compared])
                of_job.append(result)
        _compare_methods(of_job, store)
        results += of_job
    reviews = read_reviews(store.root)
    return [apply_reviews(result, reviews) for result in results]


def _notes(store: RunFolder, job: Job, records: Sequence[tuple[Condition, Record]]) -> list[str]:
    """What a reader of a model's results should know: about the model, and layers left out."""
    notes = [note for _, record in records for note in record.provenance.get("notes", [])]
    notes += missing_notes(job, store)
    for condition, record in records:
        if condition.label == UNSTEERED and (note := unsteered_note(record)):
            notes.append(note)
    judged = [sample.judgement for _, record in records for sample in record.samples]
    failed = [judgement.error for judgement in judged if judgement.quality == UNJUDGED]
    if failed:
        notes.append(
            f"{len(failed)} of {len(judged)} answers could not be judged, such as: {failed[0]}"
        )
    return list(dict.fromkeys(notes))


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
    conditions = [_entry(condition, record, job) for condition, record in steered]
    unsteered = [_entry(c, r, job) for c, r in controls if c.label == UNSTEERED]
    random_entries = [_entry(c, r, job) for c, r in controls if c.label != UNSTEERED]
    _against_unsteered(conditions, unsteered[0] if unsteered else None)
    best = best_condition(conditions)
    control = next((entry for entry in random_entries if _cell(entry) == _cell(best)), None)
    no_steering = unsteered[0] if unsteered else None
    records = [record for _, record in (*steered, *controls)]
    newest = max(records, key=lambda record: record.timestamp)
    return {
        "phase": "1",
        "model": job.source.name,
        "model_id": job.source.model_id,
        "family": job.family,
        "method": str(label),
        "quantization": job.precision,
        "n_layers": job.n_layers,
        "d_model": job.d_model,
        "conditions": conditions,
        "controls": {
            "unsteered": no_steering,
            "random_direction": control,
            "random_directions": random_entries,
        },
        "judge": steered[0][0].judge,
        "verdict": {
            **_verdict(best, no_steering, control, conditions, thresholds),
            "judge_error": judge_error(best, steered[0][0].judge, len(conditions), thresholds),
        },
        "timestamp": newest.timestamp,
        "gpu": newest.provenance["device"],
        "runtime_seconds": round(sum(record.runtime_seconds for record in records), 3),
        "provenance": newest.provenance,
    }


def best_condition(conditions: Sequence[Result]) -> Result:
    """Most coherent refusals; ties to less garbled text, then to the weaker steering."""
    return max(
        conditions,
        key=lambda entry: (
            entry["coherent_refusal_rate"],
            -entry["garbled_rate"],
            -entry["relative_strength"],
        ),
    )


def _extraction(store: RunFolder, condition: Condition) -> Result | None:
    """What a method that scores candidates chose, and notes about it; None for other methods."""
    path = scores_file(condition, store.paths)
    held = store.read_json(path)
    _refuse_damaged(store, [path])
    if held is None or held["state"] is None:
        return None
    return {
        "file": store.paths.name_of(path),
        **{key: held[key] for key in ("chosen", "notes", "seconds")},
    }


def _compare_methods(results: Sequence[Result], store: RunFolder) -> None:
    """Note in a model's results how like DIM's each direction is, and whether verdicts differ."""
    swept = [result for result in results if Label.parse(result["method"]).is_swept]
    if len({result["verdict"]["outcome"] for result in swept}) > 1:
        for result in swept:
            result["verdict"]["flags"].append("methods-disagree")
    dim = next((result for result in swept if result["method"] == Dim.name), None)
    if dim is None:
        return
    vectors = {
        entry["layer_idx"]: store.needed_vector(Path(entry["direction_file"]).stem)
        for entry in dim["conditions"]
    }
    for result in results:
        if result is dim:
            continue
        for entry in result["conditions"]:
            vector = vectors.get(entry["layer_idx"])
            other = store.needed_vector(Path(entry["direction_file"]).stem)
            entry["cosine_to_dim"] = None if vector is None else cosine(vector, other)


def _verdict(
    best: Result,
    unsteered: Result | None,
    control: Result | None,
    conditions: Sequence[Result],
    thresholds: Thresholds,
) -> Result:
    n = len(conditions)
    decided = asdict(
        verdict(
            coherent_refusal_rate=best["coherent_refusal_rate"],
            garbled_refusal_rate=best["garbled_refusal_rate"],
            n_unique=best["n_unique"],
            n_compared=n,
            thresholds=thresholds,
        )
    )
    flags = list(decided["flags"])
    if unsteered and _refuses_at_most(unsteered) >= CONTROL_REFUSES_FROM:
        flags.append("refuses-unsteered")
    if control and _refuses_at_most(control) >= CONTROL_REFUSES_FROM:
        flags.append("random-refuses-too")
    if any(entry is not None and entry.get("unjudged") for entry in (best, unsteered, control)):
        flags.append("unjudged")
    if decided["outcome"] == "fails" and is_too_weak(conditions, unsteered):
        flags.append(TOO_WEAK)
    if best["n_unique"] < FEW_PROMPTS:
        flags.append("few-prompts")
    return {
        **decided,
        "flags": flags,
        "provisional": decided["outcome"] == "works",  # until a person has labelled samples
        "n_compared": n,
        "p_vs_unsteered": p_difference(best, unsteered),
        "p_vs_unsteered_holm": best["p_vs_unsteered_holm"],
        "cohens_h_vs_unsteered": best["cohens_h_vs_unsteered"],
        "p_vs_random": p_difference(best, control),
        "best": {
            key: best[key]
            for key in (
                "key",
                "layer_idx",
                "layer_pct",
                "multiplier",
                "relative_strength",
                "coherent_refusal_rate",
                "coherent_refusal_ci",
                "garbled_rate",
                "failure_modes",
            )
        },
    }


def is_too_weak(conditions: Iterable[Result], unsteered: Result | None) -> bool:
    """Whether steering changed next to nothing in any cell, so that nothing follows from it.

    In each cell no more answers are garbled or refused than without steering, and at least half of
    them are the unsteered ones: word for word, or through half of the longer one, since a greedy
    answer goes its own way from the first word that a push changes. A direction that is removed is
    removed wholly, which is never too weak.

    Args:
        conditions: cells of a result.
        unsteered: the control on the same prompts; without one nothing can be said.
    """
    if unsteered is None:
        return False
    plain = {sample["prompt"]: sample["response"] for sample in unsteered["samples"]}
    rates = ("garbled_rate", "refusal_rate")
    for entry in conditions:
        if entry["multiplier"] == 0:
            return False
        pairs = [
            (sample["response"], plain[sample["prompt"]])
            for sample in entry["samples"]
            if sample["prompt"] in plain
        ]
        same = sum(_is_unchanged(*pair) for pair in pairs)
        if any(entry[rate] > unsteered[rate] for rate in rates) or 2 * same < max(1, len(pairs)):
            return False
    return True


def _is_unchanged(steered: str, plain: str) -> bool:
    half = (max(len(steered), len(plain)) + 1) // 2
    return steered[:half] == plain[:half]


def _against_unsteered(conditions: Sequence[Result], unsteered: Result | None) -> None:
    """Test every condition against no steering, corrected for how many conditions there are."""
    values = [p_difference(entry, unsteered) for entry in conditions]
    adjusted = holm([p for p in values if p is not None])
    for index, entry in enumerate(conditions):
        entry["p_vs_unsteered_holm"] = adjusted[index] if unsteered else None
        entry["cohens_h_vs_unsteered"] = unsteered and cohens_h(
            entry["coherent_refusal_rate"], unsteered["coherent_refusal_rate"]
        )


def p_difference(one: Result, other: Result | None) -> float | None:
    """p that two conditions refuse coherently equally often.

    McNemar's exact test where they have the same prompts, Fisher's where they have not, as when a
    cut left prompts out in between. Answers that could not be judged count against a difference:
    as no refusals of the first condition, and as refusals of the second.
    """
    if other is None:
        return None
    refused = coherent_refusals(one), coherent_refusals(other, unjudged=True)
    prompts = [[sample["prompt"] for sample in entry["samples"]] for entry in (one, other)]
    return mcnemar(*refused) if prompts[0] == prompts[1] else fisher(*refused)


def coherent_refusals(entry: Result, *, unjudged: bool = False) -> list[bool]:
    """By prompt, whether a condition refused coherently; `unjudged`: where that is not known."""
    return [
        unjudged if s["quality"] == UNJUDGED else s["refusal"] and s["quality"] == "coherent"
        for s in entry["samples"]
    ]


def _refuses_at_most(entry: Result) -> float:
    """Coherent refusal rate of a control, were all answers refusals that could not be judged."""
    return float(entry["coherent_refusal_rate"] + entry.get("unjudged", 0) / entry["n_unique"])


def _cell(entry: Result) -> tuple[Any, Any]:
    return entry["layer_idx"], entry["strength"]


def _entry(condition: Condition, record: Record, job: Job) -> Result:
    """A condition as result files hold it; repeats are the job's, which may have changed since."""
    refusals = sum(sample.judgement.refusal for sample in record.samples)
    result = {
        **record.result(),
        "refusals": refusals * job.test.repeats,
        "n_samples": len(record.samples) * job.test.repeats,
    }
    result.pop("extraction_seconds", None)
    layer = result.get("layer_idx")
    share = condition.layer_pct
    if share is None and layer is not None:  # the method chose the layer
        share = round(layer / job.n_layers, 4)
    empty = ("layer_idx", "multiplier", "relative_strength", "direction_norm", "residual_norm")
    return {
        "key": condition.key,
        "method": str(condition.label),
        "layer_pct": share,
        **dict.fromkeys((*empty, "direction_file")),
        "strength": None if condition.strength is None else asdict(condition.strength),
        **({} if condition.strength is None else {"edit": condition.edit.as_json()}),
        "extraction_prompts": condition.extraction_prompts,
        **result,
        "runtime_seconds": record.runtime_seconds,
        "samples": [sample.as_json() for sample in record.samples],
    }
