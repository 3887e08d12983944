"""Candidate directions at every position and layer, and the prompts they are made and scored with.

What DIM's own selection and COSMIC share.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from typing import ClassVar

import torch
from torch import Tensor

from steersweep.core.errors import InputError, SteersweepError
from steersweep.model.chat_model import ChatModel
from steersweep.prompts.prompts import Split
from steersweep.steer.activations import OnShare, ReadSite, mean_residuals

PromptIds = Sequence[Sequence[int]]

# Shorter differences have no direction; those that are only rounding are set to 0, see `noise`.
ZERO_NORM = 1e-6
# Share of layers, from the first, that may be chosen: candidates at l >= int(0.8 L) are dropped.
ELIGIBLE_DEPTH = 0.8
_KL_EPSILON = 1e-6


@dataclass(frozen=True)
class SplitIds:
    """Token ids of the prompts candidates are made from (train) and scored on (val)."""

    harmful_train: PromptIds
    harmless_train: PromptIds
    harmful_val: PromptIds
    harmless_val: PromptIds

    @classmethod
    def of(cls, chat: ChatModel, split: Split, name: str) -> SplitIds:
        """The prompts of an extraction set, `name` in messages, in a model's template.

        Raises:
            InputError: fewer than two prompts in a class.
        """
        for field in fields(cls):
            label = field.name.replace("_", " ")
            if (count := len(getattr(split, field.name))) < 2:
                raise InputError(
                    f"{name}: {count} {label} prompts; a direction that is chosen by its scores "
                    f"needs at least 2 of each kind"
                )
        return cls(
            *([chat.prompt_ids(text) for text in getattr(split, f.name)] for f in fields(cls))
        )


@dataclass(frozen=True, eq=False)
class Candidates:
    """Differences of means, not normalised.

    Attributes:
        positions: -P..-1, prompt positions counted from the end.
        vectors: mean harmful minus mean harmless, `[position, layer, d_model]`, float64.
        harmless_mean: `[position, layer, d_model]`, float64.
        site: where they were read.
        last: class means at the last token after each layer, `[harmful or harmless, layer,
            d_model]`; of the last layer after the final norm.
        last_unit: the same of states that were given length 1 first.
        residual_norms: mean length of `resid_post` at the last token of a class, `[harmful or
            harmless, layer]`.
    """

    TENSORS: ClassVar = ("vectors", "harmless_mean", "last", "last_unit", "residual_norms")

    positions: tuple[int, ...]
    vectors: Tensor
    harmless_mean: Tensor
    site: ReadSite
    last: Tensor
    last_unit: Tensor
    residual_norms: Tensor

    @property
    def norms(self) -> Tensor:
        """Lengths, `[position, layer]`."""
        lengths: Tensor = self.vectors.norm(dim=-1)
        return lengths


def candidates_from(
    chat: ChatModel,
    harmful: PromptIds,
    harmless: PromptIds,
    *,
    positions: Sequence[int],
    site: ReadSite = "resid_pre",
    on_share: OnShare = lambda _share: None,
) -> Candidates:
    """Candidates at each position and layer. `generate_directions` in both official codes.

    `on_share` is told of the share of prompts that is done, 0 to 1.

    Raises:
        InputError: the two classes give the same activations everywhere, or a prompt is shorter
            than a position.
        NumericalError: an activation is NaN or infinite.
    """
    means = []
    for before, prompts in enumerate((harmful, harmless)):

        def tell(share: float, before: int = before) -> None:
            on_share((before + share) / 2)

        means.append(mean_residuals(chat, prompts, positions=positions, site=site, on_share=tell))
    found = Candidates(
        tuple(positions),
        vectors=means[0].at - means[1].at,
        harmless_mean=means[1].at,
        site=site,
        last=torch.stack([mean.last for mean in means]),
        last_unit=torch.stack([mean.last_unit for mean in means]),
        residual_norms=torch.stack([mean.norms for mean in means]),
    )
    if bool((found.norms < ZERO_NORM).all()):
        raise same_everywhere()
    return found


def without_noise(found: Candidates, share: float) -> Candidates:
    """Candidates of which those that are only rounding are 0, and so have no direction.

    Args:
        found: the candidates.
        share: see `noise_share`.

    Raises:
        InputError: all of them are.
    """
    noise = found.norms <= share * found.harmless_mean.norm(dim=-1)
    if bool(noise.all()):
        raise same_everywhere()
    return replace(found, vectors=found.vectors.masked_fill(noise[..., None], 0))


def same_everywhere() -> InputError:
    """What to say of two lists of prompts that the model does not tell apart."""
    return InputError(
        "harmful and harmless prompts give the same activations at every position and layer, "
        "so there is no direction; are the two lists the same?"
    )


def eligible_layers(n_layers: int) -> int:
    """Layers below this one may be chosen. `filter_fn` in both official codes."""
    return int(n_layers * ELIGIBLE_DEPTH)


def next_token_kl(clean_logits: Tensor, edited_logits: Tensor) -> Tensor:
    """KL(clean || edited) of the next token, per row, in float64. `kl_div_fn`.

    Args:
        clean_logits: `[..., prompt, vocabulary]`.
        edited_logits: `[..., prompt, vocabulary]`.

    Returns:
        `[..., prompt]`, in nats.
    """
    p, q = (logits.double().softmax(-1) for logits in (clean_logits, edited_logits))
    kl: Tensor = (p * ((p + _KL_EPSILON).log() - (q + _KL_EPSILON).log())).sum(-1)
    return kl


def lowest_kl(clean_logits: Tensor) -> Tensor:
    """What `next_token_kl` is at least, whatever the edit: with its epsilon, a little below 0.

    A dual bound of the least sum over distributions q, so it holds for every `price` of the
    constraint that q sums to 1; a few turns bring it near the best.

    Args:
        clean_logits: `[..., prompt, vocabulary]`.

    Returns:
        `[..., prompt]`, in nats.
    """
    p = clean_logits.double().softmax(-1)
    price = torch.ones_like(p[..., :1])
    for _turn in range(3):
        likely = p > price * _KL_EPSILON  # where the best q is above 0
        price = (p * likely).sum(-1, keepdim=True) / (
            1 + likely.sum(-1, keepdim=True) * _KL_EPSILON
        )
    best_q = (p / price).clamp(min=_KL_EPSILON)  # with epsilon added
    kl = p * ((p + _KL_EPSILON).log() - best_q.log())
    lowest: Tensor = kl.sum(-1) + (price * (best_q - _KL_EPSILON)).sum(-1) - price[..., 0]
    return lowest


@dataclass(frozen=True, eq=False)
class Selection:
    """The choice among candidates.

    Attributes:
        position: index of the position, 0 for -P.
        layer: decoder layer.
        dropped: per rule, the candidates it drops, `[position, layer]` bool.
    """

    position: int
    layer: int
    dropped: dict[str, Tensor]

    @property
    def kept(self) -> Tensor:
        """Candidates no rule dropped, `[position, layer]` bool."""
        return kept_of(self.dropped)

    @classmethod
    def of(cls, method: str, values: Tensor, dropped: dict[str, Tensor]) -> Selection:
        """The largest value `[position, layer]` that no rule drops.

        Raises:
            SteersweepError: every candidate is dropped; the message says by which rules.
        """
        kept = kept_of(dropped)
        if not bool(kept.any()):
            counts = ", ".join(f"{rule} {int(mask.sum())}" for rule, mask in dropped.items())
            advice = (
                ". Ablation disturbs harmless prompts too: use more and more varied extraction "
                "prompts"
            )
            raise SteersweepError(
                f"{method}: every one of {kept.numel()} candidates ({kept.shape[0]} positions x "
                f"{kept.shape[1]} layers) is dropped, by rule: {counts}"
                + advice
                * ("kl" in dropped and bool(dropped["kl"].any()))
            )
        return cls(*best_allowed(values, kept), dropped)


def kept_of(dropped: dict[str, Tensor]) -> Tensor:
    """What no rule dropped, `[position, layer]` bool."""
    return ~torch.stack(list(dropped.values())).any(0)


def best_allowed(values: Tensor, allowed: Tensor) -> tuple[int, int]:
    """Position index and layer of the largest allowed value; ties to the lower ones."""
    flat = int(values.masked_fill(~allowed, -torch.inf).flatten().argmax())
    return divmod(flat, values.shape[1])
