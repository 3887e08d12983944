"""Finds the best layer and strength of a model, and confirms them on prompts it did not see."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import takewhile
from pathlib import Path

from steersweep.budget.estimate import GENERATION, JUDGING, LIKELIHOODS
from steersweep.core.errors import NumericalError
from steersweep.core.precision_labels import runs_as
from steersweep.core.statistics import mcnemar, wilson
from steersweep.model.memory import free_memory
from steersweep.model.rendering import test_rendered
from steersweep.people.problems import problems
from steersweep.prompts.prompts import TestSet
from steersweep.run.condition import Condition
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
    What,
    Window,
    write_searched,
)
from steersweep.run.verdict import Thresholds
from steersweep.search.search import STRENGTHS, Cell, Choice, Outcome, Search
from steersweep.sweeps.cheapest import PRICING_ROWS, Pick, Pricing
from steersweep.sweeps.fastest import with_precision
from steersweep.sweeps.find_settings import RESULTS, FindSettings
from steersweep.sweeps.results import sweep_results
from steersweep.sweeps.run import begun, freeze, only_names
from steersweep.sweeps.settings import make_job
from steersweep.work.asked_effects import note_asked
from steersweep.work.asking import SHORT, Asking, Question, outcomes
from steersweep.work.job import Job, OnProgress, missing_notes, unsteered_note
from steersweep.work.overflow import FROM, as_it_runs, note_overflow
from steersweep.work.worker import Told, open_bench

LEVEL = 0.05  # of the tests against both controls
_GRID = 9, 6  # layers and strengths
_USUAL_ROWS = 520  # of a search, for the time left


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

    (source,) = settings.sweep.models
    target = resolve_device(device)
    settings = replace(settings, sweep=with_precision(settings.sweep, out, target, on_note))

    def made(test: TestSet, date: str) -> Job:
        one = replace(settings.sweep, test=test, strengths=settings.sweep.strengths[:1])
        return make_job(one, source, target, date)

    # Before the lock, and of all prompts: what is wrong with them leaves no folder behind.
    checked = made(settings.sweep.test, begun(out)[:10])
    plan = settings.plan() | {"model_fingerprints": [checked.conditions[0].model_fingerprint]}
    with run_lock(out):
        created = begun(out)
        job = made(settings.unsteered, created[:10])
        same = ("model_fingerprints", *only_names(out, plan))
        store = RunFolder.open(out, plan, may_differ=same, on_note=on_note)
        freeze(store, settings.sweep, created)
        for note in dict.fromkeys([*problems(out), *job.notes]):
            on_note(note)
        if job.effects:
            note_asked(store, job.effects, job.conditions[0].judge, job.special_tokens)
        job = as_it_runs(job, store)
        try:
            return _Finding(settings, job, store, on_progress).run()
        except NumericalError as error:
            if runs_as(job.precision) != FROM:
                raise
            note_overflow(job, store, error)
        free_memory()
        return _Finding(settings, as_it_runs(job, store), store, on_progress).run()


class _Finding:
    """One search on a loaded model."""

    def __init__(
        self, settings: FindSettings, job: Job, store: RunFolder, on_progress: OnProgress
    ) -> None:
        self._settings = settings
        self._job = job
        self._store = store
        started = time.monotonic()
        rows = _USUAL_ROWS + len(settings.unsteered.prompts)
        rows += 5 * len(settings.confirmation.prompts)
        self._told = Told(job, 0, on_progress)
        bench = open_bench(job, store, self._told, rows=rows)
        assert bench is not None, "a search makes more than checks"
        self._bench = bench
        for note in missing_notes(job, store):
            self._told("directions", warning=note)
        before = time.monotonic() - started
        # Of the confirmation the unsteered answers wait for nothing, and fill a batch.
        self._asking = Asking(bench, job, store, self._told.count, rows)
        self._first = self._asking.answers([self._asking.unsteered, self._unsteered_control()])
        self._unsteered = self._first[job.conditions[0].key]
        if thinks := unsteered_note(self._unsteered):
            self._told("saved", warning=thinks)
        self._budget = self._rows_at_most(before)

    def run(self) -> FindOutcome:
        places = self._asking.places
        layers = sorted({layer for found in places.values() for layer in found})
        search = Search(
            lambda spans, *, short: self._asking.ask(spans, self._settings.asked, short=short),
            places,
            rounds=self._settings.rounds,
            budget=self._budget,
            short_row=min(1.0, SHORT / self._settings.sweep.max_new_tokens),
        )
        choice = search.run()
        pricing = Pricing(self._bench, self._store, self._told, self._asking, search)
        picked = Pick(choice.best)
        if self._settings.cheapest:
            picked = pricing.pick(choice, self._unsteered, Thresholds())
        job, records = self._confirm(picked.cell)
        searched = self._searched(choice, picked, layers, records)
        if self._settings.cheapest:
            searched = pricing.priced(searched, choice.best, picked, records, job.test)
        (result,) = sweep_results(self._store, [job], Thresholds())
        write_searched(self._store.paths.search, searched)
        file = write_result_file(self._store.root, RESULTS, [result])
        self._bench.prepared.forget()
        self._told.stages.finish(GENERATION, LIKELIHOODS, JUDGING)
        self._told("finished", ended=True)
        return FindOutcome(self._store.root, searched, result, file)

    def _rows_at_most(self, before: float) -> float:
        """Rows of the search, by the pace of the unsteered answers; kept for a later call.

        Args:
            before: seconds until the first of these.
        """
        asked = float("inf") if self._settings.budget is None else self._settings.budget
        if self._settings.minutes is None:
            return asked
        seconds, rows = self._unsteered.runtime_seconds, len(self._unsteered.samples)
        held = self._store.write_once(
            self._store.paths.search_pace, {"before": before, "rows_a_second": rows / seconds}
        )
        left = 60 * self._settings.minutes - float(held["before"]) - seconds
        # Five conditions confirm, one of which has answered along with these.
        confirm = 5 * len(self._settings.confirmation.prompts)
        confirm += PRICING_ROWS * self._settings.cheapest
        return min(asked, max(0.0, left * float(held["rows_a_second"]) - confirm))

    # -- the end -----------------------------------------------------------------------------------

    def _confirm(self, best: Cell) -> tuple[Job, dict[What, Record]]:
        """The chosen cell, its neighbours and its controls on the confirmation prompts."""
        test = self._settings.confirmation
        new = self._settings.sweep.max_new_tokens
        chosen = self._asking.condition(best, test, new)
        like = next(c for c in self._job.conditions if c.label == RANDOM and c.layer == best.layer)
        random = replace(
            chosen,
            label=RANDOM,
            extraction_prompts=like.extraction_prompts,
            extraction_rendered=like.extraction_rendered,
            method_code=None,
        )
        unsteered = self._unsteered_control().condition
        asked: dict[What, Condition] = {"chosen": chosen}
        asked["random direction"] = random
        beside: tuple[tuple[What, int], ...] = (("weaker", -1), ("stronger", 1))
        for what, step in beside:
            if 0 <= best.rung + step < len(STRENGTHS):
                cell = replace(best, rung=best.rung + step)
                asked[what] = self._asking.condition(cell, test, new)
        records = self._asking.answers(
            [Question("confirm", condition, test) for condition in asked.values()]
        )
        found: dict[What, Record] = {"unsteered": self._first[unsteered.key]}
        found |= {what: records[condition.key] for what, condition in asked.items()}
        job = replace(self._job, conditions=(unsteered, chosen, random), test=test)
        return job, found

    def _unsteered_control(self) -> Question:
        """The unsteered control on the confirmation prompts."""
        test = self._settings.confirmation
        rendered = test_rendered(self._bench.chat.renderer, test)
        unsteered = self._job.conditions[0]
        return Question(
            "confirm", replace(unsteered, test_prompts=test.id, test_rendered=rendered), test
        )

    def _searched(
        self, choice: Choice, picked: Pick, layers: Sequence[int], records: Mapping[What, Record]
    ) -> Searched:
        best = picked.cell
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
        grid = min(_GRID[0], self._job.n_layers) * _GRID[1]
        mean = sum(self._asking.lengths) / len(self._asking.lengths)
        return Searched(
            model=self._job.source.name,
            method=best.method,
            layer=best.layer,
            n_layers=self._job.n_layers,
            strength=STRENGTHS[best.rung],
            multiplier=steering.multiplier,
            found=works,
            confirmed=confirmed,
            window=_window(best, choice, by_name) if works else None,
            discovery=len(self._settings.discovery.prompts),
            confirmation=len(self._settings.confirmation.prompts),
            layers=layers,
            strengths=STRENGTHS,
            breaks={
                f"{method} {layer}": STRENGTHS[rung] if rung < len(STRENGTHS) else None
                for (method, layer), rung in choice.breaks.items()
            },
            rounds=choice.rounds,
            cells=[_cell(cell, choice, picked.prices.get(cell)) for cell in choice.seen],
            cost=Cost(
                search_rows=self._asking.rows["whole"],
                short_rows=self._asking.rows["short"],
                confirm_rows=self._asking.rows["confirm"],
                tokens=self._asking.tokens,
                grid_tokens=round((2 * grid + 1) * prompts * mean),
            ),
            cheapest=None,
        )


def _refuses(record: Record) -> list[bool]:
    return [outcome is Outcome.REFUSES for outcome in outcomes(record)]


def _confirmed(what: What, record: Record, chosen: Record) -> Confirmed:
    refused = _refuses(record)
    return Confirmed(
        what=what,
        strength=None if record.steering is None else round(record.steering.relative_strength, 4),
        n=len(refused),
        refuses=sum(refused),
        broken=sum(sample.judgement.quality == "garbled" for sample in record.samples),
        interval=wilson(sum(refused), len(refused)),
        p=None if what == "chosen" else mcnemar(_refuses(chosen), refused),
        price=None,
    )


def _cell(cell: Cell, choice: Choice, price: float | None) -> SearchedCell:
    seen = choice.seen[cell]
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
        price=price,
    )


def _window(best: Cell, choice: Choice, confirmed: Mapping[str, Confirmed]) -> Window:
    """How far the window reaches, by what was answered in full at the chosen layer."""
    rates = {
        cell.rung: seen.rate()
        for cell, seen in choice.seen.items()
        if (cell.method, cell.layer) == (best.method, best.layer) and seen.whole
    }
    for what, step in (("weaker", -1), ("chosen", 0), ("stronger", 1)):
        if what in confirmed:
            rates[best.rung + step] = confirmed[what].rate
    half = rates[best.rung] / 2

    def reach(rungs: Sequence[int]) -> tuple[int, int | None]:
        inside = [*takewhile(lambda rung: rates.get(rung, -1.0) >= half, rungs)]
        end = inside[-1] if inside else best.rung
        beyond = (rung for rung in rungs if rung not in inside)
        return end, next((rung for rung in beyond if rates.get(rung, half) < half), None)

    weakest, weaker = reach(range(best.rung, -1, -1))
    strongest, stronger = reach(range(best.rung, len(STRENGTHS)))
    breaks = choice.breaks.get((best.method, best.layer), len(STRENGTHS))
    if stronger is None and strongest < breaks < len(STRENGTHS):
        stronger = breaks
    return Window(
        weakest=STRENGTHS[weakest],
        strongest=STRENGTHS[strongest],
        weaker=None if weaker is None else STRENGTHS[weaker],
        stronger=None if stronger is None else STRENGTHS[stronger],
    )
