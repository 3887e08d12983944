"""COSMIC's choice among candidates, by their scores."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from steersweep.core.errors import SteersweepError
from steersweep.methods.candidates import (
    ZERO_NORM,
    Selection,
    best_allowed,
    eligible_layers,
)
from steersweep.methods.cosmic_rules import CosmicRules


@dataclass(frozen=True, eq=False)
class CosmicScores:
    """Scores of candidates; arrays are `[position, layer]`, float64.

    S_comply and KL cost most and are measured for as many candidates as the choice needs; see
    `cosmic_search`.

    Attributes:
        positions: -P..-1.
        scored: where S_comply was measured, or there is none to measure; elsewhere it is NaN.
        comply: S_comply: likeness to harmless prompts of harmful ones under ablation (the official
            code calls it refusal_score).
        refuse: S_refuse: likeness to harmful prompts of harmless ones under addition (the official
            code's steering_score).
        kl: what ablation does to the next token of harmless prompts, nats; NaN where not measured,
            1e9 where it is no number, a lower bound where that was enough to drop a candidate.
        norms: lengths of the candidates.
        layer_similarity: `[layer]`, cosine of the class means at the last token after each layer.
        low_layers: the layers compared, least similar first.
        notes: what a reader of the result should know.
    """

    positions: tuple[int, ...]
    scored: Tensor
    comply: Tensor
    refuse: Tensor
    kl: Tensor
    norms: Tensor
    layer_similarity: Tensor
    low_layers: tuple[int, ...]
    notes: tuple[str, ...] = ()

    @property
    def total(self) -> Tensor:
        """What is maximised, `[position, layer]`."""
        return self.comply + self.refuse

    def as_json(self) -> dict[str, Any]:
        """Plain data that `from_json` reads; a score that is no number is null."""
        tables = ("comply", "refuse", "kl", "norms", "layer_similarity")
        return {
            "positions": list(self.positions),
            "scored": self.scored.tolist(),
            **{name: _finite_or_none(getattr(self, name).tolist()) for name in tables},
            "low_layers": list(self.low_layers),
            "notes": list(self.notes),
        }

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> CosmicScores:
        """What `as_json` wrote; without `scored`, as it once was, everything is."""

        def table(name: str) -> Tensor:
            return torch.tensor(_none_to_nan(data[name]), dtype=torch.float64)

        comply = table("comply")
        scored = data.get("scored")
        return cls(
            positions=tuple(data["positions"]),
            scored=torch.ones_like(comply).bool() if scored is None else torch.tensor(scored),
            comply=comply,
            refuse=table("refuse"),
            kl=table("kl"),
            norms=table("norms"),
            layer_similarity=table("layer_similarity"),
            low_layers=tuple(data["low_layers"]),
            notes=tuple(data["notes"]),
        )


def _finite_or_none(value: Any) -> Any:
    if isinstance(value, list):
        return [_finite_or_none(item) for item in value]
    return value if math.isfinite(value) else None


def _none_to_nan(value: Any) -> Any:
    if isinstance(value, list):
        return [_none_to_nan(item) for item in value]
    return math.nan if value is None else value


def select(scores: CosmicScores, rules: CosmicRules) -> Selection:
    """The best candidate that no rule drops. `select_direction`.

    Raises:
        SteersweepError: every candidate is dropped; the message says by which rules.
    """
    return Selection.of("COSMIC", scores.total, dropped_by(scores, rules))


def dropped_by(scores: CosmicScores, rules: CosmicRules) -> dict[str, Tensor]:
    """Per rule, the candidates it drops, `[position, layer]` bool.

    A candidate whose KL was not measured is not dropped for it: one with a better score passed. The
    median rule drops what it is sure to drop by the scores that were measured.
    """
    total = scores.total
    n_positions, n_layers = total.shape
    layers = torch.arange(n_layers).expand(n_positions, n_layers)
    dropped = {
        "non-finite": ~torch.isfinite(scores.refuse) | (scores.scored & ~torch.isfinite(total)),
        "outscored": ~scores.scored,
        "depth": (layers >= eligible_layers(n_layers)) | (layers < rules.first_layer),
    }
    if rules.max_kl is not None:
        dropped["kl"] = scores.kl > rules.max_kl
    if rules.drop_zero:
        dropped["zero-length"] = scores.norms < ZERO_NORM
    if rules.median_rule and n_positions > 1:
        dropped["median"] = torch.zeros_like(scores.scored)
        dropped["median"][-1] = layers[-1] > _deepest_allowed(scores)[1]
    return dropped


def may_be_too_deep(scores: CosmicScores, place: tuple[int, int]) -> bool:
    """Whether the median rule may drop a candidate by scores that are not known yet."""
    position, layer = place
    n_positions = len(scores.positions)
    if n_positions == 1 or position < n_positions - 1:
        return False
    lowest, highest = _deepest_allowed(scores)
    return lowest < layer <= highest


def best_position(scores: CosmicScores, layer: int) -> int:
    """Index of the best-scoring position at one layer, whatever the rules about layers say.

    Raises:
        SteersweepError: no candidate at that layer has a length and a finite score.
    """
    total = scores.total[:, layer : layer + 1]
    usable = torch.isfinite(total) & (scores.norms[:, layer : layer + 1] >= ZERO_NORM)
    if not bool(usable.any()):
        raise SteersweepError(
            f"layer {layer}: no COSMIC candidate has a length and a finite score there; "
            f"leave that layer out"
        )
    return best_allowed(total, usable)[0]


def _deepest_allowed(scores: CosmicScores) -> tuple[int, int]:
    """The deepest layer that the median rule allows at position -1: at least, and at most.

    It drops candidates deeper than both medians of the other positions' best layers.
    `select_direction`.
    """
    of_comply = _median_peak(scores.comply, scores.scored)
    of_refuse = _median_peak(scores.refuse, torch.ones_like(scores.scored))
    return max(of_comply[0], of_refuse[0]), max(of_comply[1], of_refuse[1])


def _median_peak(table: Tensor, known: Tensor) -> tuple[int, int]:
    """Median over all positions but the last of the layer where `table` is highest.

    Of two middle values it is the lower one, as torch.median has it. Positions where not all is
    known may have their peak at any layer, so this is the lowest that it can be, and the highest.
    """
    n_layers = table.shape[1]
    peaks = table[:-1].nan_to_num(nan=-torch.inf).argmax(-1)
    sure = known[:-1].all(-1)
    lowest, highest = (
        int(peaks.masked_fill(~sure, unknown).median()) for unknown in (0, n_layers - 1)
    )
    return lowest, highest
