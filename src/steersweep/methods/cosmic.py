"""COSMIC (Siu et al. 2025, arXiv 2506.00085): choosing a direction by cosine similarity.

Candidates are differences of means at every post-instruction position and layer. Each is scored by
what it does to the model: ablated on harmful prompts, do the activations look like harmless ones;
added on harmless prompts, do they look like harmful ones? Looked at in the layers that tell the
two classes apart best.

Equal to the authors' code (wang-research-lab/COSMIC at commit 2908503); docstrings name the
function of that code each rule matches. `steersweep verify cosmic` shows it.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal

import torch
from torch import Tensor

from steersweep.core.errors import SteersweepError
from steersweep.methods.candidates import (
    MAX_KL,
    ZERO_NORM,
    Selection,
    best_allowed,
    eligible_layers,
)


@dataclass(frozen=True)
class CosmicRules:
    """Which COSMIC. The defaults are the official code's linear variant; see `VARIANTS`.

    Attributes:
        ablate: remove the direction `everywhere` (at every layer's input, attention output and MLP
            output: the official linear variant); at its own `layer` (the paper's wording); or
            replace it at its own layer by the harmless mean's component (`affine`, official too).
        positions: all of the template's tokens after the user's text (`post-instruction`, the
            code), or `last-5` (the paper as reported).
        low_share: share of the layers whose activations are compared.
        at_least_one_low: compare one layer where `int(low_share * L)` is none. The official code
            fails there.
        max_kl: drop candidates whose ablation changes the next token of harmless prompts by more
            than this, in nats; None: no such rule.
        score_all: score every candidate in full, and not only those that can still be chosen. The
            choice is the same.
        median_rule: drop candidates at the last position that lie deeper than the other positions'
            best layers.
        drop_zero: drop candidates of no length. The official code keeps them.
        cosine: cosine of class means (`of-means`), or the mean over all pairs of prompts of their
            cosines (`pairwise-mean`).
        unit_addition: add the direction at length 1 instead of its own.
        candidate_site: read candidates before (`resid_pre`) or after (`resid_post`) each layer.
        first_layer: candidates below are dropped.
        separate_val: score on validation prompts; else make and score candidates with all prompts.
    """

    ablate: Literal["everywhere", "layer", "affine"] = "everywhere"
    positions: Literal["post-instruction", "last-5"] = "post-instruction"
    low_share: float = 0.10
    at_least_one_low: bool = True
    max_kl: float | None = MAX_KL
    score_all: bool = False
    median_rule: bool = True
    drop_zero: bool = True
    cosine: Literal["of-means", "pairwise-mean"] = "of-means"
    unit_addition: bool = False
    candidate_site: Literal["resid_pre", "resid_post"] = "resid_pre"
    first_layer: int = 0
    separate_val: bool = True

    @property
    def read_before_edit(self) -> bool:
        """The official affine hooks copy where the linear ones edit in place: they read before."""
        return self.ablate == "affine"

    def as_official(self) -> CosmicRules:
        """Without our guards and short cuts: fails and chooses where the official code does."""
        return replace(self, at_least_one_low=False, drop_zero=False, score_all=True)


# Methods by the name users give them.
VARIANTS = {
    "cosmic": CosmicRules(),
    "cosmic-affine": CosmicRules(ablate="affine"),
    "cosmic-paper": CosmicRules(ablate="layer", positions="last-5"),
    # What one study of 2026 used under the name; for comparison with its results only.
    "cosmic-study-2026": CosmicRules(
        ablate="layer",
        max_kl=None,
        median_rule=False,
        cosine="pairwise-mean",
        unit_addition=True,
        candidate_site="resid_post",
        first_layer=1,
        separate_val=False,
    ),
}


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
