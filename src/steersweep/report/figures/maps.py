"""Layer x strength maps: which responses each layer and strength gives.

Every cell of a map is one condition, filled from the left by the shares of its responses. The
random-direction control stands beside it, so that a break caused by any push of that size shows.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from steersweep.report.figures.style import COLOURS, LABELS, TEXT
from steersweep.run.cell import SteeredCell
from steersweep.run.judgement import Rates
from steersweep.run.label import Label
from steersweep.run.result import Result

Corners = list[tuple[float, float]]

# Inches of all cells of a figure; a file of more dots is of no use, and in the end none at all.
_MOST_WIDE, _MOST_HIGH = 60.0, 60.0
# Inches that a label of a cell, or of a column or line, takes.
_LABEL_WIDE, _LABEL_HIGH = 0.4, 0.14


def map_figure(models: Sequence[Sequence[Result]]) -> Any:
    """A row per model: a map per method from the left, the random control on the right.

    A method's own choice of layer (`cosmic@auto`) is one more line of the method's map.
    """
    from matplotlib import pyplot as plt
    from matplotlib.patches import Patch

    rows = [_panels(results) for results in models]
    n_strengths = max(len(strengths_of(results)) for results in models)
    n_lines = [len(lines_of(results)) for results in models]
    wide = min(0.72, _MOST_WIDE / (max(map(len, rows)) * n_strengths))
    high = min(0.34, _MOST_HIGH / sum(n_lines))
    figure, axes = plt.subplots(
        len(rows),
        max(map(len, rows)),
        figsize=(
            1.0 + max(map(len, rows)) * (0.6 + max(1.3, wide * n_strengths)),
            0.9 + sum(0.78 + high * n for n in n_lines),
        ),
        squeeze=False,
        layout="constrained",
        sharey="row",
        height_ratios=[0.78 + high * n for n in n_lines],
    )
    for row, panels, results in zip(axes, rows, models, strict=True):
        for axis, (title, cells) in zip(row, panels, strict=False):
            _draw_map(axis, results, cells, title, wide, high)
        for axis in row[len(panels) :]:
            axis.set_visible(False)
        row[0].set_ylabel("start layer (depth)" if len(lines_of(results)) > 2 else "", fontsize=8)
    axes[-1][0].set_xlabel(x_label(models[0][0]), fontsize=8, loc="left")
    handles = [Patch(color=COLOURS[kind], label=LABELS[kind]) for kind in COLOURS]
    figure.legend(handles=handles, loc="outside lower center", ncols=3, fontsize=8, frameon=False)
    return figure


def _panels(results: Sequence[Result]) -> list[tuple[str, list[SteeredCell]]]:
    """Title and conditions of each map of a model."""
    panels: dict[str, list[SteeredCell]] = {}
    controls: dict[str, SteeredCell] = {}
    for result in results:
        shown = result.label.at_given_layer if len(results) > 1 else result.label
        panels.setdefault(str(shown), []).extend(result.conditions)
        controls |= {cell.key: cell for cell in result.controls.random_directions}
    n = results[0].conditions[0].rates.n_unique
    titles = [method.upper() for method in panels]
    # Two lines: the model over the first map, what is added over each.
    titles = [f"\n{title}" for title in [*titles, "random direction"]]
    titles[0] = f"{results[0].model}, {n} prompts{titles[0]}"
    return [*zip(titles, [*panels.values(), [*controls.values()]], strict=True)]


def _draw_map(
    axis: Any,
    results: Sequence[Result],
    cells: Sequence[SteeredCell],
    title: str,
    wide: float,
    high: float,
) -> None:
    """A map whose cells have a width and height in inches."""
    from matplotlib.collections import PolyCollection

    strengths = {strength: x for x, strength in enumerate(strengths_of(results))}
    lines = {line: y for y, line in enumerate(lines_of(results))}
    parts: dict[str, list[Corners]] = {kind: [] for kind in COLOURS}
    labels: dict[str, Corners] = {}
    for cell in cells:
        x, y = strengths[strength_of(cell)], lines[line_of(cell)]
        left = x - 0.46
        for kind, share in shares_of(cell.rates).items():
            right = left + 0.92 * share
            low, high = y - 0.4, y + 0.4
            parts[kind].append([(left, low), (right, low), (right, high), (left, high)])
            left = right
        rate = f"{cell.rates.coherent_refusal_rate:.0%}"
        labels.setdefault(rate, []).append((x, y))
    if wide >= _LABEL_WIDE and high >= _LABEL_HIGH:
        _write_labels(axis, labels)
    for kind, found in parts.items():  # a patch per cell would take minutes for large maps
        axis.add_collection(PolyCollection(found, facecolors=COLOURS[kind], linewidths=0, zorder=1))
    across = [*strengths][:: math.ceil(_LABEL_WIDE / wide)]
    up = [*lines][:: math.ceil(_LABEL_HIGH / high)]
    axis.set_xticks(
        [strengths[one] for one in across], [strength_label(*one) for one in across], fontsize=8
    )
    axis.set_yticks(
        [lines[line] for line in up], [line_label(line, results[0]) for line in up], fontsize=8
    )
    axis.set_xlim(-0.5, len(strengths) - 0.5)
    axis.set_ylim(-0.5, len(lines) - 0.5)
    axis.set_title(title, fontsize=8.5, loc="left", color=TEXT)
    axis.tick_params(length=0)
    for spine in axis.spines.values():
        spine.set_visible(False)


def _write_labels(axis: Any, labels: Mapping[str, Corners]) -> None:
    """Write texts over their places, readable on every colour, also where two meet.

    There are at most a hundred different ones, and each is drawn as one shape at all its places: a
    text of its own for each cell takes most of a large map's time.
    """
    from matplotlib.collections import PathCollection
    from matplotlib.textpath import TextPath
    from matplotlib.transforms import Affine2D

    points = Affine2D().scale(1 / 72) + axis.figure.dpi_scale_trans
    for text, places in labels.items():
        shape = TextPath((0, 0), text, size=7.5)
        box = shape.get_extents()
        middle = Affine2D().translate(-(box.x0 + box.x1) / 2, -(box.y0 + box.y1) / 2)
        for colour, edge, width in (("none", "white", 2.2), (TEXT, "none", 0.0)):
            drawn = PathCollection(
                [shape.transformed(middle)],
                offsets=places,
                offset_transform=axis.transData,
                facecolors=colour,
                edgecolors=edge,
                linewidths=width,
                zorder=3,
            )
            drawn.set_transform(points)
            drawn.set_in_layout(False)
            axis.add_collection(drawn, autolim=False)


def shares_of(rates: Rates) -> dict[str, float]:
    """Shares of coherent refusals, garbled text and normal answers; they add up to 1."""
    coherent, garbled = rates.coherent_refusal_rate, rates.garbled_rate
    return {"coherent": coherent, "garbled": garbled, "other": max(0.0, 1 - coherent - garbled)}


def lines_of(results: Sequence[Result]) -> list[tuple[str, int]]:
    """The lines of a model's maps from below: layers, then methods' own choices."""
    return sorted({line_of(cell) for result in results for cell in result.conditions})


def line_of(cell: SteeredCell) -> tuple[str, int]:
    """Who chose the layer (empty: the user), and the layer."""
    label = cell.label
    chosen_by = str(Label(label.method, chose_layer=True)) if label.chose_layer else ""
    return chosen_by, cell.layer


def strengths_of(results: Sequence[Result]) -> list[tuple[str, float]]:
    """The columns of a model's maps: unit and value."""
    return sorted({strength_of(cell) for result in results for cell in result.conditions})


def strength_of(cell: SteeredCell) -> tuple[str, float]:
    """Unit and value of a condition's strength."""
    return cell.strength.unit, cell.strength.value


def strength_label(unit: str, value: float) -> str:
    """What stands at a column of a map."""
    return unit if unit == "removed" else f"{value:g}"


def line_label(line: tuple[str, int], result: Result) -> str:
    """A line's label: who chose the layer, the layer, and its share of the depth."""
    chosen_by, layer = line
    label = f"{layer} ({layer / result.n_layers:.0%})"
    return f"{chosen_by}: {label}" if chosen_by else label


def x_label(result: Result) -> str:
    """What the columns of a map are."""
    units = {unit for unit, _ in strengths_of([result])}
    if units == {"removed"}:
        return "the direction is removed"
    if units == {"relative"}:
        return "strength (multiplier / residual norm)"
    return "multiplier" if units == {"multiplier"} else "multiplier or relative strength"
