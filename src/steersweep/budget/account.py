"""What the lines of a ledger come to, damaged ones at their worst."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, TypeGuard

from steersweep.core.journal import Entry, Line

_LARGEST = 1e12  # USD or seconds of one job; more is a mistake or damage
_TEXTS = {"reserve": ("id", "phase", "job"), "settle": ("id",)}
_FIELDS = {
    "reserve": {"do", "id", "usd", "phase", "job", "gpu", "moved_from", "seconds", "time"},
    "settle": {"do", "id", "usd", "phase", "job", "gpu", "seconds", "whole", "time"},
}
PLACE = ("phase", "job")
_CUT_AFTER_AMOUNT = re.compile(
    r'\{"do": "reserve", "id": "[^"]*", "usd": ([0-9.e+-]+),(?: "phase": "([^"]*)")?'
)
WHAT_FOLLOWS = {
    "unknown": (
        "What it reserved is not known, so no job that costs money starts under a budget. "
        "Correct the line by hand, without its sha, or remove it if its job never ran"
    ),
    "counted": "It counts at its worst",
    "nothing": "It counts for nothing: its job had not begun",
}


class Account:
    """What the lines of a ledger come to.

    Attributes:
        reserved: the first reservation of each id.
        settled: what counts as its settling, where there is one.
        bad: damaged lines by what follows from them; the keys are those of `WHAT_FOLLOWS`.
    """

    def __init__(self, lines: Sequence[Line]) -> None:
        self.reserved: dict[str, Entry] = {}
        self.settled: dict[str, Entry] = {}
        self.bad: dict[str, list[Line]] = {name: [] for name in WHAT_FOLLOWS}
        self._more: list[tuple[float, str | None]] = []  # amounts without a row, by phase
        self._alone: set[str] = set()  # ids of settlings without a reservation
        for line in lines:
            if not line.damage and line.entry is not None and line.entry["do"] == "reserve":
                self._reserve(line, line.entry)
        for line in lines:
            if not line.damage and line.entry is not None and line.entry["do"] == "settle":
                self._settle(line, line.entry)
        for line in lines:
            if line.damage:
                self._damaged(line)

    def spent(self, phase: str | None = None) -> float:
        """See `Ledger.spent`."""
        rows = [
            (self.settled.get(identity, entry)["usd"], entry["phase"])
            for identity, entry in self.reserved.items()
        ]
        return math.fsum(
            usd for usd, of in [*rows, *self._more] if phase is None or of in (phase, None)
        )

    def _reserve(self, line: Line, entry: Entry) -> None:
        if entry["id"] in self.reserved:
            self._count(line, entry, "its id has been reserved before")
        else:
            self.reserved[entry["id"]] = entry

    def _settle(self, line: Line, entry: Entry) -> None:
        identity = entry["id"]
        if identity not in self.reserved:
            self._alone.add(identity)
            self._count(line, entry, "it settles a reservation that is not there")
            return
        held = self.settled.get(identity)
        if held is not None:
            self._note(line, "its reservation has been settled before; the larger one counts")
        if held is None or entry["usd"] > held["usd"]:
            self.settled[identity] = entry

    def _damaged(self, line: Line) -> None:
        entry = line.entry or {}
        cut = _CUT_AFTER_AMOUNT.match(line.text) if line.is_cut else None
        if line.text.count("{") > 1:  # the line feed between two lines is lost
            self.bad["unknown"].append(line)
        elif _is_of_settling(line.text):
            self.bad["counted"].append(line)  # what it settles stays in full
        elif any(f'"id": "{identity}"' in line.text for identity in self._alone):
            self.bad["counted"].append(line)  # the settling says all
        elif cut is not None and _is_amount(usd := _number(cut[1])):
            self._count(line, {"usd": usd, "phase": cut[2]}, line.damage)
        elif line.is_cut and _is_cut_before_amount(line.text):
            self.bad["nothing"].append(line)
        elif entry.get("do") == "reserve" and _is_amount(entry.get("usd")):
            self._count(line, entry, line.damage)
        else:
            self.bad["unknown"].append(line)

    def _count(self, line: Line, entry: Entry, why: str) -> None:
        """An amount without a row: in its phase, or in every phase where that is not known."""
        phase = entry.get("phase")
        self._more.append((entry["usd"], phase if isinstance(phase, str) and phase else None))
        self._note(line, why)

    def _note(self, line: Line, why: str) -> None:
        self.bad["counted"].append(replace(line, damage=why))


def _is_of_settling(text: str) -> bool:
    """Whether a damaged line was a settling for certain."""
    return text.startswith('{"do": "settle"') or (
        '"whole": ' in text and '"do": "reserve"' not in text
    )


def _is_cut_before_amount(text: str) -> bool:
    if any(head.startswith(text) for head in ('{"do": "reserve", "id": "', '{"do": "settle"')):
        return True
    found = re.match(r'\{"do": "reserve", "id": "[^"]*', text)
    rest, middle = text[found.end() :] if found else "?", '", "usd": '
    return middle.startswith(rest) or (
        rest.startswith(middle) and not rest.removeprefix(middle).strip("0123456789.e+-")
    )


def wrong(entry: Entry) -> str | None:
    """What is wrong with a line of the ledger, or None."""
    kind = entry.get("do")
    if not isinstance(kind, str) or kind not in _TEXTS:
        return "do must be reserve or settle"
    unknown = sorted(entry.keys() - _FIELDS[kind])
    wrong = [f"{name} is no field of it" for name in unknown]
    wrong += [
        f"{name} must be a text"
        for name in (*_TEXTS[kind], "gpu", "time", *PLACE)
        if not isinstance(entry.get(name, ""), str)
        or (name in _TEXTS[kind] and not entry.get(name))
    ]
    wrong += [
        f"{name} must be a number from 0 to {_LARGEST:g}"
        for name in ("usd", "seconds")
        if not _is_amount(entry.get(name))
    ]
    if not isinstance(entry.get("whole", False), bool):
        wrong.append("whole must be true or false")
    return wrong[0] if wrong else None


def _is_amount(value: Any) -> TypeGuard[float]:
    return isinstance(value, int | float) and type(value) is not bool and 0 <= value <= _LARGEST


def _number(text: str) -> float | None:
    try:
        return float(text)
    except ValueError:
        return None
