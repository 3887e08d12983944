"""How answers are decoded, beside their longest length, as settings and records hold it."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from steersweep.core.errors import InputError, setting
from steersweep.core.setting_values import whole_number

MAX_TEMPERATURE = 100.0
MAX_TOP_K = 10**7
MAX_REPEATS = 10_000


@dataclass(frozen=True)
class DecodingSettings:
    """How tokens are chosen, and when an answer ends early.

    Attributes:
        stop_loops: an answer that is stuck in a loop is ended there.
        temperature: what logits are divided by before a token is drawn; 0: the likeliest is taken.
        top_p: tokens are drawn from the likeliest that together have this probability.
        top_k: tokens are drawn from so many of the likeliest; 0: from all.
        repeats: how often each prompt is answered; 1 without a temperature, since all are the same.
    """

    stop_loops: bool = False
    temperature: float = 0.0
    top_p: float = 1.0
    top_k: int = 0
    repeats: int = 1

    @property
    def samples(self) -> bool:
        """Whether tokens are drawn at random."""
        return self.temperature > 0

    @classmethod
    def read(cls, facts: Mapping[str, Any]) -> DecodingSettings:
        """Settings by name; those that are left out are as by default.

        Raises:
            TypeError: one that there is not.
        """
        return cls(**facts)

    @classmethod
    def chosen(
        cls,
        *,
        stop_loops: bool = False,
        temperature: float = 0.0,
        top_p: float = 1.0,
        top_k: int = 0,
        repeats: int | None = None,
        repeats_of_prompts: int = 1,
    ) -> DecodingSettings:
        """Settings as a user chooses them.

        Args:
            stop_loops: see above, as the next three.
            temperature: see above.
            top_p: see above.
            top_k: see above.
            repeats: see above; None: as the test prompts say.
            repeats_of_prompts: how often those ask for each of them.

        Raises:
            InputError: a number out of bounds, or one that has no effect without a temperature.
        """
        _number(setting("temperature"), temperature, 0, MAX_TEMPERATURE)
        _number(setting("top_p"), top_p, 0, 1)
        if top_p == 0:
            raise InputError(f"{setting('top_p')} 0: must be above 0, at most 1")
        whole_number(setting("top_k"), top_k, 0, MAX_TOP_K)
        if repeats is not None:
            whole_number(setting("repeats"), repeats, 1, MAX_REPEATS)
        if temperature > 0:
            return cls(stop_loops, temperature, top_p, top_k, repeats or repeats_of_prompts)
        for name, value, usual in (("top_p", top_p, 1), ("top_k", top_k, 0)):
            if value != usual:
                raise InputError(
                    f"{setting(name)} {value}: has no effect without {setting('temperature')}; "
                    f"give one above 0, or leave it out"
                )
        if repeats not in (None, 1):
            raise InputError(
                f"{setting('repeats')} {repeats}: greedy answers to a prompt are all the same; "
                f"give {setting('temperature')} above 0, or leave it out"
            )
        return cls(stop_loops)

    def as_json(self) -> dict[str, Any]:
        """Plain data; of drawing tokens where they are drawn."""
        return asdict(self) if self.samples else {"stop_loops": self.stop_loops}


def _number(name: str, value: object, lowest: float, highest: float) -> None:
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    if not is_number or not math.isfinite(float(str(value))):
        raise InputError(f"{name} {value}: must be a finite number")
    if not lowest <= float(str(value)) <= highest:
        raise InputError(f"{name} {value}: must be from {lowest:g} to {highest:g}")


GREEDY = DecodingSettings()
