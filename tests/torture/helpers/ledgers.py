"""Whether a ledger counts everything once, and nothing stays reserved that should not."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any


def entries(run: Path) -> list[dict[str, Any]]:
    """Whole lines of `ledger.jsonl`."""
    file = run / "ledger.jsonl"
    found = []
    for line in file.read_bytes().split(b"\n") if file.exists() else ():
        try:
            entry = json.loads(line)
        except ValueError:
            continue
        if isinstance(entry, dict) and "do" in entry:
            found.append(entry)
    return found


def ledger_fault(
    run: Path, undisturbed: Path, *, may_stay_open: int, may_run_again: int = 1
) -> str | None:
    """What is wrong with a ledger after one disturbance, or None.

    Args:
        run: run folder that was disturbed and continued.
        undisturbed: one that was not.
        may_stay_open: reservations that may stay unsettled: one after a kill.
        may_run_again: jobs that may run once more: one for each file that is made again.
    """
    held = entries(run)
    reserved = [entry for entry in held if entry["do"] == "reserve"]
    settled = Counter(entry["id"] for entry in held if entry["do"] == "settle")
    ids = Counter(entry["id"] for entry in reserved)
    if doubled := [name for name, count in ids.items() if count > 1]:
        return f"the ledger gives id {doubled[0]} twice"
    if foreign := [name for name, count in settled.items() if count > 1 or name not in ids]:
        return f"the ledger settles {foreign[0]} twice, or without a reservation"
    if len(still := ids.keys() - settled.keys()) > may_stay_open:
        return f"{len(still)} reservations stay open"
    jobs = Counter((entry["phase"], entry["job"]) for entry in reserved)
    expected = Counter(
        (entry["phase"], entry["job"]) for entry in entries(undisturbed) if entry["do"] == "reserve"
    )
    if missing := expected - jobs:
        return f"the ledger lacks {dict(missing)}"
    if (jobs - expected).total() > may_run_again + may_stay_open:
        return f"jobs were paid again: {dict(jobs - expected)}"
    return None
