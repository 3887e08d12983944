"""What steering costs: refusals against distance from the unsteered model, maps of it, methods."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from steersweep.report.figures.maps import (
    line_label,
    line_of,
    lines_of,
    strength_label,
    strength_of,
    strengths_of,
    x_label,
)
from steersweep.report.figures.style import COLOURS, PAGE, Looks, percent_axis, short
from steersweep.report.ways import names_of_ways
from steersweep.run.cell import SteeredCell
from steersweep.run.result import Result
from steersweep.sweeps.priced import front
from steersweep.sweeps.ways import Compared

_MOST_PANELS = 12
_LOWEST = 1e-3  # nats per token; less is drawn there
_RANDOM = "#7F7F7F"
Models = Sequence[Sequence[Result]]


def priced_models(results: Iterable[Result]) -> list[list[Result]]:
    """Results with prices, by model and precision, of models with more than one cell."""
    found: dict[tuple[str, str], list[Result]] = {}
    for result in results:
        if result.priced is not None:
            found.setdefault((result.model, result.quantization), []).append(result)
    return [held for held in found.values() if sum(len(one.conditions) for one in held) > 1]


def front_figure(models: Models) -> Any:
    """A panel per model: each cell's coherent refusals over its price, and the Pareto front.

    Random directions stand beside them. Cells whose answers are mostly garbled are hollow, and
    crosses are random directions that break the model.
    """
    from matplotlib import pyplot as plt
    from matplotlib.lines import Line2D

    shown = models[:_MOST_PANELS]
    names = [*dict.fromkeys(result.method for held in shown for result in held)]
    looks = Looks(names)
    columns = min(3, len(shown))
    rows = -(-len(shown) // columns)
    figure, axes = plt.subplots(
        rows,
        columns,
        figsize=(min(PAGE, 1.2 + 2.7 * columns), 0.7 + 2.2 * rows),
        squeeze=False,
        layout="constrained",
        sharey=True,
    )
    for axis in axes.flat[len(shown) :]:
        axis.set_visible(False)
    for axis, held in zip(axes.flat, shown, strict=False):
        _draw_front(axis, held, looks)
    for line in axes:
        line[0].set_ylabel("coherent refusals")
    for axis in axes[-1]:
        axis.set_xlabel("nats per token from unsteered")
    styles: dict[str, Any] = {"linestyle": "", "markersize": 5}
    handles = [
        *(
            Line2D([], [], color=looks.colour(n), marker=looks.marker(n), label=n.upper(), **styles)
            for n in names
        ),
        Line2D([], [], color=COLOURS["coherent"], linewidth=1, label="front"),
        Line2D([], [], color=_RANDOM, marker=".", label="random direction", **styles),
    ]
    results = [result for held in shown for result in held]
    if any(_is_broken(cell) for r in results for cell in r.conditions):
        styles |= {"color": looks.colour(names[0]), "markerfacecolor": "none", "marker": "o"}
        handles.append(Line2D([], [], label="mostly garbled", **styles))
    if any(_is_broken(cell) for r in results for cell in r.controls.random_directions):
        styles |= {"color": COLOURS["garbled"], "marker": "x"}
        handles.append(Line2D([], [], label="random, mostly garbled", **styles))
    figure.legend(handles=handles, loc="outside lower center", ncols=min(2 * columns, len(handles)))
    return figure


def _is_broken(cell: SteeredCell) -> bool:
    return cell.rates.output_quality == "garbled"


def _draw_front(axis: Any, results: Sequence[Result], looks: Looks) -> None:
    random: dict[str, SteeredCell] = {}
    for result in results:
        random |= {cell.key: cell for cell in result.controls.random_directions}
    for cell in random.values():
        if cell.price is not None:
            broken = _is_broken(cell)
            axis.scatter(
                [_x(cell)],
                [cell.rates.coherent_refusal_rate],
                s=16,
                marker="x" if broken else ".",
                color=COLOURS["garbled"] if broken else _RANDOM,
                linewidths=0.9,
                zorder=2,
            )
    for result in results:
        colour = looks.colour(result.method)
        for garbled in (False, True):
            cells = [
                cell
                for cell in result.conditions
                if cell.price is not None and _is_broken(cell) == garbled
            ]
            axis.scatter(
                [_x(cell) for cell in cells],
                [cell.rates.coherent_refusal_rate for cell in cells],
                s=20,
                marker=looks.marker(result.method),
                facecolors="none" if garbled else colour,
                edgecolors=colour,
                linewidths=0.8,
                zorder=3,
            )
    best = front(cell for result in results for cell in result.conditions)
    axis.step(
        [_x(cell) for cell in best],
        [cell.rates.coherent_refusal_rate for cell in best],
        where="post",
        color=COLOURS["coherent"],
        linewidth=1,
        alpha=0.6,
        zorder=1,
    )
    breaks = [r.priced.breaks_from for r in results if r.priced and r.priced.breaks_from]
    if breaks:
        axis.axvline(min(breaks), color=COLOURS["garbled"], linewidth=0.8, linestyle=":", zorder=0)
    axis.set_xscale("log")
    _plain_ticks(axis.xaxis)
    percent_axis(axis)
    axis.set_title(short(results[0].model))


def _padded() -> Any:
    """A layout in which the longest label does not touch the edge."""
    from matplotlib.layout_engine import ConstrainedLayoutEngine

    return ConstrainedLayoutEngine(w_pad=0.15)


def _plain_ticks(axis: Any) -> None:
    """Numbers as they are, not as powers, along a logarithmic axis."""
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter, NullLocator

    axis.set_major_locator(LogLocator(subs=(1.0, 3.0), numticks=9))
    axis.set_major_formatter(FuncFormatter(lambda value, _place: f"{value:g}"))
    axis.set_minor_locator(NullLocator())
    axis.set_minor_formatter(NullFormatter())


def _x(cell: SteeredCell) -> float:
    return max(_LOWEST, cell.price or 0.0)


def price_map_figure(models: Models) -> Any:
    """A row per model: what each layer and strength costs, by method, and the random direction.

    A frame marks the cells that refuse as often as the best; a dot the cheapest of them.
    """
    from matplotlib import pyplot as plt
    from matplotlib.colors import LogNorm

    shown = models[:_MOST_PANELS]
    rows = [_panels(results) for results in shown]
    n_lines = [len(lines_of(results)) for results in shown]
    n_strengths = max(len(strengths_of(results)) for results in shown)
    prices = [
        cell.price
        for row in rows
        for _, cells, _ in row
        for cell in cells
        if cell.price is not None
    ]
    norm = LogNorm(max(_LOWEST, min(prices)), max(2 * _LOWEST, *prices), clip=True)
    columns = max(map(len, rows))
    figure, axes = plt.subplots(
        len(rows),
        columns,
        figsize=(
            1.6 + columns * (0.6 + max(1.3, 0.5 * n_strengths)),
            0.9 + sum(0.7 + 0.3 * n for n in n_lines),
        ),
        squeeze=False,
        layout=_padded(),
        sharey="row",
        height_ratios=[0.7 + 0.3 * n for n in n_lines],
    )
    for row, panels, results in zip(axes, rows, shown, strict=True):
        for axis, (title, cells, equal) in zip(row, panels, strict=False):
            image = _draw_prices(axis, results, cells, norm, equal)
            axis.set_title(title, fontsize=8.5)
        for axis in row[len(panels) :]:
            axis.set_visible(False)
        row[0].set_ylabel("start layer (depth)" if len(lines_of(results)) > 2 else "")
    axes[-1][0].set_xlabel(x_label(shown[0][0]), loc="left")
    bar = figure.colorbar(
        image, ax=axes, label="nats per token from unsteered", shrink=0.9, aspect=25
    )
    _plain_ticks(bar.ax.yaxis)
    return figure


_Panel = tuple[str, list[SteeredCell], tuple[str, ...]]


def _panels(results: Sequence[Result]) -> list[_Panel]:
    """Title, cells and keys of equal refusal of each map of a model."""
    methods: dict[str, list[SteeredCell]] = {}
    equal: dict[str, tuple[str, ...]] = {}
    random: dict[str, SteeredCell] = {}
    for result in results:
        name = str(result.label.at_given_layer)
        methods.setdefault(name, []).extend(result.conditions)
        works = result.priced is not None and result.verdict.outcome != "fails"
        keys = result.priced.equal if works and result.priced else ()
        equal[name] = (*equal.get(name, ()), *keys)
        random |= {cell.key: cell for cell in result.controls.random_directions}
    found = [(f"\n{name.upper()}", cells, equal[name]) for name, cells in methods.items()]
    title, cells, keys = found[0]
    found[0] = f"{short(results[0].model)}{title}", cells, keys
    return [*found, ("\nrandom direction", [*random.values()], ())]


def _draw_prices(
    axis: Any,
    results: Sequence[Result],
    cells: Sequence[SteeredCell],
    norm: Any,
    equal: Sequence[str],
) -> Any:
    import numpy as np
    from matplotlib.patches import Rectangle

    lines, strengths = lines_of(results), strengths_of(results)
    values = np.full((len(lines), len(strengths)), np.nan)
    for cell in cells:
        y, x = lines.index(line_of(cell)), strengths.index(strength_of(cell))
        if cell.price is None:
            continue
        values[y, x] = max(_LOWEST, cell.price)
        dark = norm(values[y, x]) < 0.6
        axis.text(
            x,
            y,
            f"{cell.price:.2g}" if cell.price >= 0.01 else "<.01",
            ha="center",
            va="center",
            fontsize=6.5,
            color="white" if dark else "black",
            zorder=4,
        )
        if cell.key in equal:
            cheapest = cell.key == equal[0]
            axis.add_patch(
                Rectangle(
                    (x - 0.45, y - 0.45),
                    0.9,
                    0.9,
                    fill=False,
                    edgecolor=COLOURS["garbled"],
                    linewidth=2.2 if cheapest else 0.9,
                    zorder=3,
                )
            )
    image = axis.pcolormesh(
        np.arange(len(strengths) + 1) - 0.5,
        np.arange(len(lines) + 1) - 0.5,
        values,
        norm=norm,
        cmap="cividis",
    )
    axis.set_xticks(range(len(strengths)), [strength_label(*one) for one in strengths])
    axis.set_yticks(range(len(lines)), [line_label(line, results[0]) for line in lines])
    axis.tick_params(length=0)
    for spine in axis.spines.values():
        spine.set_visible(False)
    return image


def compared_methods(models: Models) -> list[list[Result]]:
    """Models whose methods are compared by price at equal refusal."""
    return [
        [result for result in held if result.priced and result.priced.among_methods]
        for held in models
        if any(result.priced and result.priced.among_methods for result in held)
    ]


def methods_figure(models: Models) -> Any:
    """What each method costs where it refuses as often as the best of all, with 95 % intervals."""
    shown = models[:_MOST_PANELS]
    rows = []
    for result in (one for held in shown for one in held):
        priced = result.priced
        key = priced.among_methods.key if priced and priced.among_methods else None
        cell = next((c for c in result.conditions if c.key == key), None)
        name = f"{short(result.model)}, {result.method.upper()}"
        rows.append((name, result.method, cell))
    return _price_rows(rows)


def ways_figure(compared: Sequence[Compared]) -> Any:
    """The same of ways to steer."""
    rows = []
    for model in compared[:_MOST_PANELS]:
        for name, way in zip(names_of_ways(model.ways), model.ways, strict=True):
            rows.append((f"{short(model.model)}, {name}", way.method, way.cheapest))
    return _price_rows(rows)


def _price_rows(rows: Sequence[tuple[str, str, SteeredCell | None]]) -> Any:
    """Prices of cells with their intervals, a line for each: its label, its method, the cell."""
    from matplotlib import pyplot as plt

    looks = Looks([method for _, method, _ in rows])
    figure, axis = plt.subplots(figsize=(PAGE, 0.9 + 0.24 * len(rows)), layout=_padded())
    for index, (_, method, cell) in enumerate(rows):
        if cell is None or cell.effects is None or cell.effects.divergence is None:
            axis.text(
                0.01, -index, "refuses less often", va="center", fontsize=7, color=_RANDOM,
                transform=axis.get_yaxis_transform(),
            )  # fmt: skip
            continue
        found = cell.effects.divergence
        low, high = found.interval
        axis.errorbar(
            [found.nats_per_token],
            [-index],
            xerr=[[found.nats_per_token - low], [high - found.nats_per_token]],
            marker=looks.marker(method),
            color=looks.colour(method),
            elinewidth=1,
        )
        note = axis.annotate(
            f"layer {cell.layer}, {cell.rates.coherent_refusal_rate:.0%}",
            (high, -index),
            xytext=(5, 0),
            textcoords="offset points",
            va="center",
            fontsize=7,
        )
        note.set_in_layout(False)
    axis.set_yticks([-index for index in range(len(rows))], [label for label, _, _ in rows])
    axis.tick_params(axis="y", length=0)
    axis.set_ylim(-len(rows) + 0.4, 0.6)
    axis.set_xlim(left=0)
    axis.set_xlim(right=1.3 * axis.get_xlim()[1])
    axis.set_xlabel("nats per token from unsteered")
    return figure
