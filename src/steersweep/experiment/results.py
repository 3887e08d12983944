"""Result files: finished conditions gathered per model and method, with controls and verdict."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from steersweep.atomic import write_json
from steersweep.conditions import RANDOM, UNSTEERED, Condition
from steersweep.experiment.verdict import verdict
from steersweep.statistics import mcnemar
from steersweep.store import Record, RunStore
from steersweep.worker import Job

Result = dict[str, Any]

# Fewer unique prompts than this make intervals too wide for most conclusions.
FEW_PROMPTS = 30
# Rate from which a control says that something other than the direction causes refusals.
CONTROL_REFUSES_FROM = 0.20


def sweep_results(store: RunStore, jobs: Iterable[Job], created: str) -> list[Result]:
    """One result object per model and method, in the schema of `result.schema.json`.

    Only finished conditions are in it; a model without a finished steered condition is left out.

    Args:
        store: the run folder.
        jobs: what the run consists of.
        created: UTC time the run began; the same for every continuation.
    """
    results = []
    for job in jobs:
        records = [
            (condition, record)
            for condition in job.conditions
            if (record := store.get(condition.key)) is not None
        ]
        for method in dict.fromkeys(c.method for c in job.conditions if not c.is_control):
            steered = [(c, r) for c, r in records if c.method == method]
            controls = [(c, r) for c, r in records if c.is_control]
            if steered:
                results.append(_result(job, method, steered, controls, created))
    return results


def write_results(folder: Path, results: Sequence[Result], created: str) -> Path:
    """Write the sweep's result file; returns its path."""
    stamp = created.replace("-", "").replace(":", "")
    path = folder / "results" / f"v3_phase1_family_sweep_{stamp}.json"
    write_json(path, results)
    return path


def _result(
    job: Job,
    method: str,
    steered: Sequence[tuple[Condition, Record]],
    controls: Sequence[tuple[Condition, Record]],
    created: str,
) -> Result:
    conditions = [_entry(condition, record) for condition, record in steered]
    unsteered = [_entry(c, r) for c, r in controls if c.method == UNSTEERED]
    random_entries = [_entry(c, r) for c, r in controls if c.method == RANDOM]
    best = best_condition(conditions)
    control = next((entry for entry in random_entries if _cell(entry) == _cell(best)), None)
    records = [record for _, record in (*steered, *controls)]
    newest = max(records, key=lambda record: record["timestamp"])
    return {
        "phase": "1",
        "model": job.source.name,
        "model_id": job.source.model_id,
        "family": job.family,
        "method": method,
        "quantization": job.precision,
        "n_layers": job.n_layers,
        "conditions": conditions,
        "controls": {
            "unsteered": unsteered[0] if unsteered else None,
            "random_direction": control,
            "random_directions": random_entries,
        },
        "verdict": _verdict(best, unsteered[0] if unsteered else None, control, len(conditions)),
        "timestamp": created,
        "gpu": newest["provenance"]["device"],
        "runtime_seconds": round(sum(record["runtime_seconds"] for record in records), 3),
        "provenance": newest["provenance"],
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


def _verdict(best: Result, unsteered: Result | None, control: Result | None, n: int) -> Result:
    decided = asdict(
        verdict(
            coherent_refusal_rate=best["coherent_refusal_rate"],
            garbled_refusal_rate=best["garbled_refusal_rate"],
            n_unique=best["n_unique"],
            n_compared=n,
        )
    )
    flags = list(decided["flags"])
    if unsteered and unsteered["coherent_refusal_rate"] >= CONTROL_REFUSES_FROM:
        flags.append("refuses-unsteered")
    if control and control["coherent_refusal_rate"] >= CONTROL_REFUSES_FROM:
        flags.append("random-refuses-too")
    if best["n_unique"] < FEW_PROMPTS:
        flags.append("few-prompts")
    return {
        **decided,
        "flags": flags,
        "provisional": True,  # until a person has reviewed samples of the condition
        "n_compared": n,
        "p_vs_unsteered": _paired_p(best, unsteered),
        "p_vs_random": _paired_p(best, control),
        "best": {
            key: best[key]
            for key in (
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


def _paired_p(one: Result, other: Result | None) -> float | None:
    """McNemar's p for coherent refusals of two conditions on the same prompts."""
    if other is None:
        return None

    def refused(entry: Result) -> list[bool]:
        return [s["refusal"] and s["quality"] == "coherent" for s in entry["samples"]]

    return mcnemar(refused(one), refused(other))


def _cell(entry: Result) -> tuple[Any, Any]:
    return entry["layer_idx"], entry["multiplier"]


def _entry(condition: Condition, record: Record) -> Result:
    """A condition as result files hold it."""
    result = dict(record["result"])
    for name in ("multiplier", "relative_strength", "direction_norm", "residual_norm"):
        result.setdefault(name, None)
    result.setdefault("direction_file", None)
    result.pop("extraction_seconds", None)
    return {
        "key": condition.key,
        "method": condition.method,
        "layer_pct": condition.layer_pct,
        "layer_idx": condition.layer,
        "strength": None if condition.strength is None else asdict(condition.strength),
        **result,
        "runtime_seconds": record["runtime_seconds"],
        "samples": record["samples"],
    }
