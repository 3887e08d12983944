"""Text from outside (models, people, templates, servers) made safe to print, write and name by."""

from __future__ import annotations

import hashlib
import re
import unicodedata

_SUSPECT = re.compile(r"[^\x20-\x7e\n\t]")
_JOINERS = "\u200c\u200d"  # Persian, Indic scripts and emoji are written with them
_LONGEST_NAME = 80  # bytes
_RESERVED = re.compile(r"(?i)(?:con|prn|aux|nul|com\d|lpt\d)(?:\..*)?")  # devices on Windows
_MARKDOWN = re.compile(r"[\\`*>|&~]|(?<!\w)_|_(?!\w)|(?<=\])[(\[:]")


def printable(text: str) -> str:
    r"""`text` with every character escaped that commands a terminal or hides or reorders others.

    Control characters, bidirectional overrides, invisible characters, lone surrogates, private and
    unassigned characters become `\x1b`, `\u202e` and so on. Line feeds and tabs stay. A text that
    is escaped already stays as it is.
    """
    return _SUSPECT.sub(lambda found: _shown(found[0]), text)


def in_a_line(text: str) -> str:
    """As `printable`, in one line: for names, notes and reasons within our own sentences."""
    return printable(text).replace("\n", "\\n").replace("\t", " ")


def first_line(error: object) -> str:
    """The first line of an error's message; the name of its type where there is none."""
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__


def markdown(text: str) -> str:
    """Text as Markdown shows it: no markup, HTML or table cell of its own."""
    return _MARKDOWN.sub(r"\\\g<0>", in_a_line(text)).replace("<", "&lt;")


def safe_name(text: str) -> str:
    """A file name for something that is called `text`, whatever it is called.

    Letters, digits, `-`, `_`, `.` and `@` stay. A name that must change, or that a system would
    refuse or take for another, gets a hash of the whole text, so that different texts have
    different names. The result is no path, not hidden, and at most 80 bytes long.
    """
    name = "".join(c if c.isalnum() or c in "-_.@" else "-" for c in text)
    name = name.encode("utf-8", "replace")[:_LONGEST_NAME].decode("utf-8", "ignore").strip(".- ")
    if name == text and name and not _RESERVED.fullmatch(name):
        return name
    digest = hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:8]
    kept = name[: _LONGEST_NAME // 4].replace(".", "-")
    return f"{kept}-{digest}" if kept else digest


def _shown(character: str) -> str:
    if character.isprintable() or character in _JOINERS or unicodedata.category(character) == "Zs":
        return character
    code = ord(character)
    if code < 0x100:
        return f"\\x{code:02x}"
    return f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"
