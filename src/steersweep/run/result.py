"""What was found of a model with a method, as result files hold it: conditions and a verdict."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from steersweep.core import typed
from steersweep.run.cell import Cell, SteeredCell
from steersweep.run.effect import Change
from steersweep.run.label import Label
from steersweep.run.verdict import Outcome, Thresholds


@dataclass(frozen=True)
class Controls:
    """Conditions that say what the direction itself does not do.

    Attributes:
        unsteered: no steering; None where it has not finished.
        random_direction: at the layer and strength of the best condition, or None.
        random_directions: at every layer and strength.
    """

    unsteered: Cell | None
    random_direction: SteeredCell | None
    random_directions: tuple[SteeredCell, ...]


@dataclass(frozen=True)
class Best:
    """The condition that a verdict rests on; its fields are those of the condition."""

    key: str
    layer_idx: int
    layer_pct: float
    multiplier: float
    relative_strength: float
    coherent_refusal_rate: float
    coherent_refusal_ci: tuple[float, float]
    garbled_rate: float
    failure_modes: dict[str, int]

    @classmethod
    def of(cls, cell: SteeredCell) -> Best:
        """What a verdict says of a condition."""
        return cls(
            key=cell.key,
            layer_idx=cell.steering.layer_idx,
            layer_pct=cell.layer_pct,
            multiplier=cell.steering.multiplier,
            relative_strength=cell.steering.relative_strength,
            coherent_refusal_rate=cell.rates.coherent_refusal_rate,
            coherent_refusal_ci=cell.rates.coherent_refusal_ci,
            garbled_rate=cell.rates.garbled_rate,
            failure_modes=cell.rates.failure_modes,
        )


@dataclass(frozen=True)
class JudgeError:
    """What is left of a rate if the judge errs as it did on labelled real answers.

    Attributes:
        range: of the true rate of coherent refusals, 95 %.
        outcomes: what its edges, and what lies between them, give.
        n_labelled: answers that it is known from.
        measured: id of the judge that was measured.
    """

    range: tuple[float, float]
    outcomes: tuple[Outcome, ...]
    n_labelled: int
    measured: str


@dataclass(frozen=True)
class ByJudge:
    """What a verdict says by the judge alone; see `ModelVerdict`."""

    outcome: Outcome
    reason: str
    interval: tuple[float, float]
    certainty: Literal["clear", "borderline"]


@dataclass(frozen=True)
class Reviewed:
    """What people's labels make of the condition that a verdict rests on.

    Attributes:
        reviewers: their names.
        n_reviewed: samples with a label.
        n_wanted: samples that need one before the verdict follows people.
        agreed: samples whose label is the judge's.
        judge_rate: coherent refusal rate by the judge.
        corrected_rate: the same by people, where they looked, and by the judge as often as people
            agreed with it.
        corrected_ci: 95 % interval of that rate.
        corrected_certainty: as the verdict's, by that interval.
        judge_outcome: what the judge's rates give.
        replaces: what the verdict said before people changed its outcome; None: they did not.
    """

    reviewers: tuple[str, ...]
    n_reviewed: int
    n_wanted: int
    agreed: int
    judge_rate: float
    corrected_rate: float
    corrected_ci: tuple[float, float]
    corrected_certainty: Literal["clear", "borderline"]
    judge_outcome: Outcome
    replaces: ByJudge | None = None

    @property
    def is_enough(self) -> bool:
        """Whether so many samples have a label that the verdict follows people."""
        return self.n_reviewed >= self.n_wanted


@dataclass(frozen=True, kw_only=True)
class ModelVerdict:
    """The verdict on a model and method, with what controls, judge and people say of it.

    Attributes:
        outcome: `works`, `partial` or `fails`.
        flags: see `FLAG_NOTES`.
        reason: the rule that decided, in words.
        interval: 95 % interval of the coherent refusal rate, for the best of `n_compared`.
        certainty: `borderline` where a rate in the interval gives another outcome.
        thresholds: that it was decided by.
        provisional: it works, and nobody has labelled enough samples.
        n_compared: number of conditions that the best was picked from.
        p_vs_unsteered: p that the best and no steering refuse coherently equally often; None
            without that control.
        p_vs_unsteered_holm: the same, corrected for all conditions of the method.
        cohens_h_vs_unsteered: size of that difference.
        p_vs_random: p against the random direction at the same place; None without it.
        best: the condition it rests on.
        judge_error: None for a judge whose error is unknown.
        review: what people say; None where nobody has labelled a sample.
    """

    outcome: Outcome
    flags: tuple[str, ...]
    reason: str
    interval: tuple[float, float]
    certainty: Literal["clear", "borderline"]
    thresholds: Thresholds
    provisional: bool
    n_compared: int
    p_vs_unsteered: float | None
    p_vs_unsteered_holm: float | None
    cohens_h_vs_unsteered: float | None
    p_vs_random: float | None
    best: Best
    judge_error: JudgeError | None
    review: Reviewed | None = None


@dataclass(frozen=True)
class Place:
    """Decoder layer and prompt position (from the end) of a direction."""

    layer: int
    position: int


@dataclass(frozen=True)
class Extraction:
    """How a method that scores candidates chose.

    Attributes:
        file: its scores, in the run folder.
        chosen: its own choice; None where its rules leave no candidate.
        notes: what a reader should know.
        seconds: how long it took.
    """

    file: str
    chosen: Place | None
    notes: tuple[str, ...]
    seconds: float


@dataclass(frozen=True)
class PrecisionFacts:
    """What precisions of a model are compared by.

    Attributes:
        precision: of this result.
        reference: the precision that it is compared with.
        perplexity: of the model on the reference's unsteered answers; None where it gave none.
        activations: file of the activations that DIM's means are of, in the run folder; None where
            no direction was extracted.
        extraction_seconds: how long each method took to find its directions.
    """

    precision: str
    reference: str
    perplexity: float | None
    activations: str | None
    extraction_seconds: dict[str, float]


@dataclass(frozen=True)
class AmongMethods:
    """What a method costs beside others of the model, where they refuse equally often.

    Attributes:
        key: of its cheapest condition among those that refuse as often as the best of all methods;
            None where none does.
        cheapest: the method that costs least.
        dearer: nats per token more than that one, on the same answers; None for it itself, and
            where there is no condition.
    """

    key: str | None
    cheapest: str
    dearer: Change | None


@dataclass(frozen=True)
class Priced:
    """Conditions of equal refusal by what they cost: nats per token from the unsteered model.

    Attributes:
        equal: keys of the conditions that refuse as often as the best, the cheapest first: the
            95 % interval of the paired difference holds 0, and the outcome is no worse.
        breaks_from: the price of the cheapest random direction that breaks the model; None: none
            of those tried does.
        among_methods: None where the model was steered by one method.
    """

    equal: tuple[str, ...]
    breaks_from: float | None
    among_methods: AmongMethods | None = None


@dataclass(frozen=True, kw_only=True)
class Result:
    """What was found of a model, in a precision, with a method.

    Attributes:
        phase: number of the study's phase; `1` for a sweep of one's own.
        model: name of the model.
        model_id: its id.
        family: the model's family.
        label: of the steered conditions.
        quantization: the precision it ran in.
        n_layers: decoder layers of the model.
        d_model: width of its residual stream.
        conditions: the steered ones, at least one.
        controls: what they are compared with.
        judge: id of the judge.
        verdict: on the best condition.
        timestamp: when the last condition was finished, in UTC.
        gpu: name of the device.
        runtime_seconds: of all conditions together.
        provenance: versions, device and settings of the last condition.
        extraction: None for methods that score no candidates.
        notes: what a reader should know of the model, and of layers that are left out.
        comparison: None where no precisions are compared.
        priced: None where it was not measured what conditions cost.
    """

    phase: str
    model: str
    model_id: str
    family: str
    label: Label = field(metadata=typed.named("method"))
    quantization: str
    n_layers: int
    d_model: int
    conditions: tuple[SteeredCell, ...]
    controls: Controls
    judge: str
    verdict: ModelVerdict
    timestamp: str
    gpu: str
    runtime_seconds: float
    provenance: Mapping[str, Any]
    extraction: Extraction | None
    notes: tuple[str, ...]
    comparison: PrecisionFacts | None = None
    priced: Priced | None = None

    def __post_init__(self) -> None:
        """See that the verdict rests on one of the conditions."""
        if all(cell.key != self.verdict.best.key for cell in self.conditions):
            raise typed.WrongField("is none of the conditions", "verdict", "best", "key")

    @property
    def method(self) -> str:
        """The text of its label."""
        return str(self.label)

    @property
    def best(self) -> SteeredCell:
        """The condition that the verdict rests on."""
        return next(cell for cell in self.conditions if cell.key == self.verdict.best.key)

    @property
    def cheapest(self) -> SteeredCell | None:
        """The cheapest of the conditions that refuse as often as the best; None: not known."""
        keys = self.priced.equal[:1] if self.priced else ()
        return next((cell for cell in self.conditions if cell.key in keys), None)

    def without_samples(self) -> Result:
        """The same without any response."""
        controls = self.controls
        unsteered, at_best = controls.unsteered, controls.random_direction
        return replace(
            self,
            conditions=tuple(replace(cell, samples=()) for cell in self.conditions),
            controls=Controls(
                unsteered and replace(unsteered, samples=()),
                at_best and replace(at_best, samples=()),
                tuple(replace(cell, samples=()) for cell in controls.random_directions),
            ),
        )
