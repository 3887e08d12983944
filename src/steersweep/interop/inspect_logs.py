"""A run as logs of Inspect: one for each condition, with every answer and how it was judged.

Written by Inspect itself, so that `inspect view` and whatever else reads such logs takes them.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields
from datetime import datetime, timedelta
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from steersweep.core import typed
from steersweep.core.atomic import write_bytes
from steersweep.core.errors import InputError
from steersweep.interop.inspect_samples import COHERENT, PEOPLE, QUALITY, samples_of, usage_of
from steersweep.library.results import SweepResults
from steersweep.people.reviews import Review, labels_of, read_reviews
from steersweep.run.cell import Cell
from steersweep.run.condition import Condition, content_key
from steersweep.run.folder import RunFolder
from steersweep.run.judgement import Rates
from steersweep.run.result import Result

_MISSING = "Inspect is not installed: pip install 'steersweep[inspect]'"


@dataclass(frozen=True)
class _Entry:
    """A condition to be written.

    Attributes:
        run: id of the run folder's settings.
        result: that it belongs to; a control belongs to several, and the first is taken.
        cell: the condition.
        condition: all that its result rests on; None where its file is gone.
        timestamp: when it was finished, in UTC.
        reviews: what people said of its answers.
    """

    run: str
    result: Result
    cell: Cell
    condition: Condition | None
    timestamp: str
    reviews: Sequence[Review]

    @property
    def place(self) -> str:
        """Method, layer and strength in words."""
        if self.cell.steering is None:
            return "unsteered"
        layer = self.cell.steering.layer_idx
        return f"{self.cell.label}, layer {layer}, strength {self.cell.strength}"

    @property
    def settings(self) -> dict[str, Any]:
        """What is steered and how strongly, as `inspect view` lists it."""
        found: dict[str, Any] = {"method": str(self.cell.label)}
        if self.cell.steering is not None:
            layer, strength = self.cell.steering.layer_idx, self.cell.steering.relative_strength
            found |= {"layer": layer, "strength": round(strength, 6)}
        return found

    @property
    def prompts(self) -> str:
        """Name and hash of the test prompts."""
        if self.condition is not None:
            return self.condition.test_prompts
        return str(self.result.provenance.get("prompt_set", ""))

    @property
    def begun(self) -> str:
        """When it was begun, were it answered alone, in UTC."""
        ended = datetime.fromisoformat(self.timestamp)
        return (ended - timedelta(seconds=self.cell.runtime_seconds)).isoformat()

    @property
    def model(self) -> str:
        """As `inspect eval --model` takes it."""
        return f"steersweep/{self.result.model_id}"

    @property
    def file(self) -> str:
        """As Inspect names its files: when, task and id; the same whenever it is written."""
        when = self.timestamp.replace("Z", "+00:00").replace(":", "-")
        task = re.sub(r"[^A-Za-z0-9.]+", "-", self.place).strip("-")
        return f"{when}_{task}_{self.cell.key}.eval"


def write_logs(folder: Path, out: Path) -> list[Path]:
    """Write a log for each condition of a run, controls too; the same files each time.

    Args:
        folder: a run folder with results.
        out: folder of the logs.

    Returns:
        The files, in the order of the results.

    Raises:
        InputError: Inspect is not installed, there is no run or no results, or a log cannot be
            written.
    """
    try:
        from inspect_ai.log import write_eval_log
    except ImportError as error:
        raise InputError(_MISSING) from error

    written = []
    with TemporaryDirectory(prefix="steersweep-") as elsewhere:
        for entry in _entries(folder):
            made = Path(elsewhere) / entry.file
            write_eval_log(_log(entry), made)
            path = out / entry.file
            try:
                write_bytes(path, made.read_bytes())  # whole or not there
            except OSError as error:
                raise InputError(f"{path}: cannot be written: {error.strerror}") from error
            made.unlink()
            written.append(path)
    return written


def _entries(folder: Path) -> Iterator[_Entry]:
    results = SweepResults.of(folder).results
    run = RunFolder.existing(folder)
    settings = content_key([run.plan, run.begun()])
    said = defaultdict(list)
    for review in read_reviews(folder):
        said[review.id.partition(":")[0]].append(review)
    seen = set()
    for result in results:
        controls = result.controls
        cells = [controls.unsteered, *controls.random_directions, *result.conditions]
        for cell in filter(None, cells):
            if cell.key in seen:
                continue
            seen.add(cell.key)
            record = run.get(cell.key)
            yield _Entry(
                settings,
                result,
                cell,
                None if record is None else record.condition,
                result.timestamp if record is None else record.timestamp,
                said[cell.key],
            )


# -- a log -----------------------------------------------------------------------------------------


def _log(entry: _Entry) -> Any:
    """The `EvalLog` of a condition."""
    from inspect_ai.log import EvalLog, EvalPlan, EvalPlanStep, EvalStats

    samples = samples_of(entry.model, entry.cell, entry.reviews)
    usage = {entry.model: usage_of(sum(sample.n_tokens for sample in entry.cell.samples))}
    return EvalLog(
        status="success",
        eval=_spec(entry),
        plan=EvalPlan(steps=[EvalPlanStep(solver="generate")], config=_generate_config(entry)),
        results=_results(entry),
        stats=EvalStats(started_at=entry.begun, completed_at=entry.timestamp, model_usage=usage),
        samples=samples,
    )


def _spec(entry: _Entry) -> Any:
    from inspect_ai.log import EvalConfig, EvalDataset, EvalSpec
    from inspect_ai.viewer import ViewerConfig

    result, steering = entry.result, entry.cell.steering
    args: dict[str, Any] = {"precision": result.quantization}
    if steering is not None:
        args |= {
            "direction": steering.direction_file,
            "layer": steering.layer_idx,
            "multiplier": steering.multiplier,
        }
    return EvalSpec(
        eval_id=entry.cell.key,
        run_id=entry.run,
        task_id=entry.cell.key,
        created=entry.timestamp,
        task=entry.place,
        task_args=entry.settings,
        task_args_passed=entry.settings,
        dataset=EvalDataset(
            name=entry.prompts.partition("@")[0],
            samples=entry.cell.rates.n_unique,
            sample_ids=[*range(1, entry.cell.rates.n_unique + 1)],
            shuffled=False,
        ),
        model=entry.model,
        model_args=args,
        model_generate_config=_generate_config(entry),
        config=EvalConfig(epochs=len(entry.cell.samples) // entry.cell.rates.n_unique),
        packages={"steersweep": str(result.provenance.get("steersweep", ""))},
        tags=[str(entry.cell.label), entry.cell.label.role],
        metadata=_metadata(entry),
        # What a model wrote is data: no markup of it is carried out, no link of it made.
        viewer=ViewerConfig(trust_content=False),
    )


def _metadata(entry: _Entry) -> dict[str, Any]:
    """What the condition is, and the settings and versions that it was made with."""
    result, cell = entry.result, entry.cell
    found: dict[str, Any] = {
        "model": result.model,
        "family": result.family,
        "method": str(cell.label),
        "role": cell.label.role,
        "layer_pct": cell.layer_pct,
        "strength": None if cell.strength is None else str(cell.strength),
        "judge": result.judge,
        "key": cell.key,
        "verdict": result.verdict.outcome if cell.label.role == "steered" else None,
        "best": cell.key == result.verdict.best.key,
        "runtime_seconds": cell.runtime_seconds,
        "notes": [*result.notes],
    }
    if cell.steering is not None:
        found |= typed.plain_fields(cell.steering)
    if cell.edit is not None:
        found["edit"] = cell.edit.as_json()
    if entry.condition is not None:
        named = ("model_fingerprint", "extraction_prompts", "seed")
        found |= {name: getattr(entry.condition, name) for name in named}
        found["decoding"] = entry.condition.decoding.as_json()
    found["test_prompts"] = entry.prompts
    found["provenance"] = dict(result.provenance)
    return {name: value for name, value in found.items() if value is not None}


def _generate_config(entry: _Entry) -> Any:
    from inspect_ai.model import GenerateConfig

    if entry.condition is None:
        return GenerateConfig()
    decoding = entry.condition.decoding
    drawn = {"top_p": decoding.top_p, "top_k": decoding.top_k or None, "seed": entry.condition.seed}
    return GenerateConfig(
        max_tokens=entry.condition.max_new_tokens,
        temperature=decoding.temperature,
        **(drawn if decoding.samples else {}),
    )


def _results(entry: _Entry) -> Any:
    """The condition's rates, with the interval of coherent refusals."""
    from inspect_ai.log import EvalMetric, EvalResults, EvalScore

    rates, judge = entry.cell.rates, entry.result.judge
    low, high = rates.coherent_refusal_ci
    values = {  # called as in the tables that `export` writes
        "coherent_refusal_rate": rates.coherent_refusal_rate,
        "low": low,
        "high": high,
        "refusal_rate": rates.refusal_rate,
        "garbled_rate": rates.garbled_rate,
        "garbled_refusal_rate": rates.garbled_refusal_rate,
    }
    n, judged = len(entry.cell.samples), len(entry.cell.samples) - rates.unjudged
    qualities = {
        quality: sum(sample.judgement.quality == quality for sample in entry.cell.samples) / n
        for quality in ("coherent", "garbled", "normal")
    }
    counted = [(COHERENT, judge, values, judged), (QUALITY, judge, qualities, judged)]
    labels = labels_of(entry.cell.key, entry.reviews)
    if labels:
        coherent = sum(label == "coherent" for label in labels.values()) / len(labels)
        counted.append((PEOPLE, PEOPLE, {"coherent": coherent}, len(labels)))
    return EvalResults(
        total_samples=n,
        completed_samples=n,
        scores=[
            EvalScore(
                name=name,
                scorer=scorer,
                scored_samples=scored,
                unscored_samples=n - scored,
                metrics={key: EvalMetric(name=key, value=value) for key, value in found.items()},
            )
            for name, scorer, found, scored in counted
        ],
        metadata={"rates": {f.name: getattr(rates, f.name) for f in fields(Rates)}},
    )
