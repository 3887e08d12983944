"""What a sweep does to the residual stream, as settings and records hold it; needs no torch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any, Literal, get_args

from steersweep.core.errors import InputError, setting
from steersweep.core.text_files import shown

Operation = Literal["add", "remove", "affine"]
Site = Literal["resid_pre", "resid_post"]
Span = Literal["one", "to-end"]
Positions = Literal["all", "prompt", "new", "last"]

_CHOICES = {
    "operation": get_args(Operation),
    "site": get_args(Site),
    "span": get_args(Span),
    "positions": get_args(Positions),
}


@dataclass(frozen=True)
class EditSettings:
    """What is done with a direction, and where. `steer.edit.Edit` says exactly what each does.

    Attributes:
        operation: `add` it; `remove` the component along it, which has no strength; `affine`: set
            the component to that of harmless prompts, then add.
        site: `resid_post`, after each layer, or `resid_pre`, before it.
        span: `one` layer, or each from that one `to-end`.
        positions: `all` tokens; those of the `prompt`; its `last` one; `new` ones.

    Raises:
        InputError: a value that is none of these; the message names the setting.
    """

    operation: Operation = "add"
    site: Site = "resid_post"
    span: Span = "to-end"
    positions: Positions = "all"

    def __post_init__(self) -> None:
        """Refuse what there is not."""
        for name, choices in _CHOICES.items():
            if (value := getattr(self, name)) not in choices:
                there = ", ".join(choices)
                raise InputError(f"{setting(name)} {shown(str(value))}: choose from {there}")

    @classmethod
    def read(cls, texts: Mapping[str, Any]) -> EditSettings:
        """Settings by name; those that are left out are as by default.

        Raises:
            InputError: see the class.
        """
        known = {field.name for field in fields(cls)}
        if unknown := sorted({*texts} - known):
            raise InputError(f"edit: {shown(unknown[0])} is none of {', '.join(sorted(known))}")
        return cls(**texts)

    def as_json(self) -> dict[str, str]:
        """Plain data."""
        return {name: getattr(self, name) for name in _CHOICES}

    def stop(self, start: int) -> int | None:
        """First layer no longer edited if `start` is the first that is; None: to the end."""
        return start + 1 if self.span == "one" else None

    def __str__(self) -> str:
        where = "one layer" if self.span == "one" else "each layer to the end"
        tokens = {
            "all": "all tokens",
            "prompt": "the prompt's tokens",
            "last": "the prompt's last token",
            "new": "new tokens",
        }[self.positions]
        return f"{self.operation} at {self.site} of {where}, at {tokens}"


STANDARD = EditSettings()
