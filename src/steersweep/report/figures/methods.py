"""DIM beside the other methods: rates at the same cells, likeness of directions."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from steersweep.report.figures.style import PAGE, Looks, matrix, percent_axis, short
from steersweep.run.cell import SteeredCell
from steersweep.run.condition import Strength
from steersweep.run.result import Result
from steersweep.study.rows import LayerCosines

_MOST_MATRICES = 24


def compared_cells(
    results: Sequence[Result],
) -> list[tuple[SteeredCell, SteeredCell, Result]]:
    """DIM's condition and another method's at the same layer and strength, with its result."""
    dim = {
        (result.model, result.quantization, _place(cell)): cell
        for result in results
        if result.method == "dim"
        for cell in result.conditions
    }
    return [
        (held, cell, result)
        for result in results
        if result.label.is_swept and result.method != "dim"
        for cell in result.conditions
        if (held := dim.get((result.model, result.quantization, _place(cell)))) is not None
    ]


def methods_figure(results: Sequence[Result], looks: Looks) -> Any:
    """Left: each cell's rates under both methods. Right: how alike the directions are, by depth."""
    from matplotlib import pyplot as plt

    cells = compared_cells(results)
    figure, (rates, likeness) = plt.subplots(1, 2, figsize=(PAGE, 3.1), layout="constrained")
    rates.plot([0, 1], [0, 1], color="#999999", linewidth=0.8, linestyle=":")
    families = list(dict.fromkeys(result.family for _, _, result in cells))
    for family in families:
        own = [(d, o) for d, o, result in cells if result.family == family]
        style = {"color": looks.colour(family), "marker": looks.marker(family), "alpha": 0.75}
        rates.scatter(
            [d.rates.coherent_refusal_rate for d, _ in own],
            [o.rates.coherent_refusal_rate for _, o in own],
            s=22,
            label=family,
            **style,
        )
        shown = [(o.layer_pct, o.cosine_to_dim) for _, o in own if o.cosine_to_dim is not None]
        likeness.scatter([x for x, _ in shown], [y for _, y in shown], s=22, **style)
    other = " and ".join(dict.fromkeys(result.method.upper() for _, _, result in cells))
    rates.set_xlabel("DIM: coherent refusals")
    rates.set_ylabel(f"{other}: coherent refusals")
    rates.set_title("Same layer, same strength")
    percent_axis(rates)
    percent_axis(rates, "x")
    likeness.axhline(0, color="#999999", linewidth=0.8, linestyle=":")
    likeness.set_ylim(-1.03, 1.03)
    likeness.set_xlim(0, 1)
    likeness.set_xlabel("start layer / layers")
    likeness.set_ylabel("cosine of the directions")
    likeness.set_title(f"DIM's direction and {other}'s")
    figure.legend(loc="outside lower center", ncols=min(6, len(families)))
    return figure


def layer_cosines_figure(matrices: Sequence[LayerCosines]) -> Any:
    """Cosines between the directions of one model's layers: a matrix per model and method."""
    shown = matrices[:_MOST_MATRICES]
    titles = [f"{short(row.model)}\n{row.method.upper()}" for row in shown]
    return matrices_figure(
        titles,
        [row.cosines for row in shown],
        [[str(layer) for layer in row.layers] for row in shown],
        "layer",
    )


def matrices_figure(
    titles: Sequence[str],
    matrices: Sequence[Sequence[Sequence[float | None]]],
    labels: Sequence[Sequence[str]],
    name: str,
    lowest: float = -1.0,
) -> Any:
    """Small square matrices of cosines, each value written in its cell.

    Args:
        titles: of each matrix.
        matrices: `[row, column]`; None where there is no value.
        labels: of rows and columns.
        name: what the labels are.
        lowest: of the colour scale.
    """
    import numpy as np
    from matplotlib import pyplot as plt

    columns = min(4, len(matrices))
    rows = -(-len(matrices) // columns)
    figure, axes = plt.subplots(
        rows,
        columns,
        figsize=(min(PAGE, 1.0 + 1.8 * columns), 0.5 + 1.95 * rows),
        squeeze=False,
        layout="constrained",
    )
    image: Any = None
    for axis in axes.flat[len(matrices) :]:
        axis.set_visible(False)
    for axis, title, cosines, names in zip(axes.flat, titles, matrices, labels, strict=False):
        values = np.array(
            [[np.nan if value is None else value for value in line] for line in cosines], float
        )
        image = matrix(axis, values, lowest)
        axis.set_xticks(range(len(names)), names)
        axis.set_yticks(range(len(names)), names)
        axis.set_title(title)
        size = 7 if len(names) < 5 else 5.5
        for y, x in np.ndindex(values.shape):
            if len(names) <= 8 and not np.isnan(values[y, x]):
                light = values[y, x] < (1 + lowest) / 2
                axis.text(
                    x,
                    y,
                    f"{values[y, x]:.2f}".replace("0.", ".", 1) if values[y, x] < 1 else "1",
                    ha="center",
                    va="center",
                    fontsize=size,
                    color="white" if light else "black",
                )
    axes[-1][0].set_xlabel(name)
    axes[-1][0].set_ylabel(name)
    figure.colorbar(image, ax=axes, label="cosine", shrink=0.8, aspect=30 if rows > 1 else 15)
    return figure


def _place(cell: SteeredCell) -> tuple[int, Strength]:
    return cell.layer, cell.strength
