"""COSMIC's search: scores of as many candidates as the choice needs.

S_refuse is cheap, since its passes resume at the edited layer. S_comply, under an ablation of every
layer, and KL are not. Both scores are cosines, so a candidate whose S_refuse + 1 is below the best
total cannot be chosen, and the choice is the one that scores of all would give.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace

import torch
from torch import Tensor

from steersweep.methods.candidates import (
    ZERO_NORM,
    Candidates,
    SplitIds,
    best_allowed,
    kept_of,
)
from steersweep.methods.cosmic_rules import COMPLY, REFUSE, CosmicRules
from steersweep.methods.cosmic_scoring import (
    Place,
    Scorer,
    layer_similarity,
    layers_to_compare,
    what_ablation_leaves,
)
from steersweep.methods.cosmic_selection import CosmicScores, dropped_by, may_be_too_deep
from steersweep.model.chat_model import ChatModel

# A cosine, and what rounding may add to it.
_HIGHEST = 1.0 + 1e-6
# Candidates scored at a time: few, so that the best found so far rules out as many as it can.
_AT_A_TIME = 4


def score_candidates(
    chat: ChatModel,
    data: SplitIds,
    candidates: Candidates,
    rules: CosmicRules,
    *,
    layers: Sequence[int] = (),
    known: CosmicScores | None = None,
    max_rows: int = 256,
    tell: Callable[[str, float], None] = lambda _stage, _share: None,
    save: Callable[[CosmicScores], None] = lambda _scores: None,
) -> CosmicScores:
    """What candidates do to the model, enough to choose by. Nothing is decoded.

    `compute_and_save_similarity` (which layers), `get_baseline_vector`, `get_refusal_similarity`
    and the scoring half of `select_direction`.

    Args:
        chat: the model.
        data: prompts; those for validation are scored on.
        candidates: of the training prompts.
        rules: which COSMIC.
        layers: where the best position must be known too, whatever is chosen.
        known: scores of these candidates on these prompts; only what is missing is measured.
        max_rows: prompts x edits per forward pass.
        tell: told which of COSMIC's stages goes on, and the share of it that is done.
        save: told of the scores so far, whenever there are more.

    Raises:
        NumericalError: activations are NaN or infinite.
        SteersweepError: no layer to compare, with the rules as in the official code.
    """
    if known is None:
        scores = _unscored(candidates, rules, what_ablation_leaves(chat, rules))
    else:
        tables = ("scored", "comply", "refuse", "kl")
        scores = replace(known, **{name: getattr(known, name).clone() for name in tables})
    scorer = Scorer(chat, data, candidates, rules, scores.low_layers, max_rows)
    search = _Search(scorer, scores, rules, tell, save)
    search.measure_refuse()
    if rules.score_all:
        search.measure_all()
        return scores
    for layer in layers:
        search.find_best_at(layer)
    search.find_choice()
    return scores


def _unscored(candidates: Candidates, rules: CosmicRules, notes: tuple[str, ...]) -> CosmicScores:
    similarity = layer_similarity(candidates, rules)
    low, of_layers = layers_to_compare(similarity, rules)
    notes += of_layers
    n_positions, n_layers, _ = candidates.vectors.shape
    if rules.median_rule and n_positions == 1:
        notes += ("one position only, so the rule about the last position's depth is not applied",)
    comply, refuse, kl = torch.full((3, n_positions, n_layers), torch.nan, dtype=torch.float64)
    return CosmicScores(
        positions=candidates.positions,
        scored=torch.zeros((n_positions, n_layers), dtype=torch.bool),
        comply=comply,
        refuse=refuse,
        kl=kl,
        norms=candidates.norms,
        layer_similarity=similarity,
        low_layers=low,
        notes=notes,
    )


class _Search:
    """Fills in `scores` by asking `scorer` for what is still needed."""

    def __init__(
        self,
        scorer: Scorer,
        scores: CosmicScores,
        rules: CosmicRules,
        tell: Callable[[str, float], None],
        save: Callable[[CosmicScores], None],
    ) -> None:
        self._scorer = scorer
        self._scores = scores
        self._rules = rules
        self._tell = tell
        self._save = save
        self._everything = torch.zeros_like(scores.scored)
        for place in scorer.places:
            self._everything[place] = True
        scores.scored[~self._everything] = True  # there is nothing to measure

    def measure_refuse(self) -> None:
        """S_refuse of every candidate."""
        scores = self._scores
        places = _places(self._everything & scores.refuse.isnan())
        places.sort(key=lambda place: place[1])  # passes resume at a candidate's layer
        n_parts = self._scorer.parts(len(places))
        for part in range(n_parts):
            some = places[len(places) * part // n_parts : len(places) * (part + 1) // n_parts]

            def tell(share: float, part: int = part) -> None:
                self._tell(REFUSE, (part + share) / n_parts)

            _put(scores.refuse, some, self._scorer.refuse(some, tell))
            self._save(scores)

    def measure_all(self) -> None:
        """The other scores of every candidate, in full."""
        self._measure_comply(self._everything)
        if self._rules.max_kl is not None:
            self._scores.kl[self._scores.kl > self._rules.max_kl] = torch.nan  # may be bounds
            self._measure_kl(self._everything, math.inf)

    def find_best_at(self, layer: int) -> None:
        """Know the position with the highest total at one layer."""
        scores = self._scores
        allowed = self._everything & torch.isfinite(scores.refuse) & (scores.norms >= ZERO_NORM)
        allowed[:, :layer] = allowed[:, layer + 1 :] = False
        self._score_rivals(allowed)

    def find_choice(self) -> None:
        """Know the candidate with the highest total that no rule drops."""
        scores, rules = self._scores, self._rules
        while True:
            dropped = dropped_by(scores, rules)
            del dropped["outscored"]
            allowed = self._everything & kept_of(dropped)
            self._score_rivals(allowed)
            found = allowed & scores.scored & torch.isfinite(scores.total)
            if not bool(found.any()):
                return
            best = best_allowed(scores.total, found)
            if rules.max_kl is not None and bool(scores.kl[best].isnan()):
                self._measure_kl(self._only(best), rules.max_kl)
            elif rules.median_rule and may_be_too_deep(scores, best):
                self._measure_comply(self._next_position())
            else:
                return

    def _measure_comply(self, wanted: Tensor) -> None:
        """S_comply of the candidates in a mask `[position, layer]` that lack it."""
        scores = self._scores
        places = _places(wanted & ~scores.scored)
        _put(scores.comply, places, self._scorer.comply(places))
        _put(scores.scored, places, [True] * len(places))
        self._save(scores)

    def _measure_kl(self, wanted: Tensor, limit: float) -> None:
        """KL of the candidates in a mask that lack it, as far as it takes to tell from `limit`."""
        places = _places(wanted & self._scores.kl.isnan())
        _put(self._scores.kl, places, self._scorer.kl(places, limit=limit))
        self._save(self._scores)

    def _score_rivals(self, allowed: Tensor) -> None:
        """Score until no candidate of a mask can have a higher total than the best of them."""
        scores = self._scores
        while True:
            scored = allowed & scores.scored & torch.isfinite(scores.total)
            best = scores.total[scored].max() if bool(scored.any()) else -torch.inf
            rivals = allowed & ~scores.scored & (scores.refuse + _HIGHEST >= best)
            if not bool(rivals.any()):
                return
            # As if no rival were ruled out: the share can only be larger.
            n_scored, n_rivals = int((self._everything & scores.scored).sum()), int(rivals.sum())
            self._tell(COMPLY, n_scored / (n_scored + n_rivals))
            self._measure_comply(self._most_promising(rivals))

    def _next_position(self) -> Tensor:
        """The candidates of one more position, the last of those that are not all scored.

        Not the last position, which the median rule does not ask about.
        """
        open_ = (~self._scores.scored[:-1]).any(1).nonzero()
        mask = torch.zeros_like(self._everything)
        mask[open_[-1]] = self._everything[open_[-1]]
        return mask

    def _only(self, place: Place) -> Tensor:
        mask = torch.zeros_like(self._everything)
        mask[place] = True
        return mask

    def _most_promising(self, rivals: Tensor) -> Tensor:
        """A few candidates of a mask, those with the highest S_refuse."""
        order = self._scores.refuse[rivals].argsort(descending=True, stable=True)
        chosen = rivals.nonzero()[order[:_AT_A_TIME]]
        result = torch.zeros_like(rivals)
        result[chosen[:, 0], chosen[:, 1]] = True
        return result


def _places(mask: Tensor) -> list[Place]:
    return [(int(position), int(layer)) for position, layer in mask.nonzero().tolist()]


def _put(table: Tensor, places: Sequence[Place], values: Sequence[float]) -> None:
    for place, value in zip(places, values, strict=True):
        table[place] = value
