"""Phase 0: COSMIC as it is here against its authors' numbers, and a reproduction run.

Nothing else starts before it has passed (docs/study-plan.md, phase 0).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from steersweep.core import typed
from steersweep.core.errors import InputError, SteersweepError
from steersweep.methods.method import METHODS
from steersweep.run.condition import LayerChoice, Strength
from steersweep.run.paths import RunPaths
from steersweep.run.result_files import read_result_file
from steersweep.study.phases.fields import defined, mapping
from steersweep.study.phases.phase import Ahead, Expected, Mention, Phase
from steersweep.study.plan import Plan, PlannedModel, layer_choice, strength_of
from steersweep.study.running import GateStop, Running
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
    gate: str = "R0"
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

    def run(self, study: Running) -> Mapping[str, Any]:
        """Verify, unless that has been done, and passed or was accepted by a person."""
        from steersweep.verification.signing import accepted, show_signature

        held = study.decided(self.name)
        if held is not None and (held["passed"] or accepted(study.store.root)):
            show_signature(study.store.root)
            self._tell(study, held, earlier=True)
            return held
        decision = self._verify(study)
        self._tell(study, decision, earlier=False)
        return decision

    def _tell(self, study: Running, decision: Mapping[str, Any], *, earlier: bool) -> None:
        """Tell of the reproduction's results, which lie in a run folder of their own."""
        from steersweep.study.listeners import Ended

        file = study.store.paths.named(decision["reproduction"]["results_file"])
        try:
            results = read_result_file(file)
        except InputError as error:
            return study.say(str(error))  # the decision rests on its own file
        sweep, folder = self.sweep(study.plan), study.store.paths.name_of(file.parent.parent)
        return study.jobs.tell(Ended(self.name, sweep, results, earlier, folder))

    def _verify(self, study: Running) -> dict[str, Any]:
        from steersweep.methods.official import built_in_fixtures
        from steersweep.study.settings import settings_of
        from steersweep.verification.verify import Reproduction, verify_cosmic

        sweep = self.sweep(study.plan)
        settings = settings_of(_with_prompts(study.plan), sweep, study.cuts)
        reproduction = Reproduction(settings, study.plan.section(Reproduced).expect)
        result, path = verify_cosmic(
            built_in_fixtures(),
            study.store.root,
            reproduction=reproduction,
            on_fixture=lambda name: study.say(f"comparing COSMIC with {name}"),
            device=study.jobs.device(sweep),
            run=lambda job, store, _progress: study.jobs.run_apart(self.name, sweep, job, store),
        )
        return {
            "passed": result.passed,
            "results_file": study.store.paths.name_of(path),
            "quantities": typed.plain(result.quantities),
            "reproduction": typed.plain(result.reproduction),
        }

    def obstacle(self, study: Running, decision: Mapping[str, Any]) -> SteersweepError | None:
        """See `Phase.obstacle`. A lead may accept an expectation that was missed, not numbers."""
        from steersweep.verification.outcome import Quantity, Reproduced
        from steersweep.verification.report import GATE
        from steersweep.verification.signing import accepted, missed

        paths = study.store.paths
        if decision["passed"] or accepted(paths.root):
            return None
        quantities = typed.read(dict[str, Quantity], decision["quantities"])
        if not all(quantity.passed for quantity in quantities.values()):
            return SteersweepError(
                f"the COSMIC verification failed; see {paths.verification}. Phase 1 does not start "
                f"without it"
            )
        run = typed.read(Reproduced, decision["reproduction"])
        gate = self.gate if study.plan.questions(self.gate) else GATE
        return GateStop(
            f"the COSMIC verification missed its expectation: {missed(run)}; "
            f"see {paths.verification}. Phase 1 does not start without it. A lead may accept it "
            f"with a written reason: steersweep approve {paths.root} {gate} --by NAME --note "
            f"REASON, and the same run command again",
            self.name,
        )

    def findings(self, decision: Mapping[str, Any]) -> Iterator[str]:
        """See `Phase.findings`."""
        yield "Passed." if decision["passed"] else "Failed."
        yield f"Report: {RunPaths(Path()).verification}, `{decision['results_file']}`."

    def lines(self, decision: Mapping[str, Any]) -> Iterator[str]:
        """See `Phase.lines`."""
        yield "passed" if decision["passed"] else "failed"


def _with_prompts(plan: Plan) -> Plan:
    """The plan, with COSMIC's own extraction prompts where it has none for COSMIC."""
    given = {METHOD: METHODS.get(METHOD).default_prompts, **plan.prompts.extraction}
    return replace(plan, prompts=replace(plan.prompts, extraction=given))


VERIFICATION = Verification()
