"""Coherent refusals against model size: a panel per family, with the shape's name."""

from __future__ import annotations

from collections.abc import Sequence
from textwrap import fill
from typing import Any

from steersweep.report.figures.style import DASHES, PAGE, TEXT, Looks, percent_axis, short
from steersweep.study.rows import CurveRow

_TITLE_WIDTH = 28  # characters that fit above a panel


def sizes_figure(curves: Sequence[CurveRow], looks: Looks) -> Any:
    """Small to large from left to right; bars are 95 % intervals of the unique prompts."""
    from matplotlib import pyplot as plt
    from matplotlib.lines import Line2D

    families = list(dict.fromkeys(curve.family for curve in curves))
    methods = list(dict.fromkeys(curve.method for curve in curves))
    columns = min(3, len(families))
    rows = -(-len(families) // columns)
    figure, axes = plt.subplots(
        rows,
        columns,
        figsize=(min(PAGE, 0.6 + 2.2 * columns), 0.6 + 2.1 * rows),
        squeeze=False,
        sharey=True,
        layout="constrained",
    )
    for axis in axes.flat[len(families) :]:
        axis.set_visible(False)
    for axis, family in zip(axes.flat, families, strict=False):
        own = [curve for curve in curves if curve.family == family]
        models = list(dict.fromkeys(p.model for curve in own for p in curve.points))
        for index, curve in enumerate(own):
            offset = 0.12 * (index - (len(own) - 1) / 2)
            rates = [p.coherent_refusal_rate for p in curve.points]
            ends = [p.interval for p in curve.points]
            axis.errorbar(
                [models.index(p.model) + offset for p in curve.points],
                rates,
                yerr=[
                    [max(0, r - low) for r, (low, _) in zip(rates, ends, strict=True)],
                    [max(0, high - r) for r, (_, high) in zip(rates, ends, strict=True)],
                ],
                color=looks.colour(family),
                marker=looks.marker(family),
                linestyle=DASHES[methods.index(curve.method) % len(DASHES)],
                elinewidth=0.9,
                label=curve.method.upper(),
            )
        shapes = [f"{curve.method.upper()} {curve.shape}" for curve in own]
        missing = list(dict.fromkeys(name for curve in own for name in curve.missing))
        shapes += [f"not run: {', '.join(map(short, missing))}"] if missing else []
        axis.set_title("\n".join([family, *(fill(shape, _TITLE_WIDTH) for shape in shapes)]))
        axis.set_xticks(
            range(len(models)), [short(model).removeprefix(f"{family}-") for model in models]
        )
        axis.set_xlim(-0.4, len(models) - 0.6)
        percent_axis(axis)
    handles = [
        Line2D([], [], color=TEXT, linestyle=DASHES[i % len(DASHES)], label=method.upper())
        for i, method in enumerate(methods)
    ]
    figure.legend(handles=handles, loc="outside lower center", ncols=len(methods))
    for line in axes:
        line[0].set_ylabel("coherent refusals")
    return figure
