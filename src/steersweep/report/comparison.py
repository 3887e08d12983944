"""What changed between two runs: settings, verdicts, and conditions that both have."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from steersweep.core import typed
from steersweep.core.atomic import write_text
from steersweep.core.errors import InputError
from steersweep.core.statistics import holm
from steersweep.report.page import environment, style
from steersweep.report.run import Listed, Run, read_run
from steersweep.run.cell import SteeredCell
from steersweep.run.result import ModelVerdict, Result
from steersweep.sweeps.compared import p_difference

_Place = tuple[Any, ...]


@dataclass(frozen=True)
class Change:
    """A setting or fact that is not the same; None where one run lacks it."""

    name: str
    first: Any
    second: Any


@dataclass(frozen=True)
class Verdicts:
    """Verdicts of one model, precision and method in both runs."""

    phase: str
    model: str
    precision: str
    method: str
    first: ModelVerdict
    second: ModelVerdict

    @property
    def changed(self) -> bool:
        """Whether the outcome differs."""
        return self.first.outcome != self.second.outcome


@dataclass(frozen=True)
class Conditions:
    """A condition that both runs have.

    Attributes:
        p_holm: that both refuse coherently equally often, corrected for all conditions compared.
        n_texts: prompts whose responses differ, of those that both runs have.
        n_prompts: prompts that both runs have.
    """

    model: str
    precision: str
    method: str
    layer_idx: int
    multiplier: float
    first: float
    second: float
    p_holm: float
    n_texts: int
    n_prompts: int
    keys: tuple[str, str]


@dataclass(frozen=True)
class Comparison:
    """What is the same and what is not.

    Attributes:
        folders: of the runs.
        settings: fields of `plan.yaml` that differ.
        facts: provenance that differs.
        verdicts: of models and methods in both.
        conditions: in both.
        only: how many conditions only the first, and only the second, has.
    """

    folders: tuple[str, str]
    settings: list[Change]
    facts: list[Change]
    verdicts: list[Verdicts]
    conditions: list[Conditions]
    only: tuple[int, int]

    def as_json(self) -> dict[str, Any]:
        """Plain data."""
        return typed.plain_fields(self)


class _Held:
    """A run with the samples of every condition, by what the condition is."""

    def __init__(self, folder: Path) -> None:
        self.cells: dict[_Place, SteeredCell] = {}
        self.run: Run = read_run(folder, self._take)
        if not self.run.results:
            raise InputError(f"{folder}: holds no results yet, so there is nothing to compare")
        self.results = {_subject(one): one.result for one in self.run.listed}

    def _take(self, listed: Listed) -> None:
        for cell in listed.result.conditions:
            place = (cell.layer, cell.strength.unit, cell.strength.value)
            self.cells[(*_subject(listed), *place)] = cell


def compare_runs(first: Path, second: Path) -> Comparison:
    """Compare two run folders of sweeps or studies.

    Conditions match by phase, model, precision, method, layer and strength; whatever else differs
    is under `settings` and `facts`.

    Raises:
        InputError: no run, or no results, in one of them.
    """
    one, other = _Held(first), _Held(second)
    shared = [place for place in one.cells if place in other.cells]
    pairs = [(one.cells[place], other.cells[place]) for place in shared]
    adjusted = holm([p_difference(a, b) for a, b in pairs])
    return Comparison(
        folders=(str(first), str(second)),
        settings=_changes(one.run.plan, other.run.plan),
        facts=_changes(
            _facts(one.run.results[0]),
            _facts(other.run.results[0]),
        ),
        verdicts=[
            Verdicts(*subject, first=result.verdict, second=other.results[subject].verdict)
            for subject, result in one.results.items()
            if subject in other.results
        ],
        conditions=[
            _compared(place, a, b, p)
            for place, (a, b), p in zip(shared, pairs, adjusted, strict=True)
        ],
        only=(len(one.cells) - len(shared), len(other.cells) - len(shared)),
    )


def write_comparison(comparison: Comparison, path: Path) -> Path:
    """Write it as one self-contained page."""
    page = environment().get_template("comparison.html.j2")
    write_text(path, page.render(c=comparison, style=style()))
    return path


def _subject(listed: Listed) -> tuple[str, str, str, str]:
    result = listed.result
    return listed.phase, result.model, result.quantization, result.method


def _facts(result: Result) -> dict[str, Any]:
    return {**result.provenance, "finished": result.timestamp}


def _compared(place: _Place, first: SteeredCell, second: SteeredCell, p: float) -> Conditions:
    _, model, precision, method, layer, _, _ = place
    said = {(sample.prompt, sample.repeat): sample.response for sample in first.samples}
    both = [sample for sample in second.samples if (sample.prompt, sample.repeat) in said]
    return Conditions(
        model=model,
        precision=precision,
        method=method,
        layer_idx=layer,
        multiplier=second.steering.multiplier,
        first=first.rates.coherent_refusal_rate,
        second=second.rates.coherent_refusal_rate,
        p_holm=p,
        n_texts=sum(said[sample.prompt, sample.repeat] != sample.response for sample in both),
        n_prompts=len(both),
        keys=(first.key, second.key),
    )


def _changes(first: Mapping[str, Any], second: Mapping[str, Any]) -> list[Change]:
    one, other = dict(_flat(first)), dict(_flat(second))
    return [
        Change(name, one.get(name), other.get(name))
        for name in {**one, **other}
        if one.get(name) != other.get(name)
    ]


def _flat(value: Mapping[str, Any], prefix: str = "") -> Iterable[tuple[str, Any]]:
    """Nested fields by their path, such as `budget.total`."""
    for name, held in value.items():
        if isinstance(held, Mapping):
            yield from _flat(held, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", held
