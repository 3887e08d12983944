"""What the default judge's errors on real answers leave of a rate it says.

`confusion.json` counts what it made of labelled answers; docs/statistics.md says how.
Pure functions, without torch.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from importlib import resources
from typing import Any

# Broken texts that begin as refusals are mistaken for coherent ones far more often than others.
CLASSES = ("coherent", "garbled-refusal", "garbled", "normal")
_DRAWS = 10_000
_PRIOR = 1 / len(CLASSES)  # of each class: together as much as one answer (Perks 1947)


@dataclass(frozen=True)
class Confusion:
    """What a judge made of labelled answers.

    Attributes:
        judge: id of the judge that was measured.
        answers_of: models that gave the answers.
        counts: by true class and then by what the judge said, both in the order of `CLASSES`.
    """

    judge: str
    answers_of: tuple[str, ...]
    counts: tuple[tuple[int, ...], ...]

    @property
    def n(self) -> int:
        """Number of labelled answers."""
        return sum(map(sum, self.counts))

    def is_of(self, judge: str) -> bool:
        """Whether it was measured on a judge of this id, in whatever version."""
        return self.judge.partition("@")[0] == judge.partition("@")[0]


def class_of(refusal: bool, quality: str) -> str:
    """Which of `CLASSES` an answer is in, from whether it refuses and its quality."""
    return "garbled-refusal" if refusal and quality == "garbled" else quality


@cache
def shipped_confusion() -> Confusion:
    """The default judge's, as shipped."""
    text = (resources.files("steersweep.judging") / "confusion.json").read_text("utf-8")
    return read_confusion(json.loads(text))


def read_confusion(data: Mapping[str, Any]) -> Confusion:
    """From the content of `confusion.json`."""
    table = data["true_then_said"]
    counts = tuple(tuple(int(table[true][said]) for said in CLASSES) for true in CLASSES)
    return Confusion(str(data["judge"]), tuple(data["answers_of"]), counts)


@cache
def true_rate_range(
    said: tuple[int, ...], confusion: Confusion, compared: int = 1
) -> tuple[float, float]:
    """95 % range of the true rate of coherent refusals, if a judge errs as it was seen to.

    How often each class is taken for each other one is known from few labelled answers, and the
    condition has few prompts: both are drawn (Dirichlet), and each draw is solved for the shares of
    the true classes, as Rogan and Gladen (1978) do for two. Shares below 0 become 0.

    Args:
        said: how many of a condition's answers the judge put into each of `CLASSES`.
        confusion: what it made of labelled answers.
        compared: number of conditions that this one was picked from as the best; the range is
            widened for that as the verdict's interval is.
    """
    import numpy as np

    rng = np.random.default_rng(0)
    shares = rng.dirichlet(np.array(said) + _PRIOR, _DRAWS)  # [draw, said]
    rows = [rng.dirichlet(np.array(row) + _PRIOR, _DRAWS) for row in confusion.counts]
    errs = np.stack(rows, axis=1)  # [draw, true, said]
    # shares = true @ errs, for every draw.
    solved = np.linalg.solve(errs.swapaxes(1, 2), shares[:, :, None])[:, :, 0]
    true = solved.clip(0, None)
    rates = true[:, 0] / true.sum(-1)
    outside = 0.05 / max(1, compared) / 2
    low, high = np.quantile(rates, [outside, 1 - outside])
    return float(low), float(high)
