"""What quantization does: cosines between precisions, and rates with own and borrowed direction."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from steersweep.core.statistics import wilson
from steersweep.report.figures.methods import matrices_figure
from steersweep.report.figures.style import PAGE, percent_axis, short
from steersweep.study.rows import PrecisionRow


def cosines_figure(rows: Sequence[PrecisionRow]) -> Any:
    """A matrix per model; above `preserved_from` a direction counts as preserved."""
    return matrices_figure(
        [f"{short(row.model)}\n{row.method.upper()}, layer {row.layer_idx}" for row in rows],
        [row.cosines for row in rows],
        [row.precisions for row in rows],
        "precision",
        lowest=min(
            [
                rows[0].preserved_from,
                *(value for row in rows for line in row.cosines for value in line),
            ]
        ),
    )


def precision_rates_figure(rows: Sequence[PrecisionRow], prompts: Mapping[str, int]) -> Any:
    """Coherent refusals by precision, with the direction found there and with the reference's.

    Args:
        rows: of each model and method.
        prompts: how many a model's rates rest on.
    """
    from matplotlib import pyplot as plt

    columns = min(4, len(rows))
    lines = -(-len(rows) // columns)
    figure, axes = plt.subplots(
        lines,
        columns,
        figsize=(min(PAGE, 0.8 + 1.8 * columns), 0.5 + 1.9 * lines),
        squeeze=False,
        sharey=True,
        layout="constrained",
    )
    for axis in axes.flat[len(rows) :]:
        axis.set_visible(False)
    for axis, row in zip(axes.flat, rows, strict=False):
        precisions = row.precisions
        own = [*zip(precisions, row.coherent_refusal_rates, strict=True)]
        borrowed = [(one.precision, one.coherent_refusal_rate) for one in row.borrowed]
        for points, offset, label, style in (
            (own, -0.1, "own direction", {"color": "#0072B2", "marker": "o"}),
            (
                borrowed,
                0.1,
                f"direction from {precisions[0]}",
                {"color": "#E69F00", "marker": "s", "markerfacecolor": "none"},
            ),
        ):
            n = prompts.get(row.model, 1)
            ends = [wilson(round(rate * n), n) for _, rate in points]
            axis.errorbar(
                [precisions.index(name) + offset for name, _ in points],
                [rate for _, rate in points],
                yerr=[
                    [max(0.0, r - low) for (_, r), (low, _) in zip(points, ends, strict=True)],
                    [max(0.0, high - r) for (_, r), (_, high) in zip(points, ends, strict=True)],
                ],
                linestyle="none",
                elinewidth=0.9,
                label=label,
                **style,
            )
        axis.set_title(f"{short(row.model)}, {row.method.upper()}")
        axis.set_xticks(range(len(precisions)), precisions)
        axis.set_xlim(-0.5, len(precisions) - 0.5)
        percent_axis(axis)
    axes[0][0].set_ylabel("coherent refusals")
    handles, labels = axes[0][0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=2)
    return figure
