"""COSMIC (Siu et al. 2025, arXiv 2506.00085): choosing a direction by cosine similarity.

Candidates are differences of means at every post-instruction position and layer. Each is scored by
what it does to the model: ablated on harmful prompts, do the activations look like harmless ones;
added on harmless prompts, do they look like harmful ones? Looked at in the layers that tell the
two classes apart best.

Equal to the authors' code (wang-research-lab/COSMIC at commit 2908503); docstrings name the
function of that code each rule matches. `steersweep verify cosmic` shows it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from steersweep.core.errors import InputError, SteersweepError
from steersweep.methods.cosmic_rules import CANDIDATES, COMPLY, REFUSE, CosmicRules
from steersweep.methods.method import Found, Given
from steersweep.prompts.prompts import COSMIC_EXTRACTION_SET, ExtractionSet

if TYPE_CHECKING:
    from steersweep.methods.candidates import Candidates
    from steersweep.model.chat_model import ChatModel
    from steersweep.run.direction import Direction


class Cosmic:
    """The official code's linear variant, and what the variants share.

    At a given layer it is the best-scoring position there. `layer` of a direction is the official
    code's: the direction is read at the input of that layer (`resid_pre`).
    """

    name = "cosmic"
    chooses_layer = True
    default_prompts = COSMIC_EXTRACTION_SET
    stages = (CANDIDATES, REFUSE, COMPLY)
    rules = CosmicRules()

    def find(
        self, chat: ChatModel, prompts: ExtractionSet, layers: Sequence[int], given: Given
    ) -> Found:
        """The best position of each layer and the method's own choice; see `Method.find`.

        Raises:
            SteersweepError: no candidate at a layer asked for has a finite score.
        """
        from steersweep.methods.candidates import ZERO_NORM, SplitIds
        from steersweep.methods.cosmic_scoring import cosmic_positions, find_candidates
        from steersweep.methods.cosmic_search import score_candidates
        from steersweep.methods.cosmic_selection import CosmicScores, best_position, select
        from steersweep.methods.noise import no_direction, noise_share

        if given.backend != "hooks":
            raise InputError(f"backend {given.backend}: {self.name} edits activations; use hooks")
        rules = self.rules
        split = prompts.split() if rules.separate_val else prompts.unsplit()
        data = SplitIds.of(chat, split, prompts.name)
        candidates = find_candidates(chat, data, rules, cosmic_positions(chat, rules), given)
        known = None if given.state is None else CosmicScores.from_json(given.state)
        scores = score_candidates(
            chat,
            data,
            candidates,
            rules,
            layers=layers,
            known=known,
            max_rows=given.max_rows,
            tell=given.tell,
            save=lambda scores: given.save(scores.as_json()),
        )
        n = len(data.harmful_train), len(data.harmless_train)
        of_class = candidates.residual_norms
        norms = ((n[0] * of_class[0] + n[1] * of_class[1]) / sum(n)).tolist()

        def direction(position: int, layer: int) -> Direction:
            return self._direction(chat, prompts, candidates, position, layer, norms[layer])

        notes = scores.notes
        if rules.separate_val and split.shared:
            shown = "; ".join(repr(text) for text in split.shared[:3])
            notes += (
                f"{prompts.name}: {len(split.shared)} prompts are in both training and validation "
                f"({shown}), so the scores flatter the candidates",
            )
        chosen = None
        try:
            choice = select(scores, rules)
            chosen = direction(choice.position, choice.layer)
        except SteersweepError as error:
            notes += (f"no choice of its own: {error}",)
        missing = {
            layer: no_direction(layer, longest, norms[layer], noise_share(chat))
            for layer, longest in enumerate(candidates.norms.max(0).values.tolist())
            if longest < ZERO_NORM
        }
        at_layer = {
            layer: direction(best_position(scores, layer), layer)
            for layer in layers
            if layer not in missing
        }
        return Found(at_layer, chosen, scores.as_json(), notes, missing)

    def _direction(
        self,
        chat: ChatModel,
        prompts: ExtractionSet,
        candidates: Candidates,
        position: int,
        layer: int,
        residual_norm: float,
    ) -> Direction:
        from steersweep.run.direction import unit_direction

        return unit_direction(
            candidates.vectors[position, layer],
            method=self.name,
            layer=layer,
            position=candidates.positions[position],
            residual_norm=residual_norm,
            model_id=chat.source.model_id,
            model_fingerprint=chat.fingerprint,
            precision=chat.precision,
            prompts=prompts.id,
            site=candidates.site,
        )


class CosmicAffine(Cosmic):
    """The official affine variant."""

    name = "cosmic-affine"
    rules = CosmicRules(ablate="affine")


class CosmicPaper(Cosmic):
    """The paper as reported, where it and the code differ."""

    name = "cosmic-paper"
    rules = CosmicRules(ablate="layer", positions="last-5")


class CosmicStudy2026(Cosmic):
    """What one study of 2026 used under the name; for comparison with its results only."""

    name = "cosmic-study-2026"
    rules = CosmicRules(
        ablate="layer",
        max_kl=None,
        median_rule=False,
        cosine="pairwise-mean",
        unit_addition=True,
        candidate_site="resid_post",
        first_layer=1,
        separate_val=False,
    )
