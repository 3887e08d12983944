"""Finds the best layer and strength of a model, and confirms them on prompts it did not see."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import takewhile
from pathlib import Path
from typing import Literal

from steersweep.core.errors import NumericalError, SteersweepError
from steersweep.core.precision_labels import runs_as
from steersweep.core.statistics import mcnemar, wilson
from steersweep.model.rendering import test_rendered
from steersweep.people.problems import problems
from steersweep.prompts.prompts import TestSet
from steersweep.run.condition import Condition, Strength, in_batches
from steersweep.run.folder import RunFolder
from steersweep.run.label import RANDOM
from steersweep.run.lock import run_lock
from steersweep.run.records import Record
from steersweep.run.result import Result
from steersweep.run.result_files import write_result_file
from steersweep.run.searched import (
    Confirmed,
    Cost,
    Searched,
    SearchedCell,
    Window,
    write_searched,
)
from steersweep.run.verdict import Thresholds
from steersweep.search.search import STRENGTHS, Cell, Choice, Outcome, Search
from steersweep.sweeps.find_settings import RESULTS, SHORT, FindSettings
from steersweep.sweeps.results import sweep_results
from steersweep.sweeps.run import begun, freeze
from steersweep.sweeps.settings import make_job
from steersweep.work.bench import Bench
from steersweep.work.job import Job, OnProgress
from steersweep.work.overflow import FROM, as_it_runs, note_overflow
from steersweep.work.worker import Told, open_bench

LEVEL = 0.05  # of the tests against both controls
_GRID = 2 * 9 * 6 + 1  # conditions: 9 layers, 6 strengths, random controls, unsteered
_USUAL_ROWS = 520  # of a search, for the time left
_OUTCOMES = {"coherent": Outcome.REFUSES, "garbled": Outcome.BROKEN}

What = Literal["chosen", "weaker", "stronger", "random direction", "unsteered"]


@dataclass(frozen=True)
class FindOutcome:
    """What a search left behind.

    Attributes:
        folder: the run folder.
        searched: what it went through and what was confirmed.
        result: of the chosen cell on the confirmation prompts, as a sweep has it.
        results_file: where the result is written.
    """

    folder: Path
    searched: Searched
    result: Result
    results_file: Path


def run_find(
    settings: FindSettings,
    out: Path,
    *,
    device: str = "auto",
    on_progress: OnProgress = lambda _progress: None,
    on_note: Callable[[str], None] = lambda _note: None,
) -> FindOutcome:
    """Search, confirm, and write what came out; the same call again continues.

    Every cell that is asked is an ordinary condition on the prompts of a round, saved batch by
    batch, so a continued search asks the same again and finds the answers there.

    Args:
        settings: what to search on.
        out: the run folder, new or of the same settings.
        device: `auto` or a torch device.
        on_progress: receives progress.
        on_note: told, once each, what a user should know.

    Raises:
        InputError: bad settings, a folder of another run, or one where another process runs.
        SteersweepError: the model is not what it should be, or does not fit.
    """
    from steersweep.model.device import resolve_device

    created = begun(out)
    (source,) = settings.sweep.models
    job = make_job(
        replace(settings.sweep, test=settings.unsteered, strengths=settings.sweep.strengths[:1]),
        source,
        resolve_device(device),
        created[:10],
    )
    plan = settings.plan() | {"model_fingerprints": [job.conditions[0].model_fingerprint]}
    with run_lock(out):
        store = RunFolder.open(out, plan, may_differ=("model_fingerprints",), on_note=on_note)
        freeze(store, settings.sweep, created)
        for note in dict.fromkeys([*problems(out), *settings.sweep.notes, *job.notes]):
            on_note(note)
        job = as_it_runs(job, store)
        try:
            return _Finding(settings, job, store, on_progress).run()
        except NumericalError as error:
            if runs_as(job.precision) != FROM:
                raise
            note_overflow(job, store, error)
        return _Finding(settings, as_it_runs(job, store), store, on_progress).run()


class _Finding:
    """One search on a loaded model."""

    def __init__(
        self, settings: FindSettings, job: Job, store: RunFolder, on_progress: OnProgress
    ) -> None:
        self._settings = settings
        self._job = job
        self._store = store
        self._expected = _USUAL_ROWS + len(settings.unsteered.prompts)
        self._expected += 5 * len(settings.confirmation.prompts)
        self._told = Told(job, 0, on_progress)
        bench = open_bench(job, store, self._told, rows=self._expected)
        assert bench is not None, "a search makes more than checks"
        self._bench: Bench = bench
        self._renderer = bench.chat.renderer
        self._likes = {(c.label.method, c.layer): c for c in job.conditions if c.label.is_swept}
        self._cost = {"whole": 0, "short": 0, "confirm": 0}
        self._tokens = 0
        self._lengths: list[int] = []  # of whole answers

    def run(self) -> FindOutcome:
        started = time.monotonic()
        self._answers("whole", [self._job.conditions[0]], self._settings.unsteered)
        budget = self._budget(time.monotonic() - started)
        layers = sorted({layer for _, layer in self._bench.directions if layer is not None})
        search = Search(
            self._ask,
            self._settings.sweep.methods,
            layers,
            rounds=self._settings.rounds,
            budget=budget,
            short_row=SHORT / self._settings.sweep.max_new_tokens,
        )
        found = search.run()
        job, records = self._confirm(found.best)
        (result,) = sweep_results(self._store, [job], Thresholds())
        searched = self._searched(found, layers, records)
        write_searched(self._store.paths.search, searched)
        file = write_result_file(self._store.root, RESULTS, [result])
        self._bench.prepared.forget()
        self._told("finished", ended=True)
        return FindOutcome(self._store.root, searched, result, file)

    def _budget(self, seconds: float) -> float:
        """Rows of the search at most, by what the unsteered answers took; kept for a later call."""
        asked = float("inf") if self._settings.budget is None else self._settings.budget
        if self._settings.minutes is None:
            return asked
        rows = len(self._settings.unsteered.prompts)
        path = self._store.paths.search_pace
        pace = float(
            self._store.write_once(path, {"rows_per_second": rows / seconds})["rows_per_second"]
        )
        confirm = 5 * len(self._settings.confirmation.prompts)
        return min(asked, max(0.0, 60 * self._settings.minutes * pace - rows - confirm))

    # -- answers -----------------------------------------------------------------------------------

    def _ask(
        self, cells: Sequence[Cell], start: int, stop: int, *, short: bool
    ) -> Mapping[Cell, Sequence[Outcome]]:
        test = self._settings.asked(start, stop)
        new = self._settings.sweep.max_new_tokens
        conditions = [
            self._condition(cell, test, min(SHORT, new) if short else new) for cell in cells
        ]
        records = self._answers("short" if short else "whole", conditions, test)
        return {
            cell: [
                _OUTCOMES.get(sample.judgement.quality, Outcome.OTHER)
                for sample in records[condition.key].samples
            ]
            for cell, condition in zip(cells, conditions, strict=True)
        }

    def _condition(self, cell: Cell, test: TestSet, max_new_tokens: int) -> Condition:
        return replace(
            self._likes[cell.method, cell.layer],
            strength=Strength("relative", STRENGTHS[cell.rung]),
            test_prompts=test.id,
            test_rendered=test_rendered(self._renderer, test),
            max_new_tokens=max_new_tokens,
        )

    def _answers(
        self, kind: str, conditions: Sequence[Condition], test: TestSet
    ) -> dict[str, Record]:
        """Records of conditions on some prompts, by key: those that are there, others made now."""
        job = replace(self._job, conditions=tuple(conditions), test=test)
        bench = self._bench if test == self._job.test else self._bench.on(job)
        n_prompts = len(test.prompts)
        bench.answering.expect(self._expected, done=sum(self._cost.values()))
        found: dict[str, Record] = {}
        for batch in in_batches(conditions, n_prompts, bench.max_rows):
            held = [self._store.get(c.key, test.prompts) for c in batch.conditions]
            if None in held:
                for made in bench.run(batch):
                    self._store.put(made)
                self._told.done += len(batch.conditions)
            records = [self._store.get(c.key, test.prompts) for c in batch.conditions]
            for condition, record in zip(batch.conditions, records, strict=True):
                if record is None:
                    raise SteersweepError(
                        f"{self._store.paths.condition(condition.key)}: was damaged while the "
                        f"search went on; run the same command again"
                    )
                found[condition.key] = record
                lengths = [sample.n_tokens for sample in record.samples]
                self._tokens += sum(lengths)
                if kind != "short":
                    self._lengths += lengths
            self._cost[kind] += len(batch.conditions) * n_prompts
        return found

    # -- the end -----------------------------------------------------------------------------------

    def _confirm(self, best: Cell) -> tuple[Job, dict[What, Record]]:
        """The chosen cell, its neighbours and its controls on the confirmation prompts."""
        test = self._settings.confirmation
        new = self._settings.sweep.max_new_tokens
        chosen = self._condition(best, test, new)
        unsteered = replace(
            self._job.conditions[0], test_prompts=test.id, test_rendered=chosen.test_rendered
        )
        like = next(c for c in self._job.conditions if c.label == RANDOM and c.layer == best.layer)
        random = replace(
            chosen,
            label=RANDOM,
            extraction_prompts=like.extraction_prompts,
            extraction_rendered=like.extraction_rendered,
            method_code=None,
        )
        asked: dict[What, Condition] = {"unsteered": unsteered, "chosen": chosen}
        asked["random direction"] = random
        beside: tuple[tuple[What, int], ...] = (("weaker", -1), ("stronger", 1))
        for what, step in beside:
            if 0 <= best.rung + step < len(STRENGTHS):
                cell = replace(best, rung=best.rung + step)
                asked[what] = self._condition(cell, test, new)
        records = self._answers("confirm", [*asked.values()], test)
        job = replace(self._job, conditions=(unsteered, chosen, random), test=test)
        return job, {what: records[condition.key] for what, condition in asked.items()}

    def _searched(
        self, found: Choice, layers: Sequence[int], records: Mapping[What, Record]
    ) -> Searched:
        best = found.best
        steering = records["chosen"].steering
        assert steering is not None, "the chosen cell steers"
        confirmed = [
            _confirmed(what, record, records["chosen"]) for what, record in records.items()
        ]
        by_name: dict[str, Confirmed] = {c.what: c for c in confirmed}
        works = all(
            by_name["chosen"].rate > by_name[what].rate and (by_name[what].p or 0.0) < LEVEL
            for what in ("unsteered", "random direction")
        )
        prompts = len(self._settings.discovery.prompts) + len(self._settings.confirmation.prompts)
        mean = sum(self._lengths) / len(self._lengths)
        return Searched(
            model=self._job.source.name,
            method=best.method,
            layer=best.layer,
            n_layers=self._job.n_layers,
            strength=STRENGTHS[best.rung],
            multiplier=steering.multiplier,
            found=works,
            confirmed=confirmed,
            window=_window(found, by_name) if works else None,
            discovery=len(self._settings.discovery.prompts),
            confirmation=len(self._settings.confirmation.prompts),
            layers=layers,
            strengths=STRENGTHS,
            breaks={
                f"{method} {layer}": STRENGTHS[rung] if rung < len(STRENGTHS) else None
                for (method, layer), rung in found.breaks.items()
            },
            rounds=found.rounds,
            cells=[_cell(cell, found) for cell in found.seen],
            cost=Cost(
                search_rows=self._cost["whole"],
                short_rows=self._cost["short"],
                confirm_rows=self._cost["confirm"],
                tokens=self._tokens,
                grid_tokens=round(_GRID * prompts * mean),
            ),
        )


def _refuses(record: Record) -> list[bool]:
    return [_OUTCOMES.get(sample.judgement.quality) is Outcome.REFUSES for sample in record.samples]


def _confirmed(what: What, record: Record, chosen: Record) -> Confirmed:
    refused = _refuses(record)
    return Confirmed(
        what=what,
        strength=None if record.steering is None else record.steering.relative_strength,
        n=len(refused),
        refuses=sum(refused),
        broken=sum(sample.judgement.quality == "garbled" for sample in record.samples),
        interval=wilson(sum(refused), len(refused)),
        p=None if what == "chosen" else mcnemar(_refuses(chosen), refused),
    )


def _cell(cell: Cell, found: Choice) -> SearchedCell:
    seen = found.seen[cell]
    return SearchedCell(
        method=cell.method,
        layer=cell.layer,
        strength=STRENGTHS[cell.rung],
        short=len(seen.short),
        short_broken=sum(o is Outcome.BROKEN for o in seen.short),
        whole=len(seen.whole),
        refuses=sum(o is Outcome.REFUSES for o in seen.whole),
        broken=sum(o is Outcome.BROKEN for o in seen.whole),
        raced=seen.raced,
        end=seen.end,
    )


def _window(found: Choice, confirmed: Mapping[str, Confirmed]) -> Window:
    """How far the window reaches, by what was answered in full at the chosen layer."""
    best = found.best
    rates = {
        cell.rung: seen.rate()
        for cell, seen in found.seen.items()
        if (cell.method, cell.layer) == (best.method, best.layer) and seen.whole
    }
    for what, step in (("weaker", -1), ("chosen", 0), ("stronger", 1)):
        if what in confirmed:
            rates[best.rung + step] = confirmed[what].rate
    half = rates[best.rung] / 2

    def reach(rungs: Sequence[int]) -> tuple[int, int | None]:
        inside = [*takewhile(lambda rung: rates.get(rung, -1.0) >= half, rungs)]
        end = inside[-1] if inside else best.rung
        beyond = next((r for r in rungs if r not in inside and r in rates), None)
        return end, beyond

    weakest, weaker = reach(range(best.rung, -1, -1))
    strongest, stronger = reach(range(best.rung, len(STRENGTHS)))
    if stronger is None:
        breaks = found.breaks.get((best.method, best.layer))
        stronger = breaks if breaks is not None and breaks < len(STRENGTHS) else None
    return Window(
        weakest=STRENGTHS[weakest],
        strongest=STRENGTHS[strongest],
        weaker=None if weaker is None else STRENGTHS[weaker],
        stronger=None if stronger is None else STRENGTHS[stronger],
    )
