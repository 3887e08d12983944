"""Coherent refusals against depth and strength, all models in one picture."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from steersweep.report.figures.style import PAGE, Looks, percent_axis, short
from steersweep.run.cell import Cell, SteeredCell
from steersweep.run.result import Result

Value = Callable[[SteeredCell], float]

_MOST_NAMES = 12  # in a legend


def depth_figure(results: Sequence[Result], looks: Looks) -> Any:
    """A panel per method: at each depth the rate of the strength that does best there."""
    from matplotlib import pyplot as plt

    methods = swept_methods(results)
    figure, axes = plt.subplots(
        1,
        len(methods),
        figsize=(min(PAGE, 1.2 + 3.0 * len(methods)), 2.9),
        squeeze=False,
        sharey=True,
        layout="constrained",
    )
    for axis, method in zip(axes[0], methods, strict=True):
        for result in of_method(results, method):
            points = best_by(result.conditions, lambda cell: cell.layer_pct)
            _line(axis, result, points, looks)
        axis.set_title(method.upper())
        axis.set_xlabel("start layer / layers")
        axis.set_xlim(0, 1)
        percent_axis(axis)
    axes[0][0].set_ylabel("coherent refusals")
    _legend(figure, results)
    return figure


def strength_figure(results: Sequence[Result], looks: Looks) -> Any:
    """Against the multiplier, and against it over the residual norm: which lines models up?"""
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots(1, 2, figsize=(PAGE, 2.9), sharey=True, layout="constrained")
    for axis, strength, label in (
        (axes[0], multiplier, "multiplier"),
        (axes[1], relative_strength, "relative strength: multiplier / residual norm"),
    ):
        for result in primary(results):
            layer = result.best.layer
            cells = [cell for cell in result.conditions if cell.layer == layer]
            _line(axis, result, best_by(cells, strength), looks)
        axis.set_xscale("log")
        axis.set_xlabel(label)
        spread = peak_spread(results, strength)
        axis.set_title("" if spread is None else f"strengths that do best lie {spread:.1f}x apart")
        _plain_ticks(axis)
        percent_axis(axis)
    axes[0].set_ylabel("coherent refusals")
    _legend(figure, primary(results))
    return figure


def multiplier(cell: SteeredCell) -> float:
    """Its strength as the length of the addition."""
    return cell.steering.multiplier


def relative_strength(cell: SteeredCell) -> float:
    """Its strength as that length over the residual norm."""
    return cell.steering.relative_strength


def peak_spread(results: Iterable[Result], strength: Value) -> float | None:
    """Largest over smallest best strength of the models that steering works in; None for one."""
    peaks = [
        strength(result.best) for result in primary(results) if result.verdict.outcome != "fails"
    ]
    return max(peaks) / min(peaks) if len(peaks) > 1 else None


def has_strengths(results: Iterable[Result]) -> bool:
    """Whether any model was swept over more than one strength."""
    return any(
        len({cell.strength.value for cell in result.conditions}) > 1 for result in primary(results)
    )


def swept_methods(results: Iterable[Result]) -> list[str]:
    """Methods swept over layers; not their own choices, nor borrowed directions."""
    swept = (result.method for result in results if result.label.is_swept)
    return list(dict.fromkeys(swept))


def of_method(results: Iterable[Result], method: str) -> list[Result]:
    """Results of one method."""
    return [result for result in results if result.method == method]


def primary(results: Iterable[Result]) -> list[Result]:
    """One result per model: of the method that comes first."""
    first: dict[tuple[str, str], Result] = {}
    for result in results:
        if not result.label.chose_layer:
            first.setdefault((result.model, result.quantization), result)
    return [*first.values()]


def best_by(cells: Iterable[SteeredCell], value: Value) -> list[tuple[float, SteeredCell]]:
    """For each value the condition with most coherent refusals, by that value."""
    best: dict[float, SteeredCell] = {}
    for cell in cells:
        held = best.get(value(cell))
        if held is None or _rate(cell) > _rate(held):
            best[value(cell)] = cell
    return sorted(best.items(), key=lambda item: item[0])


def error_bars(cells: Iterable[Cell]) -> list[list[float]]:
    """Distances to the ends of the 95 % intervals, `[[below], [above]]`."""
    ends = [(_rate(cell), *cell.rates.coherent_refusal_ci) for cell in cells]
    return [
        [max(0.0, rate - low) for rate, low, _ in ends],
        [max(0.0, high - rate) for rate, _, high in ends],
    ]


def _rate(cell: Cell) -> float:
    return cell.rates.coherent_refusal_rate


def _line(
    axis: Any, result: Result, points: Sequence[tuple[float, SteeredCell]], looks: Looks
) -> None:
    colour = looks.colour(result.family)
    cells = [cell for _, cell in points]
    axis.errorbar(
        [at for at, _ in points],
        [_rate(cell) for cell in cells],
        yerr=error_bars(cells),
        color=colour,
        ecolor=f"{colour}55",
        marker=looks.marker(result.family),
        elinewidth=0.9,
        capsize=0,
        label=short(result.model),
    )


def _legend(figure: Any, results: Sequence[Result]) -> None:
    """Models by name while they fit, below the panels."""
    handles: dict[str, Any] = {}
    for axis in figure.axes:
        for handle, label in zip(*axis.get_legend_handles_labels(), strict=True):
            handles.setdefault(label, handle)
    if len(handles) > _MOST_NAMES:
        family = {short(result.model): result.family for result in results}
        handles = {family[model]: handle for model, handle in handles.items()}
    figure.legend(
        handles.values(),
        handles,
        loc="outside lower center",
        ncols=min(5, max(1, math.ceil(len(handles) / math.ceil(len(handles) / 5)))),
    )


def _plain_ticks(axis: Any) -> None:
    """2, 5, 10 instead of powers of ten."""
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

    axis.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axis.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axis.xaxis.set_minor_formatter(NullFormatter())
