"""What a plan holds, typed. `plan_file` reads one; each phase has a section of its own.

docs/study-plan.md says what the study that `v3` plans is, docs/plans.md what each field means.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any, TypeVar

from steersweep.catalog.gpus import LOCAL, gpu_catalog
from steersweep.core.errors import InputError
from steersweep.model.template_options import TemplateOptions
from steersweep.run.condition import REMOVED, LayerChoice, Strength
from steersweep.run.edit_settings import EditSettings
from steersweep.run.verdict import Thresholds
from steersweep.search.search import STRENGTHS
from steersweep.sweeps import defaults

Section = TypeVar("Section")

DEFAULT_TIMEOUT_S = 2 * 3600  # of a job on a rented GPU


@dataclass(frozen=True)
class PlannedModel:
    """A model of the plan.

    Attributes:
        name: short name, unique in the plan.
        model: hub id, local folder, GGUF file or `lab:NAME`.
        revision: hub revision, or None.
        family: its family.
        n_layers: decoder layers as the plan says; when it runs, the model's config decides.
        billions: parameters, in billions.
        gpu: kind of GPU it is planned on.
        precision: what it runs in where a phase says nothing else: its own, else the plan's.
        template_options: variables that its chat template is given: the plan's, then its own.
    """

    name: str
    model: str
    revision: str | None
    family: str
    n_layers: int
    billions: float
    gpu: str
    precision: str
    template_options: TemplateOptions = field(default_factory=dict)


@dataclass(frozen=True)
class Prompts:
    """What models are asked.

    Attributes:
        test: name or file of the test prompts.
        extraction: by method, name or file of the prompts that directions are found with. It has
            every method of the plan.
        at_most: only so many test prompts; None: all.
        special_tokens: what a special token becomes that a prompt spells: `text` or `tokens`.
        system: the system prompt before every prompt, a text or a file's name; empty: none.
    """

    test: str
    extraction: Mapping[str, str]
    at_most: int | None = None
    special_tokens: str = defaults.SPECIAL_TOKENS
    system: str = ""


@dataclass(frozen=True)
class Decoding:
    """How answers are generated.

    Attributes:
        max_new_tokens: longest answer.
        rows: of a batch, at most.
        stop_loops: end an answer where it is stuck in a loop.
        temperature: what logits are divided by before a token is drawn; 0: greedy answers.
        top_p: tokens are drawn from the likeliest that together have this probability.
        top_k: tokens are drawn from so many of the likeliest; 0: from all.
        repeats: how often each prompt is answered, with a temperature; None: as the prompts say.
    """

    max_new_tokens: int = defaults.MAX_NEW_TOKENS
    rows: int = defaults.ROWS
    stop_loops: bool = False
    temperature: float = 0.0
    top_p: float = 1.0
    top_k: int = 0
    repeats: int | None = None


@dataclass(frozen=True)
class PlannedEffects:
    """What steering costs the models, measured in every condition besides; changes no condition.

    Attributes:
        measure: names of effects, or places of a user's own; none: nothing is measured.
        text: file of texts, or None.
        choices: file of questions, or None.
        items: how much is looked at: a `sample` of each set, or `all` of it.
    """

    measure: tuple[str, ...] = ()
    text: str | None = None
    choices: str | None = None
    items: str = defaults.EFFECT_ITEMS


@dataclass(frozen=True)
class Cut:
    """What `--apply-cuts` may leave out.

    Attributes:
        do: `drop-failed-families`, `drop-models` or `fewer-prompts`.
        what: names of families or models.
        prompts: number of unique test prompts, or None.
    """

    do: str
    what: tuple[str, ...] = ()
    prompts: int | None = None


@dataclass(frozen=True)
class Dropped:
    """A model left out on purpose.

    Attributes:
        model: hub id, or a name of what was left out.
        after: the phase after which to look at it again.
        when: what must have come out for that.
        family: its family; empty where it belongs to none.
    """

    model: str
    after: str
    when: str
    family: str = ""


@dataclass(frozen=True)
class Budget:
    """Hard stops in USD.

    Attributes:
        total: of the study; None: no stop.
        phases: of single phases.
    """

    total: float | None = None
    phases: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class ModalNames:
    """What things are called on Modal where it is not by the plan's names.

    Attributes:
        apps: by phase.
        models: within function names.
        secrets: of the account, that jobs are given.
    """

    apps: Mapping[str, str] = field(default_factory=dict)
    models: Mapping[str, str] = field(default_factory=dict)
    secrets: tuple[str, ...] = ()


@dataclass(frozen=True)
class TrackingSettings:
    """Where a tracker is told of results.

    Attributes:
        tracker: `none`, `wandb` or `trackio`.
        online: whether it may use the network.
        entity: account of the tracker, or None.
        projects: by phase, where it is not called as the plan and the phase are.
    """

    tracker: str = "none"
    online: bool = True
    entity: str | None = None
    projects: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Plan:
    """A checked plan.

    Attributes:
        name: of the plan.
        models: all models by name, in the plan's order: families, then sizes from small to large.
        prompts: what models are asked.
        precision: what models run in where a phase says nothing else.
        strength: how strongly to steer where a phase says nothing else; with `window`, one that
            stands for those that are not known yet.
        window: whether the strengths of phase 1 are those of each model's window.
        edit: what is done with directions, and where.
        thresholds: what decides who goes on.
        flat_within: half the width of what counts as a flat size curve, as a rate.
        sections: by phase, what it is to run; see `section`. In the order of phases.
        decoding: how answers are generated.
        effects: what steering costs the models.
        judge: name of the judge.
        seed: of the random control directions.
        prices: USD per hour of kinds of GPU, before the catalog's.
        prices_as_of: when those prices held, as the plan says; empty: it does not.
        fallback_gpus: where jobs go that do not fit a kind of GPU.
        at_once: jobs of a kind of GPU that may run at the same time.
        timeouts: by phase, seconds after which a job ends that has no timeout of its own.
        modal: names on Modal.
        gates: by gate, what a person is asked.
        dropped: models left out on purpose.
        budget: hard stops.
        cuts: what may be left out, in this order.
        tracking: where a tracker is told of results.
        own_methods: in a plan that a run keeps, hashes of the code of a user's own methods.
        written: the file's content as plain data, which a run folder keeps and is compared by.
            Nothing reads a setting there.
    """

    name: str
    models: Mapping[str, PlannedModel]
    prompts: Prompts
    precision: str
    strength: Strength
    window: bool
    edit: EditSettings
    thresholds: Thresholds
    flat_within: float
    sections: Mapping[str, object]
    decoding: Decoding
    effects: PlannedEffects
    judge: str
    seed: int
    prices: Mapping[str, float]
    prices_as_of: str
    fallback_gpus: Mapping[str, str]
    at_once: Mapping[str, int]
    timeouts: Mapping[str, int]
    modal: ModalNames
    gates: Mapping[str, tuple[str, ...]]
    dropped: tuple[Dropped, ...]
    budget: Budget
    cuts: tuple[Cut, ...]
    tracking: TrackingSettings
    own_methods: Mapping[str, str]
    written: Mapping[str, Any]

    @property
    def phases(self) -> tuple[str, ...]:
        """Names of the phases this plan has, in order."""
        return tuple(self.sections)

    def section(self, kind: type[Section]) -> Section:
        """What a phase is to run.

        Raises:
            LookupError: the plan has no such section.
        """
        for section in self.sections.values():
            if isinstance(section, kind):
                return section
        raise LookupError(f"plan {self.name}: no {kind.__name__}")

    def family(self, name: str) -> list[PlannedModel]:
        """Models of a family, small to large."""
        return [model for model in self.models.values() if model.family == name]

    def questions(self, gate: str) -> tuple[str, ...]:
        """What a gate asks; a gate without questions is no gate."""
        return self.gates.get(gate, ())

    def project(self, phase: str) -> str:
        """Tracker project of a phase."""
        return self.tracking.projects.get(phase, f"{self.name}-{phase.replace('_', '-')}")

    def price(self, gpu: str) -> float:
        """USD per hour of a kind of GPU.

        Raises:
            InputError: neither the plan nor the catalog knows it.
        """
        if gpu in self.prices:
            return float(self.prices[gpu])
        if gpu == LOCAL:
            return 0.0
        if gpu in gpu_catalog():
            return float(gpu_catalog()[gpu]["usd_per_hour"])
        raise InputError(f"plan {self.name}: no price for GPU {gpu}; give one under prices")

    def price_set(self, gpu: str) -> Mapping[str, float]:
        """The set of prices that a kind's price is of, by kind: the plan's, or the catalog's.

        Costs on two kinds of GPU compare only within one.
        """
        if gpu in self.prices:
            return self.prices
        return {kind: float(facts["usd_per_hour"]) for kind, facts in gpu_catalog().items()}

    def concurrency(self, gpu: str) -> int | None:
        """Jobs of a kind of GPU that may run at the same time; None: as many as there is room."""
        return self.at_once.get(gpu)

    def timeout(self, phase: str, gpu: str) -> int | None:
        """Seconds after which a job of a phase ends itself; None: this machine, and none is set."""
        return self.timeouts.get(phase, None if gpu == LOCAL else DEFAULT_TIMEOUT_S)

    def fallback_gpu(self, gpu: str) -> str | None:
        """Where a job goes that does not fit a kind of GPU, or None."""
        return self.fallback_gpus.get(gpu)


FIND = "find"  # strengths of each model's window


def layer_choice(value: float) -> LayerChoice:
    """A layer as a plan gives it: a share below 1, or an index."""
    return LayerChoice(str(value) if isinstance(value, int) else format(Decimal(repr(value)), "f"))


def strength_of(entry: Mapping[str, float] | str) -> Strength:
    """A strength as a plan gives it: `{multiplier: 15}`, `{relative: 0.3}`, `removed` or `find`.

    For `find`, one in the middle of those that are tried.
    """
    if entry == FIND:
        return Strength("relative", STRENGTHS[len(STRENGTHS) // 2])
    if isinstance(entry, str):
        return REMOVED
    ((unit, value),) = entry.items()
    return Strength("multiplier" if unit == "multiplier" else "relative", float(value))
