"""One job: the conditions that share a model, and how much of them a run folder holds."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from steersweep.core.registry import Source
from steersweep.model.rendering import SpecialTokens
from steersweep.model.source import ModelSource
from steersweep.model.template_options import TemplateOptions
from steersweep.model.thinking import thinking_note
from steersweep.prompts.prompts import ExtractionSet, TestSet
from steersweep.run.condition import Condition, Strength, content_key
from steersweep.run.edit_settings import STANDARD, EditSettings
from steersweep.run.folder import RunFolder
from steersweep.run.label import UNSTEERED
from steersweep.run.paths import RunPaths
from steersweep.run.records import Record
from steersweep.search.window import window_note, window_strengths
from steersweep.work.asked_effects import NO_EFFECTS, AskedEffects, Target, missing_effects
from steersweep.work.stages import StageNow


@dataclass(frozen=True)
class Job:
    """The conditions that share one loaded model.

    Attributes:
        source: the model.
        family: its family, for results.
        n_layers: its decoder layers, from the config.
        d_model: width of its residual stream, from the config.
        precision: resolved precision (`fp32`, `bf16`, `fp16`, `int8`, `int4`).
        device: torch device, or `auto`: decided where the job runs.
        conditions: in a fixed order that begins with the unsteered control.
        extraction: prompts directions are extracted from, by method.
        test: prompts every condition is tested on.
        max_rows: rows per generation batch.
        moved_from: kinds of GPU it did not fit before.
        reference: precision that this one is compared with, or None; see `SweepSettings`.
        smoke: make every check of the smoke test first, and not only those of `required`.
        accept_mismatch: go on whatever these checks find.
        checks_only: make these checks and nothing else.
        date: what day chat templates are told it is: the run's first.
        special_tokens: whether control tokens that a prompt spells are text or those tokens.
        notes: what a user should know of how prompts are rendered.
        template_options: variables that the chat template is given, such as `enable_thinking`.
        system: the system prompt that goes before every prompt, or None.
        instead_of: why it does not run in the precision that was asked for; empty where it does.
        own_methods: by name, where the methods are that are a user's own, and directions from
            files that stand for methods.
        edit: what is done with directions, and where.
        effects: what is measured of every condition besides; changes no condition.
        window: strengths of which only those are run that lie in the model's window, which is found
            first; none: all are run.
    """

    source: ModelSource
    family: str
    n_layers: int
    d_model: int
    precision: str
    device: str
    conditions: tuple[Condition, ...]
    extraction: Mapping[str, ExtractionSet]
    test: TestSet
    max_rows: int
    moved_from: tuple[str, ...] = ()
    reference: str | None = None
    smoke: bool = False
    accept_mismatch: bool = False
    checks_only: bool = False
    date: str | None = None
    special_tokens: SpecialTokens = "text"
    notes: tuple[str, ...] = ()
    template_options: TemplateOptions = field(default_factory=dict)
    system: str | None = None
    instead_of: str = ""
    own_methods: Mapping[str, Source] = field(default_factory=dict)
    edit: EditSettings = STANDARD
    window: tuple[Strength, ...] = ()
    effects: AskedEffects = NO_EFFECTS


ALREADY = "already finished"  # what a job's progress says that has nothing to do


@dataclass(frozen=True)
class Progress:
    """What a job is doing, for display.

    Attributes:
        model: short name of the model.
        done: finished conditions, those of earlier runs included.
        total: conditions of the job.
        fraction: share of the whole job's time that is over, 0 to 1.
        note: what is going on, in a few words.
        rows: responses of the whole job.
        job: the job's name, where several run at the same time; else empty.
        warning: what a person should read, once; else empty.
        stages: what the job's time goes to, in order.
    """

    model: str
    done: int
    total: int
    fraction: float
    note: str
    rows: int = 0
    job: str = ""
    warning: str = ""
    stages: tuple[StageNow, ...] = ()


OnProgress = Callable[[Progress], None]


def placeable(job: Job, store: RunFolder) -> tuple[Condition, ...]:
    """The conditions of a job that have a direction, as far as extraction has told."""
    out = left_out(job, store)
    return tuple(c for c in job.conditions if c.key not in out)


def unfinished(job: Job, store: RunFolder) -> int:
    """How much of a job is still to be made: conditions, and files that finished ones rest on."""
    missing = 0
    directions: set[str] = set()
    for condition in placeable(job, store):
        found = store.finished(condition.key, job.test.prompts)
        missing += found is None
        if found is not None and found.direction is not None and condition.direction is None:
            directions.add(found.direction)
    lost = sum(store.vector(Path(name).stem) is None for name in directions)
    scores = extraction_files(job, store.paths)
    lost += sum(store.read_json(path) is None for path in scores.values())
    # Checks of this model are made again too where their file was damaged; nothing else names it.
    first = job.conditions[0]
    lost += bool(store.paths.lost_checks(first.model_fingerprint, first.precision))
    lost += bool(job.window) and breaks_of(job, store) is None
    return missing + lost + (not _compared(job, store))


def _compared(job: Job, store: RunFolder) -> bool:
    """Whether what a precision is compared by is there, or none is asked for."""
    if job.reference is None:
        return True
    held = store.read_json(comparison_file(job, store.paths))
    if held is None:
        return False
    return (
        held["activations"] is None
        or store.tensors(store.paths.named(held["activations"])) is not None
    )


def target_of(job: Job, store: RunFolder) -> Target | None:
    """The finished conditions of a job, for effects; None while the unsteered one is not there."""
    records = [store.get(condition.key, job.test.prompts) for condition in placeable(job, store)]
    first = records[0] if records else None
    if first is None or first.condition.label != UNSTEERED:
        return None
    steered = [record for record in records[1:] if record is not None]
    return Target(first, steered, job.test, job.special_tokens)


def effects_missing(job: Job, store: RunFolder) -> int:
    """How many effects of finished conditions are still to be measured.

    They are no part of `unfinished`: what is measured later leaves a finished job as it is.
    """
    target = target_of(job, store) if job.effects else None
    return 0 if target is None else missing_effects(store, job.effects, target)


def left_out(job: Job, store: RunFolder) -> set[str]:
    """Keys of the conditions of a job that are not run, as far as a run has told.

    Their strength lies outside the window that the job asks for, or they have no direction: the
    method should choose the layer and its rules dropped them all, or the classes differ by no more
    than rounding there. A random direction is left out where no method has one to compare.
    """
    found = {
        method: store.read_json(path) for method, path in extraction_files(job, store.paths).items()
    }
    missing = {
        method: {int(layer) for layer in held["missing"]} if held else set()
        for method, held in found.items()
    }
    nowhere = set.intersection(*missing.values()) if missing else set()

    def without(condition: Condition) -> bool:
        method = str(condition.label.method)
        if condition.label.chose_layer:
            held = found[method]
            return held is not None and held["chosen"] is None
        of_method = nowhere if condition.is_control else missing.get(method, set())
        return condition.direction is None and condition.layer in of_method

    found_out = {condition.key for condition in job.conditions if without(condition)}
    return found_out | _outside_window(job, store)


def breaks_of(job: Job, store: RunFolder) -> dict[str, int] | None:
    """By method and layer, the rung from which texts of a job break; None if that is not known."""
    held = store.read_json(window_file(job, store.paths))
    return None if held is None else held["breaks"]


def window_file(job: Job, paths: RunPaths) -> Path:
    """Where the run folder keeps where a job's texts begin to break."""
    places = sorted(
        {(str(c.label), c.layer or 0, c.extraction_rendered or "") for c in job.conditions}
    )
    return paths.window(content_key([job.conditions[0].key, places, job.edit.as_json()]))


def _outside_window(job: Job, store: RunFolder) -> set[str]:
    if not job.window or not (breaks := breaks_of(job, store)):
        return set()
    inside = {Strength("relative", value) for value in window_strengths(breaks.values())}
    outside = {*job.window} - inside
    return {condition.key for condition in job.conditions if condition.strength in outside}


def window_notes(job: Job, store: RunFolder) -> list[str]:
    """Where texts of a job's model begin to break, and which strengths follow, if it asks."""
    breaks = breaks_of(job, store) if job.window else None
    return [window_note(breaks.values())] if breaks else []


def missing_notes(job: Job, store: RunFolder) -> list[str]:
    """Of every layer asked for that has no direction, why not."""
    asked = {c.layer for c in job.conditions if not c.is_control and c.direction is None}
    notes = []
    for method, path in extraction_files(job, store.paths).items():
        held = store.read_json(path)
        missing = held["missing"] if held else {}
        notes += [f"{method}, {why}" for layer, why in missing.items() if int(layer) in asked]
    return notes


def unsteered_note(record: Record) -> str | None:
    """What the unsteered answers say of the model: that it thinks first, and whether it ends."""
    responses = [sample.response for sample in record.samples]
    return thinking_note(responses, record.condition.max_new_tokens)


def extraction_files(job: Job, paths: RunPaths) -> dict[str, Path]:
    """Where the run folder keeps what each method found, where a condition rests on it."""
    found = {method: found_by(method, job) for method in job.extraction}
    return {method: scores_file(rest[0], paths) for method, rest in found.items() if rest}


def found_by(method: str, job: Job) -> list[Condition]:
    """Conditions of a job whose directions a method finds on its model."""
    return [condition for condition in job.conditions if condition.label.own_method == method]


def scores_file(condition: Condition, paths: RunPaths) -> Path:
    """Where the scores are that a condition's method chose by."""
    # Directions from a file rest on no prompts.
    return paths.scores(
        str(condition.label.method),
        str(condition.extraction_rendered),
        condition.model_fingerprint,
        condition.precision,
        condition.method_code,
    )


def comparison_file(job: Job, paths: RunPaths) -> Path:
    """Where a run folder keeps what a precision is compared with the reference by."""
    first = job.conditions[0]
    sets = {str(c.label): c.extraction_rendered for c in job.conditions if c.extraction_rendered}
    return paths.comparison(
        [first.model_fingerprint, job.precision, job.reference, first.test_rendered, sets]
    )
