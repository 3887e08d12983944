"""Names and machines of what a study calls on Modal: an app per phase, a function per model."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator

from steersweep.engines.engine import Work
from steersweep.engines.modal.functions import RemoteFunction, gpu_memory, place
from steersweep.study import phases
from steersweep.study.plan import Plan

DEFAULT_TIMEOUT_S = 2 * 3600


def remote_functions(plan: Plan) -> list[RemoteFunction]:
    """Every function a plan may call, whatever its decisions will be."""
    timeouts = {
        sweep.model.name: sweep.timeout_s
        for sweep in phases.family_sweeps(plan)
        if sweep.timeout_s is not None
    }
    found: dict[tuple[str, str], RemoteFunction] = {}
    for phase, step, model in _called(plan):
        gpu = place(plan.models[model].gpu)
        key = app_name(plan, phase), function_name(plan, step, model)
        held = found.get(key)
        if held is not None and gpu_memory(held.gpus[0]) >= gpu_memory(gpu):
            continue
        larger = plan.fallback_gpu(gpu)
        timeout = timeouts.get(model) if phase == "family_sweep" else None
        found[key] = RemoteFunction(
            *key,
            gpus=(gpu,) if larger is None else (gpu, larger),
            timeout_s=timeout or DEFAULT_TIMEOUT_S,
            max_containers=plan.concurrency(gpu),
        )
    return list(found.values())


def _called(plan: Plan) -> Iterator[tuple[str, str, str]]:
    """Phase, step and model of every call that a plan could make."""
    if check := plan.data.get("verification"):
        yield "verification", "verification", check["model"]
    for row in plan.data["family_sweep"]["models"]:
        yield "family_sweep", "family", row["model"]
    if fallback := plan.data.get("fallback"):
        yield "family_sweep", "fallback", fallback["model"]
    if sizes := plan.data.get("size_sweep"):
        validated = sizes.get("validation", {}).get("families", [])
        for model in plan.models.values():
            yield "size_sweep", "size", model.name
            if model.family in validated:
                yield "size_sweep", "validation", model.name
    if "precision_sweep" in plan.data:
        for name in plan.models:
            yield "precision_sweep", "precision", name
    for name in plan.data.get("transfer_sweep", {}).get("among", []):
        yield "transfer_sweep", "transfer", name


def app_name(plan: Plan, phase: str) -> str:
    """Name of the app of a phase: the plan's, or one made from plan and phase."""
    named = plan.data.get("modal", {}).get("apps", {})
    return str(named.get(phase, f"{plan.name}-{phase.replace('_', '-')}"))


def study_app_name(plan: Plan) -> str:
    """Name of the app whose one function leads the study."""
    return f"{plan.name}-study"


def function_name(plan: Plan, step: str, model: str) -> str:
    """Name of the function that runs a step of a model, as in the source plan."""
    family = _slug(plan.models[model].family)
    name = plan.data.get("modal", {}).get("names", {}).get(model, _slug(model))
    special = {
        "verification": f"verify_{name}",
        "validation": f"validate_{family}_layers",
        "size": f"sweep_{family}_sizes",
        "precision": f"sweep_{name}_precisions",
        "transfer": f"transfer_to_{name}",
    }
    return special.get(step, f"sweep_{name}")


def function_of(plan: Plan) -> Callable[[Work], tuple[str, str]]:
    """What names the app and the function of a piece of work."""

    def named(work: Work) -> tuple[str, str]:
        app = app_name(plan, work.labels["phase"])
        return app, function_name(plan, work.labels["step"], work.labels["model"])

    return named


def _slug(name: str) -> str:
    return re.sub(r"[^a-z0-9]+", "_", name.lower()).strip("_")
