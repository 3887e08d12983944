"""How responses fail: shares of each kind at every model's best condition, and under control."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from steersweep.report.figures.style import COLOURS, LABELS, PAGE, percent_axis, short
from steersweep.run.judgement import Rates
from steersweep.run.result import Result

_MOST_BARS = 40
# Shades of the colour of garbled text, and hatches for those who do not see colour.
_MODES = {
    "loop": ("#D55E00", ""),
    "soup": ("#E69F00", "////"),
    "empty": ("#8C3A00", ""),
    "other garbled": ("#F2C59A", "...."),
}


def bars(results: Sequence[Result]) -> list[tuple[str, dict[str, float]]]:
    """Name and shares of responses, which add up to 1, for each bar; two per result at most."""
    found = []
    for result in results[: _MOST_BARS // 2]:
        found.append((f"{short(result.model)}, {result.method.upper()}", shares(result.best.rates)))
        control = result.controls.random_direction
        if control is not None:
            found.append(("random direction", shares(control.rates)))
    return found


def shares(rates: Rates) -> dict[str, float]:
    """Coherent refusals, normal answers, and garbled text by mode."""
    n, garbled = max(1, rates.n_unique), rates.garbled_rate
    modes = {
        mode: min(rates.failure_modes.get(mode, 0) / n, garbled)
        for mode in _MODES
        if mode != "other garbled"
    }
    rest = garbled - sum(modes.values())
    return {
        "coherent": rates.coherent_refusal_rate,
        **modes,
        "other garbled": max(0.0, rest),
        "other": max(0.0, 1 - garbled - rates.coherent_refusal_rate),
    }


def failures_figure(results: Sequence[Result]) -> Any:
    """Stacked bars: the best condition of each result, its random-direction control below it."""
    from matplotlib import pyplot as plt

    rows = bars(results)
    figure, axis = plt.subplots(figsize=(PAGE * 0.8, 0.9 + 0.19 * len(rows)), layout="constrained")
    styles = {
        "coherent": (COLOURS["coherent"], "", LABELS["coherent"]),
        **{mode: (*style, mode) for mode, style in _MODES.items()},
        "other": (COLOURS["other"], "", LABELS["other"]),
    }
    styles = {
        kind: style
        for kind, style in styles.items()
        if any(parts[kind] > 0.005 for _, parts in rows)
    }
    left = [0.0] * len(rows)
    y = [-index for index in range(len(rows))]
    for kind, (colour, hatch, label) in styles.items():
        widths = [parts[kind] for _, parts in rows]
        axis.barh(
            y,
            widths,
            left=left,
            height=0.78,
            color=colour,
            hatch=hatch,
            edgecolor="white" if hatch else colour,
            linewidth=0,
            label=label,
        )
        left = [start + width for start, width in zip(left, widths, strict=True)]
    axis.set_yticks(y, [name for name, _ in rows])
    axis.set_ylim(-len(rows) + 0.4, 0.6)
    percent_axis(axis, "x")
    axis.set_xlim(0, 1)
    axis.tick_params(axis="y", length=0)
    axis.spines["left"].set_visible(False)
    axis.set_xlabel("responses")
    figure.legend(loc="outside lower center", ncols=min(4, len(styles)))
    return figure
