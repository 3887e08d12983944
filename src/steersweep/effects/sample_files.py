"""Texts that the model did not write, from files: the shipped sample, and the user's own."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from steersweep.core.errors import InputError
from steersweep.core.text_files import read_text
from steersweep.effects.files import (
    ENDINGS,
    MAX_BYTES,
    MAX_ITEMS,
    Item,
    Wanted,
    is_item_file,
    read_items,
    refuse_doubled,
    shipped,
)
from steersweep.effects.texts import DEFAULT_REQUEST, Text, TextSet
from steersweep.prompts.characters import as_seen, trimmed
from steersweep.prompts.records import refuse_other_files

TEXTS = "texts-20"

_PLAIN = (".txt", ".md")
_TEXT_FIELDS = ("text", "output", "content", "completion", "response")
_REQUEST_FIELDS = ("request", "instruction", "prompt")
_WANTED = Wanted(
    "texts",
    _TEXT_FIELDS,
    f'rename the one with the texts to "text" (known: {", ".join(_TEXT_FIELDS)})',
)


def load_texts(name: str) -> TextSet:
    """The shipped texts by name, or a file of the user's.

    Files: plain text (`.txt`, `.md`), where blank lines separate one text from the next; or JSON
    lines, a JSON list, a table with a header or parquet, with a field `text` and maybe a `request`
    that it answers; see docs/effects.md.

    Raises:
        InputError: unknown name, unreadable file, or a text that is empty, too long or given
            twice; names file, line and field.
    """
    if name == TEXTS:
        return TextSet(name, tuple(_text(item) for item in shipped(name)))
    if Path(name).suffix.lower() in _PLAIN:
        items = [*_pieces(name)]
        if not items:
            raise InputError(f"{name}: holds no texts")
    elif is_item_file(name):
        items = read_items(name, _WANTED)
    else:
        endings = ", ".join((*_PLAIN, *ENDINGS))
        raise InputError(f"texts {name}: neither {TEXTS}, nor a file that ends in {endings}")
    texts = [_text(item) for item in items]
    looks = zip((item.place for item in items), (as_seen(text.text) for text in texts), strict=True)
    refuse_doubled(name, "text", looks)
    return TextSet(Path(name).stem, tuple(texts))


def _pieces(path: str) -> Iterator[Item]:
    """Texts between blank lines, each with the line it begins at."""
    text = read_text(path, max_bytes=MAX_BYTES)
    refuse_other_files(path, text, "texts")
    lines: list[str] = []
    count = 0
    for number, line in enumerate([*text.split("\n"), ""], start=1):
        if trimmed(line):
            lines.append(line)
        elif lines:
            count += 1
            if count > MAX_ITEMS:
                raise InputError(f"{path}: more than {MAX_ITEMS:,} texts; use fewer")
            place = f"line {number - len(lines)}"
            yield Item(f"{path}, {place}", place, {"text": "\n".join(lines)})
            lines = []


def _text(item: Item) -> Text:
    names = item.filled(_TEXT_FIELDS)
    if not names:
        raise item.bad(next(n for n in _TEXT_FIELDS if n in item.fields), "is empty")
    text = item.text(names[0], item.fields[names[0]])
    requests = item.filled(_REQUEST_FIELDS)
    for found, what in ((names, "text"), (requests, "request")):
        if len(found) > 1:
            listed = ", ".join(f'"{name}"' for name in found)
            raise InputError(f"{item.where}: the {what} may stand in {listed}; keep one of them")
    if not requests:
        return Text(text, DEFAULT_REQUEST)
    request = item.text(requests[0], item.fields[requests[0]])
    # Alpaca's requests go on in a field of their own.
    more = [item.text("input", item.fields["input"])] if item.filled(["input"]) else []
    return Text(text, "\n\n".join([request, *more]))
