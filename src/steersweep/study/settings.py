"""A sweep of a plan as the settings that a job is made from."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache

from steersweep.methods.method import METHODS
from steersweep.model.find import find_model
from steersweep.model.rendering import as_special_tokens
from steersweep.prompts.prompts import TestSet, load_extraction_set, load_test_set
from steersweep.prompts.system import read_system_prompt
from steersweep.run.decoding_settings import DecodingSettings
from steersweep.study.plan import Plan, PlannedEffects
from steersweep.study.sweeps import Cuts, Sweep
from steersweep.sweeps.effect_settings import NONE, left_out_notes, make_effects
from steersweep.sweeps.settings import SweepSettings
from steersweep.work.asked_effects import AskedEffects


def planned_prompts(plan: Plan, cuts: Cuts) -> TestSet:
    """The plan's test prompts, fewer if a cut says so.

    Raises:
        InputError: the prompts cannot be found or read.
    """
    prompts = load_test_set(plan.prompts.test)
    for limit in (plan.prompts.at_most, cuts.prompts):
        if limit is not None:
            prompts = prompts.first(limit)
    return prompts


def prompts_of(plan: Plan, sweep: Sweep, cuts: Cuts) -> TestSet:
    """The test prompts of a sweep: the plan's, fewer if a cut says so and is for its step.

    Raises:
        InputError: the prompts cannot be found or read.
    """
    return planned_prompts(plan, cuts if sweep.step.is_cut else Cuts())


def prompt_counts(plan: Plan, cuts: Cuts) -> Callable[[Sweep], int]:
    """How many answers each condition of a sweep has; `prompts_of` reads files every time."""

    @cache
    def count(is_cut: bool) -> int:
        prompts = planned_prompts(plan, cuts if is_cut else Cuts())
        return len(prompts.prompts) * decoding_of(plan, prompts).repeats

    return lambda sweep: count(sweep.step.is_cut)


def decoding_of(plan: Plan, prompts: TestSet) -> DecodingSettings:
    """How a plan decodes answers to its prompts.

    Raises:
        InputError: settings that contradict each other.
    """
    asked = plan.decoding
    return DecodingSettings.chosen(
        stop_loops=asked.stop_loops,
        temperature=asked.temperature,
        top_p=asked.top_p,
        top_k=asked.top_k,
        repeats=asked.repeats,
        repeats_of_prompts=prompts.repeats,
    )


def effects_of(plan: Plan) -> AskedEffects:
    """The effects that a plan measures, with all that they are measured on.

    Raises:
        InputError: a file cannot be read, or an effect of a user's own cannot be imported.
    """
    return _effects_of(plan.effects)


@cache
def _effects_of(asked: PlannedEffects) -> AskedEffects:
    return make_effects(
        ",".join(asked.measure) or NONE, text=asked.text, choices=asked.choices, items=asked.items
    )


def prompt_notes(plan: Plan) -> tuple[str, ...]:
    """What the user should know of the plan's prompt files, each once.

    Raises:
        InputError: a prompt set, or the system prompt, cannot be found or read.
    """
    read_system_prompt(plan.prompts.system)
    found = [*load_test_set(plan.prompts.test).notes, *left_out_notes(effects_of(plan))]
    for name in plan.prompts.extraction.values():
        found += load_extraction_set(name).notes
    return tuple(dict.fromkeys(found))


def settings_of(plan: Plan, sweep: Sweep, cuts: Cuts, revision: str | None = None) -> SweepSettings:
    """Settings to run a sweep with; `revision`: of the model, where the plan names none.

    Raises:
        InputError: the model or a prompt set cannot be found.
    """
    test = prompts_of(plan, sweep, cuts)
    decoding = decoding_of(plan, test)
    return SweepSettings(
        models=(find_model(sweep.model.model, revision=sweep.model.revision or revision),),
        methods=sweep.methods,
        layers=sweep.layers,
        strengths=sweep.strengths,
        test=test.answered(decoding.repeats) if decoding.samples else test,
        extraction={
            method: load_extraction_set(plan.prompts.extraction[method]) for method in sweep.methods
        },
        precision=sweep.precision,
        max_new_tokens=plan.decoding.max_new_tokens,
        judge=plan.judge,
        seed=plan.seed,
        rows=plan.decoding.rows,
        reference=sweep.reference,
        borrowed=sweep.borrowed,
        special_tokens=as_special_tokens(plan.prompts.special_tokens),
        template_options=sweep.model.template_options,
        system=read_system_prompt(plan.prompts.system),
        own_methods=METHODS.own_of(sweep.methods),
        edit=plan.edit,
        effects=effects_of(plan),
        window=sweep.window,
        decoding=decoding,
    )
