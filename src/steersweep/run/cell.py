"""A condition as result files hold it: what was done, how its responses were judged, and they."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from steersweep.core import typed
from steersweep.run.condition import Strength
from steersweep.run.edit_settings import EditSettings
from steersweep.run.judgement import Rates
from steersweep.run.label import Label
from steersweep.run.packed import PackedSamples
from steersweep.run.price import Effects
from steersweep.run.records import Sample, Steering

# What stands for a steering where there is none.
_UNSTEERED = (
    "layer_idx",
    "multiplier",
    "relative_strength",
    "direction_norm",
    "residual_norm",
    "direction_file",
)


@dataclass(frozen=True, kw_only=True)
class Cell:
    """A finished condition of a result.

    Attributes:
        key: of the condition.
        label: what it is.
        layer_pct: share of the depth where steering starts, 0 to 1; None where nothing is steered.
        strength: how strongly it was steered, as asked for; None: not at all.
        edit: what was done with the direction; None: nothing.
        extraction_prompts: id of those that the direction is from, or None.
        rates: how its responses were judged. Repeats of prompts are as the job asks for them.
        fluency_threshold: see `Record`.
        steering: what was added; None for the unsteered control.
        runtime_seconds: the condition's share of its batch's time.
        samples: the responses, in the order of the prompts; none where a reader left them out.
        effects: what steering costs there; None where nothing was measured.
    """

    key: str
    label: Label = field(metadata=typed.named("method"))
    layer_pct: float | None
    strength: Strength | None
    edit: EditSettings | None = None
    extraction_prompts: str | None
    rates: Rates = field(metadata=typed.FLAT)
    fluency_threshold: float | None
    steering: Steering | None = field(default=None, metadata=typed.FLAT)
    runtime_seconds: float
    samples: Sequence[Sample] = field(metadata=typed.ready(PackedSamples))
    effects: Effects | None = None

    @property
    def price(self) -> float | None:
        """What steering costs there: nats per token from the unsteered model; None: not known."""
        return None if self.effects is None else self.effects.price

    @property
    def method(self) -> str:
        """The text of its label."""
        return str(self.label)

    def as_json(self) -> dict[str, Any]:
        """Plain data; the steering's fields are there without one too, as null."""
        found = typed.plain_fields(self)
        first = {name: found.pop(name) for name in ("key", "method", "layer_pct")}
        place = {name: found.pop(name, None) for name in _UNSTEERED}
        return {**first, **place, **found}

    @classmethod
    def from_json(cls, facts: Mapping[str, Any]) -> Cell:
        """What `as_json` gave.

        Raises:
            WrongField: it is no condition.
        """
        return typed.read_fields(cls, _without_empty(facts))


@dataclass(frozen=True)
class AgainstUnsteered:
    """A condition compared with no steering; None where there is no such control.

    Attributes:
        p_vs_unsteered_holm: p that both refuse coherently equally often, corrected for all
            conditions of the method.
        cohens_h_vs_unsteered: size of the difference of the rates.
    """

    p_vs_unsteered_holm: float | None
    cohens_h_vs_unsteered: float | None


@dataclass(frozen=True)
class AgainstDim:
    """A direction compared with DIM's.

    Attributes:
        cosine_to_dim: with DIM's at the same layer of the same sweep; None where it has none there.
    """

    cosine_to_dim: float | None


@dataclass(frozen=True, kw_only=True)
class SteeredCell(Cell):
    """A steered condition of a result, or a random direction's.

    Attributes:
        against_unsteered: None for random directions.
        against_dim: None for DIM itself, for random directions, and where DIM was not swept.
    """

    layer_pct: float
    strength: Strength
    edit: EditSettings = field()  # without the default above
    steering: Steering = field(metadata=typed.FLAT)
    against_unsteered: AgainstUnsteered | None = field(default=None, metadata=typed.FLAT)
    against_dim: AgainstDim | None = field(default=None, metadata=typed.FLAT)

    @classmethod
    def from_json(cls, facts: Mapping[str, Any]) -> SteeredCell:
        """See `Cell`."""
        return typed.read_fields(cls, _without_empty(facts))

    @property
    def layer(self) -> int:
        """Decoder layer where steering starts."""
        return self.steering.layer_idx

    @property
    def cosine_to_dim(self) -> float | None:
        """See `AgainstDim`."""
        return None if self.against_dim is None else self.against_dim.cosine_to_dim


def _without_empty(facts: Mapping[str, Any]) -> dict[str, Any]:
    """A condition's fields, without those that stand for a steering that there is not."""
    return {k: value for k, value in facts.items() if value is not None or k not in _UNSTEERED}
