"""What a gate's signature is for, and whether it still holds.

A signature is for a phase's decision. Labels of people change what a decision says (rates that they
correct, "provisional"), and must not undo a signature in silence: it holds as long as results are
what they were, and either labels are too, or what follows from them is.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Any

from steersweep.core.journal import Entry
from steersweep.core.printing import in_a_line
from steersweep.people import gates
from steersweep.people.reviews import read_reviews
from steersweep.run.folder import RunFolder

# Fields of a decision's rows that say of what a row is, and what follows.
_OF = ("family", "model", "method", "precision", "from", "to")
_FOLLOWS = ("action", "outcome", "shape", "pattern", "preserved", "tier", "layer_idx", "strength")
_SHOWN = 5  # changes, in a message


def basis(store: RunFolder, phase: str) -> dict[str, Any]:
    """What a signature for a phase's decision rests on.

    `results` is a hash of every response of the phase and of what could not run, `conditions` their
    number, `labels` a hash of people's labels of them, `follows` what was decided, in short texts.
    """
    held = store.read_json(store.paths.phase(phase)) or {}
    decision = store.read_json(store.paths.decision(phase)) or {}
    keys = list(held.get("conditions", []))
    labels = [
        (review.id, review.reviewer, review.label)
        for review in read_reviews(store.root)
        if review.id.split(":")[0] in {*keys}
    ]
    return {
        "results": _hash([[_responses(store, key) for key in keys], sorted(_failures(decision))]),
        "conditions": len(keys),
        "labels": _hash(sorted(labels)),
        "follows": what_follows(decision),
    }


def what_follows(decision: Mapping[str, Any]) -> dict[str, str]:
    """What a decision comes to, by what it is about: verdicts, actions and layers, not rates."""
    found = {f"could not run: {name}": "yes" for name in _failures(decision)}
    found |= {f"note: {note}": "yes" for note in decision.get("notes", [])}
    for field, rows in decision.items():
        for row in rows if isinstance(rows, list) else ():
            if not isinstance(row, dict):
                continue
            said = " ".join(f"{name} {row[name]}" for name in _FOLLOWS if name in row)
            if said:
                of = " ".join(str(row[name]) for name in _OF if name in row)
                found[f"{field}: {of}"] = said
    return found


def signature_for(store: RunFolder, phase: str, gate: str) -> Entry | None:
    """The newest signature of a gate that holds for a phase's decision as it is now, or None."""
    now = basis(store, phase)

    def holds(entry: Entry) -> bool:
        then = entry.get("basis")
        if not isinstance(then, dict) or not now["conditions"]:
            return False
        same = {name for name, value in now.items() if then.get(name) == value}
        labelled = "labels" in same and now["labels"] != _hash([])
        return "results" in same and (labelled or "follows" in same)

    return gates.signature_of(store.root, gate, store.paths.decision(phase), holds)


def why_it_waits_again(store: RunFolder, phase: str, gate: str) -> str | None:
    """Of a gate that waits though somebody has signed it: who, and what has changed since."""
    signed = [
        entry
        for entry in gates.signatures(store.root)
        if entry["gate"] == gate and not entry["rejected"]
    ]
    if not signed:
        return None
    last = signed[-1]
    who = f"{in_a_line(last['by'])} signed {gate} at {in_a_line(last['time'])}, but since then"
    then, now = last.get("basis"), basis(store, phase)
    if not isinstance(then, dict) or not isinstance(then.get("follows"), dict):
        return f"{who} the evidence has changed"
    changed = _changes(then["follows"], now["follows"])
    if then.get("results") == now["results"]:
        labelled = then.get("labels") != now["labels"]
        by_labels = "labels of people have changed what follows"
        what = by_labels if labelled else "the decision has changed"
    elif then.get("conditions") != now["conditions"]:
        what = f"there are {now['conditions']} conditions instead of {then.get('conditions')}"
    else:
        what = "results have changed"
    return f"{who} {what}{': ' if changed else ''}{changed}"


def _changes(then: Mapping[str, Any], now: Mapping[str, str]) -> str:
    different = [name for name in {**then, **now} if then.get(name) != now.get(name)]
    said = [
        f"{in_a_line(name)}: {in_a_line(str(then.get(name, 'nothing')))} before, "
        f"{now.get(name, 'nothing')} now"
        for name in different[:_SHOWN]
    ]
    more = len(different) - _SHOWN
    return "; ".join([*said, f"{more} more"] if more > 0 else said)


def _failures(decision: Mapping[str, Any]) -> list[str]:
    return list(decision.get("failures", {}))


def _responses(store: RunFolder, key: str) -> list[Any]:
    record = store.get(key)
    samples = [] if record is None else record.samples
    return [key, [(s.response, s.judgement.quality, s.judgement.refusal) for s in samples]]


def _hash(value: object) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()
