"""Lists of prompts made from a file's entries: cleaned, each prompt once, apart by class."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from steersweep.core.errors import InputError
from steersweep.core.text_files import lone_surrogate, shown
from steersweep.prompts.characters import as_seen, hidden_in, trimmed
from steersweep.prompts.files import Entry

MAX_CHARACTERS = 2**17  # of a prompt; Python's reader of tables has the same bound
WANTED = (
    'an extraction set is a .json file with lists "harmful" and "harmless", or a .jsonl, .csv or '
    '.tsv file with a "label" beside every prompt that is harmful or harmless'
)
_LABEL_FIELDS = ("label", "type", "class", "kind", "category")
_LABELS = {"harmful": True, "unsafe": True, "harmless": False, "safe": False, "benign": False}
# Fields whose name says what yes means; whether it means harmful.
_FLAGS = {"harmful": True, "unsafe": True, "harmless": False, "safe": False}
_FLAGS |= {f"is_{name}": harmful for name, harmful in _FLAGS.items()}
_YES = {"1": True, "true": True, "yes": True, "0": False, "false": False, "no": False}


@dataclass(frozen=True)
class Prompts:
    """A list of prompts.

    Attributes:
        texts: the prompts, in order.
        notes: what was removed from them, and what they hold that nobody sees.
        places: by what a prompt looks like, where in the file it stands.
    """

    texts: tuple[str, ...]
    notes: tuple[str, ...]
    places: Mapping[str, str]


def cleaned(path: str, entries: Sequence[Entry]) -> Prompts:
    """Prompts without white space and invisible characters at their ends.

    Raises:
        InputError: no prompts, one that is empty, too long or no text, or two that look the same.
    """
    if not entries:
        raise InputError(f"{path}: must have at least one prompt")
    texts: dict[str, str] = {}
    places: dict[str, str] = {}
    doubled, trims, hidden = [], [], []
    for entry in entries:
        text = refuse_bad_text(f"{path}, {entry.place}", entry.text, "prompt")
        look = as_seen(text)
        if look in places:
            doubled.append(_doubled(entry.place, text, places[look], texts[look]))
            continue
        texts[look], places[look] = text, entry.place
        if text != entry.text:
            trims.append(entry.place)
        if names := hidden_in(text):
            hidden.append((entry.place, names))
    if doubled:
        more = f" (and {len(doubled) - 5} more)" if len(doubled) > 5 else ""
        raise InputError(f"{path}: {'; '.join(doubled[:5])}{more}; each prompt counts once")
    notes = []
    if trims:
        notes.append(
            f"{path}: white space or invisible characters were removed at the ends of "
            f"{_count(trims)}; first: {trims[0]}"
        )
    if hidden:
        names = list(dict.fromkeys(name for _, found in hidden for name in found))
        more = ", ..." if len(names) > 5 else ""
        notes.append(
            f"{path}: {_count(hidden)} hold characters that are not seen or not what they look "
            f"like, and are kept: {', '.join(names[:5])}{more}; first: {hidden[0][0]}"
        )
    return Prompts(tuple(texts.values()), tuple(notes), places)


def refuse_bad_text(where: str, text: str, what: str) -> str:
    """A text without white space and invisible characters at its ends.

    Args:
        where: the place, for messages.
        text: the text.
        what: it is, for messages: `prompt`.

    Raises:
        InputError: it is empty, too long, or holds what no tokenizer reads.
    """
    text = trimmed(text)
    if not text:
        raise InputError(f"{where}: must be a non-empty text")
    if len(text) > MAX_CHARACTERS:
        raise InputError(
            f"{where}: a {what} of {len(text):,} characters; {MAX_CHARACTERS:,} is the most"
        )
    if "\0" in text:
        raise InputError(f"{where}: holds a NUL character")
    if half := lone_surrogate(text):
        raise InputError(f"{where}: holds {half}, half a character without its other half")
    return text


def by_class(path: str, entries: Sequence[Entry]) -> dict[str, list[Entry]]:
    """Entries apart by the class that stands beside them, as `harmful` and `harmless`.

    Raises:
        InputError: no field that says so, fields that contradict each other, or a class that has
            no prompts.
    """
    shared = set(entries[0].fields) if entries else set()
    for entry in entries:
        shared &= entry.fields.keys()
    usable = [
        name
        for name in (*_LABEL_FIELDS, *_FLAGS)
        if name in shared and all(_class(name, e.fields[name]) is not None for e in entries)
    ]
    if not usable:
        raise InputError(f"{path}: {_why_no_class(entries, shared)}{WANTED}")
    lists: dict[str, list[Entry]] = {"harmful": [], "harmless": []}
    for entry in entries:
        classes = {_class(name, entry.fields[name]) for name in usable}
        if len(classes) > 1:
            said = ", ".join(f"{name} {shown(str(entry.fields[name]))}" for name in usable)
            raise InputError(f"{path}, {entry.place}: fields contradict each other: {said}")
        lists["harmful" if classes == {True} else "harmless"].append(entry)
    for name, found in lists.items():
        if not found:
            raise InputError(f'{path}: no prompt is {name} by field "{usable[0]}"; {WANTED}')
    return lists


def refuse_shared(path: str, lists: Mapping[str, Prompts], one: str, other: str) -> None:
    """Refuse a prompt that is in two lists.

    Raises:
        InputError: there is one; the message names it and its places.
    """
    first, second = lists[one], lists[other]
    for look, place in first.places.items():
        if look in second.places:
            raise InputError(
                f"{path}: {shown(look)} is in both {one} ({place}) and {other} "
                f"({second.places[look]})"
            )


def _class(field: str, value: Any) -> bool | None:
    """Whether a field says harmful; None: it says neither."""
    word = str(value).strip().lower()
    if field in _LABEL_FIELDS:
        return _LABELS.get(word)
    yes = _YES.get(word)
    return None if yes is None else yes == _FLAGS[field]


def _why_no_class(entries: Sequence[Entry], shared: set[str]) -> str:
    """The first value of a label that is no class, for a message."""
    for name in (*_LABEL_FIELDS, *_FLAGS):
        if name in shared:
            for entry in entries:
                if _class(name, entry.fields[name]) is None:
                    value = shown(str(entry.fields[name]))
                    return f'{entry.place}: "{name}" is {value}, not harmful or harmless; '
    return ""


def _doubled(place: str, text: str, before: str, earlier: str) -> str:
    if text == earlier:
        return f"{place} has {shown(text)} twice (before in {before})"
    names = [name for name in hidden_in(text) if name not in hidden_in(earlier)]
    names += [name for name in hidden_in(earlier) if name not in hidden_in(text)]
    how = ", ".join(names) or "places of such characters, or how letters are composed"
    return f"{place} looks like {before}, {shown(text)}, and differs only in {how}"


def _count(places: Sequence[Any]) -> str:
    return "1 prompt" if len(places) == 1 else f"{len(places):,} prompts"
