"""From texts to the tokens that are measured, and from numbers by token to what was measured."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from steersweep.model.chat_model import ChatModel
from steersweep.run.effect import NATS, Measured
from steersweep.steer.continuations import Continuation


def mean_nats(
    effect: str, source: str, items: Sequence[str], numbers: Sequence[Tensor], variant: str = ""
) -> Measured:
    """Means of nats by item, `[item]`, each `[token]`."""
    return Measured(
        effect,
        NATS,
        source,
        tuple(items),
        tuple(float(nats.mean()) for nats in numbers),
        tuple(len(nats) for nats in numbers),
        variant,
    )


def plain_ids(chat: ChatModel, text: str, name: str) -> list[int]:
    """Token ids of a text outside the template, without a BOS.

    What it spells is text, never a control token.

    Raises:
        InputError: it spells a control token that this tokenizer cannot take for text.
    """
    return chat.renderer.ids_of_parts([(text, False)], name)


def begins_with(chat: ChatModel) -> list[int]:
    """What the tokenizer puts before a text outside the template: a BOS, or nothing."""
    bos = chat.tokenizer.bos_token_id
    adds = bos is not None and list(chat.tokenizer("a").input_ids[:1]) == [bos]
    return [int(bos)] if adds else []


def answered(chat: ChatModel, request: str, answer: str, name: str) -> Continuation:
    """A text as the model's answer to a user's message in the template.

    Both are tokenized as one text where that leaves the message's tokens as they are.

    Raises:
        InputError: the message cannot be put to the model, or the answer spells a control token
            that this tokenizer cannot take for text.
    """
    prompt = chat.renderer.ids(request, name)
    parts = [(chat.renderer.template.rendered(request), True), (answer, False)]
    whole = chat.renderer.ids_of_parts(parts, name)
    if whole[: len(prompt)] == prompt:
        return Continuation(prompt, whole[len(prompt) :])
    return Continuation(prompt, plain_ids(chat, answer, name))
