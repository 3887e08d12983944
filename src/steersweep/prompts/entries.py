"""Prompts from the rows of a file: which field holds the prompt, and what else belongs to it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from steersweep.core.errors import InputError
from steersweep.core.text_files import parse_json, shown
from steersweep.prompts.characters import trimmed
from steersweep.prompts.conversation import ANSWERED, Turns, is_message, read_turns, transcript

MAX_PROMPTS = 100_000
# Names of the field or column that holds the prompt; the last three are of AdvBench and
# JailbreakBench, of HarmBench, and of StrongREJECT.
PROMPT_FIELDS: tuple[str, ...] = (
    *("prompt", "instruction", "question", "text", "query", "request"),
    *("goal", "behavior", "forbidden_prompt"),
)
_CONVERSATIONS = ("messages", "conversation", "conversations", "turns")
# Texts that belong to the prompt beside them: those that go before it as HarmBench writes it, and
# the one that follows as in Alpaca.
_BEFORE = ("contextstring", "context")
_AFTER = "input"
_IMAGES = ("image", "images", "imagefilename")
# What says what a prompt is about: of HarmBench, XSTest, Do-Not-Answer, SimpleSafetyTests, ...
_CATEGORIES = (
    *("category", "semanticcategory", "type", "risk_area", "harm_area", "harm_category"),
    *("content_policy_name", "topic", "subcategory", "functionalcategory"),
)
LABEL_FIELDS = ("label", "type", "class", "kind", "category")
# Fields whose name says what yes means; whether it means harmful.
FLAGS = {"harmful": True, "unsafe": True, "harmless": False, "safe": False}
FLAGS |= {f"is_{name}": harmful for name, harmful in FLAGS.items()}
READ_FIELDS = frozenset(
    (*PROMPT_FIELDS, *_CONVERSATIONS, *_BEFORE, _AFTER, *_IMAGES, *_CATEGORIES, *LABEL_FIELDS)
) | frozenset(FLAGS)
_RENAME = (
    f'rename the one with the prompts to "prompt", or name it after the file, as FILE:NAME (known: '
    f"{', '.join(PROMPT_FIELDS)})"
)


@dataclass(frozen=True)
class Entry:
    """One prompt of a file.

    Attributes:
        place: where it stands, for messages: `line 3`, `"prompts" item 3`.
        text: the prompt as the file has it; of several turns, their transcript.
        fields: what else stands beside it, by name in lower case (columns of a table).
        field: which of these holds it; empty where the prompt stands alone.
        turns: of a conversation; empty where the text is the user's one turn.
        done: what was done to make it of what the file has, as the rest of a sentence about
            several prompts.
    """

    place: str
    text: str
    fields: Mapping[str, Any]
    field: str = ""
    turns: Turns = ()
    done: tuple[str, ...] = ()

    @property
    def category(self) -> str | None:
        """What the prompt is about, as the file says; None where it does not."""
        for name in _CATEGORIES:
            value = self.fields.get(name)
            if name != self.field and isinstance(value, str) and trimmed(value):
                return trimmed(value)
        return None


def entries_of(
    path: str, values: Sequence[Any], place: Callable[[int], str], column: str | None = None
) -> list[Entry]:
    """Prompts from JSON values: texts, conversations, or objects with a prompt among their fields.

    Args:
        path: of the file, for messages.
        values: what it holds.
        place: names a value by its index.
        column: the field that holds the prompt; None: one of those that are known.

    Raises:
        InputError: a value is neither, or two have their prompts in different fields.
    """
    return collect(path, (entry(path, place(i), v, column) for i, v in enumerate(values)))


def collect(path: str, entries: Iterable[Entry]) -> list[Entry]:
    """A list of entries that have their prompts in the same field.

    Raises:
        InputError: two have not, or there are too many.
    """
    found: list[Entry] = []
    first: Entry | None = None  # that has a field
    for one in entries:
        if one.field and first is None:
            first = one
        if one.field and first is not None and one.field != first.field:
            raise InputError(
                f'{path}, {one.place}: the prompt stands in field "{one.field}", but at '
                f'{first.place} in "{first.field}"; give all the same field'
            )
        if len(found) == MAX_PROMPTS:
            raise InputError(f"{path}: more than {MAX_PROMPTS:,} prompts; use fewer")
        found.append(one)
    return found


def entry(path: str, place: str, value: Any, column: str | None = None) -> Entry:
    """The prompt that a JSON value is or holds; see `entries_of`.

    Raises:
        InputError: it holds none.
    """
    where = f"{path}, {place}"
    if isinstance(value, dict):
        fields = {name.lower(): item for name, item in value.items()}
        if len(fields) < len(value):
            raise InputError(f"{where}: two fields differ in upper and lower case only")
        return of_fields(path, place, fields, field_of(where, list(fields), "field", column))
    if column is not None:
        raise InputError(f'{where}: has no field "{column}", since it is no object with fields')
    if isinstance(value, list) and value and all(map(is_message, value)):
        return _conversation(place, where, value, {}, "")
    if not isinstance(value, str):
        raise InputError(f"{where}: must be a non-empty text, or an object with one")
    return Entry(place, value, {})


def of_fields(path: str, place: str, fields: Mapping[str, Any], name: str) -> Entry:
    """The prompt of a row, by its fields and the name of the one that holds it.

    Raises:
        InputError: that field holds none, or the prompt is about an image.
    """
    where = f"{path}, {place}"
    kept = {key: value for key, value in fields.items() if key in READ_FIELDS or key == name}
    for image in _IMAGES:
        if kept.get(image) and image != name:
            raise InputError(
                f'{where}: "{image}" is filled, so "{name}" is not the whole prompt; leave this '
                f"entry out"
            )
    text = fields[name]
    if name in _CONVERSATIONS and isinstance(text, str):
        try:
            text = parse_json(text)
        except ValueError as error:
            raise InputError(
                f'{where}: field "{name}" must be a list, or hold one as JSON: {error}'
            ) from error
    if isinstance(text, list) or name in _CONVERSATIONS:
        return _conversation(place, f'{where}: field "{name}"', text, kept, name)
    if text is None:
        text = ""
    if not isinstance(text, str):
        raise InputError(f'{where}: field "{name}" must be a text')
    whole, done = text, []
    for other in (*_BEFORE, _AFTER):
        more = fields.get(other)
        if other == name or not isinstance(more, str) or not (more := trimmed(more)):
            continue
        if not trimmed(text):
            break
        if other == _AFTER:
            whole = f"{trimmed(whole)}\n\n{more}"
            done.append(f'have more text in "{other}", which now follows them')
        else:
            whole = f"{more}\n\n---\n\n{trimmed(whole)}"
            done.append(f'rest on a text in "{other}", which now stands before them')
    return Entry(place, whole, kept, name, done=tuple(done))


def field_of(where: str, names: Sequence[str], what: str, column: str | None = None) -> str:
    """Which of the names, in lower case, holds the prompt; `what` they are: field or column.

    "prompt" goes before all others, and "goal" before "behavior": in JailbreakBench the first is
    the request and the second a word for it.

    Raises:
        InputError: none does, or more than one may.
    """
    if column is not None and column.lower() in names:
        return column.lower()
    known = [name for name in names if name in PROMPT_FIELDS]
    if "prompt" in known:
        known = ["prompt"]
    elif "goal" in known and "behavior" in known:
        known.remove("behavior")
    elif not known or "messages" in names:
        known = [name for name in names if name in _CONVERSATIONS]
    if len(known) == 1 and column is None:
        return known[0]
    found = ", ".join(shown(name, 40) for name in names[:12]) + (" ..." if len(names) > 12 else "")
    if column is not None:
        raise InputError(f"{where}: no {what} {shown(column, 40)} among {found or 'none'}")
    problem = "no {}s with prompts among" if not known else "more than one {} with prompts among"
    raise InputError(f"{where}: {problem.format(what)} {found or 'none'}; {_RENAME}")


def _conversation(
    place: str, where: str, messages: Any, fields: Mapping[str, Any], name: str
) -> Entry:
    turns, answers = read_turns(where, messages)
    done = (ANSWERED,) if answers else ()
    if len(turns) == 1:
        return Entry(place, turns[0].content, fields, name, done=done)
    return Entry(place, transcript(turns), fields, name, turns, done)
