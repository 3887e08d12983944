"""Figures of a sweep: which responses each layer and strength gives.

Every cell of a map is one condition, filled from the left by the shares of its responses. The
random-direction control stands beside it, so that a break caused by any push of that size shows.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from steersweep.conditions import AUTO

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
    """A layer x strength map per result, and one of all of them by model and method; PNG and SVG.

    Returns:
        Paths of the PNG files; the SVG files lie beside them.
    """
    import matplotlib

    matplotlib.use("Agg")
    folder.mkdir(parents=True, exist_ok=True)
    paths = [_save(_map_figure([[result]]), folder / figure_stem(result)) for result in results]
    if len(results) > 1:
        by_model: dict[str, list[Result]] = {}
        for result in results:
            by_model.setdefault(result["model"], []).append(result)
        paths.append(_save(_map_figure([*by_model.values()]), folder / "layer_strength_all"))
    return paths


def _map_figure(models: Sequence[Sequence[Result]]) -> Any:
    """A row per model: a map per method from the left, the random control on the right.

    A method's own choice of layer (`cosmic@auto`) is one more line of the method's map.
    """
    from matplotlib import pyplot as plt
    from matplotlib.patches import Patch

    rows = [_panels(results) for results in models]
    n_strengths = max(len(_strengths(results)) for results in models)
    n_lines = [len(_lines(results)) for results in models]
    figure, axes = plt.subplots(
        len(rows),
        max(map(len, rows)),
        figsize=(
            1.0 + max(map(len, rows)) * (0.6 + max(1.3, 0.72 * n_strengths)),
            0.9 + sum(0.78 + 0.34 * n for n in n_lines),
        ),
        squeeze=False,
        layout="constrained",
        sharey="row",
        height_ratios=[0.78 + 0.34 * n for n in n_lines],
    )
    for row, panels, results in zip(axes, rows, models, strict=True):
        for axis, (title, entries) in zip(row, panels, strict=False):
            _draw_map(axis, results, entries, title)
        for axis in row[len(panels) :]:
            axis.set_visible(False)
        row[0].set_ylabel("start layer (depth)" if len(_lines(results)) > 2 else "", fontsize=8)
    axes[-1][0].set_xlabel(_x_label(models[0][0]), fontsize=8, loc="left")
    handles = [Patch(color=COLOURS[kind], label=LABELS[kind]) for kind in COLOURS]
    figure.legend(handles=handles, loc="outside lower center", ncols=3, fontsize=8, frameon=False)
    return figure


def _panels(results: Sequence[Result]) -> list[tuple[str, list[Result]]]:
    """Title and conditions of each map of a model."""
    panels: dict[str, list[Result]] = {}
    controls: dict[str, Result] = {}
    for result in results:
        method = result["method"].removesuffix(AUTO) if len(results) > 1 else result["method"]
        panels.setdefault(method, []).extend(result["conditions"])
        controls |= {entry["key"]: entry for entry in result["controls"]["random_directions"]}
    n = results[0]["conditions"][0]["n_unique"]
    titles = [method.upper() for method in panels]
    # Two lines: the model over the first map, what is added over each.
    titles = [f"\n{title}" for title in [*titles, "random direction"]]
    titles[0] = f"{results[0]['model']}, {n} prompts{titles[0]}"
    return [*zip(titles, [*panels.values(), [*controls.values()]], strict=True)]


def _draw_map(axis: Any, results: Sequence[Result], entries: Sequence[Result], title: str) -> None:
    from matplotlib.patheffects import withStroke

    lines, strengths = _lines(results), _strengths(results)
    for entry in entries:
        x = strengths.index(_strength(entry))
        y = lines.index(_line(entry))
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
    axis.set_yticks(range(len(lines)), [_line_label(*line) for line in lines], fontsize=8)
    axis.set_xlim(-0.5, len(strengths) - 0.5)
    axis.set_ylim(-0.5, len(lines) - 0.5)
    axis.set_title(title, fontsize=8.5, loc="left", color=_TEXT)
    axis.tick_params(length=0)
    for spine in axis.spines.values():
        spine.set_visible(False)


def _shares(entry: Result) -> dict[str, float]:
    coherent, garbled = entry["coherent_refusal_rate"], entry["garbled_rate"]
    return {"coherent": coherent, "garbled": garbled, "other": max(0.0, 1 - coherent - garbled)}


def _lines(results: Sequence[Result]) -> list[tuple[str, int, float]]:
    """The lines of a model's maps from below: layers, then methods' own choices."""
    return sorted({_line(entry) for result in results for entry in result["conditions"]})


def _line(entry: Result) -> tuple[str, int, float]:
    """Who chose the layer (empty: the user), the layer and its share of the depth."""
    chosen_by = entry["method"].removeprefix("random@") if AUTO in entry["method"] else ""
    return chosen_by, entry["layer_idx"], entry["layer_pct"]


def _strengths(results: Sequence[Result]) -> list[tuple[str, float]]:
    return sorted({_strength(entry) for result in results for entry in result["conditions"]})


def _strength(entry: Result) -> tuple[str, float]:
    return entry["strength"]["unit"], entry["strength"]["value"]


def _line_label(chosen_by: str, layer: int, share: float) -> str:
    label = f"{layer} ({share:.0%})"
    return f"{chosen_by}: {label}" if chosen_by else label


def _x_label(result: Result) -> str:
    units = {unit for unit, _ in _strengths([result])}
    if units == {"relative"}:
        return "strength (multiplier / residual norm)"
    return "multiplier" if units == {"multiplier"} else "multiplier or relative strength"


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
