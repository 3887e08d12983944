"""How a model's chat template ends a turn, and whether it opens the model's reasoning."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from typing import Any

from steersweep.model.rendering import Renderer
from steersweep.model.thinking import is_marker, opened_thought

PROBE = "How tall is it?"
ANSWER = "Certainly so"


@dataclass(frozen=True)
class TurnEnd:
    """What a template puts after an answer.

    Attributes:
        token: the control token there, or None where it is plain text or nothing.
        text: everything that the template puts there.
    """

    token: int | None
    text: str


def turn_end(renderer: Renderer, ending: Collection[int] = ()) -> TurnEnd | None:
    """What ends an answer in the template; None where the template does not show it.

    Args:
        renderer: the model's template and tokenizer.
        ending: token ids that are known to end an answer; one of them is preferred to others.
    """
    tokenizer = renderer.tokenizer
    try:
        rendered = renderer.template.conversation(PROBE, ANSWER)
    except Exception:  # a template may raise anything at a conversation it was not written for
        return None
    ids = [int(token) for token in tokenizer(rendered, add_special_tokens=False).input_ids]
    after = _after(tokenizer, ids, ANSWER)
    if after is None:
        return None
    text = str(tokenizer.decode(after, skip_special_tokens=False))
    if not text.strip():
        return None
    known = [token for token in after if token in ending]
    first = next(token for token in after if str(tokenizer.decode([token])).strip())
    control = first in control_tokens(tokenizer)
    return TurnEnd(known[0] if known else first if control else None, text)


def _after(tokenizer: Any, ids: list[int], text: str) -> list[int] | None:
    """The tokens after a text, whose own tokens may differ with what stands around it."""
    for end in range(len(ids), 0, -1):
        if text not in tokenizer.decode(ids[:end], skip_special_tokens=False):
            return None if end == len(ids) else ids[end + 1 :]
    return None


def control_tokens(tokenizer: Any) -> dict[int, str]:
    """Tokens that text is not made of, by id."""
    added = getattr(tokenizer, "added_tokens_decoder", {})
    found = {int(token): str(entry) for token, entry in added.items()}
    return found | dict(zip(tokenizer.all_special_ids, tokenizer.all_special_tokens, strict=False))


def thought_opened_by(renderer: Renderer) -> str:
    """The end of every prompt from where the template opens the model's reasoning, or ""."""
    return opened_thought(renderer.template.rendered(PROBE).rpartition(PROBE)[2])


def thinking_tokens(tokenizer: Any) -> frozenset[int]:
    """Special tokens that mark reasoning, channels or the answer; text without them is mixed up."""
    tokens = control_tokens(tokenizer)
    has_channels = "<|channel|>" in tokens.values()
    of_messages = ("<|start|>", "<|end|>", "<|return|>", "<|message|>")
    return frozenset(
        token
        for token, text in tokens.items()
        if is_marker(text) and (has_channels or text not in of_messages)
    )
