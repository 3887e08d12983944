"""Prompts of several turns: read from lists of messages, and shown as one text.

What stands for such a prompt in results is its transcript. A judge is told the last user turn.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from steersweep.core.errors import InputError
from steersweep.core.text_files import shown
from steersweep.prompts.characters import trimmed

Role = Literal["system", "user", "assistant"]

# As OpenAI and Hugging Face call the speakers, and as ShareGPT does.
_ROLES: Mapping[str, Role] = {
    "system": "system",
    "user": "user",
    "human": "user",
    "assistant": "assistant",
    "gpt": "assistant",
}
_NAMES = (("role", "content"), ("from", "value"))
ANSWERED = "end with an answer, which is left out"


@dataclass(frozen=True)
class Turn:
    """What one speaker says.

    Attributes:
        role: who: `system`, `user` or `assistant`.
        content: the text, without white space at its ends.
    """

    role: Role
    content: str


Turns = tuple[Turn, ...]
Prompt = str | Turns  # one user turn, or a conversation that ends with one


def transcript(turns: Sequence[Turn]) -> str:
    """A conversation as one text, as results show it."""
    return "\n\n".join(f"[{turn.role}]\n{turn.content}" for turn in turns)


def is_message(value: Any) -> bool:
    """Whether a JSON value looks like a turn of a conversation."""
    return isinstance(value, dict) and any({*names} <= value.keys() for names in _NAMES)


def read_turns(where: str, messages: Any) -> tuple[Turns, Turns]:
    """The turns of a conversation up to its last user turn, and those that follow it.

    Args:
        where: file, place and field, for messages.
        messages: a list of `{"role": ..., "content": ...}` or `{"from": ..., "value": ...}`, or of
            a single text.

    Raises:
        InputError: it is none, or does not run from a user's turn to a user's turn, in turns.
    """
    wanted = 'a list of {"role": "user", "content": TEXT}, and so on'
    if not isinstance(messages, list) or not messages:
        raise InputError(f"{where} must be {wanted}")
    if isinstance(messages[0], str):
        if len(messages) > 1:
            raise InputError(
                f"{where} has {len(messages)} texts without the answers between them; give "
                f"{wanted}, with the assistant's turns"
            )
        messages = [{"role": "user", "content": messages[0]}]
    turns = [_turn(f"{where}, turn {number}", m) for number, m in enumerate(messages, 1)]
    roles = [turn.role for turn in turns]
    last = max((i for i, role in enumerate(roles) if role == "user"), default=-1)
    speakers = roles[1:] if roles[0] == "system" else roles
    expected = ["user", "assistant"] * len(speakers)
    if last < 0 or speakers != expected[: len(speakers)]:
        raise InputError(
            f"{where} has turns of {shown(', '.join(roles))}; after a system turn, or none, those "
            f"of user and assistant must take turns, and the user begins"
        )
    return tuple(turns[: last + 1]), tuple(turns[last + 1 :])


def _turn(where: str, message: Any) -> Turn:
    names = next((n for n in _NAMES if isinstance(message, dict) and {*n} <= message.keys()), None)
    if names is None:
        raise InputError(f'{where}: must be an object with "role" and "content"')
    role = _ROLES.get(str(message[names[0]]).lower())
    if role is None:
        raise InputError(
            f"{where}: is of {shown(str(message[names[0]]), 40)}; roles are system, user, assistant"
        )
    if message.get("tool_calls"):
        raise InputError(f"{where}: calls a tool, which no prompt can; leave this entry out")
    content = _content(message[names[1]])
    if content is None:
        raise InputError(f"{where}: its content must be a text")
    if not (content := trimmed(content)):
        raise InputError(f"{where}: is empty")
    return Turn(role, content)


def _content(value: Any) -> str | None:
    """The text of a turn's content, which may come in parts; None: it holds something else."""
    if isinstance(value, str):
        return value
    if isinstance(value, list) and all(isinstance(part, dict) for part in value):
        texts = [part.get("text") for part in value if part.get("type") == "text"]
        if len(texts) == len(value) and all(isinstance(text, str) for text in texts):
            return "".join(map(str, texts))
    return None
