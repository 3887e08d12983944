"""Names and machines of what a study calls on Modal: an app per phase, a function per model."""

from __future__ import annotations

import re
from collections.abc import Callable

from steersweep.engines.engine import Work
from steersweep.engines.modal.functions import RemoteFunction, gpu_memory, place
from steersweep.study.phases.registry import phase_named, phases_of
from steersweep.study.plan import DEFAULT_TIMEOUT_S, Plan, PlannedModel
from steersweep.study.sweeps import Step


def remote_functions(plan: Plan) -> list[RemoteFunction]:
    """Every function a plan may call, whatever its decisions will be."""
    found: dict[tuple[str, str], RemoteFunction] = {}
    for phase in phases_of(plan):
        for step, model, timeout_s in phase.may_call(plan):
            gpu = place(model.gpu)
            key = app_name(plan, phase.name), function_name(plan, step, model)
            held = found.get(key)
            if held is not None and gpu_memory(held.gpus[0]) >= gpu_memory(gpu):
                continue
            larger = plan.fallback_gpu(gpu)
            found[key] = RemoteFunction(
                *key,
                gpus=(gpu,) if larger is None else (gpu, larger),
                timeout_s=timeout_s or plan.timeout(phase.name, gpu) or DEFAULT_TIMEOUT_S,
                max_containers=plan.concurrency(gpu),
            )
    return list(found.values())


def app_name(plan: Plan, phase: str) -> str:
    """Name of the app of a phase: the plan's, or one made from plan and phase."""
    return plan.modal.apps.get(phase, f"{plan.name}-{phase.replace('_', '-')}")


def study_app_name(plan: Plan) -> str:
    """Name of the app whose one function leads the study."""
    return f"{plan.name}-study"


def function_name(plan: Plan, step: Step, model: PlannedModel) -> str:
    """Name of the function that runs a step of a model."""
    name = plan.modal.models.get(model.name, _slug(model.name))
    return step.function.format(model=name, family=_slug(model.family))


def function_of(plan: Plan) -> Callable[[Work], tuple[str, str]]:
    """What names the app and the function of a piece of work."""

    def named(work: Work) -> tuple[str, str]:
        phase = phase_named(work.labels["phase"])
        step = next(step for step in phase.steps if step.name == work.labels["step"])
        model = plan.models[work.labels["model"]]
        return app_name(plan, phase.name), function_name(plan, step, model)

    return named


def _slug(name: str) -> str:
    return re.sub(r"[^a-z0-9]+", "_", name.lower()).strip("_")
