"""CAA: contrastive activation addition (Rimsky et al. 2024, arXiv 2312.06681, section 3).

The authors' pairs are one question with two answers, read at the token of the answer. Here a pair
is a harmful and a harmless prompt of the same index, read at the last token of the prompt: both
lists are cut to the length of the shorter one. A mean of differences is the difference of means, so
with lists of equal length this is DIM's direction; with others it leaves out what has no partner.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from steersweep.methods.method import Found, Given
from steersweep.prompts.prompts import COSMIC_EXTRACTION_SET, ExtractionSet

if TYPE_CHECKING:
    from steersweep.model.chat_model import ChatModel


class Caa:
    """Mean of the paired differences of `resid_post` at the last prompt token."""

    name = "caa"
    chooses_layer = False
    default_prompts = COSMIC_EXTRACTION_SET

    def find(
        self, chat: ChatModel, prompts: ExtractionSet, layers: Sequence[int], given: Given
    ) -> Found:
        """The direction of each layer; see `Method.find`."""
        from steersweep.methods.last_token import found_along, last_token_states

        states = last_token_states(chat, prompts, method="CAA", given=given)
        vectors = states.paired_differences.mean(0)  # [layer, d_model]
        return found_along(vectors, states, chat, prompts, layers, method=self.name)
