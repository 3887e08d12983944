"""A finished condition as its file holds it: read once, and its parts follow from one another."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from pathlib import PurePosixPath
from typing import Any, Literal

from steersweep.core import typed
from steersweep.core.digests import Damaged
from steersweep.core.errors import InputError
from steersweep.run.condition import Condition
from steersweep.run.judgement import Judgement, Rates, rates_of

_WRONG = (KeyError, TypeError, ValueError, AttributeError, ZeroDivisionError, InputError)
_CLOSE = 1e-9  # both sides are computed from the same numbers in the same way


@dataclass(frozen=True)
class Sample:
    """A judged response.

    Attributes:
        prompt: the user's text; of several turns, their transcript.
        response: the whole text of the answer.
        judgement: what a judge made of it.
        finish_reason: `eos`: the model ended it; `length`: cut at `max_new_tokens`; `loop`: ended
            where it was stuck (`stop_loops`).
        nll: mean negative log-likelihood under the unsteered model, in nats per token, of those
            tokens that were looked at; None where the text alone decides.
        nll_worst: the same of their worst stretch.
        n_tokens: tokens of the response.
        repeat: of sampled answers to a prompt, which one, from 0.
        asked: of a prompt of several turns, its last one, which is judged; else empty.
    """

    prompt: str
    response: str
    judgement: Judgement = field(metadata=typed.FLAT)
    finish_reason: Literal["eos", "length", "loop"]
    nll: float | None
    nll_worst: float | None
    n_tokens: int
    asked: str = ""
    repeat: int = 0

    @property
    def question(self) -> str:
        """What a judge takes for the prompt: its last user turn."""
        return self.asked or self.prompt


@dataclass(frozen=True)
class Steering:
    """What was added to the residual stream, and where.

    Attributes:
        layer_idx: decoder layer where steering starts.
        position: prompt position that the direction was read at; -1 is the last token; None where a
            file with a direction does not say.
        site: where the direction was read: `resid_post`, a layer's output, or `resid_pre`, its
            input.
        multiplier: length of the addition, in units of the residual stream.
        relative_strength: that length over `residual_norm`.
        direction_norm: length of the direction before normalising, in the same units.
        residual_norm: mean length of the residual stream at that layer, in the same units.
        direction_file: of the direction, in the run folder.
        reference: of affine edits: the component of harmless prompts that is put back, in units of
            the residual stream; else None.
    """

    layer_idx: int
    position: int | None
    site: str
    multiplier: float
    relative_strength: float
    direction_norm: float
    residual_norm: float
    direction_file: str
    reference: float | None = None

    @property
    def direction_key(self) -> str:
        """Content key of the direction, which its file is named by."""
        return PurePosixPath(self.direction_file).stem


@dataclass(frozen=True)
class Record:
    """A finished condition.

    Attributes:
        condition: what was asked.
        rates: how its responses were judged.
        steering: what was added; None for the unsteered control.
        samples: the responses, in the order of the prompts.
        fluency_threshold: NLL of a worst stretch from which this model's text counts as broken, in
            nats per token; None: no text does.
        extraction_seconds: how long the method took to find its directions; None where it found
            none for this condition.
        runtime_seconds: the condition's share of its batch's time.
        timestamp: when it was finished, in UTC.
        provenance: versions, device and settings that it was made with.
    """

    condition: Condition
    rates: Rates
    steering: Steering | None
    samples: Sequence[Sample]
    fluency_threshold: float | None
    extraction_seconds: float | None
    runtime_seconds: float
    timestamp: str
    provenance: Mapping[str, Any]

    @property
    def key(self) -> str:
        """The condition's key, which names the record's file."""
        return self.condition.key

    def result(self) -> dict[str, Any]:
        """Rates and steering as plain data, as files hold them."""
        spent = self.extraction_seconds
        return {
            **typed.plain_fields(self.rates),
            "fluency_threshold": self.fluency_threshold,
            **({} if spent is None else {"extraction_seconds": spent}),
            **({} if self.steering is None else typed.plain_fields(self.steering)),
        }

    def as_json(self) -> dict[str, Any]:
        """Plain data, as its file holds it."""
        return {
            "key": self.key,
            "condition": self.condition.as_json(),
            "result": self.result(),
            "samples": [typed.plain_fields(sample) for sample in self.samples],
            "runtime_seconds": self.runtime_seconds,
            "timestamp": self.timestamp,
            "provenance": dict(self.provenance),
        }

    @classmethod
    def from_json(cls, facts: Any, key: str, prompts: Sequence[str] | None = None) -> Record:
        """The record of a key, whose numbers follow from its samples.

        Args:
            facts: what `as_json` gave, as read.
            key: of the condition.
            prompts: that it was tested on, in order; None: not known here.

        Raises:
            Damaged: it is not; the message says which part.
        """
        try:
            record = _read(facts)
            if facts["key"] != key:
                raise Damaged("holds another condition")
            _check(record, key, prompts)
        except _WRONG as error:
            raise Damaged(f"no record of a condition ({type(error).__name__}: {error})") from error
        return record


def _read(facts: Mapping[str, Any]) -> Record:
    result = dict(facts["result"])
    rates = {f.name: result.pop(f.name) for f in fields(Rates) if f.name in result}
    threshold = result.pop("fluency_threshold")
    spent = result.pop("extraction_seconds", None)
    return Record(
        condition=Condition.from_json(facts["condition"]),
        rates=typed.read(Rates, rates),
        steering=typed.read(Steering, result) if result else None,
        samples=typed.read(tuple[Sample, ...], facts["samples"]),
        fluency_threshold=threshold,
        extraction_seconds=spent,
        runtime_seconds=facts["runtime_seconds"],
        timestamp=facts["timestamp"],
        provenance=facts["provenance"],
    )


def _check(record: Record, key: str, prompts: Sequence[str] | None) -> None:
    if record.key != key:
        raise Damaged("holds another condition")
    asked = [sample.prompt for sample in record.samples]
    if prompts is not None and asked != list(prompts):
        raise Damaged(f"its {len(asked)} samples are not those of the {len(prompts)} test prompts")
    repeats, rest = divmod(record.rates.n_samples, len(record.samples))
    if rest or repeats < 1:
        raise Damaged("n_samples is no multiple of its samples")
    each = record.condition.decoding.repeats
    if len(record.samples) % each:
        raise Damaged(f"its {len(record.samples)} samples are not {each} of each prompt")
    follow = rates_of([sample.judgement for sample in record.samples], repeats, each=each)
    for name in (rate.name for rate in fields(Rates)):
        if not _equal(getattr(record.rates, name), getattr(follow, name)):
            raise Damaged(f"{name} does not follow from its samples")
    _check_steering(record)


def _equal(written: Any, value: Any) -> bool:
    """Equal, but for the last digits of intervals, which another version of scipy may change."""
    if not isinstance(value, tuple):
        return bool(written == value)
    return all(map(_close, written, value))


def _close(one: float, other: float) -> bool:
    return math.isclose(one, other, rel_tol=_CLOSE, abs_tol=_CLOSE)


def _check_steering(record: Record) -> None:
    """Layer, length and relative strength must be what the condition asks for."""
    condition, steering = record.condition, record.steering
    if (condition.strength is None) != (steering is None):
        raise Damaged("is steered, or is not, against what the condition asks for")
    if condition.strength is None or steering is None:
        return
    if condition.layer not in (None, steering.layer_idx):
        raise Damaged("layer_idx is not the condition's layer")
    norm = steering.residual_norm
    multiplier = condition.strength.multiplier(norm)
    for name, value in (("multiplier", multiplier), ("relative_strength", multiplier / norm)):
        if not _close(getattr(steering, name), value):
            raise Damaged(f"{name} does not follow from the condition")
