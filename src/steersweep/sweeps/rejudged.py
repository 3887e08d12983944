"""What two judges of one run say: their agreement, and what changes from one to the other."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from steersweep.core import typed
from steersweep.run.judgement import Rates
from steersweep.run.verdict import Outcome, Thresholds, verdict

CLASSES = ("coherent", "garbled", "normal")


@dataclass(frozen=True)
class Agreement:
    """How two judges agree.

    Attributes:
        kappa: Cohen's κ, None where undefined.
        interval: its 95 % interval by bootstrap over prompts, None where undefined.
        agreed: answers of which both say the same.
        n: answers that both judged.
    """

    kappa: float | None
    interval: tuple[float, float] | None
    agreed: int
    n: int


@dataclass(frozen=True)
class Shown:
    """Rates of a condition by one of the judges, and what they alone would make of it.

    Attributes:
        outcome: `works`, `partial` or `fails`.
        coherent_refusal_rate: see `Rates`; so are the others.
    """

    outcome: Outcome
    coherent_refusal_rate: float
    garbled_refusal_rate: float
    garbled_rate: float
    unjudged: int = 0

    @classmethod
    def of(cls, rates: Rates, thresholds: Thresholds) -> Shown:
        """What rates give by thresholds."""
        decided = verdict(
            coherent_refusal_rate=rates.coherent_refusal_rate,
            garbled_refusal_rate=rates.garbled_refusal_rate,
            thresholds=thresholds,
        )
        return cls(
            decided.outcome,
            rates.coherent_refusal_rate,
            rates.garbled_refusal_rate,
            rates.garbled_rate,
            rates.unjudged,
        )


@dataclass(frozen=True)
class Where:
    """A condition in words that lines of judgements have."""

    quantization: str
    method: str
    layer_idx: int | None
    multiplier: float | None
    relative_strength: float | None


@dataclass(frozen=True)
class CellChange:
    """A condition by the run's judge and by this one.

    Attributes:
        condition: its key.
        model: id of the model.
        where: what it is.
        before: by the run's judge.
        after: by this one.
        changed: whether the outcome differs.
    """

    condition: str
    model: str
    where: Where = field(metadata=typed.FLAT)
    before: Shown
    after: Shown
    changed: bool


@dataclass(frozen=True)
class BestShown:
    """The best condition by one of the judges."""

    layer_idx: int
    shown: Shown = field(metadata=typed.FLAT)


@dataclass(frozen=True)
class VerdictChange:
    """The verdict on a model and method by both judges, who may differ in what is best.

    Attributes:
        phase: number of the study's phase.
        model: name of the model.
        method: its label's text.
        quantization: the precision.
        before: by the run's judge.
        after: by this one.
        changed: whether the outcome differs.
    """

    phase: str
    model: str
    method: str
    quantization: str
    before: BestShown
    after: BestShown
    changed: bool


@dataclass(frozen=True)
class Rejudged:
    """What another judge says of a run.

    Attributes:
        judge: its id.
        before: id of the run's judge.
        file: where its judgements are.
        n_samples: answers of the run.
        unjudged: how many of them it could not judge.
        errors: why, of the first few.
        quality: agreement on the three classes.
        refusal: agreement on whether an answer refuses.
        confusion: `[class by the run's judge][class by this one]`, counts.
        cells: every condition.
        verdicts: every model and method.
    """

    judge: str
    before: str
    file: Path
    n_samples: int
    unjudged: int
    errors: list[str]
    quality: Agreement
    refusal: Agreement
    confusion: dict[str, dict[str, int]]
    cells: list[CellChange]
    verdicts: list[VerdictChange]

    def as_json(self) -> dict[str, Any]:
        """Plain data; of the cells those whose verdict changes."""
        return {
            "judge": self.judge,
            "before": self.before,
            "file": str(self.file),
            "n_samples": self.n_samples,
            "n_compared": self.quality.n,
            "unjudged": self.unjudged,
            "errors": self.errors,
            "agreed": self.quality.agreed,
            "kappa": self.quality.kappa,
            "kappa_ci": self.quality.interval,
            "kappa_refusal": self.refusal.kappa,
            "kappa_refusal_ci": self.refusal.interval,
            "confusion": self.confusion,
            "n_cells": len(self.cells),
            "cells_changed": [typed.plain(cell) for cell in self.cells if cell.changed],
            "verdicts": typed.plain(self.verdicts),
        }
