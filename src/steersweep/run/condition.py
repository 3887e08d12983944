"""A condition: one cell of a sweep, and the key that identifies its result."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, fields
from fractions import Fraction
from functools import cached_property
from typing import Any, Literal

from steersweep.core.errors import InputError
from steersweep.core.text_files import shown
from steersweep.run.decoding_settings import GREEDY, DecodingSettings
from steersweep.run.edit_settings import STANDARD, EditSettings
from steersweep.run.label import Label

# Part of every key. Raised when a change to this package changes results for equal settings.
RESULT_VERSION = 3

MAX_CONDITIONS = 100_000  # of a sweep, or of one phase of a study

_LAYER = re.compile(r"[0-9]{1,9}|[0-9]{0,9}\.[0-9]{1,18}|[0-9]{1,9}/[0-9]{1,9}")
_encode = json.JSONEncoder(sort_keys=True, ensure_ascii=True, allow_nan=False).encode
# Fields of a condition that say what things are called, and how they were asked for.
_NAMES = ("model_id", "layer_pct", "extraction_prompts", "test_prompts")


@dataclass(frozen=True)
class LayerChoice:
    """A layer as the user names it: an index (`25`) or a share of the depth (`0.6`, `2/3`).

    Raises:
        InputError: neither.
    """

    text: str

    def __post_init__(self) -> None:
        """Refuse what is no layer, before a model is loaded."""
        if not _LAYER.fullmatch(self.text) or re.search(r"/0+$", self.text):
            raise InputError(
                f"layer {shown(self.text)}: give a share of the depth like 0.6 or an index like 25"
            )

    @property
    def is_share(self) -> bool:
        """Whether it is a share of the depth, and no index."""
        return "." in self.text or "/" in self.text

    def index(self, n_layers: int) -> int:
        """Decoder layer: the index itself, or floor(share * n_layers).

        Exact arithmetic: as floats, 0.29 * 100 is below 29.

        Raises:
            InputError: outside the model.
        """
        value = Fraction(self.text)
        layer = int(value * n_layers) if self.is_share else int(value)
        if layer >= n_layers:
            raise InputError(
                f"layer {self.text}: the model has {n_layers} layers, so use an index from 0 to "
                f"{n_layers - 1} or a share from 0.0 to below 1.0"
            )
        return layer

    def share(self, n_layers: int) -> float:
        """Depth as a share of the layers, as asked for or as the index gives it."""
        if self.is_share:
            return float(Fraction(self.text))
        return round(int(self.text) / n_layers, 4)


@dataclass(frozen=True, order=True)
class Strength:
    """How strongly to steer.

    Attributes:
        unit: `multiplier` (length of the addition) or `relative` (that length over the mean length
            of the residual stream at the start layer; comparable between models). `removed`: the
            component along the direction is taken out, all of it; then the value is 1.
        value: in that unit.
    """

    unit: Literal["multiplier", "relative", "removed"]
    value: float

    def multiplier(self, residual_norm: float) -> float:
        """Length of the addition where the residual stream is `residual_norm` long."""
        if self.unit == "removed":
            return 0.0
        return self.value if self.unit == "multiplier" else self.value * residual_norm

    def __str__(self) -> str:
        if self.unit == "removed":
            return self.unit
        return f"{self.value:g}x" if self.unit == "multiplier" else f"{self.value:g} rel"


REMOVED = Strength("removed", 1.0)


@dataclass(frozen=True)
class Condition:
    """One cell, and what its result rests on. Conditions with equal keys have equal results.

    The key holds contents; names are for readers (`model_id`, `layer_pct`, `extraction_prompts`,
    `test_prompts`: the same model or prompts may be called otherwise, or be asked for repeats).
    `test_rendered` and `extraction_rendered` are hashes of the prompts' texts and token ids: what
    template, tokenizer, date and settings make of them.

    `label`, `layer`, `layer_pct` and `strength` describe the steering; for the unsteered control
    the last three are None. Where a method chooses the layer itself, layer and share are None.

    `direction` is the content key of a direction found elsewhere, by the label's `source`; None
    where the method finds its own.

    `edit` is what is done with the direction, and where; as by default for the unsteered control.
    `decoding` is how answers are decoded.

    `method_code` is a hash of the code of a method that is a user's own; None for the methods that
    come with the package, whose changes `RESULT_VERSION` stands for.
    """

    model_id: str
    model_fingerprint: str
    precision: str
    label: Label
    layer: int | None
    layer_pct: float | None
    strength: Strength | None
    extraction_prompts: str | None
    test_prompts: str
    max_new_tokens: int
    judge: str
    seed: int
    test_rendered: str
    extraction_rendered: str | None = None
    direction: str | None = None
    method_code: str | None = None
    edit: EditSettings = STANDARD
    decoding: DecodingSettings = GREEDY

    @cached_property
    def key(self) -> str:
        """Content hash, 24 hexadecimal digits; names the condition's file."""
        facts = self.as_json()
        for name in _NAMES:
            del facts[name]
        if self.direction is not None:  # whoever found it, and whatever they are called
            facts["method"] = "borrowed"
        if self.method_code is None:
            del facts["method_code"]
        if self.edit == STANDARD:
            del facts["edit"]
        if self.decoding == GREEDY:
            del facts["decoding"]
        if self.strength is not None:
            facts["strength"]["value"] = float(self.strength.value)
        return content_key({**facts, "result_version": RESULT_VERSION})

    def __post_init__(self) -> None:
        """See that label and direction agree, and that what is removed has no other strength."""
        if self.strength is not None and (self.edit.operation == "remove") != (
            self.strength == REMOVED
        ):
            raise ValueError(f"{self.edit.operation} and strength {self.strength} do not match")
        if (self.label.source is None) != (self.direction is None):
            raise ValueError(f"{self.label} and direction {self.direction} do not go together")

    def as_json(self) -> dict[str, Any]:
        """Plain data, as records hold it: every field, the label's text as `method`."""
        # Field by field: `asdict` copies everything, and sweeps have 10,000 of them.
        facts = {"method" if name == "label" else name: getattr(self, name) for name in _FIELDS}
        strength = self.strength
        return {
            **facts,
            "method": str(self.label),
            "strength": strength and {"unit": strength.unit, "value": strength.value},
            "edit": self.edit.as_json(),
            "decoding": self.decoding.as_json(),
        }

    @classmethod
    def from_json(cls, facts: Mapping[str, Any]) -> Condition:
        """The condition that `as_json` gave.

        Raises:
            KeyError, TypeError, ValueError, InputError: these are no facts of a condition.
        """
        rest = {name: value for name, value in facts.items() if name != "method"}
        strength = None if rest["strength"] is None else Strength(**rest["strength"])
        rest |= {"strength": strength, "edit": EditSettings.read(rest["edit"])}
        rest["decoding"] = DecodingSettings.read(rest["decoding"])
        return cls(**rest, label=Label.parse(facts["method"]))

    @property
    def is_control(self) -> bool:
        """Whether this is the unsteered or the random-direction control."""
        return self.label.is_control

    def __str__(self) -> str:
        if self.label.role == "unsteered":
            return "unsteered"
        where = "" if self.layer is None else f" layer {self.layer}"
        return f"{self.label}{where} at {self.strength}"


_FIELDS = tuple(field.name for field in fields(Condition))


@dataclass(frozen=True)
class Borrowed:
    """A direction found elsewhere, to be tried on a model at a layer.

    Attributes:
        label: how it was found, and where, such as `dim@fp16` or `dim@qwen-7b`.
        layer: decoder layer of this model where steering starts.
        direction: its content key in the run folder.
        prompts: what it was extracted from.
    """

    label: Label
    layer: int
    direction: str
    prompts: str


def content_key(content: object) -> str:
    """Hash of JSON-serialisable content, 24 hexadecimal digits, independent of key order."""
    return hashlib.sha256(_encode(content).encode()).hexdigest()[:24]
