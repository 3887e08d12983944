"""Whether a model has a row for every token that its tokenizer gives."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from steersweep.core.errors import InputError


def check_vocabulary(
    tokenizer: Any, rows: int, model_id: str, render: Callable[[str], list[int]]
) -> None:
    """See that no text leads to a token that the embedding has no row for.

    Tokens with a part to play, as padding or the place of an image, may lie beyond it: prompts do
    not hold them, unless the template puts them there.

    Args:
        tokenizer: of the model.
        rows: of the model's embedding.
        model_id: for the message.
        render: token ids of a prompt in the model's chat template.

    Raises:
        InputError: there is such a token; the message names it.
    """
    added = {int(token): str(content) for token, content in tokenizer.added_tokens_decoder.items()}
    if max(added, default=-1) < rows and int(tokenizer.vocab_size) <= rows:
        return
    # Not those that were only added as special.
    parts = {text for text in tokenizer.special_tokens_map.values() if isinstance(text, str)}
    beyond = {token: text for text, token in tokenizer.get_vocab().items() if token >= rows}
    used = [token for token, text in beyond.items() if text not in parts]
    used += [token for token in render("Hi") if token in beyond]
    if used:
        token = min(used)
        raise InputError(
            f"{model_id}: the tokenizer has the token {beyond[token]!r} with id {token}, and the "
            f"model's embedding has {rows} rows; use the tokenizer that belongs to these weights, "
            f"or the weights that were trained with it"
        )
