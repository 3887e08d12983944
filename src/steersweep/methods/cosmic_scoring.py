"""Parts of COSMIC's scores: what a candidate does to the model. Forward passes only."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Literal

import torch
from torch import Tensor

from steersweep.core.errors import SteersweepError
from steersweep.methods.candidates import (
    Candidates,
    PromptIds,
    SplitIds,
    candidates_from,
    lowest_kl,
    next_token_kl,
    without_noise,
)
from steersweep.methods.cosmic_rules import CANDIDATES, CosmicRules
from steersweep.methods.method import ALONE, Given, Tensors
from steersweep.methods.noise import noise_share
from steersweep.model.chat_model import ChatModel
from steersweep.steer.activations import OnShare
from steersweep.steer.edit import Edit
from steersweep.steer.everywhere import ablation_sites_of
from steersweep.steer.passes import clean_logits, clean_states, run_edits

_Kind = Literal["harmful", "harmless"]
Place = tuple[int, int]  # of a candidate: index of its position, and its layer

_EPSILON = 1e-8
BROKEN = 1e9  # nats; for a KL that is no number
# Prompts after which to see for the first time who is dropped already; then after twice as many.
_KL_PROMPTS = 16
# Prompts x layers x squared width: about a minute of two cores.
_PART = 1.2e10
_A_LITTLE = 1e-6  # less than a KL that matters


def cosmic_positions(chat: ChatModel, rules: CosmicRules) -> tuple[int, ...]:
    """Positions of the candidates, from the end of the prompt."""
    count = 5 if rules.positions == "last-5" else len(chat.post_instruction_ids)
    return tuple(range(-max(1, count), 0))


def find_candidates(
    chat: ChatModel,
    data: SplitIds,
    rules: CosmicRules,
    positions: Sequence[int],
    given: Given = ALONE,
) -> Candidates:
    """Candidates of the training prompts. `generate_directions`, `get_mean_diff`.

    Where candidates of no length are dropped, those that are only rounding have none.

    Raises:
        InputError: their ablation everywhere would leave something in this architecture.
    """
    what_ablation_leaves(chat, rules)  # refused before anything is computed

    def read() -> Tensors:
        read_now = candidates_from(
            chat,
            data.harmful_train,
            data.harmless_train,
            positions=positions,
            site=rules.candidate_site,
            on_share=lambda share: given.tell(CANDIDATES, share),
        )
        return {name: getattr(read_now, name) for name in Candidates.TENSORS}

    found = Candidates(
        tuple(positions), site=rules.candidate_site, **given.kept("candidates", read)
    )
    return without_noise(found, noise_share(chat)) if rules.drop_zero else found


def what_ablation_leaves(chat: ChatModel, rules: CosmicRules) -> tuple[str, ...]:
    """Notes on what is left of a direction that is ablated where the official code does it.

    Raises:
        InputError: something is left in an architecture that the official code does not know.
    """
    if rules.ablate != "everywhere":
        return ()
    sites = ablation_sites_of(chat)
    if sites.complete:
        return ()
    return (
        f"as in the official code, norms after attention and MLP bring some of an ablated "
        f"direction back: up to {sites.left:.1%} of the stream's length after a layer",
    )


def layer_similarity(candidates: Candidates, rules: CosmicRules) -> Tensor:
    """Cosine of the classes at the last token after each layer, training prompts, `[layer]`.

    `compute_and_save_similarity`. The last layer is read after the final norm, as there.
    """
    if rules.cosine == "pairwise-mean":
        return candidates.last_unit.prod(0).sum(-1)
    return torch.cosine_similarity(candidates.last[0], candidates.last[1], dim=-1)


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


def layers_to_compare(
    similarity: Tensor, rules: CosmicRules
) -> tuple[tuple[int, ...], tuple[str, ...]]:
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

    places: list[Place]
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
                replaced = Edit.affine(vector, reference, 0.0, at, at + 1, site="resid_pre")
                assert replaced.added is not None, "the reference is put back"
                found.ablations.append(replaced)
                # The affine variant's addition sets the component to the harmless mean's first.
                found.additions.append(replace(replaced, added=replaced.added + vector))
                continue
            if rules.ablate == "everywhere":
                found.ablations.append(Edit.everywhere(vector))
            else:
                found.ablations.append(Edit.remove(vector, at, at + 1, site="resid_pre"))
            length = vector.norm() + _EPSILON if rules.unit_addition else 1.0
            found.additions.append(Edit.add(vector / length, 1.0, at, at + 1, site="resid_pre"))
    return found


class Scorer:
    """Scores of candidates on the validation prompts, measured when they are asked for.

    Args:
        chat: the model.
        data: prompts; those for validation are used.
        candidates: all of them.
        rules: which COSMIC.
        low: layers whose activations are compared.
        max_rows: prompts x edits per forward pass.
    """

    def __init__(
        self,
        chat: ChatModel,
        data: SplitIds,
        candidates: Candidates,
        rules: CosmicRules,
        low: Sequence[int],
        max_rows: int,
    ) -> None:
        self._chat = chat
        self._data = data
        self._rules = rules
        self._low = low
        self._max_rows = max_rows
        edits = candidate_edits(candidates, rules)
        self._ablations = dict(zip(edits.places, edits.ablations, strict=True))
        self._additions = dict(zip(edits.places, edits.additions, strict=True))
        self._baselines: dict[_Kind, Tensor] = {}
        # Sum of the KLs measured so far, by harmless prompt.
        self._disturbed = torch.zeros(len(data.harmless_val), dtype=torch.float64)

    @property
    def places(self) -> list[Place]:
        """The candidates that can be run."""
        return list(self._ablations)

    def parts(self, n_places: int) -> int:
        """In how many parts to measure S_refuse: what is killed loses one of them at most.

        By the size of the model, so that a run that goes on makes the same ones.
        """
        passes = n_places * len(self._data.harmless_val) * self._chat.n_layers
        return max(1, round(passes * self._chat.d_model**2 / _PART))

    def comply(self, places: Sequence[Place]) -> list[float]:
        """S_comply: harmful prompts under each ablation, beside harmless ones as they are."""
        edits = [self._ablations[place] for place in places]
        return self._likeness("harmful", edits)

    def refuse(
        self, places: Sequence[Place], on_share: OnShare = lambda _share: None
    ) -> list[float]:
        """S_refuse: harmless prompts under each addition, beside harmful ones as they are.

        `on_share` is told of the share that is done, 0 to 1.
        """
        edits = [self._additions[place] for place in places]
        return self._likeness("harmless", edits, on_share)

    def kl(self, places: Sequence[Place], *, limit: float = math.inf) -> list[float]:
        """Mean KL of each ablation on harmless prompts, in nats; `BROKEN` where it is no number.

        `get_last_position_logits` and `kl_div_fn`. As soon as some prompts show that a mean lies
        above `limit`, whatever the others give, these are left out, and it is a lower bound. Few
        prompts make most of a mean, much the same ones for all candidates: those that earlier
        candidates disturbed most come first, then those whose next token is least certain.
        """
        order = (self._disturbed + _A_LITTLE * self._entropy).argsort(descending=True, stable=True)
        found = self._lowest_kl.repeat(len(places), 1)
        open_ = torch.arange(len(places))
        done = 0
        while len(open_) and done < len(order):
            until = max(_KL_PROMPTS, 2 * done) if math.isfinite(limit) else len(order)
            some = order[done:until]
            done += len(some)
            edits = [self._ablations[places[index]] for index in open_.tolist()]
            measured = self._kl_of_prompts(edits, some.tolist())
            found[open_[:, None], some] = measured
            self._disturbed[some] += measured.nan_to_num(nan=BROKEN).sum(0)
            open_ = open_[~(found[open_].mean(1) > limit)]
        means: list[float] = found.mean(1).nan_to_num(nan=BROKEN, posinf=BROKEN).tolist()
        return means

    def _kl_of_prompts(self, edits: Sequence[Edit], chosen: Sequence[int]) -> Tensor:
        """KL of some harmless prompts under each edit, `[edit, prompt]`, in nats."""
        prompts = [self._data.harmless_val[index] for index in chosen]
        clean = self._clean_logits[chosen]
        found = torch.empty((len(edits), len(prompts)), dtype=torch.float64)
        for reading in run_edits(
            self._chat, prompts, edits, with_logits=True, max_rows=self._max_rows
        ):
            assert reading.logits is not None
            for edit, logits in zip(reading.edits, reading.logits, strict=True):
                kl = next_token_kl(clean[reading.prompts], logits)
                found[edit, reading.prompts] = kl.cpu()
        return found

    @cached_property
    def _clean_logits(self) -> Tensor:
        return clean_logits(self._chat, self._data.harmless_val, max_rows=self._max_rows)

    @cached_property
    def _lowest_kl(self) -> Tensor:
        return self._of_clean_logits(lowest_kl)

    @cached_property
    def _entropy(self) -> Tensor:
        return self._of_clean_logits(
            lambda logits: torch.special.entr(logits.double().softmax(-1)).sum(-1)
        )

    def _of_clean_logits(self, number: Callable[[Tensor], Tensor]) -> Tensor:
        """A number for every harmless prompt, a few at a time."""
        parts = torch.split(self._clean_logits, _KL_PROMPTS)
        return torch.cat([number(part).cpu() for part in parts])

    def _prompts(self, kind: _Kind) -> PromptIds:
        return self._data.harmful_val if kind == "harmful" else self._data.harmless_val

    def _baseline(self, kind: _Kind) -> Tensor:
        if kind not in self._baselines:
            self._baselines[kind] = baseline(
                self._chat, self._prompts(kind), self._low, self._rules, max_rows=self._max_rows
            )
        return self._baselines[kind]

    def _likeness(
        self, kind: _Kind, edits: Sequence[Edit], on_share: OnShare = lambda _share: None
    ) -> list[float]:
        """Cosine of prompts of a class under each edit with the other class as it is."""
        if not edits:
            return []
        prompts = self._prompts(kind)
        other: _Kind = "harmless" if kind == "harmful" else "harmful"
        total = torch.zeros((len(edits), len(self._low), self._chat.d_model), dtype=torch.float64)
        done = 0
        for reading in run_edits(
            self._chat,
            prompts,
            edits,
            read_layers=self._low,
            read_before_edit=self._rules.read_before_edit,
            max_rows=self._max_rows,
        ):
            states = reading.states.double()
            if self._rules.cosine == "pairwise-mean":
                states = _unit(states)
            total[reading.edits] += states.sum(1).cpu()
            done += len(reading.edits) * len(reading.prompts)
            on_share(done / (len(edits) * len(prompts)))
        summaries = _compared(total / len(prompts), self._rules)
        found: list[float] = (summaries * self._baseline(other)).sum((-1, -2)).tolist()
        return found


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


def _unit(vectors: Tensor) -> Tensor:
    lengths: Tensor = vectors.norm(dim=-1, keepdim=True)
    unit: Tensor = vectors / (lengths + _EPSILON)
    return unit
