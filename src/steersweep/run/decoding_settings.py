"""How answers are decoded, beside their longest length, as settings and records hold it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any


@dataclass(frozen=True)
class DecodingSettings:
    """How tokens are chosen, and when an answer ends early.

    Attributes:
        stop_loops: an answer that is stuck in a loop is ended there.
    """

    stop_loops: bool = False

    @classmethod
    def read(cls, facts: Mapping[str, Any]) -> DecodingSettings:
        """Settings by name; those that are left out are as by default.

        Raises:
            TypeError: one that there is not.
        """
        return cls(**facts)

    def as_json(self) -> dict[str, Any]:
        """Plain data."""
        return asdict(self)


GREEDY = DecodingSettings()
