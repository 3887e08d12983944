"""One self-contained HTML page of a sweep: verdicts, maps, samples, provenance."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from steersweep.atomic import write_text
from steersweep.report.figures import figure_stem

Result = dict[str, Any]


def write_report(path: Path, results: Sequence[Result], figures: Path) -> Path:
    """Write the page: figures embedded, model output escaped, nothing loaded from outside.

    Args:
        path: file to write.
        results: result objects of the run.
        figures: folder `write_figures` wrote to.
    """
    from jinja2 import Environment, PackageLoader, StrictUndefined

    environment = Environment(
        loader=PackageLoader("steersweep.report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["percent"] = lambda rate: f"{rate:.0%}"
    page = environment.get_template("report.html.j2").render(
        results=results,
        images=[_data_uri(figures / f"{figure_stem(result)}.png") for result in results],
        cosines=[cosines_to_dim(result) for result in results],
        shown=[_shown_conditions(result) for result in results],
        n_unique=results[0]["conditions"][0]["n_unique"],
        provenance=results[0]["provenance"],
        created=results[0]["timestamp"],
    )
    write_text(path, page)
    return path


def cosines_to_dim(result: Result) -> dict[int, float]:
    """By layer, the cosine with DIM's direction; empty for DIM itself or without it."""
    return {
        entry["layer_idx"]: entry["cosine_to_dim"]
        for entry in result["conditions"]
        if entry.get("cosine_to_dim") is not None
    }


def _shown_conditions(result: Result) -> list[Result]:
    """Conditions with samples worth reading: unsteered, then every steered one, best first."""
    best = result["verdict"]["best"]
    steered = sorted(
        result["conditions"],
        key=lambda entry: (
            (entry["layer_idx"], entry["multiplier"]) != (best["layer_idx"], best["multiplier"]),
            entry["layer_idx"],
            entry["multiplier"],
        ),
    )
    unsteered = result["controls"]["unsteered"]
    return [*([unsteered] if unsteered else []), *steered]


def _data_uri(image: Path) -> str:
    return "data:image/png;base64," + base64.b64encode(image.read_bytes()).decode()
