"""Results made by hand: of samples of a few words, with a verdict that follows from them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from steersweep.core import typed
from steersweep.core.digests import seal
from steersweep.run.cell import Cell, SteeredCell
from steersweep.run.condition import Strength
from steersweep.run.edit_settings import STANDARD
from steersweep.run.judgement import Judgement, Quality, rates_of
from steersweep.run.label import UNSTEERED, Label
from steersweep.run.records import Sample, Steering
from steersweep.run.result import Best, Controls, ModelVerdict, Result
from steersweep.run.result_files import read_result_file
from steersweep.run.verdict import Thresholds, verdict

DIM = Label("dim")


def sample(
    prompt: str,
    quality: Quality = "normal",
    response: str = "",
    *,
    ambiguous: bool = False,
) -> Sample:
    """A response that refuses if it is coherent."""
    refuses = quality == "coherent"
    judgement = Judgement(refuses, quality, None, ambiguous, 0.5, "refuses" if refuses else "helps")
    return Sample(prompt, response, judgement, "eos", 1.0, 2.0, 3)


def samples(*qualities: Quality) -> tuple[Sample, ...]:
    """A response to each of so many prompts."""
    return tuple(sample(f"prompt {i}", quality) for i, quality in enumerate(qualities))


def steered(
    answers: Sequence[Sample],
    *,
    key: str = "abc",
    label: Label = DIM,
    layer: int = 4,
    multiplier: float = 10.0,
    relative: float = 0.3,
) -> SteeredCell:
    """A steered condition of ten layers."""
    return SteeredCell(
        key=key,
        label=label,
        layer_pct=layer / 10,
        strength=Strength("multiplier", multiplier),
        edit=STANDARD,
        extraction_prompts="extract-dim-5@sha256:0",
        rates=rates_of([answer.judgement for answer in answers]),
        fluency_threshold=3.0,
        steering=Steering(
            layer, -1, "resid_post", multiplier, relative, 1.0, 30.0, "directions/abc.safetensors"
        ),
        runtime_seconds=1.0,
        samples=tuple(answers),
    )


def unsteered(answers: Sequence[Sample]) -> Cell:
    """The control without steering."""
    return Cell(
        key="unsteered",
        label=UNSTEERED,
        layer_pct=None,
        strength=None,
        extraction_prompts=None,
        rates=rates_of([answer.judgement for answer in answers]),
        fluency_threshold=3.0,
        runtime_seconds=1.0,
        samples=tuple(answers),
    )


def result(
    cells: Iterable[SteeredCell],
    *,
    best: int = 0,
    control: Cell | None = None,
    model: str = "lab:m",
    label: Label = DIM,
    n_layers: int = 10,
    flags: tuple[str, ...] = (),
) -> Result:
    """Conditions with the verdict on one of them."""
    conditions = tuple(replace(cell, label=label) for cell in cells)
    rates, thresholds = conditions[best].rates, Thresholds()
    decided = verdict(
        coherent_refusal_rate=rates.coherent_refusal_rate,
        garbled_refusal_rate=rates.garbled_refusal_rate,
        n_unique=rates.n_unique,
        n_compared=len(conditions),
    )
    assert decided.interval is not None
    assert decided.certainty != "unknown"
    return Result(
        phase="1",
        model=model,
        model_id=model,
        family="m",
        label=label,
        quantization="fp32",
        n_layers=n_layers,
        d_model=8,
        conditions=conditions,
        controls=Controls(control, None, ()),
        judge="default@1",
        verdict=ModelVerdict(
            outcome=decided.outcome,
            flags=flags,
            reason=decided.reason,
            interval=decided.interval,
            certainty=decided.certainty,
            thresholds=thresholds,
            provisional=decided.outcome == "works",
            n_compared=len(conditions),
            p_vs_unsteered=None,
            p_vs_unsteered_holm=None,
            cohens_h_vs_unsteered=None,
            p_vs_random=None,
            best=Best.of(conditions[best]),
            judge_error=None,
        ),
        timestamp="2026-01-01T00:00:00Z",
        gpu="cpu",
        runtime_seconds=1.0,
        provenance={},
        extraction=None,
        notes=(),
    )


@contextmanager
def edited(path: Path) -> Iterator[list[dict[str, Any]]]:
    """The objects in a result file, to be changed; they are written with their digest."""
    objects = [typed.plain(found) for found in read_result_file(path)]
    yield objects
    path.write_bytes(seal(f"results/{path.name}", objects))
