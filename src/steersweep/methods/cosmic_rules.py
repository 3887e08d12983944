"""Which COSMIC: the rules that its variants differ by, and the names of its stages."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

# What goes on, for people.
CANDIDATES, REFUSE, COMPLY = "candidates", "S_refuse", "S_comply and KL"


@dataclass(frozen=True)
class CosmicRules:
    """Which COSMIC. The defaults are the official code's linear variant.

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
    max_kl: float | None = 0.1
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
