"""Time, memory and cost before a run: a stated model, corrected by what finished jobs took."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from statistics import median

from steersweep.catalog.gpus import gpu_catalog
from steersweep.catalog.models import model_shapes
from steersweep.experiment.phases import Sweep
from steersweep.experiment.plan import Plan, PlannedModel
from steersweep.memory import OVERHEAD_BYTES, MemoryModel

# Rough on purpose; finished jobs correct them (`calibration`).
STARTUP_S = 60.0  # container, imports
LOAD_GB_PER_S = 0.5
LAYER_LAUNCH_S = 0.001  # what a layer takes at least, per decoding step
COMPUTE_SHARE = 0.3  # of the data sheet's TFLOPS that is reached
BANDWIDTH_SHARE = 0.6
PROMPT_TOKENS = 40
JUDGING = 1.2  # scoring responses and judging, on top of generating
N_POSITIONS, N_VAL = 5, 24  # of COSMIC's candidates and validation prompts
RESERVE = 1.5  # a job reserves this many times its estimate
# On a CPU: seconds per row and 100 new tokens, for each million parameters and at least.
LOCAL_ROW_S, LOCAL_ROW_S_PER_MILLION = 0.004, 0.012


@dataclass(frozen=True)
class Estimate:
    """What a sweep is expected to take.

    Attributes:
        seconds: of the job.
        memory_gb: at its highest, with that many rows.
        rows: of a batch: the plan's, or what fits beside the weights.
        fits: whether a single row does; None where the GPU's memory is not known.
        usd: at the plan's price of that GPU.
    """

    seconds: float
    memory_gb: float
    rows: int
    fits: bool | None
    usd: float


def estimate(
    plan: Plan, sweep: Sweep, n_prompts: int, *, gpu: str | None = None, factor: float = 1.0
) -> Estimate:
    """What one sweep takes on its planned GPU, or on `gpu`.

    Args:
        plan: for prices, rows and lengths.
        sweep: what to run.
        n_prompts: unique test prompts.
        gpu: another kind than the planned one; `local` is this machine.
        factor: from `calibration`.
    """
    kind = gpu or sweep.model.gpu
    decoding = plan.data.get("decoding", {})
    new_tokens, rows = decoding.get("max_new_tokens", 100), decoding.get("rows", 256)
    parameters = sweep.model.billions * 1e9
    n_rows = sweep.n_conditions * n_prompts
    facts = gpu_catalog().get(kind)
    model = shape_of(sweep.model)
    weights = model.weights(sweep.precision)
    fits = None
    if facts is not None:
        free = facts["memory_gb"] * 1e9 - weights - OVERHEAD_BYTES
        fitting = model.rows_that_fit(sweep.precision, PROMPT_TOKENS, new_tokens, free=free)
        rows, fits = min(rows, max(1, fitting)), fitting > 0
    row = model.row(sweep.precision, PROMPT_TOKENS, new_tokens)
    weights_gb = weights / 1e9
    memory_gb = weights_gb + (min(rows, n_rows) * row + OVERHEAD_BYTES) / 1e9
    if facts is None:
        per_row = LOCAL_ROW_S + LOCAL_ROW_S_PER_MILLION * parameters / 1e6
        seconds = factor * (5 + n_rows * per_row * new_tokens / 100)
        return Estimate(seconds, memory_gb, rows, fits, _usd(plan, kind, seconds))
    batches = math.ceil(n_rows / rows)
    flops = facts["tflops"] * 1e12 * COMPUTE_SHARE
    step = max(
        weights_gb / (facts["bandwidth_gb_s"] * BANDWIDTH_SHARE),
        sweep.model.n_layers * LAYER_LAUNCH_S,
        2 * parameters * min(rows, n_rows) / flops,
    )
    scoring = sum(method != "dim" for method in sweep.methods) * (
        2 * parameters * PROMPT_TOKENS * N_POSITIONS * sweep.model.n_layers * 3 * N_VAL / flops
    )
    prefill = 2 * parameters * PROMPT_TOKENS * n_rows / flops
    seconds = STARTUP_S + weights_gb / LOAD_GB_PER_S + scoring
    seconds += JUDGING * (batches * new_tokens * step + prefill)
    seconds *= factor
    return Estimate(seconds, memory_gb, rows, fits, _usd(plan, kind, seconds))


def shape_of(model: PlannedModel) -> MemoryModel:
    """What a planned model's memory depends on: from the catalog, else from its parameters."""
    parameters = int(model.billions * 1e9)
    facts = model_shapes().get(model.model)
    if facts is not None:
        matrices = 1 if facts["tied"] else 2
        return MemoryModel(
            parameters=parameters,
            embeddings=matrices * facts["vocab_size"] * facts["d_model"],
            n_layers=facts["n_layers"],
            d_model=facts["d_model"],
            n_heads=facts["n_heads"],
            q_width=facts["n_heads"] * facts["head_dim"],
            kv_width=facts["kv_heads"] * facts["head_dim"],
            mlp_width=facts["mlp_width"],
            vocab_size=facts["vocab_size"],
        )
    # A layer has about twelve squares of its width; four queries share keys and values.
    width = int(math.sqrt(parameters / (12 * model.n_layers))) + 1
    heads = max(1, width // 128)
    vocab = min(150_000, max(1, parameters // (10 * width)))
    return MemoryModel(
        parameters, vocab * width, model.n_layers, width, heads, width, width // 4, 4 * width, vocab
    )


def cheapest(plan: Plan, sweep: Sweep, n_prompts: int) -> tuple[str, Estimate] | None:
    """The catalog's cheapest GPU for a sweep among those it fits, and what it takes there."""
    found = [(gpu, estimate(plan, sweep, n_prompts, gpu=gpu)) for gpu in gpu_catalog()]
    return min(
        ((gpu, expected) for gpu, expected in found if expected.fits),
        key=lambda item: item[1].usd,
        default=None,
    )


def calibration(pairs: Iterable[tuple[float, float]]) -> float:
    """Median of actual over estimated seconds of finished jobs, 0.1 to 10; 1 without any."""
    ratios = [actual / expected for actual, expected in pairs if expected > 0 and actual > 0]
    return min(10.0, max(0.1, median(ratios))) if ratios else 1.0


def _usd(plan: Plan, gpu: str, seconds: float) -> float:
    return seconds / 3600 * plan.price(gpu)
