"""How every figure looks: sizes for a two-column paper, colours told apart by the colour-blind.

Colours are Okabe and Ito's; families and methods differ in marker and line as well.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from io import BytesIO, StringIO
from pathlib import Path
from typing import Any

from steersweep.core.atomic import write_bytes
from steersweep.core.printing import in_a_line

COLUMN, PAGE = 3.5, 7.2  # inches: one column, two columns
FORMATS = ("png", "svg")
TEXT = "#222222"
COLOURS = {"coherent": "#0072B2", "garbled": "#D55E00", "other": "#DADADA"}
LABELS = {
    "coherent": "coherent refusal",
    "garbled": "garbled text",
    "other": "normal answer",
}
_CYCLE = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#7F7F7F")
_MARKERS = ("o", "s", "^", "D", "v", "P", "X")
DASHES: tuple[Any, ...] = ("-", "--", ":", "-.")


class Looks:
    """Colour and marker of each name, in order of appearance; the same in every figure of a run."""

    def __init__(self, names: Sequence[str]) -> None:
        self._names = [*dict.fromkeys(names)]

    def colour(self, name: str) -> str:
        """Of a family or model."""
        return _CYCLE[self._names.index(name) % len(_CYCLE)]

    def marker(self, name: str) -> str:
        """Of a family or model."""
        return _MARKERS[self._names.index(name) % len(_MARKERS)]


@contextmanager
def drawing() -> Iterator[None]:
    """matplotlib without a display, in this package's style."""
    import matplotlib

    matplotlib.use("Agg")
    rc: Any = {
        "font.size": 8,
        "text.parse_math": False,  # a name with dollar signs is only a name
        "axes.titlesize": 8.5,
        "axes.labelsize": 8,
        "legend.fontsize": 7.5,
        "xtick.labelsize": 7.5,
        "ytick.labelsize": 7.5,
        "axes.spines.top": False,
        "axes.spines.right": False,
        "axes.titlelocation": "left",
        "legend.frameon": False,
        "lines.linewidth": 1.3,
        "lines.markersize": 4.5,
        "savefig.dpi": 200,
        **dict.fromkeys(
            ("text.color", "axes.labelcolor", "axes.edgecolor", "xtick.color", "ytick.color"), TEXT
        ),
    }
    with matplotlib.rc_context(rc):
        yield


def save(figure: Any, stem: Path) -> Path:
    """Write PNG and SVG beside each other; returns the PNG."""
    figure.draw_without_rendering()
    figure.set_layout_engine(None)  # laid out once, not for every format
    for suffix in FORMATS:
        drawn = BytesIO()  # so that a full disk leaves no half of a figure
        figure.savefig(drawn, format=suffix)
        write_bytes(stem.with_name(f"{stem.name}.{suffix}"), drawn.getvalue())
    return stem.with_name(f"{stem.name}.png")


def inline_svg(figure: Any, name: str, description: str) -> str:
    """A figure for a web page: text stays text and takes the page's colour, light or dark."""
    import matplotlib
    from markupsafe import escape

    text = StringIO()
    with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": name, "svg.id": name}):
        figure.savefig(text, format="svg", transparent=True)
    svg = text.getvalue()
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg, flags=re.S)
    svg = svg.replace(TEXT, "currentColor")
    width = re.search(r'width="([\d.]+)pt"', svg)
    size = f' style="width:{float(width[1]) / 72:.2f}in"' if width else ""
    svg = re.sub(r' (width|height)="[\d.]+pt"', "", svg, count=2)
    return svg.replace("<svg", f'<svg role="img" aria-label="{escape(description)}"{size}', 1)


def matrix(axis: Any, values: Any, lowest: float) -> Any:
    """Draw `[row, column]` as cells from `lowest` to 1, row 0 on top; sharp at every size."""
    import numpy as np

    rows, columns = values.shape
    mesh = axis.pcolormesh(
        np.arange(columns + 1) - 0.5,
        np.arange(rows + 1) - 0.5,
        values,
        vmin=lowest,
        vmax=1,
        cmap="cividis",
    )
    axis.set_aspect("equal")
    axis.invert_yaxis()
    axis.tick_params(length=0)
    for spine in axis.spines.values():
        spine.set_visible(False)
    return mesh


def percent_axis(axis: Any, which: str = "y") -> None:
    """Rates from 0 to 100 %."""
    from matplotlib.ticker import PercentFormatter

    chosen = axis.yaxis if which == "y" else axis.xaxis
    chosen.set_major_formatter(PercentFormatter(1.0, decimals=0))
    (axis.set_ylim if which == "y" else axis.set_xlim)(-0.03, 1.03)


def short(model: str) -> str:
    """A model's name without its namespace, as figures and pages can show it."""
    return in_a_line(model.rsplit("/", 1)[-1].removeprefix("lab:"))
