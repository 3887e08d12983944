"""Decisions a person signs, in `gates.jsonl` of a folder; nothing is ever erased."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

from steersweep.atomic import write_text
from steersweep.errors import InputError


def sign(
    folder: Path,
    gate: str,
    *,
    by: str,
    note: str,
    evidence: Path,
    time: str,
    rejected: bool = False,
) -> dict[str, Any]:
    """Append a signature to the folder's `gates.jsonl`.

    Args:
        folder: run or verification folder.
        gate: what is signed.
        by: who signs.
        note: remark, may be empty.
        evidence: file that was judged; its hash is recorded, so the signature holds for it alone.
        time: UTC time.
        rejected: the person says no.

    Raises:
        InputError: no name.
    """
    if not by.strip():
        raise InputError("--by: give the name of the person who signs")
    signature = {
        "gate": gate,
        "by": by.strip(),
        "note": note,
        "time": time,
        "rejected": rejected,
        "evidence": evidence.name,
        "sha256": _hash(evidence),
    }
    path = folder / "gates.jsonl"
    held = path.read_text("utf-8") if path.exists() else ""
    write_text(path, held + json.dumps(signature, ensure_ascii=False) + "\n")
    return signature


def signature_of(folder: Path, gate: str, evidence: Path) -> dict[str, Any] | None:
    """The newest signature of a gate for exactly this evidence, or None."""
    found = None
    for entry in signatures(folder):
        if entry.get("gate") == gate and entry.get("sha256") == _hash(evidence):
            found = entry
    return found


def signatures(folder: Path) -> list[dict[str, Any]]:
    """Every signature of a folder, oldest first."""
    path = folder / "gates.jsonl"
    if not path.exists():
        return []
    found = []
    for number, line in enumerate(path.read_text("utf-8").splitlines(), 1):
        try:
            found.append(json.loads(line))
        except ValueError as error:
            raise InputError(f"{path}: line {number} is not JSON: {error}") from error
    return found


def _hash(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()
