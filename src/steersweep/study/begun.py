"""What a study has done already, which no cut takes back."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from steersweep.run.folder import RunFolder
from steersweep.study.plan import Plan
from steersweep.study.settings import planned_prompts
from steersweep.study.sweeps import Cuts


@dataclass(frozen=True)
class Begun:
    """What a study has done already.

    Attributes:
        phases: names of those that have ended.
        prompts: by model id, on how many test prompts a model has finished conditions.
    """

    phases: frozenset[str] = frozenset()
    prompts: Mapping[str, int] = field(default_factory=dict)

    def cuts_of(self, cuts: Cuts, model_id: str) -> Cuts:
        """The cuts as they apply to a model: one that has begun keeps its prompts."""
        return replace(cuts, prompts=self.prompts.get(model_id, cuts.prompts))


def begun(plan: Plan, store: RunFolder) -> Begun:
    """What the run folder of a study holds."""
    asked = planned_prompts(plan, Cuts()).prompts
    prompts: dict[str, int] = {}
    ended = []
    for phase in plan.phases:
        if store.read_json(store.paths.decision(phase)) is not None:
            ended.append(phase)
        held = store.read_json(store.paths.phase(phase)) or {}
        for key in held.get("conditions", []):
            record = store.get(key)
            if record is None:
                continue
            name, each = record.condition.model_id, record.condition.decoding.repeats
            tested = tuple(sample.prompt for sample in record.samples[::each])
            if tested == asked[: (count := len(tested))]:
                prompts[name] = max(count, prompts.get(name, 0))
    return Begun(frozenset(ended), prompts)
