"""Cuts: which apply where, and what each saves. Nothing that is finished runs again for one.

A cut is for what has not begun. A phase that has ended keeps its models and families. A model that
has finished conditions keeps the prompts they were tested on, in every phase and precision: fewer
would be other conditions, so finished ones would be paid for again or thrown away, a decision that
a person has signed would change, and comparisons on the same prompts would have none.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass, replace
from functools import cache

from steersweep.run.folder import RunFolder
from steersweep.study.ahead import look_ahead
from steersweep.study.begun import Begun
from steersweep.study.costs import estimate
from steersweep.study.plan import Cut, Plan
from steersweep.study.settings import prompt_counts
from steersweep.study.sweeps import Cuts, Sweep


def cuts_of_phase(plan: Plan, store: RunFolder, phase: str, count: int) -> Cuts:
    """The plan's first `count` cuts as a phase takes them.

    One that has ended keeps those that it ended with, but for models that could not run in it.
    """
    now = Cuts.first(plan, count)
    held = store.read_json(store.paths.decision(phase))
    if held is None:
        return now
    then = Cuts.first(plan, min(count, held.get("cuts", 0)))
    failed = {name.split(" ")[0] for name in held.get("failures", {})}
    return replace(now, models=then.models | (now.models & failed), families=then.families)


@dataclass(frozen=True)
class Saving:
    """What a cut saves at most, of what is left to do.

    Attributes:
        number: of the cut in the plan's order, from 1.
        cut: the cut.
        usd: money, by the estimate.
        seconds: time of jobs, by the estimate.
    """

    number: int
    cut: Cut
    usd: float
    seconds: float

    def as_json(self) -> dict[str, str | float]:
        """Plain data; of the cut what it does."""
        return {
            "cut": self.number,
            "do": self.cut.do,
            "usd": self.usd,
            "seconds": self.seconds,
        }

    def __str__(self) -> str:
        what = ", ".join(self.cut.what) or f"to {self.cut.prompts}"
        if not self.seconds:
            return f"cut {self.number}, {self.cut.do} {what}: saves nothing"
        time = f"{self.seconds / 60:.1f} minutes of jobs"
        money = f"{self.usd:.2f} USD and {time}" if self.usd else time
        return f"cut {self.number}, {self.cut.do} {what}: saves at most {money}"


def savings(plan: Plan, done: Begun, numbers: Collection[int]) -> list[Saving]:
    """What cuts save at most, each beside those before it in the plan's order.

    Args:
        plan: the plan.
        done: what is done already, which no cut saves.
        numbers: of the cuts, from 1.
    """
    found = []
    for number in sorted(numbers):
        cut = plan.cuts[number - 1]
        before, after = Cuts.first(plan, number - 1), Cuts.first(plan, number)
        if cut.do == "drop-failed-families":  # as if they had failed
            models = {m.name for m in plan.models.values() if m.family in cut.what}
            after = replace(after, models=after.models | models)
        more, less = _left(plan, before, done), _left(plan, after, done)
        usd, seconds = (max(0.0, a - b) for a, b in zip(more, less, strict=True))
        found.append(Saving(number, cut, usd, seconds))
    return found


def _left(plan: Plan, cuts: Cuts, done: Begun) -> tuple[float, float]:
    """USD and seconds of what the phases that have not ended run at most."""

    @cache
    def n_prompts(cuts: Cuts) -> Callable[[Sweep], int]:
        return prompt_counts(plan, cuts)

    costs = []
    for expected in look_ahead(plan, cuts):
        sweep = expected.sweep
        if sweep.step.phase not in done.phases:
            of_model = done.cuts_of(cuts, sweep.model.model)
            found = estimate(plan, sweep, n_prompts(of_model)(sweep))
            costs.append((found.usd, found.seconds))
    return sum(usd for usd, _ in costs), sum(seconds for _, seconds in costs)
