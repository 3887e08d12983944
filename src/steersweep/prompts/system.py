"""A system prompt: a text, or a file that holds it."""

from __future__ import annotations

import os
from pathlib import Path

from steersweep.core.errors import InputError, setting
from steersweep.core.text_files import lone_surrogate, read_text, shown
from steersweep.prompts.characters import trimmed
from steersweep.prompts.lists import MAX_CHARACTERS

_ENDINGS = (".txt", ".md")


def read_system_prompt(given: str | Path) -> str | None:
    """The system prompt that a user gives, without white space at its ends; None for no text.

    Args:
        given: the text, or the name of a file that holds it: one that is there, or that ends in
            `.txt` or `.md`.

    Raises:
        InputError: a file that cannot be read, or a text that cannot be a prompt.
    """
    if given == "":
        return None
    name = str(given)
    called = setting("system")
    is_file = isinstance(given, Path) or ("\n" not in name and os.path.isfile(name))
    if is_file or (name.lower().endswith(_ENDINGS) and not any(map(str.isspace, name))):
        text, called = read_text(name, max_bytes=4 * MAX_CHARACTERS), f"{called} {name}"
    else:
        text = name
    text = trimmed(text)
    if not text:
        raise InputError(f"{called}: is empty; leave it out for none")
    if len(text) > MAX_CHARACTERS:
        raise InputError(f"{called}: {len(text):,} characters; {MAX_CHARACTERS:,} is the most")
    if "\0" in text or lone_surrogate(text):
        raise InputError(f"{called} {shown(text)}: holds a character that no text has")
    return text
