"""The ledger: money is reserved before a job starts and settled after; stops are not passed."""

from __future__ import annotations

import math
import re
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeGuard

from steersweep.catalog.gpus import LOCAL
from steersweep.core import journal
from steersweep.core.errors import InputError, SteersweepError, setting
from steersweep.core.journal import Entry, Line
from steersweep.run.paths import RunPaths

_LARGEST = 1e12  # USD or seconds of one job; more is a mistake or damage
_TEXTS = {"reserve": ("id", "phase", "job"), "settle": ("id",)}
_FIELDS = {
    "reserve": {"do", "id", "usd", "phase", "job", "gpu", "moved_from", "seconds", "time"},
    "settle": {"do", "id", "usd", "phase", "job", "gpu", "seconds", "whole", "time"},
}
_PLACE = ("phase", "job")
_CUT_AFTER_AMOUNT = re.compile(
    r'\{"do": "reserve", "id": "[^"]*", "usd": ([0-9.e+-]+),(?: "phase": "([^"]*)")?'
)
_WHAT_FOLLOWS = {
    "unknown": (
        "What it reserved is not known, so no job that costs money starts under a budget. "
        "Correct the line by hand, without its sha, or remove it if its job never ran"
    ),
    "counted": "It counts at its worst",
    "nothing": "It counts for nothing: its job had not begun",
}


SMOKE = "smoke"  # in place of a phase, of jobs that check a model and run nothing


class BudgetStop(SteersweepError):
    """A hard stop of the budget was reached."""

    exit_code = 3


def way_out(name: str) -> str:
    """What to raise where a stop is reached: the total's, or that of the phase of that name."""
    if name == "total":
        return f"Raise {setting('budget')} (in the plan: budget.total)"
    return f"Raise {setting('phase_budget')} {name}=USD (in the plan: budget.phases.{name})"


@dataclass(frozen=True)
class Limits:
    """Hard stops in USD: in all, and by phase.

    Raises:
        InputError: a stop that is negative or not a number.
    """

    total: float = math.inf
    phases: Mapping[str, float] | None = None

    def __post_init__(self) -> None:
        for name, stop in {"total": self.total, **(self.phases or {})}.items():
            if not stop >= 0:
                raise InputError(f"budget: {name}: {stop} must be 0 or more USD")

    def of(self, phase: str) -> float:
        """The stop of one phase."""
        return (self.phases or {}).get(phase, math.inf)


@dataclass(frozen=True)
class PaidJob:
    """A job of the ledger: what was expected and reserved, and what it took.

    Attributes:
        id: of the reservation.
        phase: it belongs to.
        job: its name.
        time: when it was reserved, in UTC.
        expected_seconds: by the estimate.
        reserved_usd: for it.
        seconds: it took; None where it has not ended.
        usd: it cost; None where it has not ended.
        whole: whether it ran to its end; false where it was cut short.
        gpu: kind of GPU.
    """

    id: str
    phase: str
    job: str
    time: str
    expected_seconds: float
    reserved_usd: float
    seconds: float | None
    usd: float | None
    whole: bool
    gpu: str


class Ledger:
    """`ledger.jsonl`: appended to, never rewritten.

    A line either reserves (`reserve`: id, usd, phase, job, GPU, estimated seconds, and the GPUs
    that were too small before) or settles a reservation (`settle`: the same id, usd, seconds, and
    the GPU it really ran on). A reservation that a kill left open counts in full.

    A damaged line counts at its worst. The reservation of a damaged settling stays in full. Of two
    settlings of one reservation the larger counts, and a settling without a reservation counts in
    every phase that it may belong to. A reservation whose amount cannot be read stops every job
    that costs money, as long as there is a budget, until a person corrects or removes the line.
    One whose writing was cut before its amount counts for nothing: its job had not begun.
    """

    def __init__(self, folder: Path) -> None:
        self._path = RunPaths(folder).ledger
        self._reserved_here: dict[str, Entry] = {}

    def entries(self) -> list[Entry]:
        """The good lines, in order."""
        return journal.good(journal.read(self._path, _wrong))

    def spent(self, phase: str | None = None) -> float:
        """USD settled, and reserved but not settled, in all or in one phase; at least so much.

        Where `problems` names a reservation that cannot be read, its amount is not in it.
        """
        return _Account(journal.read(self._path, _wrong)).spent(phase)

    def problems(self) -> list[str]:
        """What is wrong with lines of the ledger, what follows, and what a person can do."""
        account = _Account(journal.read(self._path, _wrong))
        return [
            message
            for name, follows in _WHAT_FOLLOWS.items()
            for message in journal.messages(self._path, account.bad[name], follows)
        ]

    def jobs(self) -> list[PaidJob]:
        """Each job; damaged lines have no row."""
        account = _Account(journal.read(self._path, _wrong))
        rows = []
        for identity, entry in account.reserved.items():
            settled = account.settled.get(identity)
            ran = settled or {}
            rows.append(
                PaidJob(
                    id=identity,
                    phase=entry["phase"],
                    job=entry["job"],
                    time=entry.get("time", ""),
                    expected_seconds=entry["seconds"],
                    reserved_usd=entry["usd"],
                    seconds=ran.get("seconds"),
                    usd=ran.get("usd"),
                    whole=ran.get("whole", False),
                    gpu=(settled or entry).get("gpu", LOCAL),
                )
            )
        return rows

    def timings(self, gpu: str) -> list[tuple[float, float]]:
        """Actual and estimated seconds of settled jobs on a kind of GPU, but of checks."""
        account = _Account(journal.read(self._path, _wrong))
        return [
            (float(settled["seconds"]), float(account.reserved[identity]["seconds"]))
            for identity, settled in account.settled.items()
            if settled.get("whole", False)
            and account.reserved[identity]["phase"] != SMOKE
            and settled.get("gpu", LOCAL) == gpu
            and account.reserved[identity].get("gpu", LOCAL) == gpu
        ]

    def reserve(
        self,
        phase: str,
        job: str,
        *,
        usd: float,
        seconds: float,
        limits: Limits,
        time: str,
        gpu: str = LOCAL,
        moved_from: Sequence[str] = (),
    ) -> str:
        """Reserve money for a job; returns the reservation's id.

        Raises:
            BudgetStop: it could pass a stop. Nothing is written then.
            InputError: an amount that is negative, not a number or far too large.
        """
        entry = {
            "do": "reserve",
            "id": uuid.uuid4().hex,
            "usd": usd,
            "phase": phase,
            "job": job,
            "gpu": gpu,
            **({"moved_from": list(moved_from)} if moved_from else {}),
            "seconds": seconds,
            "time": time,
        }
        self._must_be_right(entry)
        with journal.opened(self._path) as opened:
            account = _Account(opened.lines(_wrong))
            self._hold_to(limits, account, phase, job, usd)
            opened.append(entry)
        identity = str(entry["id"])
        self._reserved_here[identity] = entry
        return identity

    def settle(
        self,
        identity: str,
        *,
        usd: float,
        seconds: float,
        whole: bool,
        time: str,
        gpu: str = LOCAL,
    ) -> None:
        """Replace a reservation by what the job took; `whole`: it ran from start to end.

        Raises:
            InputError: an amount that is negative or no number, or no open reservation of that id.
        """
        entry = {
            "do": "settle",
            "id": identity,
            "usd": usd,
            "gpu": gpu,
            "seconds": seconds,
            "whole": whole,
            "time": time,
        }
        self._must_be_right(entry)
        with journal.opened(self._path) as opened:
            account = _Account(opened.lines(_wrong))
            reserved = account.reserved.get(identity) or self._reserved_here.get(identity)
            if reserved is None or identity in account.settled:
                raise InputError(f"{self._path}: there is no open reservation {identity}")
            # It says all that the reservation said, in case that line is damaged.
            opened.append(entry | {name: reserved[name] for name in _PLACE})

    def _hold_to(self, limits: Limits, account: _Account, phase: str, job: str, usd: float) -> None:
        for name, held, stop in (
            ("total", account.spent(), limits.total),
            (phase, account.spent(phase), limits.of(phase)),
        ):
            unknown = account.bad["unknown"]
            if unknown and usd > 0 and stop < math.inf:
                (message,) = journal.messages(self._path, unknown[:1], _WHAT_FOLLOWS["unknown"])
                raise BudgetStop(f"{job}: {message}; then the same command goes on")
            if held + usd > stop:
                raise BudgetStop(
                    f"{job}: could cost {usd:.4g} USD, and {held:.4g} of the {name} stop of "
                    f"{stop:.4g} is spent or reserved. Everything finished is kept. "
                    f"{way_out(name)}, or cut with {setting('apply_cuts')}"
                )

    def _must_be_right(self, entry: Entry) -> None:
        if (why := _wrong(entry)) is not None:
            raise InputError(f"{self._path}: {entry.get('job', entry['id'])}: {why}")


class _Account:
    """What the lines of a ledger come to.

    Attributes:
        reserved: the first reservation of each id.
        settled: what counts as its settling, where there is one.
        bad: damaged lines by what follows from them; the keys are those of `_WHAT_FOLLOWS`.
    """

    def __init__(self, lines: Sequence[Line]) -> None:
        self.reserved: dict[str, Entry] = {}
        self.settled: dict[str, Entry] = {}
        self.bad: dict[str, list[Line]] = {name: [] for name in _WHAT_FOLLOWS}
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


def _wrong(entry: Entry) -> str | None:
    """What is wrong with a line of the ledger, or None."""
    kind = entry.get("do")
    if not isinstance(kind, str) or kind not in _TEXTS:
        return "do must be reserve or settle"
    unknown = sorted(entry.keys() - _FIELDS[kind])
    wrong = [f"{name} is no field of it" for name in unknown]
    wrong += [
        f"{name} must be a text"
        for name in (*_TEXTS[kind], "gpu", "time", *_PLACE)
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
