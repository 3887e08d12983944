"""Phase 3: whether quantization changes what steering does, on the models phase 2 chose.

The first precision is the reference: what it found is tried in the others too
(docs/study-plan.md, phase 3).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from steersweep.run.condition import LayerChoice
from steersweep.study import text
from steersweep.study.decisions import SizeChoice
from steersweep.study.phases.fields import defined, listing, mapping
from steersweep.study.phases.phase import Ahead, Expected, Mention, Phase, methods_mentioned
from steersweep.study.phases.sizes import SIZES, TAKEN_BY
from steersweep.study.plan import Plan, PlannedModel
from steersweep.study.running import Running, by_model, plain, read_back
from steersweep.study.sweeps import Step, Sweep

PRESERVED_FROM = 0.9


@dataclass(frozen=True)
class PrecisionSweep:
    """What phase 3 runs.

    Attributes:
        precisions: what each model runs in, the reference first.
        methods: ways to find a direction.
        tiers: sizes of the best family.
        also: models of other families, if they work.
        preserved_from: cosine from which a direction counts as preserved.
    """

    precisions: tuple[str, ...]
    methods: tuple[str, ...]
    tiers: int
    also: tuple[str, ...]
    preserved_from: float


_NEEDS = {SIZES.name: "whose results it chooses models by"}
_FIELDS = {
    TAKEN_BY: mapping(
        {
            "precisions": listing(defined("precision"), at_least=1),
            "methods": defined("methods"),
            "tiers": {"type": "integer", "minimum": 1, "maximum": 100},
        },
        {"also": listing(defined("text")), "preserved_from": defined("rate")},
    )
}


class Precisions(Phase):
    """See the top of this file."""

    name = TAKEN_BY
    number = "3"
    title = "Phase 3: precision"
    gate = "R3"
    needs = _NEEDS
    step = Step(
        name,
        number,
        "precision",
        results="v3_phase3_quant_sweep",
        run="{model}-{precision}",
        function="sweep_{model}_precisions",
    )
    steps = (step,)
    fields = _FIELDS

    # -- the plan ----------------------------------------------------------------------------------

    def read(self, data: Mapping[str, Any]) -> PrecisionSweep:
        """See `Phase.read`."""
        section = data[self.name]
        return PrecisionSweep(
            tuple(section["precisions"]),
            tuple(section["methods"]),
            section["tiers"],
            tuple(section.get("also", ())),
            section.get("preserved_from", PRESERVED_FROM),
        )

    def mentions(self, plan: Plan) -> Iterator[Mention]:
        """See `Phase.mentions`."""
        section = plan.section(PrecisionSweep)
        for i, name in enumerate(section.also):
            yield Mention("model", [self.name, "also", i], name)
        yield from methods_mentioned([self.name], section.methods)
        chosen = section.tiers + len(section.also)
        count = chosen * len(section.precisions) * len(section.methods)
        yield Mention("conditions", [self.name], number=count)

    def may_call(self, plan: Plan) -> Iterator[tuple[Step, PlannedModel, int | None]]:
        """See `Phase.may_call`."""
        for model in plan.models.values():
            yield self.step, model, None

    # -- what it runs ------------------------------------------------------------------------------

    def ahead(self, ahead: Ahead) -> Iterator[Expected]:
        """As if the family whose largest sizes cost most were chosen, and all of `also` too."""
        plan, section = ahead.plan, ahead.plan.section(PrecisionSweep)
        sized = {e.sweep.model.name: e.sweep for e in ahead.before if e.sweep.step == SIZES.size}
        also = [sized[name] for name in section.also if name in sized]
        families: dict[str, list[tuple[tuple[float, float], list[Sweep]]]] = {}
        for name, sweep in sized.items():
            if name not in section.also:
                made = self._expected(plan, sweep)
                cost = (sum(ahead.cost(s)[0] for s in made), sum(ahead.cost(s)[1] for s in made))
                families.setdefault(sweep.model.family, []).append((cost, made))
        dearest: tuple[tuple[float, float], list[Sweep]] = ((0.0, 0.0), [])
        for members in families.values():
            taken = sorted(members, key=lambda member: member[0])[-section.tiers :]
            cost = (sum(c[0] for c, _ in taken), sum(c[1] for c, _ in taken))
            made = [sweep for _, sweeps in taken for sweep in sweeps]
            dearest = max(dearest, (cost, made), key=lambda found: found[0])
        chosen = [*dearest[1], *(s for sweep in also for s in self._expected(plan, sweep))]
        for precision in section.precisions:
            for sweep in chosen:
                if sweep.precision == precision:
                    yield Expected(sweep, "if chosen after phase 2")

    def _expected(self, plan: Plan, sized: Sweep) -> list[Sweep]:
        """Every sweep of a model that works where phase 2 is supposed to steer it."""
        layer = str(sized.layers[0].index(sized.model.n_layers))
        choice = SizeChoice(
            sized.model.name, sized.model.family, "", int(layer), sized.strengths[0], ""
        )
        reference = plan.section(PrecisionSweep).precisions[0]
        return [
            sweep if sweep.precision == reference else sweep.expecting([reference])
            for sweep in self.sweeps(plan, [choice])
        ]

    def sweeps(self, plan: Plan, choices: Sequence[SizeChoice]) -> list[Sweep]:
        """The chosen models at their best layer in every precision.

        All but the reference's lack its directions, which are only known once it has run.
        """
        section = plan.section(PrecisionSweep)
        return [
            Sweep(
                self.step,
                plan.models[choice.model],
                section.methods,
                (LayerChoice(str(choice.layer_idx)),),
                (choice.strength,),
                precision,
                reference=section.precisions[0],
            )
            for precision in section.precisions
            for choice in choices
        ]

    def run(self, study: Running) -> dict[str, Any]:
        """The reference first, since the others borrow its directions; then every precision."""
        from steersweep.study import analysis

        chosen = study.decision(SIZES.name)["phase3"]
        sweeps = self.sweeps(study.plan, [read_back(SizeChoice, entry) for entry in chosen])
        first = [sweep for sweep in sweeps if sweep.precision == sweep.reference]
        found = by_model(study.jobs.run(self.name, first, all_may_fail=True))
        sweeps = [
            sweep
            if sweep in first
            else sweep.borrowing({str(sweep.reference): found.get(sweep.model.model, [])})
            for sweep in sweeps
        ]
        results = study.jobs.run(self.name, sweeps)
        if results:
            study.write_results(self.step, results)
        preserved_from = study.plan.section(PrecisionSweep).preserved_from
        return {
            "outcomes": [plain(outcome) for outcome in study.outcomes(results)],
            "precisions": analysis.precision_comparison(results, study.store, preserved_from),
            "notes": [],
        }

    # -- what it found -----------------------------------------------------------------------------

    def findings(self, decision: Mapping[str, Any]) -> Iterator[str]:
        """See `Phase.findings`."""
        if decision["outcomes"]:
            yield from text.outcome_table(decision["outcomes"])
        if decision["precisions"]:
            yield from text.precision_list(decision["precisions"])

    def lines(self, decision: Mapping[str, Any]) -> Iterator[str]:
        """See `Phase.lines`."""
        for row in decision["precisions"]:
            yield text.precision_line(row)
            yield from (f"  {line}" for line in text.borrowed_lines(row))


PRECISIONS = Precisions()
