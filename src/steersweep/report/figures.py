"""Figures of a sweep: which responses each layer and strength gives.

Every cell of a map is one condition, filled from the left by the shares of its responses. The
random-direction control stands beside it, so that a break caused by any push of that size shows.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

Result = dict[str, Any]

# Okabe and Ito's palette: told apart by colour-blind readers, and in grey by lightness.
COLOURS = {"coherent": "#0072B2", "garbled": "#D55E00", "other": "#DADADA"}
LABELS = {
    "coherent": "coherent refusal",
    "garbled": "garbled text",
    "other": "normal answer",
}
_TEXT = "#222222"
FORMATS = ("png", "svg")


def write_figures(folder: Path, results: Sequence[Result]) -> list[Path]:
    """One layer x strength map per result, and one of all of them; PNG and SVG.

    Returns:
        Paths of the PNG files; the SVG files lie beside them.
    """
    import matplotlib

    matplotlib.use("Agg")
    folder.mkdir(parents=True, exist_ok=True)
    paths = [_save(_map_figure([result]), folder / figure_stem(result)) for result in results]
    if len(results) > 1:
        paths.append(_save(_map_figure(results), folder / "layer_strength_all"))
    return paths


def _map_figure(results: Sequence[Result]) -> Any:
    """A row per result: steered map on the left, random control on the right."""
    from matplotlib import pyplot as plt
    from matplotlib.patches import Patch

    n_strengths = max(len(_strengths(result)) for result in results)
    n_layers = max(len(_layers(result)) for result in results)
    height = 0.62 + 0.34 * n_layers
    figure, axes = plt.subplots(
        len(results),
        2,
        figsize=(2.4 + 1.5 * n_strengths, height * len(results) + 0.9),
        squeeze=False,
        layout="constrained",
        sharey="row",
    )
    for row, result in zip(axes, results, strict=True):
        controls = result["controls"]["random_directions"]
        _draw_map(row[0], result, result["conditions"], _title(result))
        _draw_map(row[1], result, controls, "random direction, same strength")
        row[0].set_ylabel("start layer (depth)", fontsize=8)
    for axis in axes[-1]:
        axis.set_xlabel(_x_label(results[0]), fontsize=8)
    handles = [Patch(color=COLOURS[kind], label=LABELS[kind]) for kind in COLOURS]
    figure.legend(handles=handles, loc="outside lower center", ncols=3, fontsize=8, frameon=False)
    return figure


def _draw_map(axis: Any, result: Result, entries: Sequence[Result], title: str) -> None:
    from matplotlib.patheffects import withStroke

    layers, strengths = _layers(result), _strengths(result)
    for entry in entries:
        x = strengths.index(_strength(entry))
        y = layers.index((entry["layer_idx"], entry["layer_pct"]))
        left = x - 0.46
        for kind, share in _shares(entry).items():
            axis.barh(y, 0.92 * share, left=left, height=0.8, color=COLOURS[kind], linewidth=0)
            left += 0.92 * share
        label = axis.text(
            x,
            y,
            f"{entry['coherent_refusal_rate']:.0%}",
            ha="center",
            va="center",
            fontsize=7.5,
            color=_TEXT,
        )
        # Readable on every colour, also where two meet.
        label.set_path_effects([withStroke(linewidth=2.2, foreground="white")])
    axis.set_xticks(range(len(strengths)), [f"{value:g}" for _, value in strengths], fontsize=8)
    axis.set_yticks(range(len(layers)), [_layer_label(*layer) for layer in layers], fontsize=8)
    axis.set_xlim(-0.5, len(strengths) - 0.5)
    axis.set_ylim(-0.5, len(layers) - 0.5)
    axis.set_title(title, fontsize=8.5, loc="left", color=_TEXT)
    axis.tick_params(length=0)
    for spine in axis.spines.values():
        spine.set_visible(False)


def _shares(entry: Result) -> dict[str, float]:
    coherent, garbled = entry["coherent_refusal_rate"], entry["garbled_rate"]
    return {"coherent": coherent, "garbled": garbled, "other": max(0.0, 1 - coherent - garbled)}


def _layers(result: Result) -> list[tuple[int, float]]:
    return sorted({(entry["layer_idx"], entry["layer_pct"]) for entry in result["conditions"]})


def _strengths(result: Result) -> list[tuple[str, float]]:
    return sorted({_strength(entry) for entry in result["conditions"]})


def _strength(entry: Result) -> tuple[str, float]:
    return entry["strength"]["unit"], entry["strength"]["value"]


def _layer_label(index: int, share: float) -> str:
    return f"{index} ({share:.0%})"


def _x_label(result: Result) -> str:
    units = {unit for unit, _ in _strengths(result)}
    if units == {"relative"}:
        return "strength (multiplier / residual norm)"
    return "multiplier" if units == {"multiplier"} else "multiplier or relative strength"


def _title(result: Result) -> str:
    n = result["conditions"][0]["n_unique"]
    return f"{result['model']}, {result['method'].upper()}, {n} prompts"


def figure_stem(result: Result) -> str:
    """File name of a result's map, without ending."""
    model = "".join(c if c.isalnum() or c in "-." else "-" for c in result["model"])
    return f"layer_strength_{model}_{result['method'].replace('@', '-')}"


def _save(figure: Any, stem: Path) -> Path:
    from matplotlib import pyplot as plt

    for suffix in FORMATS:
        figure.savefig(stem.with_name(f"{stem.name}.{suffix}"), dpi=200)
    plt.close(figure)
    return stem.with_name(f"{stem.name}.png")
