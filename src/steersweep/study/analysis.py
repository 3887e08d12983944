"""What the phases say together: size curves, methods, depths, precisions. Functions of results."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from itertools import islice
from typing import TYPE_CHECKING, Any

from steersweep.core.errors import SteersweepError
from steersweep.core.statistics import cluster_bootstrap, cohens_h, holm, wilson
from steersweep.run.cell import SteeredCell
from steersweep.run.direction import cosine
from steersweep.run.folder import RunFolder
from steersweep.run.result import Result
from steersweep.study.curves import curve_shape
from steersweep.study.decisions import Outcome
from steersweep.study.rows import (
    BorrowedRow,
    CosinesByLayer,
    CurveRow,
    LayerCosines,
    MethodsRow,
    PrecisionRow,
    SizePoint,
    TransferRow,
)
from steersweep.sweeps.compared import coherent_refusals, p_difference

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


def size_curves(
    outcomes: Iterable[Outcome], families: Mapping[str, Sequence[str]], flat_within: float
) -> list[CurveRow]:
    """Coherent refusal rate against size by family and method, with the curve's shape.

    Args:
        outcomes: of sizes.
        families: the plan's models of each family, from small to large; those without an outcome
            are named as `missing`.
        flat_within: see `curve_shape`.
    """
    order = [name for names in families.values() for name in names]
    lines: dict[tuple[str, str], list[Outcome]] = {}
    for outcome in sorted(outcomes, key=lambda o: order.index(o.model)):
        lines.setdefault((outcome.family, outcome.method), []).append(outcome)
    return [
        CurveRow(
            family=family,
            method=method,
            shape=curve_shape(
                [point.coherent for point in points],
                [point.interval for point in points],
                flat_within,
            ),
            largest=families[family][-1],
            missing=tuple(
                name for name in families[family] if name not in {point.model for point in points}
            ),
            points=tuple(map(_size_point, points)),
        )
        for (family, method), points in lines.items()
    ]


def _size_point(found: Outcome) -> SizePoint:
    return SizePoint(
        model=found.model,
        coherent_refusal_rate=found.coherent,
        interval=found.interval,
        interval_name=found.interval_name,
        n_unique=found.n_unique,
        layer_idx=found.layer_idx,
        depth=round(found.layer_idx / found.n_layers, 4),
        outcome=found.outcome,
        strength=found.strength,
        relative_strength=found.relative_strength,
    )


def compare_methods(results: Iterable[Result], store: RunFolder) -> list[MethodsRow]:
    """The first method against each other one at the same cells of a model: rates, p, cosine.

    `p_holm` is corrected for all cells and models compared.

    Args:
        results: of a phase, each model's in the order of the plan's methods.
        store: the run folder, for direction files.
    """
    by_model: dict[tuple[str, str], dict[str, Result]] = {}
    for result in results:
        if not result.label.chose_layer:
            place = result.model, result.quantization
            by_model.setdefault(place, {})[result.method] = result
    found = []
    for (model, _), methods in by_model.items():
        base, *others = methods
        cells = {_place(cell): cell for cell in methods[base].conditions}
        for method in others:
            for cell in methods[method].conditions:
                held = cells.get(_place(cell))
                if held is None:
                    continue
                p = p_difference(held, cell)
                found.append(
                    MethodsRow(
                        model=model,
                        base=base,
                        method=method,
                        layer_idx=cell.layer,
                        multiplier=cell.steering.multiplier,
                        coherent_base=_rate(held),
                        coherent_other=_rate(cell),
                        p=p,
                        cohens_h=cohens_h(_rate(cell), _rate(held)),
                        cosine=cosine(_vector(store, held), _vector(store, cell)),
                        p_holm=p,  # corrected below, as it is elsewhere here
                    )
                )
    corrected = holm([row.p for row in found])
    return [replace(row, p_holm=p) for row, p in zip(found, corrected, strict=True)]


def precision_comparison(
    results: Iterable[Result], store: RunFolder, preserved_from: float
) -> list[PrecisionRow]:
    """Each model's precisions side by side: effects, directions, and how good a model each is.

    The first precision is the reference. Rates are compared with it on the same prompts (McNemar,
    Holm over everything compared); `borrowed` is the reference's direction tried on the other.

    Args:
        results: of phase 3.
        store: the run folder, for direction and activation files.
        preserved_from: cosine from which a direction counts as preserved.
    """
    own: dict[tuple[str, str], list[Result]] = {}
    borrowed: dict[tuple[str, str, str], SteeredCell] = {}
    for result in results:
        method = str(result.label.method)
        if result.label.source is not None:
            borrowed[result.model, method, result.quantization] = result.conditions[0]
        elif result.label.is_swept:
            own.setdefault((result.model, method), []).append(result)
    found = []
    for (model, method), members in own.items():
        cells = [member.conditions[0] for member in members]
        vectors = [_vector(store, cell) for cell in cells]
        cosines = tuple(tuple(round(cosine(a, b), 6) for b in vectors) for a in vectors)
        precisions = [member.quantization for member in members]
        compared = [member.comparison for member in members]
        files = [None if one is None else one.activations for one in compared]
        read = [_activations(store, file) for file in files if file]
        by_layer = precision_cosines(read) if len(read) == len(files) else {}
        p_vs_first = tuple(p_difference(cells[0], cell) for cell in cells[1:])
        found.append(
            PrecisionRow(
                model=model,
                method=method,
                precisions=tuple(precisions),
                layer_idx=cells[0].layer,
                coherent_refusal_rates=tuple(map(_rate, cells)),
                p_vs_first=p_vs_first,
                direction_norms=tuple(cell.steering.direction_norm for cell in cells),
                perplexities=tuple(None if one is None else one.perplexity for one in compared),
                cosines=cosines,
                cosines_by_layer=tuple(
                    CosinesByLayer((precisions[i], precisions[j]), *map(tuple, lines.values()))
                    for (i, j), lines in by_layer.items()
                ),
                preserved_from=preserved_from,
                preserved=all(value > preserved_from for line in cosines for value in line),
                borrowed=tuple(
                    _borrowed(cell, other, precision)
                    for precision, cell in zip(precisions, cells, strict=True)
                    if (other := borrowed.get((model, method, precision))) is not None
                ),
                p_vs_first_holm=p_vs_first,
            )
        )
    return _corrected(found)


def _borrowed(own: SteeredCell, other: SteeredCell, precision: str) -> BorrowedRow:
    """The reference's direction on another precision, beside that precision's own."""
    p = p_difference(own, other)
    return BorrowedRow(
        precision=precision,
        coherent_refusal_rate=_rate(other),
        coherent_refusal_ci=other.rates.coherent_refusal_ci,
        difference_to_own=_rate(other) - _rate(own),
        p_vs_own=p,
        p_vs_own_holm=p,
    )


def _corrected(rows: Sequence[PrecisionRow]) -> list[PrecisionRow]:
    """Holm-corrected p-values over every comparison of the phase, beside the plain ones."""
    plain = [p for row in rows for p in row.p_vs_first]
    plain += [entry.p_vs_own for row in rows for entry in row.borrowed]
    corrected = iter(holm(plain))
    of_first = [(1.0, *islice(corrected, len(row.p_vs_first))) for row in rows]
    return [
        replace(
            row,
            p_vs_first_holm=first,
            borrowed=tuple(replace(one, p_vs_own_holm=next(corrected)) for one in row.borrowed),
        )
        for row, first in zip(rows, of_first, strict=True)
    ]


def transfers(
    results: Iterable[Result], names: Mapping[str, str], store: RunFolder
) -> list[TransferRow]:
    """What a direction of one model does in another of the same width.

    `efficiency` is the borrowed direction's coherent refusal rate over that of the model's own,
    with a 95 % bootstrap interval over prompts; None where its own direction never works. Prompts
    drawn from none that refused never refuse: there the upper end is Wilson's of no refusal.

    Args:
        results: of the transfer phase.
        names: the plan's names of models by id.
        store: the run folder, for direction files.
    """
    own = {
        (result.model_id, result.method): result.conditions[0]
        for result in results
        if result.label.is_swept
    }
    found = []
    for result in results:
        label = result.label
        base = own.get((result.model_id, str(label.method)))
        if label.source is None or base is None:
            continue
        cell = result.conditions[0]
        pairs = list(zip(coherent_refusals(cell), coherent_refusals(base), strict=True))
        low, high = cluster_bootstrap([[pair] for pair in pairs], _efficiency)
        efficiency = _efficiency(pairs)
        if efficiency == 0:
            high = wilson(0, len(pairs))[1] / _rate(base)
        random, p = result.controls.random_direction, p_difference(base, cell)
        found.append(
            TransferRow(
                source=label.source,
                to=names[result.model_id],
                method=str(label.method),
                layer_idx=cell.layer,
                coherent_refusal_rate=_rate(cell),
                own_rate=_rate(base),
                random_rate=None if random is None else _rate(random),
                garbled_rate=cell.rates.garbled_rate,
                efficiency=None if math.isnan(efficiency) else efficiency,
                efficiency_ci=None if math.isnan(low) else (low, high),
                cosine=round(cosine(_vector(store, cell), _vector(store, base)), 6),
                p_vs_own=p,
                p_vs_own_holm=p,
            )
        )
    corrected = holm([row.p_vs_own for row in found])
    return [replace(row, p_vs_own_holm=p) for row, p in zip(found, corrected, strict=True)]


def _efficiency(pairs: Sequence[tuple[bool, bool]]) -> float:
    """Refusals under the borrowed direction for each under the own one; NaN where it has none."""
    own = sum(pair[1] for pair in pairs)
    return sum(pair[0] for pair in pairs) / own if own else math.nan


def precision_cosines(
    activations: Sequence[Mapping[str, NDArray[Any]]], *, resamples: int = 1000, seed: int = 0
) -> dict[tuple[int, int], dict[str, list[float]]]:
    """Cosines of DIM directions between precisions at every layer, with bootstrap intervals.

    Prompts are drawn with replacement within their class, the same for every precision, so an
    interval says how far the cosine rests on these very prompts.

    Args:
        activations: of each precision: arrays `harmful` and `harmless`, `[prompt, layer, d_model]`.
        resamples: number of draws.
        seed: of the draws.

    Returns:
        By pair of precisions, for each layer: `cosine`, and its 95 % interval `low` to `high`.
    """
    import numpy as np

    rng = np.random.default_rng(seed)
    weights = {
        name: _draws(rng, activations[0][name].shape[0], resamples)
        for name in ("harmful", "harmless")
    }
    n_layers = activations[0]["harmful"].shape[1]
    found: dict[tuple[int, int], dict[str, list[float]]] = {
        (i, j): {"cosine": [], "low": [], "high": []}
        for i in range(len(activations))
        for j in range(i + 1, len(activations))
    }
    for layer in range(n_layers):
        # [draw, d_model]; the first draw is the prompts as they are.
        means = [
            sum(
                sign * weights[name] @ held[name][:, layer].astype(np.float64)
                for name, sign in (("harmful", 1.0), ("harmless", -1.0))
            )
            for held in activations
        ]
        units = [mean / np.linalg.norm(mean, axis=-1, keepdims=True) for mean in means]
        for (i, j), row in found.items():
            cosine = (units[i] * units[j]).sum(-1)
            low, high = np.nanpercentile(cosine[1:], [2.5, 97.5])
            for name, value in (("cosine", cosine[0]), ("low", low), ("high", high)):
                row[name].append(round(float(value), 5))
    return found


def _draws(rng: Any, n: int, resamples: int) -> Any:
    """Weights of `n` prompts: once each, then drawn with replacement; `[1 + resamples, n]`."""
    import numpy as np

    drawn = rng.integers(n, size=(resamples, n))
    counts = (drawn[:, :, None] == np.arange(n)).sum(1)
    return np.concatenate([np.ones((1, n)), counts]) / n


def layer_cosines(results: Iterable[Result], store: RunFolder) -> list[LayerCosines]:
    """Cosines between a model's directions at different layers, by method."""
    found = []
    for result in results:
        if result.label.chose_layer:
            continue
        cells = {cell.layer: cell for cell in result.conditions}
        layers = sorted(cells)
        vectors = [_vector(store, cells[layer]) for layer in layers]
        found.append(
            LayerCosines(
                model=result.model,
                method=result.method,
                layers=tuple(layers),
                cosines=tuple(tuple(round(cosine(a, b), 4) for b in vectors) for a in vectors),
            )
        )
    return found


def _rate(cell: SteeredCell) -> float:
    return cell.rates.coherent_refusal_rate


def _vector(store: RunFolder, cell: SteeredCell) -> NDArray[np.float32]:
    """The unit vector of a condition's direction, `[d_model]`."""
    return store.needed_vector(cell.steering.direction_key)


def _activations(store: RunFolder, file: str) -> dict[str, NDArray[Any]]:
    held = store.tensors(store.paths.named(file))
    if held is None:
        raise SteersweepError(
            f"{store.paths.named(file)}: is damaged or gone; run the same command again to "
            f"make it again"
        )
    return held


def _place(cell: SteeredCell) -> tuple[int, float]:
    return cell.layer, cell.steering.multiplier
