"""DIM as its authors choose among candidates (Arditi et al. 2024, arXiv 2406.11717).

Equal to andyrdt/refusal_direction at commit 9d852fa; docstrings name its functions. The layer sweep
does not need it: there every layer is tried. It is the other half of a comparison with COSMIC.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from steersweep.methods.candidates import (
    Candidates,
    PromptIds,
    Selection,
    SplitIds,
    eligible_layers,
    next_token_kl,
)
from steersweep.model.chat_model import ChatModel
from steersweep.steer.edit import Edit
from steersweep.steer.passes import clean_logits, run_edits

_EPSILON = 1e-8
MAX_KL = 0.1  # nats


@dataclass(frozen=True, eq=False)
class DimScores:
    """Scores of every candidate, `[position, layer]`, float64.

    Attributes:
        bypass: mean refusal score of harmful prompts with the candidate ablated everywhere (the
            official code's refusal_score).
        induce: mean refusal score of harmless prompts with the candidate added at its layer's
            input (the official code's steering_score).
        kl: what the ablation does to the next token of harmless prompts, nats.
    """

    bypass: Tensor
    induce: Tensor
    kl: Tensor


def refusal_scores(logits: Tensor, refusal_token_ids: Sequence[int]) -> Tensor:
    """Log-odds that the next token begins a refusal; `[..., vocabulary]` to `[...]`, float64.

    `get_refusal_scores`' inner `refusal_score`.
    """
    probability = logits.double().softmax(-1)[..., list(refusal_token_ids)].sum(-1)
    return (probability + _EPSILON).log() - (1 - probability + _EPSILON).log()


def score_dim_candidates(
    chat: ChatModel,
    data: SplitIds,
    candidates: Candidates,
    refusal_token_ids: Sequence[int],
    *,
    max_rows: int = 256,
) -> DimScores:
    """Run every candidate through the model. The scoring half of `select_direction`."""
    n_positions, n_layers, _ = candidates.vectors.shape
    places = [(p, layer) for p in range(n_positions) for layer in range(n_layers)]
    ablations = [Edit.everywhere(candidates.vectors[place]) for place in places]
    additions = [
        Edit.add(candidates.vectors[p, layer], 1.0, layer, layer + 1, site="resid_pre")
        for p, layer in places
    ]

    def means(prompts: PromptIds, edits: Sequence[Edit]) -> tuple[Tensor, Tensor]:
        """Refusal score and KL of each edit, `[position, layer]`."""
        refusal = torch.zeros(len(edits), dtype=torch.float64)
        kl = torch.zeros(len(edits), dtype=torch.float64)
        clean = clean_logits(chat, prompts, max_rows=max_rows)
        for reading in run_edits(chat, prompts, edits, with_logits=True, max_rows=max_rows):
            assert reading.logits is not None
            for index, logits in zip(reading.edits, reading.logits, strict=True):
                refusal[index] += refusal_scores(logits, refusal_token_ids).sum().cpu()
                kl[index] += next_token_kl(clean[reading.prompts], logits).sum().cpu()
        shape = (n_positions, n_layers)
        return (refusal / len(prompts)).reshape(shape), (kl / len(prompts)).reshape(shape)

    bypass, _ = means(data.harmful_val, ablations)
    induce, _ = means(data.harmless_val, additions)
    _, kl = means(data.harmless_val, ablations)
    return DimScores(bypass, induce, kl)


def select_dim(
    scores: DimScores, *, max_kl: float | None = MAX_KL, min_induce: float | None = 0.0
) -> Selection:
    """The candidate whose ablation refuses least, among those no rule drops. `select_direction`.

    Raises:
        SteersweepError: every candidate is dropped; the message says by which rules.
    """
    n_layers = scores.bypass.shape[1]
    finite = torch.isfinite(scores.bypass) & ~scores.induce.isnan() & ~scores.kl.isnan()
    dropped = {
        "non-finite": ~finite,
        "depth": (torch.arange(n_layers) >= eligible_layers(n_layers)).expand(finite.shape),
    }
    if max_kl is not None:
        dropped["kl"] = scores.kl > max_kl
    if min_induce is not None:
        dropped["induce"] = scores.induce < min_induce
    return Selection.of("DIM", -scores.bypass, dropped)
