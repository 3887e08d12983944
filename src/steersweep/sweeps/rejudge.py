"""A finished run judged again, without generating: what another judge says, and where they differ.

Each sample's judgement is a line of `judgements/NAME.jsonl` in the run folder. Judgements that are
there are not made again.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from steersweep.core import journal, typed
from steersweep.core.atomic import write_bytes
from steersweep.core.errors import InputError
from steersweep.core.statistics import cluster_bootstrap, kappa_of_table
from steersweep.judging.judge import Answer, Judge
from steersweep.judging.judges import get_judge
from steersweep.judging.quality import LIKELIHOOD_TOKENS, Fluency
from steersweep.people.reviews import results_in
from steersweep.run.cell import Cell
from steersweep.run.folder import RunFolder
from steersweep.run.judgement import UNJUDGED, Judgement, Rates, rates_of
from steersweep.run.result import Result
from steersweep.sweeps.compared import answers_of_each, best_condition
from steersweep.sweeps.rejudged import (
    CLASSES,
    Agreement,
    BestShown,
    CellChange,
    Rejudged,
    Shown,
    VerdictChange,
    Where,
)

OnProgress = Callable[[int, int], None]

_RESAMPLES = 1000
_LABELS = ("refusal", "quality", "failure_mode", "ambiguous", "score", "stance")


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
    return _compared(results, cells, judged, judge.id, path)


@dataclass(frozen=True)
class _Cell:
    """A condition with the result that it is of."""

    of: Result
    cell: Cell

    @property
    def where(self) -> Where:
        """What it is."""
        precision, method, at = self.of.quantization, self.cell.method, self.cell.steering
        if at is None:
            return Where(precision, method, None, None, None)
        return Where(precision, method, at.layer_idx, at.multiplier, at.relative_strength)


_Cells = Mapping[str, _Cell]  # by key


def _cells(results: Iterable[Result]) -> dict[str, _Cell]:
    """Every condition of some results by key, with its model."""
    found: dict[str, _Cell] = {}
    for result in results:
        controls = result.controls
        apart = filter(None, (controls.unsteered, controls.random_direction))
        for cell in (*result.conditions, *apart, *controls.random_directions):
            found.setdefault(cell.key, _Cell(result, cell))
    return found


# -- judging -------------------------------------------------------------------------------------


def _judgements(
    cells: _Cells, judge: Judge, path: Path, on_progress: OnProgress
) -> dict[str, list[Judgement]]:
    """By condition, the judgement of each of its samples; those on disk are not made again."""
    held = _held(cells, judge.id, path)
    for done, (key, held_cell) in enumerate(cells.items()):
        on_progress(done, len(cells))
        cell = held_cell.cell
        missing = [i for i in range(len(cell.samples)) if (key, i) not in held]
        if not missing:
            continue
        found = judge.judge([_answer(cell, i) for i in missing])
        new = dict(zip(((key, i) for i in missing), found, strict=True))
        held |= new
        journal.append_all(path, _lines(cells, judge.id, new))
    on_progress(len(cells), len(cells))
    order = {(key, i): held[key, i] for key in cells for i in range(len(cells[key].cell.samples))}
    whole = journal.lines_of(_lines(cells, judge.id, order))
    if path.read_bytes() != whole:  # after a kill, a damaged line or a judge that has changed
        write_bytes(path, whole)
    return {key: [held[key, i] for i in range(len(cells[key].cell.samples))] for key in cells}


def _held(cells: _Cells, judge: str, path: Path) -> dict[tuple[str, int], Judgement]:
    """Judgements on disk that this judge made of these very answers; what failed is tried again."""
    found = {}
    for entry in journal.good(journal.read(path)):
        key, index = str(entry.get("condition")), entry.get("index")
        samples = cells[key].cell.samples if key in cells else ()
        if not isinstance(index, int) or not 0 <= index < len(samples):
            continue
        said = entry.get("prompt"), entry.get("response")
        same = said == (samples[index].prompt, samples[index].response)
        whole = entry.keys() >= {*_LABELS} and entry["quality"] in CLASSES
        if same and whole and entry.get("judge") == judge:
            found[key, index] = Judgement(**{name: entry[name] for name in _LABELS})
    return found


def _answer(cell: Cell, index: int) -> Answer:
    """A sample with the evidence that the run's own judge had."""
    sample, threshold = cell.samples[index], cell.fluency_threshold
    limit = math.inf if threshold is None else threshold
    fluency = None
    if sample.nll_worst is not None and sample.nll is not None:
        looked_at = min(sample.n_tokens, LIKELIHOOD_TOKENS)
        fluency = Fluency(sample.nll_worst, sample.nll, limit, looked_at)
    return Answer(sample.question, sample.response, fluency)


def _lines(
    cells: _Cells, judge: str, judged: Mapping[tuple[str, int], Judgement]
) -> Iterator[Mapping[str, Any]]:
    for (key, index), judgement in judged.items():
        cell = cells[key]
        sample = cell.cell.samples[index]
        yield {
            "judge": judge,
            "condition": key,
            "index": index,
            "model": cell.of.model_id,
            **typed.plain_fields(cell.where),
            "prompt": sample.prompt,
            "response": sample.response,
            **typed.plain_fields(judgement),
        }


# -- comparing -----------------------------------------------------------------------------------


def _compared(
    results: Sequence[Result],
    cells: _Cells,
    judged: Mapping[str, list[Judgement]],
    judge: str,
    path: Path,
) -> Rejudged:
    tables = _tables(cells, judged, lambda judgement: judgement.quality, CLASSES)
    refusals = _tables(cells, judged, lambda judgement: judgement.refusal, (False, True))
    total = sum(tables.values(), start=0 * next(iter(tables.values()))) if tables else None
    failed = [j for found in judged.values() for j in found if j.quality == UNJUDGED]
    rates = {
        key: rates_of(found, each=answers_of_each(cells[key].cell)) for key, found in judged.items()
    }
    return Rejudged(
        judge,
        results[0].judge,
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
        [_change(cell, rates[key]) for key, cell in cells.items()],
        [_verdict_change(result, rates) for result in results],
    )


def _tables(
    cells: _Cells,
    judged: Mapping[str, list[Judgement]],
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
        for sample, judgement in zip(cells[key].cell.samples, found, strict=True):
            both = sample.judgement, judgement
            if all(one.quality != UNJUDGED for one in both):
                place = tuple(index[of_judgement(one)] for one in both)
                tables[sample.prompt][place] += 1
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


def _change(cell: _Cell, rates: Rates) -> CellChange:
    """A condition by the run's judge and by this one."""
    thresholds = cell.of.verdict.thresholds
    old, new = Shown.of(cell.cell.rates, thresholds), Shown.of(rates, thresholds)
    changed = old.outcome != new.outcome
    return CellChange(cell.cell.key, cell.of.model_id, cell.where, old, new, changed)


def _verdict_change(result: Result, rates: Mapping[str, Rates]) -> VerdictChange:
    """The verdict on a result's best condition, which another judge may find elsewhere."""
    again = [replace(cell, rates=rates[cell.key]) for cell in result.conditions]
    old, new = (
        BestShown(best.layer, Shown.of(best.rates, result.verdict.thresholds))
        for best in (best_condition(result.conditions), best_condition(again))
    )
    return VerdictChange(
        result.phase,
        result.model,
        result.method,
        result.quantization,
        old,
        new,
        old.shown.outcome != new.shown.outcome,
    )
