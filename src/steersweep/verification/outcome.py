"""What a verification of COSMIC came to, as its result file holds it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from steersweep.core import typed
from steersweep.core.errors import InputError
from steersweep.run.result_files import read_objects


@dataclass(frozen=True)
class Step:
    """A step of the method in three places."""

    step: str
    paper: str
    official: str
    ours: str


@dataclass(frozen=True)
class Quantity:
    """The largest difference of a quantity over all fixtures; None: shapes or NaN do not match."""

    max_abs_difference: float | None
    tolerance: float
    passed: bool


@dataclass(frozen=True)
class Checked:
    """One comparison with the official numbers; see `Check`."""

    fixture: str
    quantity: str
    difference: float | None
    tolerance: float
    passed: bool


@dataclass(frozen=True)
class Fixture:
    """A fixture, and whether all its comparisons pass."""

    name: str
    passed: bool
    checks: tuple[Checked, ...]


@dataclass(frozen=True)
class RunSettings:
    """What a reproduction ran with; prompts by name and hash."""

    precision: str
    judge: str
    seed: int
    max_new_tokens: int
    test_prompts: str
    extraction_prompts: str


@dataclass(frozen=True)
class Reproduced:
    """What a reproduction found, beside what was expected.

    Attributes:
        model_id: the model.
        settings: what it ran with.
        method: of the direction.
        layer_idx: where it is steered.
        n_layers: of the model.
        position: prompt position of the direction, from the end.
        multiplier: length of the addition.
        relative_strength: that over the residual norm.
        n_unique: test prompts.
        coherent_refusal_rate: of the steered condition.
        coherent_refusal_ci: 95 % interval (Wilson).
        garbled_rate: of the steered condition.
        expected_at_least: rate that must be reached.
        passed: whether it is.
        unsteered: coherent refusal rate without steering.
        random_direction: with a random direction of that length.
        results_file: of the run, relative to the verification's folder.
    """

    model_id: str
    settings: RunSettings
    method: str
    layer_idx: int
    n_layers: int
    position: int
    multiplier: float
    relative_strength: float
    n_unique: int
    coherent_refusal_rate: float
    coherent_refusal_ci: tuple[float, float]
    garbled_rate: float
    expected_at_least: float
    passed: bool
    unsteered: float
    random_direction: float
    results_file: str


@dataclass(frozen=True)
class Criterion:
    """A criterion of acceptance; `met` is None while open."""

    criterion: str
    met: bool | None
    note: str


@dataclass(frozen=True)
class Verification:
    """A verification.

    Attributes:
        phase: `pre`: before all phases.
        kind: the gate that it is for.
        timestamp: when it was made, in UTC.
        passed: whether numbers agree, and the reproduction, if any, reaches what was expected.
        quantities: by name.
        fixtures: each with its comparisons.
        reproduction: None where no model was given.
        steps: of the method, in the paper, the official code and here.
        differences: from the official code, in words.
        acceptance: what a lead signs.
        provenance: versions and machine.
    """

    phase: str
    kind: str
    timestamp: str
    passed: bool
    quantities: dict[str, Quantity]
    fixtures: tuple[Fixture, ...]
    reproduction: Reproduced | None
    steps: tuple[Step, ...]
    differences: tuple[str, ...]
    acceptance: tuple[Criterion, ...]
    provenance: Mapping[str, Any]

    @property
    def numbers_agree(self) -> bool:
        """Whether every quantity is the official code's."""
        return all(row.passed for row in self.quantities.values())


def read_verification(path: Path) -> Verification:
    """The verification in a file.

    Raises:
        InputError: it is not as it was written, cannot be read, or holds none.
    """
    try:
        return typed.read(Verification, read_objects(path)[0])
    except typed.WrongField as error:
        raise InputError(
            f"{path}: {error}. If another version wrote it, verify COSMIC again"
        ) from error
