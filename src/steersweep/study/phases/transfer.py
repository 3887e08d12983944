"""Phase 4: whether one model's direction steers another of the same width.

Not of the original study; its follow-up (docs/study-plan.md, phase 4).
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from steersweep.run.condition import LayerChoice
from steersweep.study import text
from steersweep.study.decisions import Outcome
from steersweep.study.phases.families import FAMILIES
from steersweep.study.phases.fields import defined, listing, mapping
from steersweep.study.phases.phase import Ahead, Expected, Mention, Phase, methods_mentioned
from steersweep.study.phases.sizes import SIZES
from steersweep.study.plan import Plan, PlannedModel
from steersweep.study.rows import TransferRow, rows_of
from steersweep.study.running import Running, by_model
from steersweep.study.sweeps import Step, Sweep

EARLIER = (FAMILIES.name, SIZES.name)  # phases that say where a model is steered best


@dataclass(frozen=True)
class TransferSweep:
    """What phase 4 runs: with which methods, among which models directions are exchanged."""

    methods: tuple[str, ...]
    among: tuple[str, ...]


_FIELDS = {
    "transfer_sweep": mapping(
        {"methods": defined("methods"), "among": listing(defined("text"), at_least=2)}
    )
}


class Transfer(Phase):
    """See the top of this file."""

    name = "transfer_sweep"
    number = "4"
    title = "Phase 4: transfer between models"
    borrowed_elsewhere = True
    step = Step(
        name,
        number,
        "transfer",
        results="v3_phase4_transfer",
        run="{model}-{method}-transfer",
        function="transfer_to_{model}",
    )
    steps = (step,)
    fields = _FIELDS

    # -- the plan ----------------------------------------------------------------------------------

    def read(self, data: Mapping[str, Any]) -> TransferSweep:
        """See `Phase.read`."""
        section = data[self.name]
        return TransferSweep(tuple(section["methods"]), tuple(section["among"]))

    def mentions(self, plan: Plan) -> Iterator[Mention]:
        """See `Phase.mentions`."""
        section = plan.section(TransferSweep)
        for i, name in enumerate(section.among):
            yield Mention("model", [self.name, "among", i], name)
        yield from methods_mentioned([self.name], section.methods)
        count = len(section.among) ** 2 * len(section.methods)
        yield Mention("conditions", [self.name], number=count)

    def may_call(self, plan: Plan) -> Iterator[tuple[Step, PlannedModel, int | None]]:
        """See `Phase.may_call`."""
        for name in plan.section(TransferSweep).among:
            yield self.step, plan.models[name], None

    # -- what it runs ------------------------------------------------------------------------------

    def ahead(self, ahead: Ahead) -> Iterator[Expected]:
        """Every model that an earlier phase tries, with every other's that may have its width."""
        from steersweep.study.costs import width_of

        plan, section = ahead.plan, ahead.plan.section(TransferSweep)
        tried: dict[str, Expected] = {}
        for expected in ahead.before:
            sweep = expected.sweep
            if sweep.model.name in ahead.cuts.models:
                continue
            if sweep.step.phase in EARLIER and {*sweep.methods} & {*section.methods}:
                held = tried.get(sweep.model.name)
                tried[sweep.model.name] = expected if held is None or held.when else held
        names = [name for name in section.among if name in tried]
        widths = {name: width_of(plan.models[name]) for name in names}
        sure = all(not tried[name].when and widths[name] is not None for name in names)
        for name in names:
            sweep = self._sweep(plan, name, tried[name].sweep)
            same = [
                other
                for other in names
                if other != name
                and (None in (widths[other], widths[name]) or widths[other] == widths[name])
            ]
            yield Expected(sweep.expecting(same), "" if sure else "if tried before")

    def _sweep(self, plan: Plan, name: str, tried: Sweep) -> Sweep:
        layer = str(tried.layers[0].index(tried.model.n_layers))
        return Sweep(
            self.step,
            plan.models[name],
            plan.section(TransferSweep).methods,
            (LayerChoice(layer),),
            tried.strengths[:1],
            plan.models[name].precision,
        )

    def sweeps(
        self, plan: Plan, outcomes: Iterable[Outcome], without: Collection[str] = ()
    ) -> list[Sweep]:
        """Each model at the layer and strength that were best for it before.

        A model without a result in an earlier phase is left out. Borrowed directions come when all
        these have run.

        Args:
            plan: the plan.
            outcomes: of earlier phases.
            without: names of models that were cut.
        """
        section = plan.section(TransferSweep)
        best: dict[str, Outcome] = {}
        for outcome in outcomes:
            held = best.get(outcome.model)
            if outcome.method in section.methods and (
                held is None or outcome.coherent > held.coherent
            ):
                best[outcome.model] = outcome
        return [
            Sweep(
                self.step,
                plan.models[name],
                section.methods,
                (LayerChoice(str(best[name].layer_idx)),),
                (best[name].strength,),
                plan.models[name].precision,
            )
            for name in section.among
            if name in best and name not in without
        ]

    def run(self, study: Running) -> Mapping[str, Any]:
        """Each model with its own directions, then with those of others of its width."""
        from steersweep.study import analysis

        earlier = [study.decided(phase) or {} for phase in EARLIER]
        held = [row for decision in earlier for row in rows_of(Outcome, decision, "outcomes")]
        gone = _cut(study, earlier[0].get("families", []))
        own = self.sweeps(study.plan, held, gone)
        found = by_model(study.jobs.run(self.name, own, all_may_fail=True))
        widths = {name: results[0].d_model for name, results in found.items()}
        sweeps = [
            sweep.borrowing(
                {
                    other.model.name: found[other.model.model]
                    for other in own
                    if other is not sweep
                    and other.model.model in found
                    and widths[other.model.model] == widths.get(sweep.model.model)
                }
            )
            for sweep in own
        ]
        results = study.jobs.run(self.name, sweeps)
        if results:
            study.write_results(self.step, results)
        alone = [sweep.model.name for sweep in sweeps if not sweep.borrowed]
        among = study.plan.section(TransferSweep).among
        return {
            "outcomes": study.outcomes(results),
            "transfers": analysis.transfers(results, study.names, study.store),
            "notes": [
                *(f"{name}: no other model here has its width" for name in alone),
                *(f"{name} was cut" for name in among if name in gone),
            ],
        }

    # -- what it found -----------------------------------------------------------------------------

    def findings(self, decision: Mapping[str, Any]) -> Iterator[str]:
        """See `Phase.findings`."""
        if outcomes := rows_of(Outcome, decision, "outcomes"):
            yield from text.outcome_table(outcomes)
        if rows := rows_of(TransferRow, decision, "transfers"):
            yield from (f"- {text.transfer_line(row)}" for row in rows)
            yield ""

    def lines(self, decision: Mapping[str, Any]) -> Iterator[str]:
        """See `Phase.lines`."""
        return map(text.transfer_line, rows_of(TransferRow, decision, "transfers"))


def _cut(study: Running, decided: Iterable[Mapping[str, Any]]) -> set[str]:
    """Names of models that were cut: by themselves, or with a family that phase 1 did not take on.

    Args:
        study: that runs.
        decided: phase 1's decisions on families.
    """
    failed = {
        row["family"]
        for row in decided
        if row["family"] in study.cuts.families and row["action"] != "continue"
    }
    of_failed = {model.name for model in study.plan.models.values() if model.family in failed}
    return {*study.cuts.models, *of_failed}


TRANSFER = Transfer()
