"""What the sweeps of a plan take: their numbers, put to the arithmetic of `budget`."""

from __future__ import annotations

from functools import cache
from pathlib import Path

from steersweep.budget import estimate as arithmetic
from steersweep.budget.estimate import Estimate, Workload, calibration
from steersweep.budget.ledger import Ledger
from steersweep.budget.shapes import ModelShape, catalog_shape, guessed_shape
from steersweep.catalog.gpus import gpu_catalog
from steersweep.core.errors import SteersweepError
from steersweep.methods.method import METHODS
from steersweep.model.find import find_model
from steersweep.model.source import LAB_PREFIX
from steersweep.study.plan import Plan, PlannedModel
from steersweep.study.settings import effects_of
from steersweep.study.sweeps import Sweep


def workload(plan: Plan, sweep: Sweep, n_prompts: int) -> Workload:
    """A sweep in numbers.

    Args:
        plan: for rows and lengths.
        sweep: what to run.
        n_prompts: unique test prompts.
    """
    return Workload(
        shape=shape_of(sweep.model),
        precision=sweep.precision,
        n_conditions=sweep.n_conditions,
        n_prompts=n_prompts,
        new_tokens=plan.decoding.max_new_tokens,
        rows=plan.decoding.rows,
        effect_tokens=effects_of(plan).tokens(n_prompts),
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


def expected_seconds(
    plan: Plan, sweep: Sweep, n_prompts: int, kind: str, ledger: Ledger, *, share: float = 1.0
) -> float:
    """Seconds of what is left of a sweep on a kind of GPU, by what finished jobs took there.

    Args:
        plan: for rows and lengths.
        sweep: what to run.
        n_prompts: unique test prompts.
        kind: of GPU.
        ledger: of the run, which knows what finished jobs took.
        share: of the sweep that is left, 0 to 1; its model is loaded whatever is.
    """
    factor = calibration(ledger.timings(kind))
    whole = estimate(plan, sweep, n_prompts, gpu=kind, factor=factor)
    return whole.loading_s + share * (whole.seconds - whole.loading_s)


def cheapest(plan: Plan, sweep: Sweep, n_prompts: int) -> tuple[str, Estimate] | None:
    """The cheapest GPU for a sweep among those it fits, and what it takes there.

    Of those whose prices are of the same set as its own GPU's.
    """
    same = plan.price_set(sweep.model.gpu)
    prices = {gpu: price for gpu, price in same.items() if gpu in gpu_catalog()}
    return arithmetic.cheapest(workload(plan, sweep, n_prompts), prices)


def shape_of(model: PlannedModel) -> ModelShape:
    """What time and memory of a planned model depend on.

    From the catalog, or from the config of a model that is on this machine; of others from their
    parameters and layers.
    """
    return _known_shape(model) or guessed_shape(_parameters(model), model.n_layers)


def width_of(model: PlannedModel) -> int | None:
    """Width of a planned model's residual stream; None where it is not known before it runs."""
    shape = _known_shape(model)
    return None if shape is None else shape.d_model


def _known_shape(model: PlannedModel) -> ModelShape | None:
    return catalog_shape(model.model, _parameters(model)) or _shape_here(model.model)


def _parameters(model: PlannedModel) -> int:
    return int(model.billions * 1e9)


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
