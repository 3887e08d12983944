"""COSMIC's scores: what every candidate does to the model. Forward passes only."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from steersweep.chat_model import ChatModel
from steersweep.directions.candidates import (
    Candidates,
    PromptIds,
    SplitIds,
    candidates_from,
    kept_of,
    next_token_kl,
)
from steersweep.directions.cosmic import CosmicRules, CosmicScores, dropped_by
from steersweep.directions.edits import (
    PROMPTS_PER_BATCH,
    Edit,
    ablation,
    addition,
    clean_states,
    run_edits,
)
from steersweep.errors import SteersweepError

_EPSILON = 1e-8
_BROKEN = 1e9  # nats; for a KL that is no number


def cosmic_positions(chat: ChatModel, rules: CosmicRules) -> tuple[int, ...]:
    """Positions of the candidates, from the end of the prompt."""
    count = 5 if rules.positions == "last-5" else len(chat.post_instruction_ids)
    return tuple(range(-max(1, count), 0))


def find_candidates(
    chat: ChatModel, data: SplitIds, rules: CosmicRules, positions: Sequence[int]
) -> Candidates:
    """Candidates of the training prompts. `generate_directions`, `get_mean_diff`."""
    return candidates_from(
        chat,
        data.harmful_train,
        data.harmless_train,
        positions=positions,
        site=rules.candidate_site,
    )


def score_candidates(
    chat: ChatModel,
    data: SplitIds,
    candidates: Candidates,
    rules: CosmicRules,
    *,
    max_rows: int = 256,
) -> CosmicScores:
    """Run every candidate through the model and score what it does.

    `compute_and_save_similarity` (which layers), `get_baseline_vector`, `get_refusal_similarity`
    and the scoring half of `select_direction`. Forward passes only; nothing is decoded.

    Raises:
        NumericalError: activations are NaN or infinite.
        SteersweepError: no layer to compare, with the rules as in the official code.
    """
    n_positions, n_layers, _ = candidates.vectors.shape
    similarity = layer_similarity(chat, data, rules, max_rows=max_rows)
    low, notes = _low_layers(similarity, rules)
    if rules.median_rule and n_positions == 1:
        notes += ("one position only, so the rule about the last position's depth is not applied",)
    harmful, harmless = data.harmful_val, data.harmless_val
    edits = candidate_edits(candidates, rules)

    def likeness(prompts: PromptIds, edited: Sequence[Edit], other: PromptIds) -> Tensor:
        """Cosine of `prompts` under each edit with the other class as it is, `[edit]`."""
        states = _edited_summaries(chat, prompts, edited, low, rules, max_rows)
        return (states * baseline(chat, other, low, rules, max_rows=max_rows)).sum((-1, -2))

    comply = likeness(harmful, edits.ablations, harmless)
    refuse = likeness(harmless, edits.additions, harmful)

    def on_grid(values: Tensor) -> Tensor:
        grid = torch.full((n_positions, n_layers), torch.nan, dtype=torch.float64)
        for (position, layer), value in zip(edits.places, values.tolist(), strict=True):
            grid[position, layer] = value
        return grid

    scores = CosmicScores(
        positions=candidates.positions,
        comply=on_grid(comply),
        refuse=on_grid(refuse),
        kl=torch.full((n_positions, n_layers), torch.nan, dtype=torch.float64),
        norms=candidates.norms,
        layer_similarity=similarity,
        low_layers=low,
        notes=notes,
    )
    if rules.max_kl is not None:
        ablations = dict(zip(edits.places, edits.ablations, strict=True))
        _measure_kl(chat, harmless, ablations, scores, rules, max_rows)
    return scores


def _measure_kl(
    chat: ChatModel,
    prompts: PromptIds,
    ablations: Mapping[tuple[int, int], Edit],
    scores: CosmicScores,
    rules: CosmicRules,
    max_rows: int,
) -> None:
    """Fill in `scores.kl`: of all, or from the best score down until a candidate passes.

    It takes whole passes of the model, and all that follows from it is who is dropped.
    """
    if rules.kl_of_all:
        order, step = list(ablations), len(ablations)
    else:
        kept = kept_of(dropped_by(scores, rules))
        chosen = [place for place in ablations if bool(kept[place])]
        order = sorted(chosen, key=lambda place: -float(scores.total[place]))
        step = max(1, max_rows // PROMPTS_PER_BATCH)  # candidates that share a batch
    for first in range(0, len(order), step):
        places = order[first : first + step]
        found = _mean_kl(chat, prompts, [ablations[place] for place in places], max_rows)
        for place, value in zip(
            places, found.nan_to_num(nan=_BROKEN, posinf=_BROKEN).tolist(), strict=True
        ):
            scores.kl[place] = value
        if not rules.kl_of_all and rules.max_kl is not None and bool((found <= rules.max_kl).any()):
            return


def layer_similarity(
    chat: ChatModel, data: SplitIds, rules: CosmicRules, *, max_rows: int = 256
) -> Tensor:
    """Cosine of the classes at the last token after each layer, training prompts, `[layer]`.

    `compute_and_save_similarity`. The last layer is read after the final norm, as there.
    """
    layers = range(chat.n_layers)
    harmful, harmless = (
        _mean_over_prompts(clean_states(chat, prompts, layers, max_rows=max_rows), rules)
        for prompts in (data.harmful_train, data.harmless_train)
    )
    if rules.cosine == "pairwise-mean":
        similarity: Tensor = (harmful * harmless).sum(-1)
        return similarity
    return torch.cosine_similarity(harmful, harmless, dim=-1)


def baseline(
    chat: ChatModel,
    prompts: PromptIds,
    layers: Sequence[int],
    rules: CosmicRules,
    *,
    max_rows: int = 256,
) -> Tensor:
    """What prompts of a class look like in `layers` without an edit. `get_baseline_vector`.

    Returns:
        `[1, d_model]` of length 1: the mean over prompts and layers; for pairwise cosines `[layer,
        d_model]`.
    """
    states = clean_states(chat, prompts, layers, max_rows=max_rows)
    return _compared(_mean_over_prompts(states, rules), rules)


def _low_layers(similarity: Tensor, rules: CosmicRules) -> tuple[tuple[int, ...], tuple[str, ...]]:
    """The layers where the classes are least alike, and notes. `compute_and_save_similarity`."""
    n_layers = len(similarity)
    count = int(rules.low_share * n_layers)
    notes: tuple[str, ...] = ()
    if count == 0:
        if not rules.at_least_one_low:
            raise SteersweepError(
                f"int({rules.low_share} x {n_layers} layers) is none, so there is no layer to "
                f"compare; the official code fails here"
            )
        count = 1
        notes = (
            f"{rules.low_share:.0%} of {n_layers} layers is less than one; one layer is compared",
        )
    order = similarity.argsort(stable=True)[:count]
    return tuple(order.tolist()), notes


@dataclass(frozen=True)
class CandidateEdits:
    """Edits of every candidate that can be run: `places[i]` is (position index, layer)."""

    places: list[tuple[int, int]]
    ablations: list[Edit]
    additions: list[Edit]


def candidate_edits(candidates: Candidates, rules: CosmicRules) -> CandidateEdits:
    """What is done to the model to score each candidate.

    Linear: `get_all_linear_direction_ablation_hooks`,
    `get_linear_activation_addition_input_pre_hook`. Affine:
    `get_affine_direction_ablation_input_pre_hook`, `get_affine_activation_addition_input_pre_hook`.
    """
    n_positions, n_layers, _ = candidates.vectors.shape
    # The output of layer l is the input of layer l + 1; the last layer has none above it.
    shift = 0 if candidates.site == "resid_pre" else 1
    found = CandidateEdits([], [], [])
    for position in range(n_positions):
        for layer in range(n_layers - shift):
            vector = candidates.vectors[position, layer]
            reference = candidates.harmless_mean[position, layer]
            at = layer + shift
            found.places.append((position, layer))
            if rules.ablate == "affine":
                replaced = ablation(at, vector, reference)
                found.ablations.append(replaced)
                # The affine variant's addition sets the component to the harmless mean's first.
                found.additions.append(Edit(at, replaced.unit, replaced.offset + vector))
                continue
            found.ablations.append(ablation(None if rules.ablate == "everywhere" else at, vector))
            length = vector.norm() + _EPSILON if rules.unit_addition else 1.0
            found.additions.append(addition(at, vector / length))
    return found


def _edited_summaries(
    chat: ChatModel,
    prompts: PromptIds,
    edits: Sequence[Edit],
    layers: Sequence[int],
    rules: CosmicRules,
    max_rows: int,
) -> Tensor:
    """What prompts look like under each edit, `[edit, 1 or layer, d_model]`, as `baseline`."""
    total = torch.zeros((len(edits), len(layers), chat.d_model), dtype=torch.float64)
    for reading in run_edits(
        chat,
        prompts,
        edits,
        read_layers=layers,
        read_before_edit=rules.read_before_edit,
        max_rows=max_rows,
    ):
        states = reading.states.double()
        if rules.cosine == "pairwise-mean":
            states = _unit(states)
        total[reading.edits] += states.sum(1).cpu()
    return _compared(total / len(prompts), rules)


def _mean_over_prompts(states: Tensor, rules: CosmicRules) -> Tensor:
    """Mean over prompts of `[prompt, layer, d_model]`; of unit vectors for pairwise cosines."""
    if rules.cosine == "pairwise-mean":
        states = _unit(states)
    mean: Tensor = states.mean(0)
    return mean


def _compared(mean: Tensor, rules: CosmicRules) -> Tensor:
    """From means `[..., layer, d_model]` to vectors whose product is the score."""
    if rules.cosine == "pairwise-mean":
        # The mean over pairs of their cosines is the product of the mean unit vectors; dividing
        # both by the root of the number of layers makes the product a mean over layers too.
        return mean / math.sqrt(mean.shape[-2])
    return _unit(mean.mean(-2, keepdim=True))


def _mean_kl(chat: ChatModel, prompts: PromptIds, edits: Sequence[Edit], max_rows: int) -> Tensor:
    """Mean KL of each edit on prompts, `[edit]`. `get_last_position_logits` and `kl_div_fn`."""
    total = torch.zeros(len(edits), dtype=torch.float64)
    for reading in run_edits(chat, prompts, edits, with_logits=True, max_rows=max_rows):
        assert reading.logits is not None
        for index, logits in zip(reading.edits, reading.logits, strict=True):
            total[index] += next_token_kl(reading.clean_logits, logits).sum().cpu()
    return total / len(prompts)


def _unit(vectors: Tensor) -> Tensor:
    lengths: Tensor = vectors.norm(dim=-1, keepdim=True)
    unit: Tensor = vectors / (lengths + _EPSILON)
    return unit
