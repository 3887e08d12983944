"""Bounds of settings, and reading them: what is outside is refused by the setting's name.

The same bounds stand in `plans/plan.schema.json`.
"""

from __future__ import annotations

import re

from steersweep.core.errors import InputError
from steersweep.core.text_files import shown

MAX_NEW_TOKENS = 100_000
MAX_ROWS = 100_000
MAX_SEED = 2**32 - 1
MAX_MULTIPLIER = 1e6
MAX_STRENGTH = 1e3
_NUMBER = re.compile(r"[-+]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][-+]?[0-9]{1,4})?")


def whole_number(setting: str, value: object, lowest: int, highest: int) -> int:
    """`value`, an int from `lowest` to `highest`.

    Raises:
        InputError: another type (10.0 and True are no whole numbers), or outside.
    """
    if isinstance(value, bool) or not isinstance(value, int):
        raise InputError(f"{setting} {shown(str(value))[1:-1]}: must be a whole number")
    if value < lowest:
        raise InputError(f"{setting} {_short(value)}: must be at least {lowest}")
    if value > highest:
        raise InputError(f"{setting} {_short(value)}: must be at most {highest:,}")
    return value


def positive_number(setting: str, text: str, highest: float) -> float:
    """The number that a text says in decimal digits, above 0 and at most `highest`.

    Raises:
        InputError: no number, or outside.
    """
    text = text.strip()
    if text.lower().lstrip("+-") in ("nan", "inf", "infinity"):
        raise InputError(f"{setting} {text}: must be a finite number above 0")
    if not _NUMBER.fullmatch(text):
        raise InputError(f"{setting} {shown(text)}: not a number in decimal digits")
    number = float(text)
    if number <= 0:
        raise InputError(f"{setting} {shown(text)[1:-1]}: must be a finite number above 0")
    if number > highest:
        raise InputError(f"{setting} {shown(text)[1:-1]}: must be at most {highest:,.0f}")
    return number


def _short(value: int) -> str:
    return str(value) if abs(value) < 10**30 else "of more than 30 digits"
