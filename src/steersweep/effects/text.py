"""How unlikely text is that the model did not write."""

from __future__ import annotations

from collections.abc import Sequence

from steersweep.core.errors import InputError
from steersweep.effects.effect import Given
from steersweep.effects.likelihoods import answered, begins_with, mean_nats, plain_ids
from steersweep.effects.texts import Text
from steersweep.model.chat_model import ChatModel
from steersweep.run.effect import Measured
from steersweep.steer.continuations import Continuation, log_likelihoods
from steersweep.steer.edit import Edit


class TextLoss:
    """Cross-entropy of given texts: mean negative log-likelihood of their tokens, in nats.

    Two variants, after Arditi et al. 2024, who report the loss on The Pile without a template and
    on Alpaca's answers with one:

    - `plain`: the text alone, after a BOS where the tokenizer puts one. All its tokens count; where
      there is no BOS, all but the first, which nothing predicts. The BOS, or that first token,
      stands where a prompt stands, for edits of prompts or of new tokens only.
    - `chat`: the text as the model's answer to a request, in the chat template. The text's tokens
      count; the template's and the request's do not, nor does the end of the turn.

    An item is a text, its value the mean over its first tokens.
    """

    name = "text"

    def measure(
        self, chat: ChatModel, edits: Sequence[Edit | None], given: Given
    ) -> list[tuple[Measured, ...]]:
        """See `Effect.measure`."""
        sizes, texts = given.sizes, given.texts
        plain, chats = texts.first(sizes.texts), texts.first(sizes.chat_texts)
        both = [*plain.texts, *chats.texts]
        if not both:
            raise InputError("text: there is no text to measure on")
        most = sizes.text_tokens
        asked = [
            *(_plain(chat, text, _name(texts.name, n)) for n, text in enumerate(plain.texts, 1)),
            *(_chat(chat, text, _name(texts.name, n)) for n, text in enumerate(chats.texts, 1)),
        ]
        found = log_likelihoods(
            chat,
            [Continuation(c.prompt_ids, c.token_ids[:most]) for c in asked],
            edits,
            max_rows=given.max_rows,
            on_share=given.on_share,
        )
        n = len(plain.texts)
        parts = [
            (variant, f"{some.id}, {most} tokens", [text.id for text in some.texts], part)
            for variant, some, part in (
                ("plain", plain, slice(0, n)),
                ("chat", chats, slice(n, None)),
            )
            if some.texts
        ]
        return [
            tuple(
                mean_nats(self.name, source, items, [-logs for logs in of_edit[part]], variant)
                for variant, source, items, part in parts
            )
            for of_edit in found
        ]


def _name(source: str, number: int) -> str:
    return f"{source}, text {number}"


def _plain(chat: ChatModel, text: Text, name: str) -> Continuation:
    ids = plain_ids(chat, text.text, name)
    first = begins_with(chat)
    prompt, rest = (first, ids) if first else (ids[:1], ids[1:])
    if not rest:
        raise InputError(f"{name}: is too short to measure its likelihood; leave it out")
    return Continuation(prompt, rest)


def _chat(chat: ChatModel, text: Text, name: str) -> Continuation:
    found = answered(chat, text.request, text.text, name)
    if not found.token_ids:
        raise InputError(f"{name}: is empty; leave it out")
    return found
