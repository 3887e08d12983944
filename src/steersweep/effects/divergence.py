"""How far steering moves the model from itself, over its own unsteered answers."""

from __future__ import annotations

from collections.abc import Sequence

from steersweep.core.errors import InputError
from steersweep.effects.effect import Given
from steersweep.effects.likelihoods import mean_nats
from steersweep.model.chat_model import ChatModel
from steersweep.run.effect import Measured, item_id
from steersweep.steer.continuations import Continuation, divergences
from steersweep.steer.edit import Edit


class Divergence:
    """KL divergence of the next-token distribution from unsteered to steered.

    `KL(unsteered || steered)` at every token of the model's own unsteered answers, in nats: of the
    distributions that the token would be drawn from, with all tokens before it given. An item is a
    prompt, its value the mean over the first tokens of its answer. 0 without an edit, and at the
    first token of edits of new tokens only.
    """

    name = "divergence"

    def measure(
        self, chat: ChatModel, edits: Sequence[Edit | None], given: Given
    ) -> list[tuple[Measured, ...]]:
        """See `Effect.measure`; prompts that got an empty answer are left out."""
        own, most = given.own_answers, given.sizes.own_answer_tokens
        triples = zip(own.prompts, own.prompt_ids, own.answer_ids, strict=True)
        some = [triple for triple in triples if triple[2]][: given.sizes.own_answers]
        if not some:
            raise InputError(
                "divergence: without steering the model answers none of the test prompts with a "
                "token; choose other test prompts, or leave this effect out"
            )
        found = divergences(
            chat,
            [Continuation(ids, answer[:most]) for _, ids, answer in some],
            edits,
            max_rows=given.max_rows,
            on_share=given.on_share,
        )
        items = [item_id(prompt) for prompt, _, _ in some]
        source = f"{own.source}, {most} tokens"
        return [(mean_nats(self.name, source, items, of_edit),) for of_edit in found]
