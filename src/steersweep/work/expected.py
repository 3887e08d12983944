"""What a job's stages are expected to take on the machine that runs it, before they are seen."""

from __future__ import annotations

from steersweep.budget.estimate import (
    EFFECTS,
    GENERATION,
    JUDGING,
    LIKELIHOODS,
    LOADING,
    Workload,
    search_tokens,
    stage_seconds,
)
from steersweep.budget.shapes import ModelShape
from steersweep.budget.timing import CPU, Machine, gpu
from steersweep.catalog.gpus import gpu_catalog
from steersweep.methods.handed import Handed
from steersweep.methods.method import ACTIVATIONS, METHODS
from steersweep.model.device import kind_here
from steersweep.work.job import Job

CHECKS, PROMPTS, COMPARISON = "checks", "test prompts", "comparison of precisions"
# Their pace says nothing of that of the others.
APART = frozenset((LOADING, CHECKS, JUDGING))
_CHECKED_TOKENS = 850  # what the passes of the checks take, most of which are short
PROMPT_TOKENS = 40
_ANY_GPU = "A100-80GB"


def machine_of(device: str) -> Machine:
    """The rates to begin with; what a run sees of them corrects them."""
    if device.startswith("cpu"):
        return CPU
    return gpu(gpu_catalog()[kind_here(device) or _ANY_GPU])


def stages_of_method(method: str) -> tuple[str, ...]:
    """What a method's stages are called, in order; one, where it names none."""
    return tuple(getattr(METHODS.get(method), "stages", (ACTIVATIONS,)))


def stage_name(method: str, stage: str) -> str:
    """What a stage of a method is called among those of a job."""
    return f"{method}: {stage}"


def expected_seconds(
    job: Job, shape: ModelShape, device: str, *, rows: int | None = None
) -> dict[str, float]:
    """Seconds of each stage of a job, in order, as if nothing of it were done.

    Args:
        job: the job.
        shape: of its model.
        device: where it runs.
        rows: answers, where they are not those of all its conditions to all its prompts.
    """
    machine = machine_of(device)
    n_prompts = len(job.test.prompts)
    n_conditions = len(job.conditions) if rows is None else -(-rows // n_prompts)
    work = Workload(
        shape=shape,
        precision=job.precision,
        n_conditions=n_conditions,
        n_prompts=n_prompts,
        new_tokens=max(condition.max_new_tokens for condition in job.conditions),
        rows=job.max_rows,
        searches=0,
        effect_tokens=job.effects.tokens(n_prompts),
    )
    of_work = stage_seconds(work, machine)
    tokens: dict[str, float] = {CHECKS: _CHECKED_TOKENS, PROMPTS: n_prompts * PROMPT_TOKENS}
    for method, prompts in job.extraction.items():
        first, *rest = stages_of_method(method)
        n_read = len(prompts.harmful) + len(prompts.harmless)
        if isinstance(job.own_methods.get(method), Handed):
            n_read = 0  # its directions are there
        tokens[stage_name(method, first)] = n_read * PROMPT_TOKENS
        _, scoring = search_tokens(shape.n_layers)
        for stage in rest:
            tokens[stage_name(method, stage)] = scoring / len(rest)
    if job.reference is not None:
        tokens[COMPARISON] = sum(
            (len(prompts.harmful) + len(prompts.harmless)) * PROMPT_TOKENS
            for prompts in job.extraction.values()
        )
    compared = tokens.pop(COMPARISON, None)
    found = {LOADING: of_work[LOADING]}
    found |= {name: machine.tokens(shape, job.precision, count) for name, count in tokens.items()}
    found |= {name: of_work[name] for name in (GENERATION, LIKELIHOODS, JUDGING)}
    if job.effects:
        found[EFFECTS] = of_work[EFFECTS]
    if compared is not None:
        found[COMPARISON] = machine.tokens(shape, job.precision, compared)
    return found
