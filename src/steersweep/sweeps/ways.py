"""Ways to steer a model compared by price at equal refusal, over the run folders that tried them.

A run has one edit: one layer or each to the end, a direction added or a component replaced. Runs of
one model on the same prompts share their unsteered answers, over which prices are taken; so what
two ways cost is compared answer by answer.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence, Set
from dataclasses import dataclass, field, replace
from pathlib import Path

from steersweep.core import typed
from steersweep.core.errors import InputError
from steersweep.people.reviews import results_in
from steersweep.run.cell import Cell, SteeredCell
from steersweep.run.condition import Condition
from steersweep.run.edit_settings import EditSettings
from steersweep.run.effect import Change, Measured, change, item_id
from steersweep.run.folder import RunFolder
from steersweep.run.price import DIVERGENCE, DivergenceEffect
from steersweep.run.records import Record
from steersweep.run.result import Result
from steersweep.run.verdict import Outcome, verdict
from steersweep.sweeps.compared import best_condition
from steersweep.sweeps.priced import equal_cells
from steersweep.work.asked_effects import saved_effects


@dataclass(frozen=True)
class Way:
    """A method with what is done with its directions, and its cheapest cell of equal refusal.

    Attributes:
        method: text of its label.
        edit: what is done with a direction, and where.
        extraction_prompts: id of those that directions are from, or None.
        folders: run folders with cells of it.
        n_cells: cells that have a price.
        best: that refuses most of these.
        cheapest: of those that refuse as often as the best of all ways; None: none does.
        random: the price of a random direction of the same length there; None: not known.
        dearer: nats per token more than the cheapest way, on the same answers; None for that one
            itself, and where no cell refuses as often.
    """

    method: str
    edit: EditSettings
    extraction_prompts: str | None
    folders: tuple[str, ...]
    n_cells: int
    best: SteeredCell
    cheapest: SteeredCell | None
    random: DivergenceEffect | None
    dearer: Change | None

    def without_samples(self) -> Way:
        """The same without any response."""
        cheapest = self.cheapest and replace(self.cheapest, samples=())
        return replace(self, best=replace(self.best, samples=()), cheapest=cheapest)


@dataclass(frozen=True)
class Compared:
    """Ways to steer one model in one precision.

    Attributes:
        model: its name.
        precision: it ran in.
        n_prompts: unique prompts of every cell.
        n_answers: unsteered answers that prices are taken over.
        outcome: of the best cell of all ways.
        ways: the cheapest first; those without a cell of equal refusal last.
    """

    model: str
    precision: str
    n_prompts: int
    n_answers: int
    outcome: Outcome
    ways: tuple[Way, ...]

    def without_samples(self) -> Compared:
        """The same without any response."""
        return replace(self, ways=tuple(way.without_samples() for way in self.ways))


def compare_ways(folders: Iterable[Path]) -> list[Compared]:
    """Ways to steer, of each model that was steered in more than one.

    Raises:
        InputError: no run with results in a folder; no price was measured there; prices are not
            over the same answers; or there is nothing to compare.
    """
    models: dict[str, _Model] = {}
    for folder in dict.fromkeys(folder.resolve() for folder in folders):
        _read(folder, models)
    _refuse_other_answers([*models.values()])
    compared = [found for model in models.values() if (found := model.compared()) is not None]
    if not compared:
        raise InputError(
            f"{', '.join(_names(models.values()))}: every model was steered in one way; give run "
            f"folders of other methods, operations, spans, sites or positions"
        )
    return compared


@dataclass
class _Held:
    """Cells of one way, with where each was measured."""

    cells: dict[str, SteeredCell] = field(default_factory=dict)  # by key
    folders: dict[str, Path] = field(default_factory=dict)  # of the cells
    random: list[SteeredCell] = field(default_factory=list)


_Place = tuple[str, EditSettings, str | None]


class _Model:
    """A model in a precision on some prompts: all that has the same unsteered control."""

    def __init__(self, result: Result, unsteered: Record) -> None:
        self.name, self.precision = result.model, result.quantization
        self.unsteered, self.thresholds = unsteered, result.verdict.thresholds
        self.folders: list[Path] = []
        self.ways: dict[_Place, _Held] = {}
        self._same = {sample.prompt for sample in unsteered.samples}

    def take(self, result: Result, unsteered: Record, folder: Path) -> None:
        """Take the cells of a result that have a price."""
        if folder not in self.folders:
            self.folders.append(folder)
            # Batches of other shapes round differently: an answer may be another one here.
            pairs = zip(self.unsteered.samples, unsteered.samples, strict=True)
            self._same -= {a.prompt for a, b in pairs if a.response != b.response}
        for cell in result.conditions:
            if cell.price is not None:
                place = result.method, cell.edit, cell.extraction_prompts
                held = self.ways.setdefault(place, _Held())
                held.cells[cell.key] = cell
                held.folders[cell.key] = folder
                held.random += result.controls.random_directions

    def compared(self) -> Compared | None:
        """Its ways side by side; None where there is one."""
        if len(self.ways) < 2:
            return None
        best = best_condition(cell for held in self.ways.values() for cell in held.cells.values())
        ways = [self._way(*way, best) for way in self.ways.items()]
        ways.sort(key=_place_of)
        measured = self._measured([way.cheapest for way in ways if way.cheapest is not None])
        first, *others = measured
        dearer = [None, *(change(first, other) for other in others)]
        dearer += [None] * (len(ways) - len(dearer))
        rates = best.rates
        return Compared(
            model=self.name,
            precision=self.precision,
            n_prompts=rates.n_unique,
            n_answers=len(first.items),
            outcome=verdict(
                coherent_refusal_rate=rates.coherent_refusal_rate,
                garbled_refusal_rate=rates.garbled_refusal_rate,
                thresholds=self.thresholds,
            ).outcome,
            ways=tuple(replace(way, dearer=more) for way, more in zip(ways, dearer, strict=True)),
        )

    def _way(self, place: _Place, held: _Held, best: SteeredCell) -> Way:
        method, edit, prompts = place
        cells = [*held.cells.values()]
        cheapest = next(iter(equal_cells(cells, best, self.thresholds)), None)
        return Way(
            method=method,
            edit=edit,
            extraction_prompts=prompts,
            folders=tuple(dict.fromkeys(map(str, held.folders.values()))),
            n_cells=len(cells),
            best=best_condition(cells),
            cheapest=cheapest,
            random=None if cheapest is None else _price_like(cheapest, held.random),
            dearer=None,
        )

    def _measured(self, cells: Sequence[SteeredCell]) -> list[Measured]:
        """By answer, the prices of cells: of those answers that all folders have.

        Raises:
            InputError: these are not over the same tokens, or hardly any are the same.
        """
        where = {key: folder for held in self.ways.values() for key, folder in held.folders.items()}
        whole = [_divergence(where[cell.key], cell, self.unsteered) for cell in cells]
        shared = {item_id(prompt) for prompt in self._same}
        shared = shared.intersection(*(one.items for one in whole))
        found = [_of_items(one, shared) for one in whole]
        if 2 * len(shared) < len(whole[0].items) or len({one.weights for one in found}) > 1:
            names = ", ".join(dict.fromkeys(str(where[cell.key]) for cell in cells))
            raise InputError(
                f"{names}: prices of {self.name} were taken over other answers in each; measure "
                f"the effect {DIVERGENCE} with the same effect items"
            )
        return found


def _place_of(way: Way) -> tuple[bool, float]:
    """The cheapest first; then those without a price, the one that refuses most first."""
    if way.cheapest is None or way.cheapest.price is None:
        return True, -way.best.rates.coherent_refusal_rate
    return False, way.cheapest.price


def _of_items(measured: Measured, items: Set[str]) -> Measured:
    """Some items of an effect; two sets of prompts may have other names and the same contents."""
    chosen = [index for index, item in enumerate(measured.items) if item in items]
    return replace(
        measured,
        source="shared answers",
        items=tuple(measured.items[index] for index in chosen),
        values=tuple(measured.values[index] for index in chosen),
        weights=tuple(measured.weights[index] for index in chosen),
    )


def _price_like(cell: SteeredCell, random: Iterable[SteeredCell]) -> DivergenceEffect | None:
    """What a random direction of the same length costs at a cell's place."""
    place = cell.layer, cell.strength, cell.edit
    like = next((one for one in random if (one.layer, one.strength, one.edit) == place), None)
    return None if like is None or like.effects is None else like.effects.divergence


def _read(folder: Path, models: dict[str, _Model]) -> None:
    """Take the results of a run folder."""
    store = RunFolder.existing(folder)
    results = [result for _, found in results_in(folder) for result in found]
    if all(cell.price is None for result in results for cell in result.conditions):
        raise InputError(
            f"{folder}: no price was measured there; measure the effect {DIVERGENCE} of this run "
            f"first"
        )
    for result in results:
        unsteered = result.controls.unsteered
        record = None if unsteered is None else store.get(unsteered.key)
        if record is not None:
            model = models.setdefault(record.key, _Model(result, record))
            model.take(result, record, folder)


def _divergence(folder: Path, cell: Cell, unsteered: Record) -> Measured:
    """By answer, the price of a cell."""
    store = RunFolder.existing(folder)
    record = store.get(cell.key)
    saved = {} if record is None else saved_effects(store, record, unsteered)
    if DIVERGENCE not in saved or not saved[DIVERGENCE].measured:
        raise InputError(
            f"{folder}: what the price of {cell.key} rests on is damaged or gone; measure the "
            f"effect {DIVERGENCE} of this run again"
        )
    return saved[DIVERGENCE].measured[0]


def _refuse_other_answers(models: Sequence[_Model]) -> None:
    """See that no model is there with two unsteered controls, which cannot be compared.

    Raises:
        InputError: one is; the message names what differs.
    """
    seen: dict[tuple[str, str], _Model] = {}
    for model in models:
        other = seen.setdefault((model.name, model.precision), model)
        if other is not model and not {*other.folders} & {*model.folders}:
            fields = _differing(other.unsteered.condition, model.unsteered.condition)
            raise InputError(
                f"{other.folders[0]}, {model.folders[0]}: {model.name} has other unsteered answers "
                f"in each ({', '.join(fields)} differ); prices are compared on the same ones"
            )


def _differing(one: Condition, other: Condition) -> list[str]:
    first, second = typed.plain(one), typed.plain(other)
    return [name for name, value in first.items() if value != second[name]]


def _names(models: Iterable[_Model]) -> list[str]:
    return [str(folder) for folder in dict.fromkeys(f for m in models for f in m.folders)]
