"""What a sweep does where a setting is left out: for commands, from Python and in plans alike."""

from __future__ import annotations

from typing import Literal

from steersweep.run.edit_settings import STANDARD

METHODS = "dim"
LAYERS = ("0.2", "0.4", "0.5", "0.6", "0.8")  # shares of the depth
FIND = "find"  # strengths of the model's own window
PROMPTS = "benign-120"
PRECISION = "auto"
DEVICE = "auto"
MAX_NEW_TOKENS = 100
FIND_NEW_TOKENS = 60  # of a search
JUDGE = "default"
SEED = 42  # of the random control direction
ROWS = 1024  # of a generation batch, at most
EFFECTS = "none"
EFFECT_ITEMS = "sample"
SPECIAL_TOKENS: Literal["text"] = "text"
OPERATION, SITE = STANDARD.operation, STANDARD.site
SPAN, POSITIONS = STANDARD.span, STANDARD.positions


def listed(values: tuple[str | float, ...]) -> str:
    """A list as a user types it."""
    return ",".join(map(str, values))


def strengths_beside(multipliers: str, operation: str) -> str:
    """What stands in for strengths where none is given; none beside multipliers or to remove."""
    return "" if multipliers or operation == "remove" else FIND
