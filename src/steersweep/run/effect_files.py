"""Effects of edits in a run folder: a file for each, named by all that it rests on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from steersweep.core import typed
from steersweep.core.digests import Damaged
from steersweep.run.condition import content_key
from steersweep.run.effect import Measured
from steersweep.run.folder import RunFolder
from steersweep.run.records import Record

# Part of every key. Raised when a change to this package changes an effect for equal settings.
_VERSION = 1

RestsOn = Mapping[str, Any]


@dataclass(frozen=True)
class Saved:
    """An effect of one edit, as its file holds it.

    Attributes:
        measured: in every variant, the first one first; empty where it could not be measured.
        why: why not; else empty.
        seconds: it took, a share of its batch's.
        file: where it is, in the run folder.
    """

    measured: tuple[Measured, ...]
    why: str
    seconds: float
    file: str


def rests_on(facts: RestsOn, record: Record, unsteered: Record, special_tokens: str) -> RestsOn:
    """All that an effect of a condition's edit depends on, as plain data.

    It is no part of the condition's key, and the other way round: conditions with the same edit
    share it, whatever their answers were judged by or how long they may be.

    Args:
        facts: the effect, and what it is measured on; see `AskedEffects.facts`.
        record: of the condition.
        unsteered: of the same model's unsteered control.
        special_tokens: what a special token becomes that a text spells.
    """
    condition, steering = record.condition, record.steering
    edit = None
    if steering is not None:
        edit = {
            "direction": steering.direction_key,
            "layer": steering.layer_idx,
            "multiplier": steering.multiplier,
            "reference": steering.reference,
            **condition.edit.as_json(),
        }
    return {
        **facts,
        "version": _VERSION,
        "model_fingerprint": condition.model_fingerprint,
        "precision": condition.precision,
        # What template, tokenizer and date make of prompts.
        "rendered": unsteered.condition.test_rendered,
        "special_tokens": special_tokens,
        "answers": unsteered.key,
        "edit": edit,
    }


def saved_effect(store: RunFolder, rests_on: RestsOn) -> Saved | None:
    """What was measured of an effect, or None."""
    path = store.paths.effect(str(rests_on["effect"]), content_key(rests_on))

    def whole(held: dict[str, Any]) -> Saved:
        try:
            if held["rests_on"] != rests_on:
                raise Damaged("holds another effect")
            measured = typed.read(tuple[Measured, ...], held["measured"])
            why, seconds = str(held["why"]), float(held["seconds"])
        except (KeyError, TypeError, ValueError) as error:
            raise Damaged(f"no effect ({type(error).__name__}: {error})") from error
        for one in measured:
            if not len(one.items) == len(one.values) == len(one.weights) > 0:
                raise Damaged(f"{one.name}: not a value for every item")
        return Saved(measured, why, seconds, store.paths.name_of(path))

    return store.read_checked(path, whole)


def save_effect(
    store: RunFolder,
    rests_on: RestsOn,
    measured: Sequence[Measured],
    *,
    seconds: float,
    timestamp: str,
    provenance: Mapping[str, Any],
    why: str = "",
) -> None:
    """Save what was measured of an effect, unless it is there already.

    Args:
        store: the run folder.
        rests_on: see `rests_on`.
        measured: in every variant; empty where it could not be measured.
        seconds: it took.
        timestamp: when it was finished, in UTC.
        provenance: versions and device that it was made with.
        why: why it could not be measured.
    """
    if saved_effect(store, rests_on) is None:
        path = store.paths.effect(str(rests_on["effect"]), content_key(rests_on))
        store.write_once(
            path,
            {
                "rests_on": dict(rests_on),
                "measured": [typed.plain(one) for one in measured],
                "why": why,
                "seconds": seconds,
                "timestamp": timestamp,
                "provenance": dict(provenance),
            },
        )
