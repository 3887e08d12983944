"""Rows of phases' decisions, as their files hold them: what is shown, drawn and compared."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, TypeVar

from steersweep.core import typed
from steersweep.core.errors import InputError
from steersweep.run.condition import Strength
from steersweep.run.paths import RunPaths
from steersweep.study.curves import Shape

Pattern = Literal["peak", "gradual", "flat", "none", "undecided"]
Answer = Literal["yes", "no", "undecided"]
T = TypeVar("T")


def rows_of(kind: type[T], decision: Mapping[str, Any], name: str) -> list[T]:
    """Rows under a name of a decision; none where it has none.

    Raises:
        InputError: they are not of this kind; the message names the file, the row and the field.
    """
    found = []
    for index, row in enumerate(decision.get(name, ())):
        try:
            found.append(typed.read(kind, row))
        except typed.WrongField as error:
            file = RunPaths(Path()).decision(str(decision.get("phase", "PHASE")))
            raise InputError(
                f"{file}: {error.within(index).within(name)}. If another version wrote it, run "
                f"the same study again"
            ) from error
    return found


@dataclass(frozen=True)
class SizePoint:
    """A size on a curve; the fields are those of its `Outcome`, `depth` is `layer_idx` / layers."""

    model: str
    coherent_refusal_rate: float
    interval: tuple[float, float]
    interval_name: str
    n_unique: int
    layer_idx: int
    depth: float
    outcome: str
    strength: Strength
    relative_strength: float


@dataclass(frozen=True)
class CurveRow:
    """Coherent refusals against size, of a family with a method.

    Attributes:
        family: the family.
        method: the method.
        shape: of the curve.
        largest: the plan's largest size of the family.
        missing: sizes without an outcome.
        points: from small to large.
    """

    family: str
    method: str
    shape: Shape
    largest: str
    missing: tuple[str, ...]
    points: tuple[SizePoint, ...]


@dataclass(frozen=True)
class MethodsRow:
    """Two methods at the same layer and strength of a model.

    Attributes:
        model: the model.
        base: the plan's first method.
        method: the other one.
        layer_idx: the layer.
        multiplier: length of the addition.
        coherent_base: coherent refusal rate of the first.
        coherent_other: of the other.
        p: that both refuse coherently equally often.
        cohens_h: size of the difference.
        cosine: of their directions.
        p_holm: `p`, corrected for all cells and models compared.
    """

    model: str
    base: str
    method: str
    layer_idx: int
    multiplier: float
    coherent_base: float
    coherent_other: float
    p: float
    cohens_h: float
    cosine: float
    p_holm: float


@dataclass(frozen=True)
class BorrowedRow:
    """The reference's direction on another precision, beside that precision's own.

    Attributes:
        precision: it was tried on.
        coherent_refusal_rate: with it.
        coherent_refusal_ci: 95 % interval.
        difference_to_own: that rate less the one with the precision's own direction.
        p_vs_own: that both refuse coherently equally often.
        p_vs_own_holm: the same, corrected for every comparison of the phase.
    """

    precision: str
    coherent_refusal_rate: float
    coherent_refusal_ci: tuple[float, float]
    difference_to_own: float
    p_vs_own: float
    p_vs_own_holm: float


@dataclass(frozen=True)
class CosinesByLayer:
    """Cosines of two precisions' DIM directions by layer, with 95 % bootstrap intervals."""

    precisions: tuple[str, str]
    cosine: tuple[float, ...]
    low: tuple[float, ...]
    high: tuple[float, ...]


@dataclass(frozen=True)
class PrecisionRow:
    """A model's precisions with a method; lists are in their order, the reference first.

    Attributes:
        model: the model.
        method: the method.
        precisions: what it ran in.
        layer_idx: where it is steered.
        coherent_refusal_rates: with each precision's own direction.
        p_vs_first: of all but the reference, that it refuses coherently as often as that.
        direction_norms: lengths of the directions.
        perplexities: on the reference's unsteered answers, or None.
        cosines: between the directions, `[precision, precision]`.
        cosines_by_layer: of each two precisions; none where activations are not kept.
        preserved_from: cosine from which a direction counts as preserved.
        preserved: whether all are.
        borrowed: the reference's direction on each other precision.
        p_vs_first_holm: of every precision, corrected for every comparison of the phase; 1 for the
            reference.
    """

    model: str
    method: str
    precisions: tuple[str, ...]
    layer_idx: int
    coherent_refusal_rates: tuple[float, ...]
    p_vs_first: tuple[float, ...]
    direction_norms: tuple[float, ...]
    perplexities: tuple[float | None, ...]
    cosines: tuple[tuple[float, ...], ...]
    cosines_by_layer: tuple[CosinesByLayer, ...]
    preserved_from: float
    preserved: bool
    borrowed: tuple[BorrowedRow, ...]
    p_vs_first_holm: tuple[float, ...]


@dataclass(frozen=True)
class TransferRow:
    """A model's direction in another model of the same width.

    Attributes:
        source: the model that found it.
        to: the model that is steered.
        method: that found it.
        layer_idx: of the steered model.
        coherent_refusal_rate: with it.
        own_rate: with the steered model's own direction.
        random_rate: with a random one of that length; None where there is none.
        garbled_rate: with it.
        efficiency: the rate over `own_rate`; None where the own direction never works.
        efficiency_ci: 95 % bootstrap interval, or None.
        cosine: of the two directions.
        p_vs_own: that both refuse coherently equally often.
        p_vs_own_holm: the same, corrected for all rows.
    """

    source: str = field(metadata=typed.named("from"))
    to: str
    method: str
    layer_idx: int
    coherent_refusal_rate: float
    own_rate: float
    random_rate: float | None
    garbled_rate: float
    efficiency: float | None
    efficiency_ci: tuple[float, float] | None
    cosine: float
    p_vs_own: float
    p_vs_own_holm: float


@dataclass(frozen=True)
class LayerCosines:
    """Cosines between a model's directions at different layers, `[layer, layer]`."""

    model: str
    method: str
    layers: tuple[int, ...]
    cosines: tuple[tuple[float, ...], ...]


@dataclass(frozen=True)
class DepthPoint:
    """A depth that was tested; `depth` is `layer_idx` / layers."""

    layer_idx: int
    depth: float
    coherent_refusal_rate: float
    interval: tuple[float, float]
    interval_name: str
    relative_strength: float


@dataclass(frozen=True)
class DepthRow:
    """The pattern over layers of a model and method, and what it says of 60 % of the depth.

    Attributes:
        family: the plan's family of the model.
        model: the plan's name of the model.
        method: the method.
        strength: that depths are compared at.
        relative_range: smallest and largest relative strength there.
        n_unique: prompts that all depths were tested on.
        n_layers: of the model.
        points: by depth, rising.
        pattern: see `layer_pattern`.
        best_layer: None where nothing is refused at any depth; so are the next two.
        best_depth: its depth.
        best_depth_interval: 95 % bootstrap interval.
        p_within_beyond: see there.
        about_60_is_best: the answer.
        why: in words.
        needed: what would decide; empty where it is decided.
    """

    family: str
    model: str
    method: str
    strength: Strength
    relative_range: tuple[float, float]
    n_unique: int
    n_layers: int
    points: tuple[DepthPoint, ...]
    pattern: Pattern
    best_layer: int | None
    best_depth: float | None
    best_depth_interval: tuple[float, float] | None
    p_within_beyond: float | None
    about_60_is_best: Answer
    why: str
    needed: str
