"""A search as a picture: which cells were asked, how much and when, and what was confirmed."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from steersweep.report.figures.style import COLOURS, PAGE, TEXT, percent_axis
from steersweep.run.searched import Confirmed, Searched, SearchedCell

_SMALLEST, _A_PROMPT = 26.0, 4.5  # areas in points squared
_ROOMY = 10  # layers that leave room for them
_NAMES = {
    "chosen": "chosen",
    "weaker": "a step weaker",
    "stronger": "a step stronger",
    "random direction": "random direction",
    "unsteered": "unsteered",
}


def search_figure(found: Searched) -> Any:
    """Cells of each method by layer and strength, beside what the confirmation gave."""
    from matplotlib import pyplot as plt

    methods = [*dict.fromkeys(cell.method for cell in found.cells)]
    figure, axes = plt.subplots(
        1,
        len(methods) + 1,
        figsize=(PAGE, max(2.8, min(5.2, 1.4 + 0.3 * len(found.layers)))),
        width_ratios=[*[2.6] * len(methods), 1.0],
        squeeze=False,
        layout="constrained",
    )
    for axis, method in zip(axes[0], methods, strict=False):
        _cells(axis, found, method)
    _confirmed(axes[0][-1], found.confirmed)
    return figure


def _cells(axis: Any, found: Searched, method: str) -> None:
    order = {id(cell): number for number, cell in enumerate(found.cells, 1)}
    cells = [cell for cell in found.cells if cell.method == method]
    scale = min(1.0, _ROOMY / len(found.layers))
    for cell in cells:
        chosen = (cell.method, cell.layer, cell.strength) == (
            found.method,
            found.layer,
            found.strength,
        )
        place = cell.strength, cell.layer
        axis.scatter(
            *place,
            s=_SMALLEST + scale * _A_PROMPT * cell.whole,
            color=[_fill(cell)],
            edgecolors=TEXT if chosen else "#999999",
            linewidths=1.8 if chosen else 0.6,
            linestyle="--" if cell.end.startswith("beaten") else "-",
            zorder=4 if chosen else 2,
        )
        shown = f"{100 * cell.refuses / cell.whole:.0f}" if cell.whole else ""
        axis.annotate(
            shown,
            place,
            ha="center",
            va="center",
            fontsize=5.5,
            color=_ink(cell),
            zorder=5 if chosen else 3,
        )
        axis.annotate(
            str(order[id(cell)]),
            place,
            xytext=(0, -7.5 - 0.06 * scale * cell.whole),
            textcoords="offset points",
            ha="center",
            va="center",
            fontsize=4,
            color="#777777",
            zorder=3,
        )
    axis.set_xscale("log")
    axis.set_xticks(found.strengths, [f"{value:.2g}" for value in found.strengths], rotation=45)
    axis.minorticks_off()
    axis.set_xlim(found.strengths[0] / 1.25, found.strengths[-1] * 1.25)
    axis.set_ylim(found.layers[0] - 0.7, found.layers[-1] + 0.7)
    axis.set_xlabel("strength / residual norm")
    axis.set_ylabel("start layer")
    axis.set_title(f"{found.model}, {method.upper()}: the search")


def _share(cell: SearchedCell) -> tuple[float, float]:
    """Shares of refusals in fluent text and of broken answers; of whole answers, if any."""
    if cell.whole:
        return cell.refuses / cell.whole, cell.broken / cell.whole
    return 0.0, cell.short_broken / max(1, cell.short)


def _fill(cell: SearchedCell) -> tuple[float, float, float]:
    """From grey to blue by what is refused, to orange by what is broken."""
    from matplotlib.colors import to_rgb

    refuses, broken = _share(cell)
    rest = 1 - refuses - broken
    parts = [(refuses, "coherent"), (broken, "garbled"), (rest, "other")]
    colours = [(share, to_rgb(COLOURS[name])) for share, name in parts]
    red, green, blue = (sum(s * colour[i] for s, colour in colours) for i in range(3))
    return red, green, blue


def _ink(cell: SearchedCell) -> str:
    refuses, broken = _share(cell)
    return "white" if refuses + broken > 0.5 else TEXT


def _confirmed(axis: Any, confirmed: Sequence[Confirmed]) -> None:
    cells = sorted(confirmed, key=lambda cell: [*_NAMES].index(cell.what))
    places = range(len(cells))
    rates = [cell.rate for cell in cells]
    low = [max(0.0, cell.rate - cell.interval[0]) for cell in cells]
    high = [max(0.0, cell.interval[1] - cell.rate) for cell in cells]
    axis.bar(places, rates, color=COLOURS["coherent"], width=0.6)
    axis.bar(
        places,
        [cell.broken / cell.n for cell in cells],
        bottom=rates,
        color=COLOURS["garbled"],
        width=0.6,
    )
    axis.errorbar(places, rates, [low, high], fmt="none", ecolor=TEXT, capsize=2, linewidth=1)
    axis.set_xticks(places, [_NAMES[cell.what] for cell in cells], rotation=60, ha="right")
    percent_axis(axis)
    axis.set_title(f"confirmed, {cells[0].n} other prompts")
