"""PCA: first principal component of paired differences (Zou et al. 2023, arXiv 2310.01405, 3.1).

Differences are not centred. The authors' code does centre them, but puts the two prompts of each
pair in random order first, so that the mean it takes away is about zero; with the harmful prompt
always first, centring would take away what the classes differ by. repeng's `pca_center` comes to
the same without chance; its default, `pca_diff`, centres differences of one sign and is another
method. The sign is that of the mean difference, where both codes count pairs.

Pairs are as in CAA: prompts of the same index, at the last token of the prompt.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from steersweep.methods.method import Found, Given
from steersweep.prompts.prompts import COSMIC_EXTRACTION_SET, ExtractionSet

if TYPE_CHECKING:
    from torch import Tensor

    from steersweep.model.chat_model import ChatModel


class Pca:
    """First principal component of the paired differences of `resid_post`, last prompt token."""

    name = "pca"
    chooses_layer = False
    default_prompts = COSMIC_EXTRACTION_SET

    def find(
        self, chat: ChatModel, prompts: ExtractionSet, layers: Sequence[int], given: Given
    ) -> Found:
        """The direction of each layer; see `Method.find`.

        Its `raw_norm` is the root mean square of the differences' components along it.
        """
        import torch

        from steersweep.methods.last_token import found_along, last_token_states

        states = last_token_states(chat, prompts, method="PCA", given=given)
        differences = states.paired_differences  # [pair, layer, d_model]
        vectors = torch.stack([_component(differences[:, at]) for at in range(chat.n_layers)])
        return found_along(vectors, states, chat, prompts, layers, method=self.name)


def _component(differences: Tensor) -> Tensor:
    """First component of `[pair, d_model]`, as long as differences are along it."""
    import torch

    _, sizes, components = torch.linalg.svd(differences, full_matrices=False)
    first: Tensor = components[0] * sizes[0] / len(differences) ** 0.5
    return first if float(differences.mean(0) @ first) >= 0 else -first
