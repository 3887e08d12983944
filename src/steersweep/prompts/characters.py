"""Characters that nobody sees: what is done with them at a prompt's ends, inside, between prompts.

At the ends white space and invisible characters are removed. Inside they are kept, and named. Two
prompts that differ in them alone look the same and count as one prompt given twice.
"""

from __future__ import annotations

import re
import unicodedata

# Unicode's "default ignorable" characters, without the variation selectors of emoji and the marks
# of Mongolian, which change what is seen; and the blank of Braille.
_INVISIBLE = (
    "\u00ad\u034f\u061c\u115f\u1160\u17b4\u17b5\u180e\u200b-\u200f\u202a-\u202e\u2060-\u206f"
    "\u2800\u3164\ufeff\uffa0\ufff0-\ufff8\U0001bca0-\U0001bca3\U0001d173-\U0001d17a"
)
# Tags spell the flags of England, Scotland and Wales at an emoji's end; elsewhere they hide text.
_TAGS = "\U000e0000-\U000e0fff"
_CONTROLS = "\x00-\x08\x0e-\x1b\x7f-\x84\x86-\x9f"
_ODD_SPACES = "\x0b\x0c\x0d\x1c-\x1f\x85\u00a0\u1680\u2000-\u200a\u2028\u2029\u202f\u205f"
_REPLACEMENT = "\ufffd"  # what a program wrote where it could not read a character

_HIDDEN = re.compile(f"[{_INVISIBLE}{_TAGS}{_CONTROLS}{_ODD_SPACES}{_REPLACEMENT}]")
_GONE = re.compile(f"[{_INVISIBLE}{_TAGS}{_CONTROLS}]")
_SPACE = re.compile(f"[{_ODD_SPACES}]")
_ENDS = "".join(re.findall(rf"[\s{_INVISIBLE}]", "".join(map(chr, range(0x10000)))))

_NAMES = {"\x07": "BELL", "\x08": "BACKSPACE", "\x0b": "VERTICAL TAB", "\x0c": "FORM FEED"}
_NAMES |= {"\r": "CARRIAGE RETURN", "\x1b": "ESCAPE", "\x85": "NEXT LINE"}
_NAMES |= {"\ufeff": "BYTE ORDER MARK"}


def trimmed(text: str) -> str:
    """`text` without white space and invisible characters at its ends."""
    return text.strip(_ENDS)


def hidden_in(text: str) -> list[str]:
    """Characters in `text` that are not seen or do not look like themselves, each once, by name."""
    if text.isascii() and text.isprintable():
        return []
    return [name_of(character) for character in dict.fromkeys(_HIDDEN.findall(text))]


def as_seen(text: str) -> str:
    """What `text` looks like: equal for two texts that differ only in what nobody sees.

    Invisible characters are left out, odd spaces are spaces, letters are composed (NFC). Never
    used as a prompt.
    """
    if text.isascii() and text.isprintable():
        return text
    return unicodedata.normalize("NFC", _SPACE.sub(" ", _GONE.sub("", text)))


def name_of(character: str) -> str:
    """`U+00A0 NO-BREAK SPACE`."""
    name = _NAMES.get(character) or unicodedata.name(character, "CONTROL CHARACTER")
    return f"U+{ord(character):04X} {name}"
