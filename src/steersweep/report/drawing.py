"""Which figures a run has, drawn once: files for papers, and the same in the page."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from steersweep.report.figures import (
    depth,
    failures,
    methods,
    precisions,
    prices,
    searching,
    sizes,
    transfers,
)
from steersweep.report.figures.maps import lines_of, map_figure, strengths_of
from steersweep.report.figures.style import FORMATS, Looks, drawing, inline_svg, save
from steersweep.report.run import Run
from steersweep.run.folder import RunFolder
from steersweep.run.result import Result
from steersweep.study.analysis import layer_cosines
from steersweep.study.phases.precisions import PRECISIONS
from steersweep.study.phases.sizes import SIZES
from steersweep.study.phases.transfer import TRANSFER
from steersweep.study.rows import CurveRow, PrecisionRow, TransferRow
from steersweep.sweeps.ways import Compared

_MOST_MAPS = 24  # as files; the page has all of them
_MOST_LINES = 80  # of the maps of all models in one figure: about a metre high
_MOST_RESULTS = 60  # whose directions are compared between layers


@dataclass(frozen=True)
class Shown:
    """A figure of the page.

    Attributes:
        name: of its files.
        title: what it shows.
        note: how to read it, and what it rests on.
        svg: to put into the page.
    """

    name: str
    title: str
    note: str
    svg: str


@dataclass
class Drawn:
    """The figures of a run: those shown in the page, and all files."""

    shown: list[Shown] = field(default_factory=list)
    files: list[Path] = field(default_factory=list)
    left_out: str = ""


def draw(run: Run, folder: Path) -> Drawn:
    """Draw what the run has data for; files of an earlier report are replaced."""
    from matplotlib import pyplot as plt

    drawn = Drawn()
    with drawing():
        for name, title, note, make in _figures(run):
            figure = make()
            drawn.files.append(save(figure, folder / name))
            drawn.shown.append(Shown(name, title, note, inline_svg(figure, name, title)))
            plt.close(figure)
        _draw_maps(run, folder, drawn)
    for old in (*folder.glob("*.png"), *folder.glob("*.svg")):
        if old.with_suffix(".png") not in drawn.files:
            old.unlink()
    return drawn


def draw_ways(compared: Sequence[Compared], path: Path) -> Path:
    """Draw what ways to steer cost, as PNG and SVG; returns the PNG.

    Raises:
        InputError: the file cannot be written.
    """
    from matplotlib import pyplot as plt

    with drawing():
        figure = prices.ways_figure(compared)
        path.parent.mkdir(parents=True, exist_ok=True)
        file = save(figure, path.with_suffix("") if path.suffix[1:] in FORMATS else path)
        plt.close(figure)
    return file


Figure = tuple[str, str, str, Callable[[], Any]]


def _figures(run: Run) -> list[Figure]:
    """Name, title, note and maker of each figure there is data for, in the reader's order."""
    first = run.of_phase(run.listed[0].phase) if run.listed else []
    curves = [c for c in run.decision_rows(CurveRow, SIZES.name, "curves") if c.points]
    # A plan may call a model's family otherwise than its config does.
    families = [result.family for result in run.results]
    looks = Looks([*families, *(curve.family for curve in curves)])
    found: list[Figure] = []

    def add(name: str, title: str, note: str, make: Callable[[], Any]) -> None:
        found.append((name, title, note, make))

    if (searched := run.searched) is not None:
        add(
            "search",
            "The search",
            "A circle is a cell: the larger, the more discovery prompts it answered in full. Blue: "
            "refused in fluent text (per cent inside); orange: broken. Below it its turn. Dashed: "
            "beaten by a rival; thick: chosen. Bars: on prompts that the search never saw, with "
            "95 % intervals.",
            lambda: searching.search_figure(searched),
        )
    swept = [result for result in first if result.label.is_swept]
    if any(len({cell.layer for cell in result.conditions}) > 1 for result in swept):
        add(
            "rate_by_depth",
            "Coherent refusals by depth",
            "At each start layer the strength that does best. Bars: 95 % intervals over unique "
            "prompts, not corrected for having picked the best.",
            lambda: depth.depth_figure(swept, looks),
        )
    if depth.has_strengths(swept):
        add(
            "rate_by_strength",
            "Coherent refusals by strength, in both units",
            f"Each model at its best layer, by {depth.swept_methods(swept)[0].upper()}. Where "
            "relative strength lines models up, lines lie together more on the right than on the "
            "left.",
            lambda: depth.strength_figure(swept, looks),
        )
    priced = prices.priced_models(first)
    if priced:
        add(
            "price_front",
            "Refusals and their price",
            "A point is one layer and strength: further left is closer to the unsteered model, "
            "hollow is garbled. The line joins the cells than which none refuses as often for "
            "less. Dotted: from where a random direction breaks the model.",
            lambda: prices.front_figure(priced),
        )
        add(
            "price_map",
            "What each layer and strength costs",
            "Nats per token from the unsteered model, over its own answers. Framed: cells that "
            "refuse as often as the best where that works at least in part; thick: the cheapest "
            "of them.",
            lambda: prices.price_map_figure(priced),
        )
    if by_method := prices.compared_methods(priced):
        add(
            "price_methods",
            "Methods by price at equal refusal",
            "Each method's cheapest cell of those that refuse as often as the best of all methods. "
            "Bars: 95 % intervals over answers.",
            lambda: prices.methods_figure(by_method),
        )
    if methods.compared_cells(swept):
        add(
            "methods",
            "DIM and the other methods",
            "A point is one layer and strength of one model. On the dotted line both methods "
            "refuse equally often.",
            lambda: methods.methods_figure(swept, looks),
        )
    store = RunFolder.existing(run.folder)
    few = swept if len(swept) <= _MOST_RESULTS else []
    whole = [result for result in few if _has_directions(result, store)]
    matrices = layer_cosines(whole, store)
    matrices = [row for row in matrices if len(row.layers) > 1]
    missing = sorted({result.model for result in few if result not in whole})
    if matrices:
        add(
            "layer_cosines",
            "Are the directions of different layers alike?",
            "Cosines between the unit directions found at the layers of one model."
            + (
                f" Without {', '.join(missing)}: direction files are missing or damaged."
                * bool(missing)
            ),
            lambda: methods.layer_cosines_figure(matrices),
        )
    if curves:
        add(
            "size_curves",
            "Coherent refusals by model size",
            "Small to large. A shape is named only where intervals keep it apart from others.",
            lambda: sizes.sizes_figure(curves, looks),
        )
    rows = run.decision_rows(PrecisionRow, PRECISIONS.name, "precisions")
    prompts = {result.model: result.conditions[0].rates.n_unique for result in run.results}
    if rows:
        add(
            "precision_cosines",
            "Directions between precisions",
            "Cosines at the layer that is steered; above "
            f"{rows[0].preserved_from:.2f} a direction counts as preserved.",
            lambda: precisions.cosines_figure(rows),
        )
        add(
            "precision_rates",
            "Coherent refusals by precision",
            "With the direction found in that precision, and with the reference's.",
            lambda: precisions.precision_rates_figure(rows, prompts),
        )
    moved = run.decision_rows(TransferRow, TRANSFER.name, "transfers")
    if moved:
        add(
            "transfers",
            "One model's direction in another",
            "Coherent refusals; on the diagonal a model's own direction.",
            lambda: transfers.transfers_figure(moved),
        )
    given = [result for result in first if not result.label.chose_layer]
    add(
        "failure_modes",
        "What the answers are",
        "At the best condition of each model and method, and with a random direction of the same "
        "length at the same place.",
        lambda: failures.failures_figure(given),
    )
    return found if run.listed else []


def _has_directions(result: Result, store: RunFolder) -> bool:
    """Whether a result's directions are there, whole: people send runs without them."""
    names = [cell.steering.direction_key for cell in result.conditions]
    return all(store.vector(name) is not None for name in names)


def _draw_maps(run: Run, folder: Path, drawn: Drawn) -> None:
    """A file per model and phase with every method's map; one of all models of the first phase."""
    from matplotlib import pyplot as plt

    together: dict[tuple[str, str, str], list[Result]] = {}
    for listed in run.listed:
        result = listed.result
        key = listed.phase, result.model, result.quantization
        together.setdefault(key, []).append(result)
    maps = {
        key: held
        for key, held in together.items()
        if len(lines_of(held)) * len(strengths_of(held)) > 1
        and len({result.label.at_given_layer for result in held}) <= 4
    }

    def keep(models: Sequence[Sequence[Result]], name: str) -> None:
        figure = map_figure(models)
        drawn.files.append(save(figure, folder / name))
        plt.close(figure)

    phases = {phase for phase, _, _ in maps}
    for (phase, model, precision), held in [*maps.items()][:_MOST_MAPS]:
        parts = [model, *([phase] * (len(phases) > 1)), precision]
        keep([held], "layer_strength_" + "_".join(map(_file_name, parts)))
    if len(maps) > _MOST_MAPS:
        drawn.left_out = (
            f"Maps of {len(maps) - _MOST_MAPS} more models are in the page and not in files."
        )
    first = next(iter(maps), ("", "", ""))[0]
    every = [held for (phase, _, _), held in maps.items() if phase == first]
    if len(every) > 1 and sum(len(lines_of(held)) for held in every) <= _MOST_LINES:
        keep(every, "layer_strength_all")


def _file_name(text: str) -> str:
    return "".join(c if c.isalnum() or c in "-." else "-" for c in text)
