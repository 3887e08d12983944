"""Time, memory and cost before a run: a stated model, corrected by what finished jobs took."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from statistics import median

from steersweep.budget.shapes import OVERHEAD_BYTES, ModelShape
from steersweep.budget.timing import CPU, Machine
from steersweep.budget.timing import gpu as gpu_machine
from steersweep.catalog.gpus import gpu_catalog

PROMPT_TOKENS = 40
N_POSITIONS, N_TRAIN, N_VAL = 5, 100, 24  # of COSMIC's candidates and prompts
# Whole passes of a validation prompt for a candidate, of the official code's three; candidates
# that cannot be chosen are not scored, so it differs from model to model (0.1 to 1.5 in the lab).
PASSES = 0.5
# Steered prompts run above their layer only, half of the model on average.
STEERED_SHARE = 0.5
JUDGING_ROW_S = 0.0005  # reading a response for cues and repetition
RESERVE = 1.5  # a job reserves this many times its estimate


@dataclass(frozen=True)
class Workload:
    """What a job consists of, in numbers.

    Attributes:
        shape: of its model.
        precision: the model runs in.
        n_conditions: its conditions, controls included.
        n_prompts: unique test prompts of each.
        new_tokens: of the longest answer.
        rows: of a batch, at most.
        searches: methods that score candidates at every layer and position.
        effect_tokens: tokens of each condition that its effects are measured on.
    """

    shape: ModelShape
    precision: str
    n_conditions: int
    n_prompts: int
    new_tokens: int
    rows: int
    searches: int
    effect_tokens: int = 0


@dataclass(frozen=True)
class Estimate:
    """What a job is expected to take.

    Attributes:
        seconds: of the job.
        memory_gb: at its highest, with that many rows.
        rows: of a batch: those asked for, or what fits beside the weights.
        fits: whether a single row does; None where the GPU's memory is not known.
        usd: at the price given.
        loading_s: of `seconds`, those until its model is loaded.
    """

    seconds: float
    memory_gb: float
    rows: int
    fits: bool | None
    usd: float
    loading_s: float = 0.0


def estimate(work: Workload, gpu: str, *, usd_per_hour: float, factor: float = 1.0) -> Estimate:
    """What a job takes on a kind of GPU.

    Args:
        work: the job.
        gpu: a kind of the catalog; any other is taken for a CPU, `local` for this machine.
        usd_per_hour: its price.
        factor: from `calibration`.
    """
    model, precision, new_tokens, rows = work.shape, work.precision, work.new_tokens, work.rows
    n_rows = work.n_conditions * work.n_prompts
    facts = gpu_catalog().get(gpu)
    weights = model.weights(precision)
    fits = None
    if facts is not None:
        free = facts["memory_gb"] * 1e9 - weights - OVERHEAD_BYTES
        fitting = model.rows_that_fit(precision, PROMPT_TOKENS, new_tokens, free=free)
        rows, fits = min(rows, max(1, fitting)), fitting > 0
    row = model.row(precision, PROMPT_TOKENS, new_tokens)
    memory_gb = weights / 1e9 + (min(rows, n_rows) * row + OVERHEAD_BYTES) / 1e9
    machine = CPU if facts is None else gpu_machine(facts)
    stages = stage_seconds(replace(work, rows=rows), machine)
    seconds, loading_s = factor * sum(stages.values()), factor * stages[LOADING]
    return Estimate(seconds, memory_gb, rows, fits, seconds / 3600 * usd_per_hour, loading_s)


LOADING, GENERATION, LIKELIHOODS, JUDGING = "loading", "generation", "likelihoods", "judging"
SEARCH, EFFECTS = "search", "effects"


def stage_seconds(work: Workload, machine: Machine) -> dict[str, float]:
    """Seconds of a job by stage, on a machine.

    `SEARCH` is what methods take that score candidates; those that only read activations take
    little.
    """
    model, precision, new_tokens = work.shape, work.precision, work.new_tokens
    n_rows = work.n_conditions * work.n_prompts
    batches = math.ceil(n_rows / work.rows)
    context = PROMPT_TOKENS + new_tokens / 2
    step = machine.step(model, precision, n_rows / batches, context)
    # How likely the unsteered model finds each answer takes a pass over it; its own answers'
    # words are looked at shuffled too.
    answers = (n_rows + work.n_prompts) * new_tokens
    return {
        LOADING: machine.start_s + model.weights(precision) / machine.load_rate,
        SEARCH: work.searches
        * machine.tokens(model, precision, sum(search_tokens(model.n_layers))),
        GENERATION: batches * new_tokens * step
        + machine.tokens(model, precision, STEERED_SHARE * n_rows * PROMPT_TOKENS),
        LIKELIHOODS: machine.scored(model, precision, answers),
        JUDGING: n_rows * JUDGING_ROW_S,
        EFFECTS: machine.scored(model, precision, work.n_conditions * work.effect_tokens),
    }


def search_tokens(n_layers: int) -> tuple[float, float]:
    """Tokens of whole passes that a search takes: for its candidates, and for their scores."""
    scores = PASSES * N_POSITIONS * n_layers * N_VAL
    return PROMPT_TOKENS * 2.0 * N_TRAIN, PROMPT_TOKENS * scores


def cheapest(work: Workload, prices: Mapping[str, float]) -> tuple[str, Estimate] | None:
    """The cheapest kind of GPU for a job among those it fits, and what it takes there.

    Args:
        work: the job.
        prices: USD per hour of the kinds to choose from.
    """
    found = [(gpu, estimate(work, gpu, usd_per_hour=price)) for gpu, price in prices.items()]
    return min(
        ((gpu, expected) for gpu, expected in found if expected.fits),
        key=lambda item: item[1].usd,
        default=None,
    )


def calibration(pairs: Iterable[tuple[float, float]]) -> float:
    """Median of actual over estimated seconds of finished jobs, 0.1 to 10; 1 without any."""
    ratios = [actual / expected for actual, expected in pairs if expected > 0 and actual > 0]
    return min(10.0, max(0.1, median(ratios))) if ratios else 1.0
