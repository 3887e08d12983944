"""The ledger: money is reserved before a job starts and settled after; stops are not passed."""

from __future__ import annotations

import math
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from steersweep.budget.account import PLACE, WHAT_FOLLOWS, Account, wrong
from steersweep.catalog.gpus import LOCAL
from steersweep.core import journal
from steersweep.core.errors import InputError, SteersweepError, setting
from steersweep.core.journal import Entry, Known, Line
from steersweep.run.paths import RunPaths

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
        seconds, usd: it took and cost; None where it has not ended.
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
        # A study of many jobs looks at it several times for each.
        self._known = Known()
        self._last: tuple[list[Line], Account] = ([], Account([]))

    def entries(self) -> list[Entry]:
        """The good lines, in order."""
        return journal.good(self._lines())

    def spent(self, phase: str | None = None) -> float:
        """USD settled, and reserved but not settled, in all or in one phase; at least so much.

        Where `problems` names a reservation that cannot be read, its amount is not in it.
        """
        return self._account(self._lines()).spent(phase)

    def problems(self) -> list[str]:
        """What is wrong with lines of the ledger, what follows, and what a person can do."""
        account = self._account(self._lines())
        return [
            message
            for name, follows in WHAT_FOLLOWS.items()
            for message in journal.messages(self._path, account.bad[name], follows)
        ]

    def jobs(self) -> list[PaidJob]:
        """Each job; damaged lines have no row."""
        account = self._account(self._lines())
        rows = []
        for identity, entry in account.reserved.items():
            ran = account.settled.get(identity, {})
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
                    gpu=(ran or entry).get("gpu", LOCAL),
                )
            )
        return rows

    def timings(self, gpu: str) -> list[tuple[float, float]]:
        """Actual and estimated seconds of settled jobs on a kind of GPU, but of checks."""
        account = self._account(self._lines())
        return [
            (float(ran["seconds"]), float(reserved["seconds"]))
            for identity, ran in account.settled.items()
            for reserved in (account.reserved[identity],)
            if ran.get("whole", False)
            and reserved["phase"] != SMOKE
            and ran.get("gpu", LOCAL) == gpu == reserved.get("gpu", LOCAL)
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
            account = self._account(opened.lines(wrong, self._known))
            self._hold_to(limits, account, phase, job, usd)
            opened.append(entry)
        self._reserved_here[str(entry["id"])] = entry
        return str(entry["id"])

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
            account = self._account(opened.lines(wrong, self._known))
            reserved = account.reserved.get(identity) or self._reserved_here.get(identity)
            if reserved is None or identity in account.settled:
                raise InputError(f"{self._path}: there is no open reservation {identity}")
            # It says all that the reservation said, in case that line is damaged.
            opened.append(entry | {name: reserved[name] for name in PLACE})

    def _lines(self) -> list[Line]:
        return journal.read(self._path, wrong, self._known)

    def _account(self, lines: list[Line]) -> Account:
        """What lines come to; those that are known already are not gone through again."""
        if lines != self._last[0]:
            self._last = lines, Account(lines)
        return self._last[1]

    def _hold_to(self, limits: Limits, account: Account, phase: str, job: str, usd: float) -> None:
        for name, held, stop in (
            ("total", account.spent(), limits.total),
            (phase, account.spent(phase), limits.of(phase)),
        ):
            unknown = account.bad["unknown"]
            if unknown and usd > 0 and stop < math.inf:
                (message,) = journal.messages(self._path, unknown[:1], WHAT_FOLLOWS["unknown"])
                raise BudgetStop(f"{job}: {message}; then the same command goes on")
            if held + usd > stop:
                raise BudgetStop(
                    f"{job}: could cost {usd:.4g} USD, and {held:.4g} of the {name} stop of "
                    f"{stop:.4g} is spent or reserved. Everything finished is kept. "
                    f"{way_out(name)}, or cut with {setting('apply_cuts')}"
                )

    def _must_be_right(self, entry: Entry) -> None:
        if (why := wrong(entry)) is not None:
            raise InputError(f"{self._path}: {entry.get('job', entry['id'])}: {why}")
