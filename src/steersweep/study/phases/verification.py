"""Phase 0: COSMIC as it is here against its authors' numbers, and a reproduction run.

Nothing else starts before it has passed (docs/study-plan.md, phase 0).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from steersweep.run.condition import LayerChoice, Strength
from steersweep.run.paths import RunPaths
from steersweep.study.phases.fields import defined, mapping
from steersweep.study.phases.phase import Ahead, Expected, Mention, Phase
from steersweep.study.plan import Plan, PlannedModel, layer_choice, strength_of
from steersweep.study.running import Running
from steersweep.study.sweeps import Step, Sweep

METHOD = "cosmic"


@dataclass(frozen=True)
class Reproduced:
    """The reproduction run.

    Attributes:
        model: the plan's name of the model.
        layer: where steering starts.
        strength: how strongly.
        expect: coherent refusal rate that it must reach, 0 to 1.
    """

    model: str
    layer: LayerChoice
    strength: Strength
    expect: float


_FIELDS = {
    "verification": mapping(
        {
            "model": defined("text"),
            "layer": defined("layer"),
            "strength": defined("strength"),
            "expect": defined("rate"),
        }
    )
}


class Verification(Phase):
    """See the top of this file."""

    name = "verification"
    number = "0"
    title = "COSMIC verification"
    gate = "R0"
    step = Step(
        name,
        number,
        "verification",
        results="v3_cosmic_verification",
        run="{model}-{method}",
        function="verify_{model}",
        is_cut=False,
    )
    steps = (step,)
    fields = _FIELDS

    def read(self, data: Mapping[str, Any]) -> Reproduced:
        """See `Phase.read`."""
        section = data[self.name]
        return Reproduced(
            section["model"],
            layer_choice(section["layer"]),
            strength_of(section["strength"]),
            section["expect"],
        )

    def mentions(self, plan: Plan) -> Iterator[Mention]:
        """See `Phase.mentions`."""
        section = plan.section(Reproduced)
        yield Mention("model", [self.name, "model"], section.model)
        if not section.layer.is_share:
            yield Mention("layer", [self.name, "layer"], section.model, int(section.layer.text))

    def may_call(self, plan: Plan) -> Iterator[tuple[Step, PlannedModel, int | None]]:
        """See `Phase.may_call`."""
        yield self.step, plan.models[plan.section(Reproduced).model], None

    def ahead(self, ahead: Ahead) -> Iterator[Expected]:
        """The reproduction's job; the numbers of the fixtures take seconds."""
        yield Expected(self.sweep(ahead.plan))

    def sweep(self, plan: Plan) -> Sweep:
        """The reproduction run."""
        section = plan.section(Reproduced)
        return Sweep(
            self.step,
            plan.models[section.model],
            (METHOD,),
            (section.layer,),
            (section.strength,),
            plan.models[section.model].precision,
        )

    def run(self, study: Running) -> dict[str, Any]:
        """Verify, unless that has been done and passed."""
        held = study.decided(self.name)
        return self._verify(study) if held is None or not held["passed"] else held

    def _verify(self, study: Running) -> dict[str, Any]:
        from steersweep.methods.official import built_in_fixtures
        from steersweep.study.settings import planned_prompts
        from steersweep.verification.verify import Reproduction, verify_cosmic

        plan, section, sweep = study.plan, study.plan.section(Reproduced), self.sweep(study.plan)
        relative = section.strength.unit == "relative"
        reproduction = Reproduction(
            sweep.model.model,
            section.layer.text,
            section.strength.value if relative else None,
            None if relative else section.strength.value,
            section.expect,
            plan.prompts.test,
            len(planned_prompts(plan, study.cuts).prompts),
            sweep.model.template_options,
        )
        result, path = verify_cosmic(
            built_in_fixtures(),
            study.store.root,
            reproduction=reproduction,
            on_fixture=lambda name: study.say(f"comparing COSMIC with {name}"),
            device=study.jobs.device(sweep),
            run=lambda job, store, _progress: study.jobs.run_apart(self.name, sweep, job, store),
        )
        return {
            "passed": result["passed"],
            "results_file": study.store.paths.name_of(path),
            "quantities": result["quantities"],
            "reproduction": result["reproduction"],
        }

    def obstacle(self, study: Running, decision: Mapping[str, Any]) -> str | None:
        """See `Phase.obstacle`."""
        if decision["passed"]:
            return None
        return (
            f"the COSMIC verification failed; see {study.store.paths.verification}. "
            f"Phase 1 does not start without it"
        )

    def findings(self, decision: Mapping[str, Any]) -> Iterator[str]:
        """See `Phase.findings`."""
        yield "Passed." if decision["passed"] else "Failed."
        yield f"Report: {RunPaths(Path()).verification}, `{decision['results_file']}`."

    def lines(self, decision: Mapping[str, Any]) -> Iterator[str]:
        """See `Phase.lines`."""
        yield "passed" if decision["passed"] else "failed"


VERIFICATION = Verification()
