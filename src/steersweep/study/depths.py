"""Is steering best at about 60 % of the depth? Patterns over layers, and what would decide.

Pure functions of results. Only models with at least three depths tested have a pattern and a best
depth (docs/statistics.md, "Is about 60 % of the depth best?").
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING

from steersweep.core.statistics import mcnemar, wilson
from steersweep.run.cell import SteeredCell
from steersweep.run.condition import REMOVED, Strength
from steersweep.run.result import Result
from steersweep.run.verdict import TOO_WEAK
from steersweep.study.curves import differences, is_flat, is_peak
from steersweep.study.plan import PlannedModel
from steersweep.study.rows import Answer, DepthPoint, DepthRow, Pattern
from steersweep.sweeps.compared import coherent_refusals, prompts_of

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


FEWEST_DEPTHS = 3
ALPHA = 0.05
ABOUT_60 = (0.5, 0.7)  # what counts as about 60 % of the depth
_RESAMPLES = 2000
_BOTH_Z = 1.96 + 0.84  # two-sided level 0.05, power 0.8


def layer_pattern(intervals: Sequence[tuple[float, float]], flat_within: float) -> Pattern:
    """How coherent refusals change over the depth, from the 95 % intervals at each layer.

    Two depths differ if their intervals do not overlap. A peak lies above an earlier and a later
    depth, and no depth lies below two such. With rises alone, or falls alone, the change is
    gradual. Where depths differ in another way there is no pattern: none. Where no two differ it is
    flat if all intervals together span at most three times `flat_within`; else undecided, as it is
    with fewer than three depths.
    """
    if len(intervals) < FEWEST_DEPTHS:
        return "undecided"
    rises, falls = differences(intervals)
    if rises and falls:
        return "peak" if is_peak(rises, falls) else "none"
    if rises or falls:
        return "gradual"
    return "flat" if is_flat(intervals, flat_within) else "undecided"


def best_depth(
    refused: NDArray[np.bool_], depths: Sequence[float], *, seed: int = 0
) -> tuple[int, tuple[float, float]] | None:
    """The depth with most coherent refusals, and a 95 % bootstrap interval of it.

    Prompts are drawn with replacement, the same for every depth; each draw has its best depth, the
    interval is the middle 95 % of those. Among equal depths a draw takes any one at random.

    Args:
        refused: by depth and prompt, whether it was refused coherently, `[depth, prompt]`.
        depths: the depths, 0 to 1, rising.
        seed: of the draws.

    Returns:
        Index of the best depth (of equals the first) and the interval, which ends at depths that
        were tested; None where nothing is refused at any depth, and so none is best.
    """
    import numpy as np

    if not refused.any():
        return None
    rng = np.random.default_rng(seed)
    n = refused.shape[1]
    draws = rng.integers(n, size=(_RESAMPLES, n))
    counts = refused[:, draws].sum(-1) + rng.random((len(depths), _RESAMPLES)) / 2
    best = np.asarray(depths)[counts.argmax(0)]
    low, high = np.quantile(best, [0.025, 0.975], method="inverted_cdf")
    return int(refused.sum(1).argmax()), (float(low), float(high))


def depth_rows(
    results: Iterable[Result],
    models: Mapping[str, PlannedModel],
    flat_within: float,
    *,
    seed: int = 0,
) -> list[DepthRow]:
    """The pattern over layers of each model and method with at least three depths tested.

    Depths are compared at one strength: the one with most of them, of equals that of the best
    condition. Only prompts that all these depths were tested on count.

    Args:
        results: of a phase.
        models: the plan's models by id.
        flat_within: see `layer_pattern`.
        seed: of the bootstrap.
    """
    rows = []
    for result in results:
        if result.label.is_swept:
            cells = _at_one_strength(result)
            if len(cells) >= FEWEST_DEPTHS:
                model = models[result.model_id]
                rows.append(_row(result, cells, model, flat_within, seed))
    return rows


def _at_one_strength(result: Result) -> list[SteeredCell]:
    """Conditions of the strength with most layers, by layer."""
    by_strength: dict[Strength, dict[int, SteeredCell]] = {}
    for cell in result.conditions:
        by_strength.setdefault(cell.strength, {})[cell.layer] = cell
    first = result.best.strength
    most = max(by_strength, key=lambda strength: (len(by_strength[strength]), strength == first))
    return [by_strength[most][layer] for layer in sorted(by_strength[most])]


def _row(
    result: Result,
    cells: Sequence[SteeredCell],
    model: PlannedModel,
    flat_within: float,
    seed: int,
) -> DepthRow:
    import numpy as np

    by_prompt = [
        dict(zip(prompts_of(cell), coherent_refusals(cell), strict=True)) for cell in cells
    ]
    prompts = [p for p in by_prompt[0] if all(p in held for held in by_prompt)]
    refused = np.array([[held[p] for p in prompts] for held in by_prompt], dtype=bool)
    n, n_layers = len(prompts), result.n_layers
    layers = [cell.layer for cell in cells]
    pushes = [cell.steering.relative_strength for cell in cells]
    depths = [round(layer / n_layers, 4) for layer in layers]
    counts = [int(row.sum()) for row in refused]
    intervals = [wilson(count, n) for count in counts]
    found = best_depth(refused, depths, seed=seed)
    pattern = layer_pattern(intervals, flat_within)
    inside = [is_about_60(layer, n_layers) for layer in layers]
    interval = None if found is None else found[1]
    p = p_within_beyond(refused, inside)
    answer, why = _answer(layers, inside, depths, interval, p)
    if pattern == "flat" and found is not None:
        answer, why = "no", "no depth differs from another"
    more = needed(refused, layers, inside, n_layers)
    if TOO_WEAK in result.verdict.flags:
        pattern, answer, why = "undecided", "undecided", "every push was too weak"
        more = "stronger pushes"
    return DepthRow(
        family=model.family,
        model=model.name,
        method=result.method,
        strength=cells[0].strength,
        relative_range=(min(pushes), max(pushes)),
        n_unique=n,
        n_layers=n_layers,
        points=tuple(
            DepthPoint(layer, depth, count / n, interval, "Wilson 95 %", push)
            for layer, depth, count, interval, push in zip(
                layers, depths, counts, intervals, pushes, strict=True
            )
        ),
        pattern=pattern,
        best_layer=None if found is None else layers[found[0]],
        best_depth=None if found is None else depths[found[0]],
        best_depth_interval=interval,
        p_within_beyond=p,
        about_60_is_best=answer,
        why=why,
        needed=more if answer == "undecided" else "",
    )


def is_about_60(layer: int, n_layers: int) -> bool:
    """Whether a layer lies between those that 50 % and 70 % of the depth give, both included."""
    low, high = (int(share * n_layers) for share in ABOUT_60)
    return low <= layer <= high


def _answer(
    layers: Sequence[int],
    inside: Sequence[bool],
    depths: Sequence[float],
    interval: tuple[float, float] | None,
    p: float | None,
) -> tuple[Answer, str]:
    """Whether about 60 % of the depth is best, and why that is or is not known.

    Both must say so: the bootstrap interval of the best depth, and the difference between the best
    depth within 50 to 70 % and the best one beyond. With few prompts the first alone is too narrow.
    """
    if interval is None:
        return "undecided", "nothing is refused at any depth"
    low, high = interval
    among = [is_in for d, is_in in zip(depths, inside, strict=True) if low <= d <= high]
    differs = p is not None and p < ALPHA
    test = "" if p is None else f" (p {p:.2g} for the best depth within against beyond)"
    if any(inside) and not any(among) and differs:
        return "no", f"the best depth lies beyond 50 to 70 %{test}"
    if missing := _missing(layers, inside):
        return "undecided", f"no layer was tested {missing[0]}"
    if not differs:
        return "undecided", f"the best depth within 50 to 70 % and beyond may be equal{test}"
    if all(among):
        return "yes", f"the best depth lies within 50 to 70 %{test}"
    return "undecided", "the interval of the best depth reaches across the edge of 50 to 70 %"


def p_within_beyond(refused: NDArray[np.bool_], inside: Sequence[bool]) -> float | None:
    """McNemar's p for the best depth within 50 to 70 % against the best beyond; None without both.

    Args:
        refused: see `best_depth`.
        inside: which depths lie at about 60 % of the depth.
    """
    if all(inside) or not any(inside):
        return None
    return mcnemar(*_best_rows(refused, inside))


def _best_rows(refused: NDArray[np.bool_], inside: Sequence[bool]) -> tuple[list[bool], list[bool]]:
    """By prompt, refusals at the best depth within 50 to 70 %, and at the best one beyond."""
    counts = refused.sum(1)
    within = max((i for i, is_in in enumerate(inside) if is_in), key=lambda i: counts[i])
    beyond = max((i for i, is_in in enumerate(inside) if not is_in), key=lambda i: counts[i])
    return refused[within].tolist(), refused[beyond].tolist()


def _missing(layers: Sequence[int], inside: Sequence[bool]) -> list[str]:
    """Where no layer was tested, that the question needs."""
    if not any(inside):
        return ["between 50 and 70 % of the depth"]
    within = [layer for layer, is_in in zip(layers, inside, strict=True) if is_in]
    found = []
    if layers[0] >= min(within):
        found.append("below 50 % of the depth")
    if layers[-1] <= max(within):
        found.append("above 70 % of the depth")
    return found


def needed(
    refused: NDArray[np.bool_], layers: Sequence[int], inside: Sequence[bool], n_layers: int
) -> str:
    """What would decide whether about 60 % is best: depths, prompts, or other strengths.

    The number of prompts is what McNemar's test needs for 80 % power at 0.05, if the best depth
    within 50 to 70 % and the best one outside go on differing as often as they did.

    Args:
        refused: see `best_depth`.
        layers: the layers tested.
        inside: which of them lie at about 60 % of the depth.
        n_layers: of the model.
    """
    if not refused.any():
        return "stronger pushes, or another model: none of these layers is steered"
    if missing := _missing(layers, inside):
        return f"layers {' and '.join(missing)}"
    within, beyond = _best_rows(refused, inside)
    n = len(within)
    difference = abs(sum(within) - sum(beyond)) / n
    if difference == 0:
        return (
            f"more than these {n} prompts, on which the best depths within and beyond 50 to 70 % "
            f"are equally good, or layers between them"
        )
    discordant = sum(a != b for a, b in zip(within, beyond, strict=True)) / n
    prompts = math.ceil(_BOTH_Z**2 * discordant / difference**2)
    return f"about {max(prompts, n + 1)} unique prompts instead of {n}"


def answer_by_family(rows: Iterable[DepthRow], methods: Mapping[str, str]) -> dict[str, Answer]:
    """Whether about 60 % is best in each family that has rows.

    A family's answer is that of all its models, each with the family's method if it has a row;
    where they differ, or any is undecided, it is undecided.

    Args:
        rows: see `depth_rows`.
        methods: by family, the method that its decision rests on.
    """
    answers: dict[str, set[Answer]] = {}
    for row in chosen_rows(rows, methods):
        answers.setdefault(row.family, set()).add(row.about_60_is_best)
    return {
        family: next(iter(found)) if len(found) == 1 else "undecided"
        for family, found in answers.items()
    }


def chosen_rows(rows: Iterable[DepthRow], methods: Mapping[str, str]) -> list[DepthRow]:
    """One row for each model: of its family's method, else the first."""
    by_model: dict[str, DepthRow] = {}
    for row in rows:
        held = by_model.get(row.model)
        if held is None or row.method == methods.get(row.family) != held.method:
            by_model[row.model] = row
    return list(by_model.values())


def family_sentence(family: str, rows: Sequence[DepthRow], answer: Answer) -> str:
    """What is known of a family's best depth, in one sentence."""
    begins = {
        "yes": f"{family}: about 60 % of the depth is best",
        "no": f"{family}: about 60 % of the depth is not best",
        "undecided": f"{family}: whether about 60 % of the depth is best is undecided",
    }[answer]
    return f"{begins} ({'; '.join(map(row_text, rows))})"


def row_text(row: DepthRow) -> str:
    """A model's pattern over layers in words, with what would decide where it is undecided."""
    name = f"{row.model}, {row.method} at {pushes_text(row)}"
    tested = f"{len(row.points)} depths and {row.n_unique} prompts"
    if row.best_depth is None or row.best_depth_interval is None:
        best = "no depth is best"
    else:
        low, high = row.best_depth_interval
        best = (
            f"best at {row.best_depth:.2f} [{low:.2f}, {high:.2f}] (95 % bootstrap) with "
            f"{max(point.coherent_refusal_rate for point in row.points):.0%} coherent"
        )
    more = f"; to decide: {row.needed}" if row.needed else ""
    return f"{name}: pattern {row.pattern} over {tested}, {best}, since {row.why}{more}"


def pushes_text(row: DepthRow) -> str:
    """The strength of a row in both units."""
    strength = row.strength
    if strength == REMOVED:
        return str(strength)
    low, high = (f"{end:.2g}" for end in row.relative_range)
    relative = f"{low if low == high else f'{low} to {high}'} of the residual norm"
    asked = f"multiplier {strength.value:g} = " if strength.unit == "multiplier" else ""
    return asked + relative


def overall_sentence(answers: Mapping[str, Answer], not_asked: Mapping[str, str]) -> str:
    """The answer of the whole study in one sentence; nothing is said of families not asked.

    Args:
        answers: see `answer_by_family`.
        not_asked: families without three depths at one strength, and why.
    """
    by_answer = {
        said: [family for family, answer in answers.items() if answer == said]
        for said in ("yes", "no", "undecided")
    }
    words = {
        "yes": "it is in {}",
        "no": "it is not in {}",
        "undecided": "it is undecided in {}",
    }
    parts = [
        words[said].format(", ".join(families)) for said, families in by_answer.items() if families
    ]
    known = "; ".join(parts) or "no family was tested at three depths or more"
    rest = "; ".join(f"{family} ({why})" for family, why in not_asked.items())
    return f"Is about 60 % of the depth best? {known[0].upper()}{known[1:]}" + (
        f". Not asked of {rest}" if rest else ""
    )
