"""Phase 3: whether quantization changes what steering does, on the models phase 2 chose.

The first precision is the reference: what it found is tried in the others too
(docs/study-plan.md, phase 3).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from steersweep.budget.ledger import Ledger
from steersweep.run.condition import LayerChoice
from steersweep.run.result import Result
from steersweep.study import text
from steersweep.study.choices import SizeChoice
from steersweep.study.curves import triggers
from steersweep.study.decisions import Outcome
from steersweep.study.phases.fields import defined, listing, mapping
from steersweep.study.phases.phase import Ahead, Expected, Mention, Phase, methods_mentioned
from steersweep.study.phases.sizes import SIZES, TAKEN_BY
from steersweep.study.plan import Plan, PlannedModel
from steersweep.study.rows import PrecisionRow, rows_of
from steersweep.study.running import Running, by_model
from steersweep.study.sweeps import Step, Sweep

PRESERVED_FROM = 0.9
ALPHA = 0.05  # below which a corrected p says that a precision matters


@dataclass(frozen=True)
class PrecisionSweep:
    """What phase 3 runs.

    Attributes:
        precisions: what each model runs in, the reference first.
        methods: ways to find a direction.
        tiers: how many sizes of the best family.
        named: by family, which sizes.
        also: models of other families, if they work.
        preserved_from: cosine from which a direction counts as preserved.
    """

    precisions: tuple[str, ...]
    methods: tuple[str, ...]
    tiers: int
    named: Mapping[str, tuple[str, ...]]
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
        {
            "sizes": {
                "description": "by family, the models that stand for it, from small to large",
                "type": "object",
                "additionalProperties": listing(defined("text"), at_least=1),
            },
            "also": listing(defined("text")),
            "preserved_from": defined("rate"),
        },
    )
}


class Precisions(Phase):
    """See the top of this file."""

    name = TAKEN_BY
    number = "3"
    title = "Phase 3: precision"
    gate = "R3"
    reconsiders = True
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
            {family: tuple(names) for family, names in section.get("sizes", {}).items()},
            tuple(section.get("also", ())),
            section.get("preserved_from", PRESERVED_FROM),
        )

    def mentions(self, plan: Plan) -> Iterator[Mention]:
        """See `Phase.mentions`."""
        section = plan.section(PrecisionSweep)
        for i, name in enumerate(section.also):
            yield Mention("model", [self.name, "also", i], name)
        for family, names in section.named.items():
            yield Mention("family", [self.name, "sizes", family], family)
            for i, name in enumerate(names):
                yield Mention("model", [self.name, "sizes", family, i], name)
        yield from methods_mentioned([self.name], section.methods)
        most = max([section.tiers, *map(len, section.named.values())])
        chosen = most + max(1, len(section.also))
        count = chosen * len(section.precisions) * len(section.methods)
        yield Mention("conditions", [self.name], number=count)

    def may_call(self, plan: Plan) -> Iterator[tuple[Step, PlannedModel, int | None]]:
        """See `Phase.may_call`."""
        for model in plan.models.values():
            yield self.step, model, None

    # -- what it runs ------------------------------------------------------------------------------

    def ahead(self, ahead: Ahead) -> Iterator[Expected]:
        """As if the models that cost most were chosen: of a family, and of `also` or a second."""
        section = ahead.plan.section(PrecisionSweep)
        sized = {e.sweep.model.name: e.sweep for e in ahead.before if e.sweep.step == SIZES.size}
        made = {name: self._dearest(ahead, sweep) for name, sweep in sized.items()}

        def cost(names: Iterable[str]) -> tuple[float, float]:
            costs = [ahead.cost(sweep) for name in names for sweep in made[name]]
            return sum(usd for usd, _ in costs), sum(seconds for _, seconds in costs)

        families: dict[str, list[str]] = {}
        for name, sweep in sized.items():
            families.setdefault(sweep.model.family, []).append(name)
        ends: list[list[str]] = []
        for family, names in families.items():
            count = len(section.named.get(family, ())) or section.tiers
            own = sorted(names, key=lambda name: cost([name]))[-count:]
            also = [name for name in section.also if name in sized and name not in own]
            second = max(
                ([name] for name in sized if sized[name].model.family != family),
                key=cost,
                default=[],
            )
            ends.append(own + max(also, second, key=cost))
        chosen = [made[name] for name in max(ends, key=cost, default=[])]
        for place in range(len(section.precisions)):
            for sweeps in chosen:
                for sweep in sweeps[place : place + 1]:
                    yield Expected(sweep, "if chosen after phase 2")

    def _dearest(self, ahead: Ahead, sized: Sweep) -> list[Sweep]:
        """Every sweep of a model that works where phase 2 steers it, with what may have worked."""

        def made(methods: tuple[str, ...]) -> list[Sweep]:
            choice = SizeChoice(
                sized.model.name,
                sized.model.family,
                "",
                sized.layers[0].index(sized.model.n_layers),
                sized.strengths[0],
                "",
                methods,
            )
            return [
                sweep
                if sweep.precision == sweep.reference
                else sweep.expecting([str(sweep.reference)])
                for sweep in self.sweeps(ahead.plan, [choice])
            ]

        ways = [made(sized.methods), *(made((method,)) for method in sized.methods)]
        return max(ways, key=lambda sweeps: sum(ahead.cost(sweep)[1] for sweep in sweeps))

    def sweeps(self, plan: Plan, choices: Sequence[SizeChoice]) -> list[Sweep]:
        """The chosen models at their best layer in every precision.

        Each runs with those of the phase's methods that worked for it, or with the best that did
        where none of them has. All but the reference's lack its directions, which are only known
        once it has run.
        """
        section = plan.section(PrecisionSweep)
        by_model = [self._of_model(plan, section, choice) for choice in choices]
        places = range(len(section.precisions))
        return [sweep for place in places for own in by_model for sweep in own[place : place + 1]]

    def _of_model(self, plan: Plan, section: PrecisionSweep, choice: SizeChoice) -> list[Sweep]:
        """A model in every precision; its own stands in for the plan's."""
        model = plan.models[choice.model]
        precisions = [
            model.precision if precision == plan.precision else precision
            for precision in section.precisions
        ]
        methods = tuple(method for method in section.methods if method in choice.methods)
        return [
            Sweep(
                self.step,
                model,
                methods or tuple(choice.methods[:1]),
                (LayerChoice(str(choice.layer_idx)),),
                (choice.strength,),
                precision,
                reference=precisions[0],
            )
            for precision in dict.fromkeys(precisions)
        ]

    def run(self, study: Running) -> Mapping[str, Any]:
        """The reference first, since the others borrow its directions; then every precision."""
        from steersweep.study import analysis

        choices = rows_of(SizeChoice, study.decision(SIZES.name), "phase3")
        chosen = [choice for choice in choices if choice.model not in study.cuts.models]
        sweeps = self.sweeps(study.plan, chosen)
        first = [sweep for sweep in sweeps if sweep.precision == sweep.reference]
        found = by_model(study.jobs.run(self.name, first, all_may_fail=True))
        # What a reference has run in for want of its own precision is the reference.
        ran = {(name, row.quantization) for name, rows in found.items() for row in rows}
        sweeps = [
            sweep if sweep in first else self._borrowing(sweep, found.get(sweep.model.model, []))
            for sweep in sweeps
            if sweep in first or (sweep.model.model, sweep.precision) not in ran
        ]
        results = study.jobs.run(self.name, sweeps)
        if results:
            study.write_results(self.step, results)
        preserved_from = study.plan.section(PrecisionSweep).preserved_from
        rows = analysis.precision_comparison(results, study.store, preserved_from)
        total = study.plan.budget.total
        left = None if total is None else max(0.0, total - Ledger(study.store.root).spent())
        return {
            "outcomes": study.outcomes(results),
            "not_run": study.not_run(self.name, sweeps, results),
            "precisions": rows,
            "notes": [
                *(f"{choice.model} was cut" for choice in choices if choice not in chosen),
                *triggers(study.plan.dropped, self.name, sensitive=sensitive(rows), left_usd=left),
            ],
        }

    def _borrowing(self, sweep: Sweep, of_reference: Sequence[Result]) -> Sweep:
        """A sweep with the reference's directions, in the precision that the reference ran in."""
        ran = {result.quantization for result in of_reference}
        reference = next(iter(ran), str(sweep.reference))
        return replace(sweep, reference=reference).borrowing({reference: of_reference})

    # -- what it found -----------------------------------------------------------------------------

    def findings(self, decision: Mapping[str, Any]) -> Iterator[str]:
        """See `Phase.findings`."""
        if outcomes := rows_of(Outcome, decision, "outcomes"):
            yield from text.outcome_table(outcomes)
        if rows := rows_of(PrecisionRow, decision, "precisions"):
            yield from text.precision_list(rows)

    def lines(self, decision: Mapping[str, Any]) -> Iterator[str]:
        """See `Phase.lines`."""
        for row in rows_of(PrecisionRow, decision, "precisions"):
            yield text.precision_line(row)
            yield from (f"  {line}" for line in text.borrowed_lines(row))


def sensitive(rows: Iterable[PrecisionRow]) -> list[str]:
    """Where a precision changed the rate (corrected p below 0.05) or the direction."""
    found = []
    for row in rows:
        changed = [
            precision
            for precision, p in zip(row.precisions[1:], row.p_vs_first_holm[1:], strict=True)
            if p < ALPHA
        ]
        found += [f"{row.model} refuses otherwise in {precision}" for precision in changed]
        if not row.preserved:
            found.append(f"{row.model}: the direction is not preserved")
    return found


PRECISIONS = Precisions()
