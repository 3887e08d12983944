"""Time, memory and cost before a run: a stated model, corrected by what finished jobs took."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from statistics import median

from steersweep.budget.timing import CPU
from steersweep.budget.timing import gpu as gpu_machine
from steersweep.catalog.gpus import gpu_catalog
from steersweep.catalog.models import model_shapes
from steersweep.core.errors import SteersweepError
from steersweep.model.memory import OVERHEAD_BYTES, MemoryModel, memory_model
from steersweep.model.source import LAB_PREFIX, find_model
from steersweep.study.phases import Sweep
from steersweep.study.plan import Plan, PlannedModel

PROMPT_TOKENS = 40
N_POSITIONS, N_TRAIN, N_VAL = 5, 100, 24  # of COSMIC's candidates and prompts
# Whole passes of a validation prompt for a candidate, of the official code's three; candidates
# that cannot be chosen are not scored, so it differs from model to model (0.1 to 1.5 in the lab).
PASSES = 0.5
# Steered prompts run above their layer only, half of the model on average.
STEERED_SHARE = 0.5
JUDGING_ROW_S = 0.0002  # reading a response for cues and repetition
RESERVE = 1.5  # a job reserves this many times its estimate


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
    machine = CPU if facts is None else gpu_machine(facts)
    batches = math.ceil(n_rows / rows)
    steps = batches * new_tokens
    context = PROMPT_TOKENS + new_tokens / 2
    candidates = sweep.n_choosing * (
        PROMPT_TOKENS * (2 * N_TRAIN + PASSES * N_POSITIONS * sweep.model.n_layers * N_VAL)
    )
    prompts = STEERED_SHARE * n_rows * PROMPT_TOKENS
    # How likely the unsteered model finds each answer takes a pass over it; its own answers'
    # words are looked at shuffled too.
    answers = (n_rows + n_prompts) * new_tokens
    seconds = machine.start_s + weights / machine.load_rate
    seconds += steps * machine.step(model, sweep.precision, n_rows / batches, context)
    seconds += machine.tokens(model, candidates + prompts) + machine.scored(model, answers)
    seconds = factor * (seconds + n_rows * JUDGING_ROW_S)
    return Estimate(seconds, memory_gb, rows, fits, _usd(plan, kind, seconds))


def shape_of(model: PlannedModel) -> MemoryModel:
    """What time and memory of a planned model depend on.

    From the catalog, or from the config of a model that is on this machine; of others from their
    parameters and layers.
    """
    parameters = int(model.billions * 1e9)
    facts = model_shapes().get(model.model)
    here = _shape_here(model.model) if facts is None else None
    if here is not None:
        return here
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


@cache
def _shape_here(name: str) -> MemoryModel | None:
    """The shape of a model that is on this machine, if it can be told from its config."""
    if not (name.startswith(LAB_PREFIX) or Path(name).is_dir()):
        return None
    try:
        return memory_model(find_model(name).config())
    except (SteersweepError, ValueError):
        return None  # what is wrong with it is said when it is run


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
