"""What a gate's signature is for, and whether it still holds.

A signature is for a phase's decision. Labels of people change what a decision says (rates that they
correct, "provisional"), and must not undo a signature in silence: it holds as long as results are
what they were, and either labels are too, or what follows from them is.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Collection, Mapping
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


def basis(store: RunFolder, phase: str, keys: Collection[str] = ()) -> dict[str, Any]:
    """What a signature for a phase's decision rests on.

    `results` has a hash of the responses of each condition of the phase, null where its file is
    damaged or gone; `failures` is what could not run, `labels` a hash of people's labels of the
    responses, `follows` what was decided, in short texts.

    Args:
        store: the run folder.
        phase: name of the phase.
        keys: of its conditions, where the file that says so is damaged.
    """
    held = store.read_json(store.paths.phase(phase)) or {"conditions": keys}
    decision = store.read_json(store.paths.decision(phase)) or {}
    keys = list(held["conditions"])
    labels = [
        (review.id, review.reviewer, review.label)
        for review in read_reviews(store.root)
        if review.id.split(":")[0] in {*keys}
    ]
    return {
        "results": {key: _responses(store, key) for key in keys},
        "failures": sorted(_failures(decision)),
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

    def holds(entry: Entry) -> bool:
        then = entry.get("basis")
        if not isinstance(then, dict) or not isinstance(then.get("results"), dict):
            return False
        now = basis(store, phase, then["results"])
        if not now["results"]:
            return False
        same = {name for name, value in now.items() if then.get(name) == value}
        labelled = "labels" in same and now["labels"] != _hash([])
        return _same_results(then, now) and (labelled or "follows" in same)

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
    then = last.get("basis")
    if not isinstance(then, dict) or not isinstance(then.get("follows"), dict):
        return f"{who} the evidence has changed"
    now = basis(store, phase)
    changed = _changes(then["follows"], now["follows"])
    if _same_results(then, now):
        labelled = then.get("labels") != now["labels"]
        by_labels = "labels of people have changed what follows"
        what = by_labels if labelled else "the decision has changed"
    elif (before := _count(then)) != _count(now):
        what = f"there are {_count(now)} conditions instead of {before}"
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


def _same_results(then: Mapping[str, Any], now: Mapping[str, Any]) -> bool:
    """Whether responses are what they were, as far as they can be read.

    A damaged file is made again with the same content, and undoes no signature meanwhile.
    """
    before, after = then.get("results"), now["results"]
    if not isinstance(before, dict) or then.get("failures") != now["failures"]:
        return False
    return before.keys() == after.keys() and all(
        found is None or found == before[key] for key, found in after.items()
    )


def _count(held: Mapping[str, Any]) -> int:
    results = held.get("results")
    return len(results) if isinstance(results, dict) else 0


def _responses(store: RunFolder, key: str) -> str | None:
    record = store.get(key)
    if record is None:
        return None
    samples = record.samples
    return _hash([(s.response, s.judgement.quality, s.judgement.refusal) for s in samples])[:16]


def _hash(value: object) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()
