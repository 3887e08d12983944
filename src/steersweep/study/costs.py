"""What the sweeps of a plan take: their numbers, put to the arithmetic of `budget`."""

from __future__ import annotations

from functools import cache
from pathlib import Path

from steersweep.budget import estimate as arithmetic
from steersweep.budget.estimate import Estimate, Workload
from steersweep.budget.shapes import ModelShape, catalog_shape, guessed_shape
from steersweep.catalog.gpus import gpu_catalog
from steersweep.core.errors import SteersweepError
from steersweep.methods.method import METHODS
from steersweep.model.source import LAB_PREFIX, find_model
from steersweep.study.phases import Sweep
from steersweep.study.plan import Plan, PlannedModel


def workload(plan: Plan, sweep: Sweep, n_prompts: int) -> Workload:
    """A sweep in numbers.

    Args:
        plan: for rows and lengths.
        sweep: what to run.
        n_prompts: unique test prompts.
    """
    decoding = plan.data.get("decoding", {})
    return Workload(
        shape=shape_of(sweep.model),
        precision=sweep.precision,
        n_conditions=sweep.n_conditions,
        n_prompts=n_prompts,
        new_tokens=decoding.get("max_new_tokens", 100),
        rows=decoding.get("rows", 256),
        searches=sum(METHODS.get(method).chooses_layer for method in sweep.methods),
    )


def estimate(
    plan: Plan, sweep: Sweep, n_prompts: int, *, gpu: str | None = None, factor: float = 1.0
) -> Estimate:
    """What one sweep takes on its planned GPU, or on `gpu`, at the plan's price.

    Args:
        plan: for prices, rows and lengths.
        sweep: what to run.
        n_prompts: unique test prompts.
        gpu: another kind than the planned one; `local` is this machine.
        factor: from `budget.estimate.calibration`.
    """
    kind = gpu or sweep.model.gpu
    work = workload(plan, sweep, n_prompts)
    return arithmetic.estimate(work, kind, usd_per_hour=plan.price(kind), factor=factor)


def cheapest(plan: Plan, sweep: Sweep, n_prompts: int) -> tuple[str, Estimate] | None:
    """The catalog's cheapest GPU for a sweep among those it fits, and what it takes there."""
    prices = {gpu: plan.price(gpu) for gpu in gpu_catalog()}
    return arithmetic.cheapest(workload(plan, sweep, n_prompts), prices)


def shape_of(model: PlannedModel) -> ModelShape:
    """What time and memory of a planned model depend on.

    From the catalog, or from the config of a model that is on this machine; of others from their
    parameters and layers.
    """
    parameters = int(model.billions * 1e9)
    known = catalog_shape(model.model, parameters) or _shape_here(model.model)
    return known or guessed_shape(parameters, model.n_layers)


@cache
def _shape_here(name: str) -> ModelShape | None:
    """The shape of a model that is on this machine, if it can be told from its config."""
    from steersweep.model.memory import model_shape

    if not (name.startswith(LAB_PREFIX) or Path(name).is_dir()):
        return None
    try:
        return model_shape(find_model(name).config())
    except (SteersweepError, ValueError):
        return None  # what is wrong with it is said when it is run
