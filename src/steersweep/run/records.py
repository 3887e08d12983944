"""What a finished condition's record must be: its parts follow from one another."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import fields
from operator import itemgetter
from typing import Any

from steersweep.core.digests import Damaged
from steersweep.core.errors import InputError
from steersweep.judging.judge import Judgement
from steersweep.judging.summary import summarise
from steersweep.run.condition import Condition

_WRONG = (KeyError, TypeError, ValueError, AttributeError, ZeroDivisionError)
_CLOSE = 1e-9  # both sides are computed from the same numbers in the same way


def check_record(record: Any, key: str, prompts: Sequence[str] | None = None) -> None:
    """See that a record is the one of a key, and that its numbers follow from its samples.

    Args:
        record: as read.
        key: of the condition.
        prompts: that it was tested on, in order; None: not known here.

    Raises:
        Damaged: it is not; the message says which part.
    """
    try:
        _check(record, key, prompts)
    except (*_WRONG, InputError) as error:
        raise Damaged(f"no record of a condition ({type(error).__name__}: {error})") from error


def _check(record: Any, key: str, prompts: Sequence[str] | None) -> None:
    condition = Condition.from_json(record["condition"])
    if record["key"] != key or condition.key != key:
        raise Damaged("holds another condition")
    samples, result = record["samples"], record["result"]
    asked = [sample["prompt"] for sample in samples]
    if prompts is not None and asked != list(prompts):
        raise Damaged(f"its {len(asked)} samples are not those of the {len(prompts)} test prompts")
    repeats, rest = divmod(result["n_samples"], len(samples))
    if rest or repeats < 1:
        raise Damaged("n_samples is no multiple of its samples")
    for name, value in summarise(_judgements(samples), repeats).items():
        if not _equal(result[name], value):
            raise Damaged(f"{name} does not follow from its samples")
    _check_steering(condition, result)


def _equal(written: Any, value: Any) -> bool:
    """Equal, but for the last digits of intervals, which another version of scipy may change."""
    if not isinstance(value, list):
        return bool(written == value)
    return len(written) == len(value) and all(map(_close, written, value))


def _close(one: float, other: float) -> bool:
    return math.isclose(one, other, rel_tol=_CLOSE, abs_tol=_CLOSE)


def _judgements(samples: Sequence[Mapping[str, Any]]) -> dict[Judgement, int]:
    """How often each judgement was made, whatever its score."""
    names = tuple(field.name for field in fields(Judgement) if field.name not in ("score", "error"))
    return {
        Judgement(**dict(zip(names, labels, strict=True)), score=0.0): times
        for labels, times in Counter(map(itemgetter(*names), samples)).items()
    }


def _check_steering(condition: Condition, result: Mapping[str, Any]) -> None:
    """Layer, length and relative strength must be what the condition asks for."""
    if condition.strength is None:
        return
    if result["edit"] != condition.edit.as_json():
        raise Damaged("edit is not the condition's")
    if condition.layer not in (None, result["layer_idx"]):
        raise Damaged("layer_idx is not the condition's layer")
    norm = result["residual_norm"]
    multiplier = condition.strength.multiplier(norm)
    for name, value in (("multiplier", multiplier), ("relative_strength", multiplier / norm)):
        if not _close(result[name], value):
            raise Damaged(f"{name} does not follow from the condition")
