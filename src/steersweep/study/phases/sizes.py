"""Phase 2: how steering changes with a model's size, in the families that phase 1 takes on.

First, for some families, at which layer each size is steered best; then every size at one layer
(docs/study-plan.md, phase 2).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from steersweep.run.condition import LayerChoice
from steersweep.study import text
from steersweep.study.choices import SizeChoice, choose_for_precision
from steersweep.study.curves import SizeCurve, triggers
from steersweep.study.decisions import FamilyDecision, Outcome
from steersweep.study.depths import depth_rows, row_text
from steersweep.study.phases.families import FAMILIES, FamilySweep, supposed
from steersweep.study.phases.fields import defined, listing, mapping
from steersweep.study.phases.phase import Ahead, Expected, Mention, Phase, methods_mentioned
from steersweep.study.plan import Plan, PlannedModel, layer_choice
from steersweep.study.rows import CurveRow, DepthRow, rows_of
from steersweep.study.running import Running
from steersweep.study.sweeps import Cuts, Step, Sweep

TAKEN_BY = "precision_sweep"  # the phase that runs what this one chooses


@dataclass(frozen=True)
class Validation:
    """Layers to try first, with which methods, for sizes of which families."""

    families: tuple[str, ...]
    layers: tuple[LayerChoice, ...]
    methods: tuple[str, ...]


@dataclass(frozen=True)
class SizeSweep:
    """What phase 2 runs, and how many models it chooses for the next.

    Attributes:
        methods: ways to find a direction.
        validation: of layers, before; or None.
        tiers: how many sizes of the best family the next phase takes.
        named: by family, which sizes it takes.
        also: models of other families that it takes if they work.
    """

    methods: tuple[str, ...]
    validation: Validation | None
    tiers: int
    named: Mapping[str, tuple[str, ...]]
    also: tuple[str, ...]


_FIELDS = {
    "size_sweep": mapping(
        {"methods": defined("methods")},
        {
            "validation": mapping(
                {
                    "families": listing(defined("text")),
                    "layers": defined("layers"),
                    "methods": defined("methods"),
                }
            )
        },
    )
}


class Sizes(Phase):
    """See the top of this file."""

    name = "size_sweep"
    number = "2"
    title = "Phase 2: size"
    gate = "R2"
    reconsiders = True
    validation = Step(
        name,
        number,
        "validation",
        results="v3_phase2_layer_validation_{family}",
        run="{model}-layer-validation",
        function="validate_{family}_layers",
        is_main=False,
    )
    size = Step(
        name,
        number,
        "size",
        results="v3_phase2_size_sweep_{family}",
        run="{model}-{method}",
        function="sweep_{family}_sizes",
    )
    steps = (validation, size)
    fields = _FIELDS

    # -- the plan ----------------------------------------------------------------------------------

    def read(self, data: Mapping[str, Any]) -> SizeSweep:
        """See `Phase.read`."""
        section, following = data[self.name], data.get(TAKEN_BY, {})
        check = section.get("validation")
        return SizeSweep(
            tuple(section["methods"]),
            check
            and Validation(
                tuple(check["families"]),
                tuple(layer_choice(layer) for layer in check["layers"]),
                tuple(check["methods"]),
            ),
            following.get("tiers", 3),
            {family: tuple(names) for family, names in following.get("sizes", {}).items()},
            tuple(following.get("also", ())),
        )

    def mentions(self, plan: Plan) -> Iterator[Mention]:
        """See `Phase.mentions`."""
        section, models = plan.section(SizeSweep), len(plan.models)
        yield from methods_mentioned([self.name], section.methods)
        yield Mention("conditions", [self.name], number=models * len(section.methods))
        if (check := section.validation) is not None:
            place: list[str | int] = [self.name, "validation"]
            for i, family in enumerate(check.families):
                yield Mention("family", [*place, "families", i], family)
            yield from methods_mentioned(place, check.methods)
            count = models * len(check.layers) * len(check.methods)
            yield Mention("conditions", place, number=count)

    def may_call(self, plan: Plan) -> Iterator[tuple[Step, PlannedModel, int | None]]:
        """See `Phase.may_call`."""
        check = plan.section(SizeSweep).validation
        for model in plan.models.values():
            yield self.size, model, None
            if check is not None and model.family in check.families:
                yield self.validation, model, None

    # -- what it runs ------------------------------------------------------------------------------

    def ahead(self, ahead: Ahead) -> Iterator[Expected]:
        """As if every family went on; those that were confirmed before do."""
        plan = ahead.plan
        going, sure = _may_go_on(plan)

        def expected(sweep: Sweep) -> Expected:
            return Expected(sweep, "" if sweep.model.family in sure else "if the family goes on")

        yield from map(expected, self.validations(plan, going, ahead.cuts))
        yield from map(expected, self.sweeps(plan, going, {}, ahead.cuts))

    def validations(self, plan: Plan, decided: Iterable[FamilyDecision], cuts: Cuts) -> list[Sweep]:
        """Which layer, for the sizes of a family that phase 1 did not sweep."""
        check = plan.section(SizeSweep).validation
        if check is None:
            return []
        return [
            Sweep(
                self.validation,
                model,
                check.methods,
                check.layers,
                (decision.strength,),
                model.precision,
            )
            for decision in going_on(decided, cuts)
            if decision.family in check.families
            for model in plan.family(decision.family)
            if model.name != decision.model and model.name not in cuts.models
        ]

    def sweeps(
        self,
        plan: Plan,
        decided: Iterable[FamilyDecision],
        validated: Mapping[str, LayerChoice],
        cuts: Cuts,
    ) -> list[Sweep]:
        """Every size of the families that go on, at one layer each.

        Args:
            plan: the plan.
            decided: of phase 1.
            validated: best layer by model name where a validation found one; elsewhere the depth
                that was best in the family's phase 1 is carried over.
            cuts: what was cut.
        """
        return [
            Sweep(
                self.size,
                model,
                plan.section(SizeSweep).methods,
                (validated.get(model.name) or _carried(decision, model),),
                (decision.strength,),
                model.precision,
            )
            for decision in going_on(decided, cuts)
            for model in plan.family(decision.family)
            if model.name not in cuts.models
        ]

    def run(self, study: Running) -> Mapping[str, Any]:
        """Layer validation, then every size at one layer."""
        from steersweep.study import analysis

        plan = study.plan
        first = study.decision(FAMILIES.name)
        tested = [entry for entry in first["families"] if entry["action"] != "not-run"]
        families = rows_of(FamilyDecision, first | {"families": tested}, "families")
        checks = self.validations(plan, families, study.cuts)
        found = study.jobs.run(self.name, checks, all_may_fail=True)
        study.write_by_family(self.validation, found)
        validated = {
            outcome.model: LayerChoice(str(outcome.layer_idx)) for outcome in study.outcomes(found)
        }
        sweeps = self.sweeps(plan, families, validated, study.cuts)
        results = study.jobs.run(self.name, sweeps)
        study.write_by_family(self.size, results)
        outcomes = study.outcomes(results)
        by_family = {model.family: plan.family(model.family) for model in plan.models.values()}
        sizes = {family: [m.name for m in models] for family, models in by_family.items()}
        curves = analysis.size_curves(outcomes, sizes, plan.flat_within)
        section = plan.section(SizeSweep)
        choices = choose_for_precision(
            outcomes,
            list(plan.models),
            tiers=section.tiers,
            named=section.named,
            also=section.also,
        )
        notes = [] if choices else ["no model works at its layer; phase 3 has nothing to run"]
        gone = study.not_run(self.name, [*checks, *sweeps], [*found, *results])
        return {
            "validated_layers": {name: choice.text for name, choice in validated.items()},
            "outcomes": outcomes,
            "not_run": gone,
            "curves": curves,
            "methods": analysis.compare_methods(results, study.store),
            "depths": depth_rows(found, study.models, plan.flat_within, seed=plan.seed),
            "phase3": choices,
            "notes": notes + triggers(plan.dropped, self.name, curves=best_curves(curves)),
        }

    # -- what it found -----------------------------------------------------------------------------

    def findings(self, decision: Mapping[str, Any]) -> Iterator[str]:
        """See `Phase.findings`."""
        if outcomes := rows_of(Outcome, decision, "outcomes"):
            yield from text.outcome_table(outcomes)
        if curves := rows_of(CurveRow, decision, "curves"):
            yield from text.size_curves(curves)
        yield from text.depth_patterns(rows_of(DepthRow, decision, "depths"))
        if choices := rows_of(SizeChoice, decision, "phase3"):
            yield "Chosen for phase 3:"
            yield ""
            for choice in choices:
                place = f"{choice.model} ({choice.tier}), layer {choice.layer_idx}"
                yield f"- {place}: {choice.reason}"
            yield ""

    def lines(self, decision: Mapping[str, Any]) -> Iterator[str]:
        """See `Phase.lines`."""
        yield from map(text.curve_line, rows_of(CurveRow, decision, "curves"))
        yield from map(row_text, rows_of(DepthRow, decision, "depths"))
        for choice in rows_of(SizeChoice, decision, "phase3"):
            yield f"phase 3 takes {choice.model} ({choice.tier}): {choice.reason}"


def going_on(decided: Iterable[FamilyDecision], cuts: Cuts) -> list[FamilyDecision]:
    """Families that phase 2 takes: those not excluded, but failed or partial ones that were cut."""
    return [
        decision
        for decision in decided
        if decision.action in ("continue", "continue-with-caveat")
        and not (decision.family in cuts.families and decision.action != "continue")
    ]


def best_curves(rows: Iterable[CurveRow]) -> dict[str, SizeCurve]:
    """By family, the curve of the method with the highest rate; the first of equals."""
    highest: dict[str, float] = {}
    found = {}
    for row in rows:
        rates = tuple(point.coherent_refusal_rate for point in row.points)
        if max(rates) > highest.get(row.family, -1.0):
            highest[row.family] = max(rates)
            has_largest = row.largest not in row.missing
            found[row.family] = SizeCurve(row.shape, rates, has_largest)
    return found


def _may_go_on(plan: Plan) -> tuple[list[FamilyDecision], set[str]]:
    """Every family that may go on, supposed to be steered at one depth, and those that surely do.

    Of several models of a family that may be the best, it is supposed to be the smallest: that
    leaves most to validate.
    """
    section = plan.section(FamilySweep)
    tried = [row.model for row in section.models]
    tried += [section.fallback.model] if section.fallback is not None else []
    known = [row.model for row in section.confirmed.values()]
    models: dict[str, list[PlannedModel]] = {}
    for name in (*tried, *known):
        models.setdefault(plan.models[name].family, []).append(plan.models[name])
    smallest = [min(held, key=lambda model: model.billions).name for held in models.values()]
    uncertain = {plan.models[name].family for name in tried}
    return [supposed(plan, name) for name in smallest], models.keys() - uncertain


def _carried(decision: FamilyDecision, model: PlannedModel) -> LayerChoice:
    """The best layer of phase 1 in a model of the same family."""
    same = model.name == decision.model
    return LayerChoice(str(decision.layer_idx) if same else decision.layer_share)


SIZES = Sizes()
