"""What is found about a model by looking at it: once for a user, a model and a machine.

Looks are passes; of a real model they take seconds, and so would every command. What they found is
kept in the user's cache under all that it rests on: the model's fingerprint and precision, its kind
of attention, the processor, and every package of this Python. A model that was not loaded from
files here is looked at again in every process, since nothing says which code it runs.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable
from typing import Any, TypeVar, cast

import torch

from steersweep.core import provenance, typed
from steersweep.core.errors import InputError
from steersweep.core.user_cache import cache_folder, keep, kept
from steersweep.model.chat_model import ChatModel
from steersweep.model.device import processor
from steersweep.run.condition import content_key

T = TypeVar("T")

# Raised when a look or a check sees something else than before, so that models are looked at again.
VERSION = 2


def rests_on(chat: ChatModel) -> dict[str, Any]:
    """All that what is found about a model's network rests on, as plain data."""
    facts = provenance.facts(chat.device)
    return {
        "model": chat.fingerprint,
        "precision": chat.precision,
        "attention": getattr(chat.model.config, "_attn_implementation", None),
        "processor": processor(chat.device),
        "versions": [VERSION, facts["steersweep"], facts["git_commit"], facts["python"]],
        "packages": provenance.packages(),
    }


def looked_once(
    chat: ChatModel, name: str, kind: type[T], look: Callable[[ChatModel], T | InputError]
) -> T:
    """What a look at a model gives, by an earlier one if there was one.

    Args:
        chat: the model.
        name: of what is found.
        kind: the type of it: a dataclass, or what JSON has.
        look: what looks, without hooks of others.

    Raises:
        InputError: what the look gave, each time; it is not kept for other processes.
    """
    if name not in chat.found:
        found: Any = known(chat, name, kind)
        if found is None:
            with torch.inference_mode(), chat.unhooked():
                found = look(chat)
            if not isinstance(found, InputError):
                note(chat, name, found)
        chat.found[name] = found
    found = chat.found[name]
    if isinstance(found, InputError):
        raise found
    return cast(T, found)


def known(chat: ChatModel, name: str, kind: Any) -> Any:
    """What this user knows of a model under a name, or None."""
    if not chat.is_of_files:
        return None
    try:
        held = kept(f"{_place(chat)}/{name}.json")
        return (
            typed.read(kind, held["found"]) if content_key(held["found"]) == held["key"] else None
        )
    except (typed.WrongField, KeyError, TypeError, ValueError):
        return None  # absent, or damaged; numbers rest on it, so it has to be what was kept


def note(chat: ChatModel, name: str, found: object) -> None:
    """Keep what was found of a model for this user, where the folder can be written."""
    if chat.is_of_files:
        plain = typed.plain(found)
        keep(f"{_place(chat)}/{name}.json", {"found": plain, "key": content_key(plain)})


def forget(chat: ChatModel) -> None:
    """Look at a model anew from now on."""
    chat.found.clear()
    if chat.is_of_files:
        shutil.rmtree(cache_folder() / _place(chat), ignore_errors=True)


def _place(chat: ChatModel) -> str:
    return f"models/{content_key(rests_on(chat))}"
