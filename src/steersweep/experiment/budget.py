"""The ledger: money is reserved before a job starts and settled after; stops are not passed."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from steersweep.atomic import append_line
from steersweep.catalog.gpus import LOCAL
from steersweep.errors import SteersweepError


class BudgetStop(SteersweepError):
    """A hard stop of the budget was reached."""

    exit_code = 3


@dataclass(frozen=True)
class Limits:
    """Hard stops in USD: in all, and by phase."""

    total: float = math.inf
    phases: Mapping[str, float] | None = None

    def of(self, phase: str) -> float:
        """The stop of one phase."""
        return (self.phases or {}).get(phase, math.inf)


class Ledger:
    """`ledger.jsonl`: appended to, never rewritten.

    A line either reserves (`reserve`: id, phase, job, GPU, usd, estimated seconds, and the GPUs
    that were too small before) or settles a reservation (`settle`: id, usd, seconds, and the GPU it
    really ran on). A reservation that a kill left open counts in full. A line that a kill cut
    counts for nothing: a reservation that was cut had not begun its job, and one whose settling was
    cut stays in full.
    """

    def __init__(self, folder: Path) -> None:
        self._path = folder / "ledger.jsonl"

    def entries(self) -> list[dict[str, Any]]:
        """All whole entries, in order."""
        if not self._path.exists():
            return []
        found = []
        for line in self._path.read_text("utf-8", errors="replace").splitlines():
            try:
                entry = json.loads(line)
                if {"do", "id", "usd", "seconds"} <= entry.keys():
                    found.append(entry)
            except (ValueError, AttributeError):
                continue
        return found

    def spent(self, phase: str | None = None) -> float:
        """USD settled, and reserved but not settled, in all or in one phase."""
        by_id: dict[str, dict[str, Any]] = {}
        for entry in self.entries():
            held = by_id.get(entry["id"], {})
            by_id[entry["id"]] = held | entry
        return math.fsum(
            float(entry["usd"])
            for entry in by_id.values()
            if phase is None or entry.get("phase") == phase
        )

    def jobs(self) -> list[dict[str, Any]]:
        """Each job: what was expected and reserved, and what it took; None where it has not ended.

        A job that was cut short has `whole` false.
        """
        rows: dict[str, dict[str, Any]] = {}
        for entry in self.entries():
            row = rows.setdefault(entry["id"], {})
            if entry["do"] == "reserve":
                row |= {name: entry[name] for name in ("id", "phase", "job", "time")}
                row |= {"expected_seconds": entry["seconds"], "reserved_usd": entry["usd"]}
                row |= {
                    "seconds": None,
                    "usd": None,
                    "whole": False,
                    "gpu": entry.get("gpu", LOCAL),
                }
            else:
                row |= {"seconds": entry["seconds"], "usd": entry["usd"]}
                row |= {"whole": entry.get("whole", False), "gpu": entry.get("gpu", LOCAL)}
        return [*rows.values()]

    def timings(self, gpu: str) -> list[tuple[float, float]]:
        """Actual and estimated seconds of settled jobs on a kind of GPU."""
        estimated = {
            e["id"]: e["seconds"]
            for e in self.entries()
            if e["do"] == "reserve" and e.get("gpu", LOCAL) == gpu
        }
        return [
            (float(e["seconds"]), float(estimated[e["id"]]))
            for e in self.entries()
            if e["do"] == "settle"
            and e["id"] in estimated
            and e.get("whole", False)
            and e.get("gpu", LOCAL) == gpu
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
        """
        for name, held, stop in (
            ("total", self.spent(), limits.total),
            (phase, self.spent(phase), limits.of(phase)),
        ):
            if held + usd > stop:
                raise BudgetStop(
                    f"{job}: could cost {usd:.4g} USD, and {held:.4g} of the {name} stop of "
                    f"{stop:.4g} is spent or reserved. Everything finished is kept. Raise the "
                    f"budget with --budget, or cut with --apply-cuts"
                )
        identity = f"{len(self.entries()) + 1}"
        self._append(
            {
                "do": "reserve",
                "id": identity,
                "phase": phase,
                "job": job,
                "gpu": gpu,
                **({"moved_from": list(moved_from)} if moved_from else {}),
                "usd": usd,
                "seconds": seconds,
                "time": time,
            }
        )
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
        """Replace a reservation by what the job took; `whole`: it ran from start to end."""
        self._append(
            {
                "do": "settle",
                "id": identity,
                "gpu": gpu,
                "usd": usd,
                "seconds": seconds,
                "whole": whole,
                "time": time,
            }
        )

    def _append(self, entry: dict[str, Any]) -> None:
        append_line(self._path, json.dumps(entry, allow_nan=False))
