"""What a row of a result is: its method, its role, and where its direction came from.

The text of a label stands in files, tables and trackers. Nothing but this module takes one apart.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from functools import cache
from typing import Literal

from steersweep.core.errors import InputError
from steersweep.core.text_files import shown

Role = Literal["steered", "random", "unsteered"]

_AT, _AUTO, _NONE, _RANDOM = "@", "auto", "none", "random"
_METHOD = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")


@dataclass(frozen=True)
class Label:
    """What a row of a result is. `str` gives its text, and `parse` reads that text.

    | text | what it is |
    |---|---|
    | `dim` | the method's direction at a layer that was asked for |
    | `cosmic@auto` | the method's direction at the layer that it chose itself |
    | `dim@fp16`, `dim@qwen-7b` | the method's direction from another precision or model |
    | `none` | the unsteered control |
    | `random` | the random direction at a layer that was asked for |
    | `random@cosmic@auto` | the random direction at the layer that the method chose |

    Attributes:
        method: name of the method; None for the unsteered control and for the random direction at
            a layer that was asked for, which belong to all methods.
        role: `steered`, or a control: `random` or `unsteered`.
        chose_layer: whether the method chose the layer itself.
        source: the precision or model that found the direction; None: this model in this precision.

    Raises:
        InputError: a name that a text could not hold, or that would mean something else there.
        ValueError: a combination that does not exist.
    """

    method: str | None = None
    role: Role = "steered"
    chose_layer: bool = False
    source: str | None = None

    def __post_init__(self) -> None:
        """See that the text of this label is read back as this label."""
        if self.method is not None:
            _check_method(self.method)
        if self.source is not None:
            check_source(self.source)
        allowed = {
            "steered": self.method is not None and not (self.chose_layer and self.source),
            "random": self.chose_layer == (self.method is not None) and self.source is None,
            "unsteered": (self.method, self.chose_layer, self.source) == (None, False, None),
        }
        if not allowed[self.role]:
            raise ValueError(f"no such label: {self!r}")

    @classmethod
    def parse(cls, text: str) -> Label:
        """The label that a text stands for.

        Raises:
            InputError: it stands for none.
        """
        return _parse(text)

    def __str__(self) -> str:
        if self.role == "unsteered":
            return _NONE
        parts = [_RANDOM] if self.role == "random" else []
        parts += [part for part in (self.method, self.source) if part is not None]
        return _AT.join([*parts, _AUTO] if self.chose_layer else parts)

    @property
    def is_control(self) -> bool:
        """Whether this is the unsteered or the random-direction control."""
        return self.role != "steered"

    @property
    def is_swept(self) -> bool:
        """Whether this is the model's own direction of a method, at layers that were asked for."""
        return not (self.is_control or self.chose_layer or self.source is not None)

    @property
    def own_method(self) -> str | None:
        """The method, where it finds the direction on this very model; None for all others."""
        return None if self.is_control or self.source is not None else self.method

    @property
    def at_given_layer(self) -> Label:
        """The same at a layer that was asked for."""
        if self.role == "random":
            return RANDOM
        return replace(self, chose_layer=False)

    @property
    def random_control(self) -> Label:
        """The random direction that this one is compared with."""
        return Label(self.method, "random", chose_layer=True) if self.chose_layer else RANDOM


def check_source(name: str) -> None:
    """See that a precision or model can stand in a label as where a direction came from.

    Raises:
        InputError: it cannot; `dim@auto` is DIM at the layer that it chose.
    """
    if name == _AUTO:
        raise InputError(
            f"{_AUTO}: is no name of a model here, since `METHOD{_AT}{_AUTO}` stands for the layer "
            f"that a method chooses itself; choose another name"
        )
    if not name or not name.isprintable():
        raise InputError(f"{shown(name)}: is no name of a model; choose printable characters")


def _check_method(name: str) -> None:
    if not _METHOD.fullmatch(name):
        raise InputError(
            f"method {shown(name)}: a method's name has letters, digits, '.', '_' and '-', at most "
            f"64, the first a letter or digit"
        )
    if name in (_AUTO, _NONE, _RANDOM):
        raise InputError(f"method {name}: this name has a meaning of its own; choose another")


UNSTEERED = Label(role="unsteered")
RANDOM = Label(role="random")


@cache
def _parse(text: str) -> Label:
    if text == _NONE:
        return UNSTEERED
    method, at, rest = text.partition(_AT)
    if method == _RANDOM:
        if not at:
            return RANDOM
        of = Label.parse(rest)
        if not of.chose_layer or of.is_control:
            raise InputError(f"{shown(text)}: is no label of a random direction")
        return of.random_control
    if at and rest == _AUTO:
        return Label(method, chose_layer=True)
    return Label(method, source=rest if at else None)
