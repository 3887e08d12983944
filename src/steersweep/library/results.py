"""What a sweep gave, as a table for programs and a picture for notebooks."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from io import StringIO
from pathlib import Path
from typing import TYPE_CHECKING, Any

from steersweep.core import typed
from steersweep.core.errors import InputError, SteersweepError
from steersweep.run.cell import Cell
from steersweep.run.direction import Direction
from steersweep.run.folder import RunFolder
from steersweep.run.price import Effects
from steersweep.run.result import Result
from steersweep.run.result_files import read_result_file, result_files

if TYPE_CHECKING:
    import pandas


@dataclass(frozen=True, eq=False)
class SweepResults:
    """The results of a sweep: one per model and method.

    Attributes:
        folder: the run folder.
        results: one for each model and method; `Result` says what they hold.
    """

    folder: Path
    results: Sequence[Result] = field(repr=False)

    @classmethod
    def of(cls, folder: str | Path) -> SweepResults:
        """The results in a run folder.

        Raises:
            InputError: it holds no run, or no results.
        """
        RunFolder.existing(Path(folder))
        files = result_files(Path(folder))
        results = [result for file in files for result in read_result_file(file)]
        if not results:
            raise InputError(f"{folder}: holds no results yet; run the sweep to its end")
        return cls(Path(folder), results)

    def rows(self) -> Iterator[dict[str, Any]]:
        """Every condition in a flat dictionary, controls too; rates are fractions from 0 to 1.

        `role` is `steered`, `random` or `unsteered`; `low` and `high` are the 95 % interval of the
        coherent refusal rate; `verdict` is that of the model and method. Effects that were not
        measured are None.
        """
        for result in self.results:
            controls = result.controls
            parts: tuple[tuple[str, Sequence[Cell | None]], ...] = (
                ("unsteered", [controls.unsteered]),
                ("random", controls.random_directions),
                ("steered", result.conditions),
            )
            for role, cells in parts:
                for cell in filter(None, cells):
                    yield _row(result, role, cell)

    def answers(self) -> Iterator[dict[str, Any]]:
        """Every answer in a flat dictionary, with its condition's `key`, and how it was judged.

        `category` is what the prompt is about, where its file says so, else None.
        """
        held = RunFolder(self.folder, repairs=False)
        categories = (held.read_json(held.paths.prompts) or {}).get("test_categories", {})
        for result in self.results:
            controls = result.controls
            cells = [controls.unsteered, *controls.random_directions, *result.conditions]
            for cell in filter(None, cells):
                of = {"model": result.model, "method": result.method, "key": cell.key}
                for sample in cell.samples:
                    last = {
                        "category": categories.get(sample.prompt),
                        "asked": sample.asked,
                        "repeat": sample.repeat,
                        "error": sample.judgement.error,
                    }
                    rest = typed.plain_fields(sample)
                    yield of | {k: v for k, v in rest.items() if k not in last} | last

    def to_frame(self, what: str = "conditions") -> pandas.DataFrame:
        """A pandas table.

        Args:
            what: `conditions` (a line for each, see `rows`) or `answers` (see `answers`).

        Raises:
            InputError: pandas is not installed, or `what` is neither.
        """
        tables = {"conditions": self.rows, "answers": self.answers}
        if what not in tables:
            raise InputError(f"what {what!r}: choose from {', '.join(tables)}")
        try:
            import pandas
        except ImportError as error:
            raise InputError("to_frame needs pandas: pip install 'steersweep[frames]'") from error
        return pandas.DataFrame([*tables[what]()])

    def direction(self, model: str, method: str) -> Direction:
        """The direction of the best condition of a model and method.

        Raises:
            InputError: there is no such result, or the direction is damaged or gone.
        """
        for result in self.results:
            if (result.model, result.method) == (model, method):
                steering = result.best.steering
                found = RunFolder.existing(self.folder).direction(steering.direction_key)
                if found is None:
                    raise InputError(f"{self.folder / steering.direction_file}: is damaged or gone")
                return found
        known = sorted({f"{result.model}, {result.method}" for result in self.results})
        raise InputError(f"no result of {model}, {method}; there are {'; '.join(known)}")

    def __str__(self) -> str:
        """The verdict table, as the command prints it."""
        from steersweep.report.console import PlainConsole
        from steersweep.report.terminal import print_verdicts

        text = StringIO()
        print_verdicts(self.results, PlainConsole(file=text, width=100))
        return text.getvalue().rstrip()

    def _repr_html_(self) -> str:
        """For notebooks: a map of layers and strengths per model, over the verdicts."""
        from markupsafe import escape
        from matplotlib import pyplot as plt

        from steersweep.report.figures.maps import map_figure
        from steersweep.report.figures.style import drawing, inline_svg

        models: dict[str, list[Result]] = {}
        for result in self.results:
            models.setdefault(result.model, []).append(result)
        try:
            with drawing():
                figure = map_figure([*models.values()])
                picture = inline_svg(figure, "steersweep", "coherent refusals by layer, strength")
                plt.close(figure)
        except ValueError as error:
            raise SteersweepError(f"{self.folder}: cannot be drawn: {error}") from error
        return f"<div>{picture}<pre>{escape(str(self))}</pre></div>"


def _row(result: Result, role: str, cell: Cell) -> dict[str, Any]:
    """A condition's line in a table; what does not apply to a control is None."""
    rates, at = cell.rates, cell.steering
    low, high = rates.coherent_refusal_ci
    return {
        "model": result.model,
        "model_id": result.model_id,
        "family": result.family,
        "method": result.method,
        "quantization": result.quantization,
        "role": role,
        "layer_idx": None if at is None else at.layer_idx,
        "layer_pct": cell.layer_pct,
        "multiplier": None if at is None else at.multiplier,
        "relative_strength": None if at is None else at.relative_strength,
        "coherent_refusal_rate": rates.coherent_refusal_rate,
        "garbled_refusal_rate": rates.garbled_refusal_rate,
        "garbled_rate": rates.garbled_rate,
        "refusal_rate": rates.refusal_rate,
        "n_unique": rates.n_unique,
        "direction_norm": None if at is None else at.direction_norm,
        "residual_norm": None if at is None else at.residual_norm,
        "key": cell.key,
        "low": low,
        "high": high,
        "verdict": result.verdict.outcome,
        **_effects(result, cell),
    }


def _effects(result: Result, cell: Cell) -> dict[str, Any]:
    """What was measured of a condition's effects; None where nothing was."""
    found = cell.effects or Effects()
    parts = {
        "harmful_kept": (found.harmful_kept, "rate"),
        "borderline": (found.borderline, "rate"),
        "divergence": (found.divergence, "nats_per_token"),
        "text": (found.text, "nats_per_token"),
        "choices": (found.choices, "accuracy"),
    }
    values = {name: getattr(part, field, None) for name, (part, field) in parts.items()}
    changes = {
        f"{name}_change": getattr(getattr(part, "change", None), "value", None)
        for name, (part, _) in parts.items()
        if name != "divergence"
    }
    equal = result.priced and cell.key in result.priced.equal
    return values | changes | {"refuses_as_often": equal}
