"""What a plan would run, before it does: at most, and at least."""

from __future__ import annotations

from steersweep.study.costs import estimate
from steersweep.study.phases.phase import Ahead, Expected
from steersweep.study.phases.registry import phases_of
from steersweep.study.plan import Plan
from steersweep.study.settings import prompt_counts
from steersweep.study.sweeps import Cuts, Sweep


def look_ahead(plan: Plan, cuts: Cuts) -> list[Expected]:
    """Every sweep of every phase, whatever results will be: no study runs more than these.

    Those without a condition run for sure, unless a model cannot run or a person stops the study.

    Raises:
        InputError: a prompt set cannot be read, or a layer lies outside its model.
    """

    n_prompts = prompt_counts(plan, cuts)

    def cost(sweep: Sweep) -> tuple[float, float]:
        expected = estimate(plan, sweep, n_prompts(sweep))
        return expected.usd, expected.seconds

    ahead = Ahead(plan, cuts, cost)
    for phase in phases_of(plan):
        ahead.before += list(phase.ahead(ahead))
    return ahead.before
