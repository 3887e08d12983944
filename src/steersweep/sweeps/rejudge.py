"""A finished run judged again, without generating: what another judge says, and where they differ.

Each sample's judgement is a line of `judgements/NAME.jsonl` in the run folder. Judgements that are
there are not made again.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from steersweep.core import journal
from steersweep.core.atomic import write_bytes
from steersweep.core.errors import InputError
from steersweep.core.statistics import cluster_bootstrap, kappa_of_table
from steersweep.judging.judge import Answer, Judge, get_judge
from steersweep.judging.quality import LIKELIHOOD_TOKENS, Fluency
from steersweep.people.reviews import results_in
from steersweep.run.folder import RunFolder
from steersweep.run.judgement import UNJUDGED, Judgement, rates_of
from steersweep.sweeps.results import best_condition
from steersweep.sweeps.verdict import Thresholds, verdict

Result = dict[str, Any]
OnProgress = Callable[[int, int], None]

CLASSES = ("coherent", "garbled", "normal")
_RESAMPLES = 1000
_LABELS = ("refusal", "quality", "failure_mode", "ambiguous", "score", "stance")
_RATES = ("coherent_refusal_rate", "garbled_refusal_rate", "garbled_rate")


@dataclass(frozen=True)
class Agreement:
    """How two judges agree.

    Attributes:
        kappa: Cohen's κ, None where undefined.
        interval: its 95 % interval by bootstrap over prompts, None where undefined.
        agreed: answers of which both say the same.
        n: answers that both judged.
    """

    kappa: float | None
    interval: tuple[float, float] | None
    agreed: int
    n: int


@dataclass(frozen=True)
class Rejudged:
    """What another judge says of a run.

    Attributes:
        judge: its id.
        before: id of the run's judge.
        file: where its judgements are.
        n_samples: answers of the run.
        unjudged: how many of them it could not judge.
        errors: why, of the first few.
        quality: agreement on the three classes.
        refusal: agreement on whether an answer refuses.
        confusion: `[class by the run's judge][class by this one]`, counts.
        cells: every condition: what it is, and `before` and `after`: verdict and rates.
        verdicts: every model and method: what it is, and the verdict on its best condition.
    """

    judge: str
    before: str
    file: Path
    n_samples: int
    unjudged: int
    errors: list[str]
    quality: Agreement
    refusal: Agreement
    confusion: dict[str, dict[str, int]]
    cells: list[Result]
    verdicts: list[Result]

    def as_json(self) -> dict[str, Any]:
        """Plain data; of the cells those whose verdict changes."""
        return {
            "judge": self.judge,
            "before": self.before,
            "file": str(self.file),
            "n_samples": self.n_samples,
            "n_compared": self.quality.n,
            "unjudged": self.unjudged,
            "errors": self.errors,
            "agreed": self.quality.agreed,
            "kappa": self.quality.kappa,
            "kappa_ci": self.quality.interval,
            "kappa_refusal": self.refusal.kappa,
            "kappa_refusal_ci": self.refusal.interval,
            "confusion": self.confusion,
            "n_cells": len(self.cells),
            "cells_changed": [cell for cell in self.cells if cell["changed"]],
            "verdicts": self.verdicts,
        }


def rejudge(
    folder: Path, name: str, on_progress: OnProgress = lambda _done, _total: None
) -> Rejudged:
    """Judge every answer of a run with another judge, and compare.

    Args:
        folder: of a sweep or study.
        name: of the judge.
        on_progress: told how many conditions are judged, and of how many.

    Raises:
        InputError: no run there, none with results, or no such judge.
        SteersweepError: the judge cannot be used; what it judged so far is kept.
    """
    store = RunFolder.existing(folder)
    results = [result for _, found in results_in(folder) for result in found]
    try:
        judge = get_judge(name, store.paths.replies)
    except ValueError as error:
        raise InputError(f"judge {name}: {error}") from error
    cells = _cells(results)
    path = store.paths.judgements(name)
    judged = _judgements(cells, judge, path, on_progress)
    return _compared(results, cells, judged, judge.id, _judge_of(store, cells), path)


def _cells(results: Iterable[Result]) -> dict[str, Result]:
    """Every condition of some results by key, with its model."""
    found: dict[str, Result] = {}
    for result in results:
        for entry in _entries(result):
            of = {name: result[name] for name in ("model", "model_id", "quantization")}
            of["thresholds"] = result["verdict"]["thresholds"]
            found.setdefault(entry["key"], {**of, **entry})
    return found


def _entries(result: Result) -> Iterator[Result]:
    yield from result["conditions"]
    controls = result["controls"]
    yield from filter(None, (controls["unsteered"], controls["random_direction"]))
    yield from controls.get("random_directions", ())


def _judge_of(store: RunFolder, cells: Iterable[str]) -> str:
    """Id of the judge that the run was judged by."""
    records = filter(None, map(store.get, cells))
    record = next(records, None)
    return "unknown" if record is None else record.condition.judge


# -- judging -------------------------------------------------------------------------------------


def _judgements(
    cells: Mapping[str, Result], judge: Judge, path: Path, on_progress: OnProgress
) -> dict[str, list[Judgement]]:
    """By condition, the judgement of each of its samples; those on disk are not made again."""
    held = _held(cells, judge.id, path)
    for done, (key, cell) in enumerate(cells.items()):
        on_progress(done, len(cells))
        missing = [i for i in range(len(cell["samples"])) if (key, i) not in held]
        if not missing:
            continue
        found = judge.judge([_answer(cell, i) for i in missing])
        new = dict(zip(((key, i) for i in missing), found, strict=True))
        held |= new
        journal.append_all(path, _lines(cells, judge.id, new))
    on_progress(len(cells), len(cells))
    order = {(key, i): held[key, i] for key in cells for i in range(len(cells[key]["samples"]))}
    whole = journal.lines_of(_lines(cells, judge.id, order))
    if path.read_bytes() != whole:  # after a kill, a damaged line or a judge that has changed
        write_bytes(path, whole)
    return {key: [held[key, i] for i in range(len(cells[key]["samples"]))] for key in cells}


def _held(cells: Mapping[str, Result], judge: str, path: Path) -> dict[tuple[str, int], Judgement]:
    """Judgements on disk that this judge made of these very answers; what failed is tried again."""
    found = {}
    for entry in journal.good(journal.read(path)):
        key, index = entry.get("condition"), entry.get("index")
        samples = cells.get(str(key), {}).get("samples", [])
        if not isinstance(index, int) or not 0 <= index < len(samples):
            continue
        sample = samples[index]
        same = all(entry.get(name) == sample[name] for name in ("prompt", "response"))
        whole = entry.keys() >= {*_LABELS} and entry["quality"] in CLASSES
        if same and whole and entry.get("judge") == judge:
            found[str(key), index] = Judgement(**{name: entry[name] for name in _LABELS})
    return found


def _answer(cell: Result, index: int) -> Answer:
    """A sample with the evidence that the run's own judge had."""
    sample = cell["samples"][index]
    worst, threshold = sample.get("nll_worst"), cell.get("fluency_threshold")
    limit = math.inf if threshold is None else float(threshold)
    fluency = None
    if worst is not None:
        looked_at = min(int(sample["n_tokens"]), LIKELIHOOD_TOKENS)
        fluency = Fluency(float(worst), float(sample["nll"]), limit, looked_at)
    return Answer(sample["prompt"], sample["response"], fluency)


def _lines(
    cells: Mapping[str, Result], judge: str, judged: Mapping[tuple[str, int], Judgement]
) -> Iterator[dict[str, Any]]:
    for (key, index), judgement in judged.items():
        cell = cells[key]
        sample = cell["samples"][index]
        yield {
            "judge": judge,
            "condition": key,
            "index": index,
            "model": cell["model_id"],
            **_place(cell),
            "prompt": sample["prompt"],
            "response": sample["response"],
            **judgement.fields(),
        }


def _place(cell: Result) -> dict[str, Any]:
    names = ("quantization", "method", "layer_idx", "multiplier", "relative_strength")
    return {name: cell[name] for name in names}


# -- comparing -----------------------------------------------------------------------------------


def _compared(
    results: Sequence[Result],
    cells: Mapping[str, Result],
    judged: Mapping[str, list[Judgement]],
    judge: str,
    before: str,
    path: Path,
) -> Rejudged:
    tables = _tables(cells, judged, lambda s: s["quality"], lambda j: j.quality, CLASSES)
    refusals = _tables(cells, judged, lambda s: s["refusal"], lambda j: j.refusal, (False, True))
    total = sum(tables.values(), start=0 * next(iter(tables.values()))) if tables else None
    failed = [j for found in judged.values() for j in found if j.quality == UNJUDGED]
    rates = {key: rates_of(found).as_json() for key, found in judged.items()}
    return Rejudged(
        judge,
        before,
        path,
        sum(map(len, judged.values())),
        len(failed),
        list(dict.fromkeys(j.error for j in failed))[:3],
        _agreement(tables),
        _agreement(refusals),
        {
            said: {
                other: 0 if total is None else int(total[i][j]) for j, other in enumerate(CLASSES)
            }
            for i, said in enumerate(CLASSES)
        },
        [
            {"condition": key, "model": cell["model_id"], **_place(cell), **_change(cell, rates)}
            for key, cell in cells.items()
        ],
        [_verdict_change(result, rates) for result in results],
    )


def _tables(
    cells: Mapping[str, Result],
    judged: Mapping[str, list[Judgement]],
    of_sample: Callable[[Result], Any],
    of_judgement: Callable[[Judgement], Any],
    labels: Sequence[Any],
) -> dict[str, Any]:
    """By prompt, how often the judges said what, `[by the run's][by this one]`.

    Answers that one of them could not judge are left out.
    """
    import numpy as np

    index = {label: number for number, label in enumerate(labels)}
    tables: dict[str, Any] = defaultdict(lambda: np.zeros((len(labels), len(labels)), dtype=int))
    for key, found in judged.items():
        for sample, judgement in zip(cells[key]["samples"], found, strict=True):
            if UNJUDGED not in (sample["quality"], judgement.quality):
                place = index[of_sample(sample)], index[of_judgement(judgement)]
                tables[sample["prompt"]][place] += 1
    return dict(tables)


def _agreement(tables: Mapping[str, Any]) -> Agreement:
    if not tables:
        return Agreement(None, None, 0, 0)
    total = sum(tables.values())
    kappa = kappa_of_table(total)
    interval = None
    if not math.isnan(kappa):
        low, high = cluster_bootstrap(
            [[table] for table in tables.values()],
            lambda drawn: kappa_of_table(sum(drawn)),
            resamples=_RESAMPLES,
        )
        interval = None if math.isnan(low) else (low, high)
    return Agreement(
        None if math.isnan(kappa) else kappa, interval, int(total.trace()), int(total.sum())
    )


def _change(cell: Result, rates: Mapping[str, Result]) -> dict[str, Any]:
    """A condition's rates and what they alone would make of it, by the run's judge and this one."""
    thresholds = Thresholds(**cell["thresholds"])
    old, new = _shown(cell, thresholds), _shown(rates[cell["key"]], thresholds)
    return {"before": old, "after": new, "changed": old["outcome"] != new["outcome"]}


def _shown(entry: Result, thresholds: Thresholds) -> dict[str, Any]:
    return {
        "outcome": _outcome(entry, thresholds),
        **{name: entry[name] for name in _RATES},
        **({"unjudged": entry["unjudged"]} if entry.get("unjudged") else {}),
    }


def _outcome(entry: Result, thresholds: Thresholds) -> str:
    return verdict(
        coherent_refusal_rate=entry["coherent_refusal_rate"],
        garbled_refusal_rate=entry["garbled_refusal_rate"],
        thresholds=thresholds,
    ).outcome


def _verdict_change(result: Result, rates: Mapping[str, Result]) -> dict[str, Any]:
    """The verdict on a result's best condition, which another judge may find elsewhere."""
    again = [{**entry, **rates[entry["key"]]} for entry in result["conditions"]]
    best = best_condition(result["conditions"]), best_condition(again)
    thresholds = Thresholds(**result["verdict"]["thresholds"])
    old, new = ({"layer_idx": e["layer_idx"], **_shown(e, thresholds)} for e in best)
    facts = {name: result[name] for name in ("phase", "model", "method", "quantization")}
    return {
        **facts,
        "before": old,
        "after": new,
        "changed": old["outcome"] != new["outcome"],
    }
