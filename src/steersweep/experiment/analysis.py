"""What the phases say together: size curves, methods, depths, precisions. Functions of results."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from steersweep.conditions import AUTO
from steersweep.directions.direction import Direction
from steersweep.experiment.decisions import Outcome, curve_shape
from steersweep.experiment.results import p_difference
from steersweep.statistics import cohens_h, holm

Result = dict[str, Any]


def size_curves(
    outcomes: Iterable[Outcome], order: Sequence[str], flat_within: float
) -> list[dict[str, Any]]:
    """Coherent refusal rate against size by family and method, with the curve's shape."""
    lines: dict[tuple[str, str], list[Outcome]] = {}
    for outcome in sorted(outcomes, key=lambda o: order.index(o.model)):
        lines.setdefault((outcome.family, outcome.method), []).append(outcome)
    return [
        {
            "family": family,
            "method": method,
            "shape": curve_shape([point.interval for point in points], flat_within),
            "largest_is_best": points[-1].coherent == max(point.coherent for point in points),
            "points": [
                {
                    "model": point.model,
                    "coherent_refusal_rate": point.coherent,
                    "interval": list(point.interval),
                    "n_unique": point.n_unique,
                    "layer_idx": point.layer_idx,
                    "depth": round(point.layer_idx / point.n_layers, 4),
                    "outcome": point.outcome,
                    "strength": asdict(point.strength),
                }
                for point in points
            ],
        }
        for (family, method), points in lines.items()
    ]


def compare_methods(results: Iterable[Result]) -> list[dict[str, Any]]:
    """DIM against each other method at the same cells of a model: rates, p, cosine.

    `p_holm` is corrected for all cells and models compared.
    """
    by_model: dict[str, dict[str, Result]] = {}
    for result in results:
        if AUTO not in result["method"]:
            by_model.setdefault(result["model"], {})[result["method"]] = result
    found = []
    for model, methods in by_model.items():
        if "dim" not in methods:
            continue
        cells = {_cell(entry): entry for entry in methods["dim"]["conditions"]}
        for method, result in methods.items():
            if method == "dim":
                continue
            for entry in result["conditions"]:
                dim = cells.get(_cell(entry))
                if dim is None:
                    continue
                found.append(
                    {
                        "model": model,
                        "method": method,
                        "layer_idx": entry["layer_idx"],
                        "multiplier": entry["multiplier"],
                        "coherent_dim": dim["coherent_refusal_rate"],
                        "coherent_other": entry["coherent_refusal_rate"],
                        "p": p_difference(dim, entry),
                        "cohens_h": cohens_h(
                            entry["coherent_refusal_rate"], dim["coherent_refusal_rate"]
                        ),
                        "cosine": entry.get("cosine_to_dim"),
                    }
                )
    for row, p in zip(found, holm([row["p"] for row in found]), strict=True):
        row["p_holm"] = p
    return found


def precision_comparison(
    results: Iterable[Result], folder: Path, preserved_from: float
) -> list[dict[str, Any]]:
    """By model and method: rates by precision, and cosines between the precisions' directions.

    Args:
        results: of phase 3.
        folder: the run folder, for direction files.
        preserved_from: cosine from which a direction counts as preserved.
    """
    groups: dict[tuple[str, str], list[Result]] = {}
    for result in results:
        if AUTO not in result["method"]:
            groups.setdefault((result["model"], result["method"]), []).append(result)
    found = []
    for (model, method), members in groups.items():
        vectors = [
            Direction.load(folder / member["conditions"][0]["direction_file"]).vector
            for member in members
        ]
        cosines = [[round(float(a @ b), 6) for b in vectors] for a in vectors]
        first, *others = (member["conditions"][0] for member in members)
        p_values = [p for other in others if (p := p_difference(first, other)) is not None]
        found.append(
            {
                "model": model,
                "method": method,
                "precisions": [member["quantization"] for member in members],
                "coherent_refusal_rates": [
                    member["conditions"][0]["coherent_refusal_rate"] for member in members
                ],
                "p_vs_first_holm": [1.0, *holm(p_values)],
                "direction_norms": [m["conditions"][0]["direction_norm"] for m in members],
                "cosines": cosines,
                "preserved": all(value > preserved_from for row in cosines for value in row),
            }
        )
    return found


def layer_cosines(results: Iterable[Result], folder: Path) -> list[dict[str, Any]]:
    """Cosines between a model's directions at different layers, by method."""
    found = []
    for result in results:
        if AUTO in result["method"]:
            continue
        files = {e["layer_idx"]: e["direction_file"] for e in result["conditions"]}
        layers = sorted(files)
        vectors = [Direction.load(folder / files[layer]).vector for layer in layers]
        found.append(
            {
                "model": result["model"],
                "method": result["method"],
                "layers": layers,
                "cosines": [[round(float(a @ b), 4) for b in vectors] for a in vectors],
            }
        )
    return found


def _cell(entry: Mapping[str, Any]) -> tuple[int, float]:
    return entry["layer_idx"], entry["multiplier"]
