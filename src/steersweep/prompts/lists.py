"""Lists of prompts made from a file's entries: cleaned, each prompt once, apart by class."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from steersweep.core.errors import InputError
from steersweep.core.text_files import lone_surrogate, shown
from steersweep.prompts.characters import as_seen, hidden_in, trimmed
from steersweep.prompts.conversation import Turns
from steersweep.prompts.entries import FLAGS, LABEL_FIELDS, Entry

MAX_CHARACTERS = 2**17  # of a prompt; Python's reader of tables has the same bound
WANTED = (
    'an extraction set is a .json file with lists "harmful" and "harmless", or a .jsonl, .csv or '
    '.tsv file with a "label" beside every prompt that is harmful or harmless'
)
_LABELS = {"harmful": True, "unsafe": True, "harmless": False, "safe": False, "benign": False}
_YES = {"1": True, "true": True, "yes": True, "0": False, "false": False, "no": False}


@dataclass(frozen=True)
class Prompts:
    """A list of prompts.

    Attributes:
        texts: the prompts, in order.
        notes: what was removed from them, which were left out, and what they hold that nobody sees.
        places: by what a prompt looks like, where in the file it stands.
        conversations: the turns of prompts that have several, by their text.
        categories: what prompts are about, by their text, as far as the file says.
    """

    texts: tuple[str, ...]
    notes: tuple[str, ...]
    places: Mapping[str, str]
    conversations: Mapping[str, Turns]
    categories: Mapping[str, str]


def cleaned(path: str, entries: Sequence[Entry]) -> Prompts:
    """Each prompt once, without white space and invisible characters at its ends.

    Raises:
        InputError: no prompts, or one that is empty, too long or no text.
    """
    if not entries:
        raise InputError(f"{path}: must have at least one prompt")
    texts: dict[str, str] = {}
    kept: dict[str, Entry] = {}
    doubled: list[str] = []
    trims: list[str] = []
    hidden: dict[str, list[str]] = {}
    for entry in entries:
        text = refuse_bad_text(f"{path}, {entry.place}", entry.text, "prompt")
        look = as_seen(text)
        if look in kept:
            doubled.append(_doubled(entry.place, text, kept[look].place, texts[look]))
            continue
        texts[look], kept[look] = text, entry
        if text != entry.text:
            trims.append(entry.place)
        if names := hidden_in(text):
            hidden[entry.place] = names
    return Prompts(
        tuple(texts.values()),
        tuple(f"{path}: {note}" for note in _notes([*kept.values()], trims, hidden, doubled)),
        {look: entry.place for look, entry in kept.items()},
        {texts[look]: entry.turns for look, entry in kept.items() if entry.turns},
        {texts[look]: entry.category for look, entry in kept.items() if entry.category},
    )


def _notes(
    kept: Sequence[Entry],
    trims: Sequence[str],
    hidden: Mapping[str, Sequence[str]],
    doubled: Sequence[str],
) -> list[str]:
    """What was done with prompts, and what they hold, as sentences without the file's name."""
    found = []
    if doubled:
        more = f" (and {len(doubled) - 5:,} more)" if len(doubled) > 5 else ""
        found.append(
            f"each prompt counts once, left out {_count(doubled)}: {'; '.join(doubled[:5])}{more}"
        )
    for what in dict.fromkeys(done for entry in kept for done in entry.done):
        places = [entry.place for entry in kept if what in entry.done]
        found.append(f"{_count(places)} {what}; first: {places[0]}")
    if trims:
        found.append(
            f"white space or invisible characters were removed at the ends of {_count(trims)}; "
            f"first: {trims[0]}"
        )
    if hidden:
        names = list(dict.fromkeys(name for names in hidden.values() for name in names))
        more = ", ..." if len(names) > 5 else ""
        found.append(
            f"{_count([*hidden])} hold characters that are not seen or not what they look like, "
            f"and are kept: {', '.join(names[:5])}{more}; first: {next(iter(hidden))}"
        )
    return found


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
        for name in (*LABEL_FIELDS, *FLAGS)
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
    if field in LABEL_FIELDS:
        return _LABELS.get(word)
    yes = _YES.get(word)
    return None if yes is None else yes == FLAGS[field]


def _why_no_class(entries: Sequence[Entry], shared: set[str]) -> str:
    """The first value of a label that is no class, for a message."""
    for name in (*LABEL_FIELDS, *FLAGS):
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
