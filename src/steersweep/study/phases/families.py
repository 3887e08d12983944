"""Phase 1: which families can be steered toward refusal, and at which layer.

Families that work in part get more layers and strengths. If none goes on, one model gets many
(docs/study-plan.md, phase 1).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from steersweep.run.condition import LayerChoice, Strength
from steersweep.run.result_files import FAMILY_SWEEP
from steersweep.search.window import MOST
from steersweep.study import decisions, text
from steersweep.study.curves import triggers
from steersweep.study.decisions import Action, FamilyDecision, Outcome
from steersweep.study.depths import depth_rows, row_text
from steersweep.study.phases.fields import defined, listing, mapping
from steersweep.study.phases.growing import Growing
from steersweep.study.phases.phase import Ahead, Expected, Mention, Phase, methods_mentioned
from steersweep.study.plan import FIND, Plan, PlannedModel, layer_choice, strength_of
from steersweep.study.rows import DepthRow, rows_of
from steersweep.study.running import Running
from steersweep.study.sweeps import Step, Sweep

SHOWN_DEPTH = 0.6  # where a layer depends on results, a plan is shown at this share of the depth


@dataclass(frozen=True)
class FamilyModel:
    """The model that a family is tried on: its layers, and the limit of its job or None."""

    model: str
    layers: tuple[LayerChoice, ...]
    timeout_s: int | None = None


@dataclass(frozen=True)
class Confirmed:
    """A family that is known to work: on which model, from which layer."""

    model: str
    layer: LayerChoice


@dataclass(frozen=True)
class FollowUp:
    """What partial families get beside what they had; no strengths: those of the window."""

    layers: tuple[LayerChoice, ...]
    strengths: tuple[Strength, ...]


@dataclass(frozen=True)
class Fallback:
    """What one model gets where no family that was tested goes on; no strengths: the window's."""

    model: str
    layers: tuple[LayerChoice, ...]
    strengths: tuple[Strength, ...]


@dataclass(frozen=True)
class FamilySweep:
    """What phase 1 runs.

    Attributes:
        methods: ways to find a direction.
        models: one or more per family.
        confirmed: by family, those that need no sweep.
        follow_up: for partial families; None: they go on as they are.
        fallback: where no family that was tested goes on, or None.
    """

    methods: tuple[str, ...]
    models: tuple[FamilyModel, ...]
    confirmed: Mapping[str, Confirmed]
    follow_up: FollowUp | None
    fallback: Fallback | None


_LAYERS_AND_STRENGTHS = {"layers": defined("layers"), "strengths": defined("strengths")}
_FIELDS = {
    "family_sweep": mapping(
        {
            "methods": defined("methods"),
            "models": listing(
                mapping(
                    {"model": defined("text"), "layers": defined("layers")},
                    {"timeout_s": defined("count")},
                ),
                at_least=1,
                unique=False,
            ),
        },
        {
            "confirmed": {
                "type": "object",
                "additionalProperties": mapping(
                    {"model": defined("text"), "layer": defined("layer")}
                ),
            }
        },
    ),
    "follow_up": mapping(_LAYERS_AND_STRENGTHS),
    "fallback": mapping({"model": defined("text"), **_LAYERS_AND_STRENGTHS}),
}


class Families(Phase):
    """See the top of this file."""

    name = "family_sweep"
    number = "1"
    title = "Phase 1: families and layers"
    gate = "R1"
    required = True
    reconsiders = True
    family = Step(
        name,
        number,
        "family",
        results=FAMILY_SWEEP,
        run="{model}-{method}-layer-sweep",
        function="sweep_{model}",
    )
    follow_up = replace(family, name="follow-up", is_main=False)
    fallback = replace(family, name="fallback", is_main=False)
    steps = (family, follow_up, fallback)
    fields = _FIELDS

    # -- the plan ----------------------------------------------------------------------------------

    def read(self, data: Mapping[str, Any]) -> FamilySweep:
        """See `Phase.read`."""
        section, more, all_fail = data[self.name], data.get("follow_up"), data.get("fallback")
        return FamilySweep(
            tuple(section["methods"]),
            tuple(
                FamilyModel(row["model"], _layers(row), row.get("timeout_s"))
                for row in section["models"]
            ),
            {
                family: Confirmed(row["model"], layer_choice(row["layer"]))
                for family, row in section.get("confirmed", {}).items()
            },
            more and FollowUp(_layers(more), _strengths(more)),
            all_fail and Fallback(all_fail["model"], _layers(all_fail), _strengths(all_fail)),
        )

    def mentions(self, plan: Plan) -> Iterator[Mention]:
        """See `Phase.mentions`."""
        section = plan.section(FamilySweep)
        for i, row in enumerate(section.models):
            yield Mention("model", [self.name, "models", i, "model"], row.model)
            yield from _indices([self.name, "models", i, "layers"], row.model, row.layers)
        for family, held in section.confirmed.items():
            place: list[str | int] = [self.name, "confirmed", family]
            yield Mention("family", place, family)
            yield Mention("model", [*place, "model"], held.model)
            if not held.layer.is_share:
                yield Mention("layer", [*place, "layer"], held.model, int(held.layer.text))
        yield from methods_mentioned([self.name], section.methods)
        methods = len(section.methods)
        count = methods * sum(len(row.layers) for row in section.models)
        yield Mention("conditions", [self.name], number=count)
        if (more := section.follow_up) is not None:
            tried = len(more.strengths) or MOST
            count = methods * len(section.models) * len(more.layers) * tried
            yield Mention("conditions", ["follow_up"], number=count)
            yield from _strengths_mentioned("follow_up", more.strengths)
        if (last := section.fallback) is not None:
            yield Mention("model", ["fallback", "model"], last.model)
            yield from _indices(["fallback", "layers"], last.model, last.layers)
            count = methods * len(last.layers) * (len(last.strengths) or MOST)
            yield Mention("conditions", ["fallback"], number=count)
            yield from _strengths_mentioned("fallback", last.strengths)

    def may_call(self, plan: Plan) -> Iterator[tuple[Step, PlannedModel, int | None]]:
        """See `Phase.may_call`; a follow-up is called as the sweep it follows."""
        section = plan.section(FamilySweep)
        for row in section.models:
            yield self.family, plan.models[row.model], row.timeout_s
        if section.fallback is not None:
            yield self.fallback, plan.models[section.fallback.model], None

    # -- what it runs ------------------------------------------------------------------------------

    def ahead(self, ahead: Ahead) -> Iterator[Expected]:
        """See `Phase.ahead`."""
        plan, section = ahead.plan, ahead.plan.section(FamilySweep)
        for sweep in self.sweeps(plan):
            yield Expected(sweep)
        for row in section.models:
            layer = _worst_layer(row, section.follow_up, plan.models[row.model].n_layers)
            partial = supposed(plan, row.model, action="follow-up", layer=layer)
            for sweep in self.follow_ups(plan, [partial]):
                yield Expected(sweep, "if partial")
        if section.fallback is not None:
            for sweep in self.fallbacks(plan, section.fallback.model):
                yield Expected(sweep, "if none goes on")

    def sweeps(self, plan: Plan) -> list[Sweep]:
        """Every listed model at its layers with the standard strength."""
        section = plan.section(FamilySweep)
        return [
            Sweep(
                self.family,
                plan.models[row.model],
                section.methods,
                row.layers,
                _of_window() if plan.window else (plan.strength,),
                plan.models[row.model].precision,
                row.timeout_s,
                window=_of_window() if plan.window else (),
            )
            for row in section.models
        ]

    def follow_ups(self, plan: Plan, decided: Iterable[FamilyDecision]) -> list[Sweep]:
        """More layers and strengths for partial families, their best layer so far included."""
        from steersweep.sweeps.expansion import distinct_layers

        section = plan.section(FamilySweep)
        if (more := section.follow_up) is None:
            return []
        return [
            Sweep(
                self.follow_up,
                plan.models[decision.model],
                section.methods,
                distinct_layers(
                    [LayerChoice(str(decision.layer_idx)), *more.layers], decision.n_layers
                ),
                _beside(plan, more.strengths),
                plan.models[decision.model].precision,
                window=_narrowed(plan, more.strengths),
            )
            for decision in decided
            if decision.action == "follow-up"
        ]

    def fallbacks(self, plan: Plan, model: str) -> list[Sweep]:
        """Where no family goes on: many layers and strengths for a model."""
        section = plan.section(FamilySweep)
        if (last := section.fallback) is None:
            return []
        return [
            Sweep(
                self.fallback,
                plan.models[model],
                section.methods,
                last.layers,
                last.strengths or _of_window(),
                plan.models[model].precision,
                window=() if last.strengths else _of_window(),
            )
        ]

    def run(self, study: Running) -> Mapping[str, Any]:
        """The sweeps, then the follow-up of what is partial, then the fallback if none goes on."""
        from steersweep.study import analysis

        plan, sweeps = study.plan, Growing(study, self.name)

        def decide(done: list[str]) -> list[FamilyDecision]:
            gone = sweeps.not_run()
            return decisions.decide_families(sweeps.outcomes(), followed_up=done, not_run=gone)

        known = confirmed(plan)
        sweeps.run(self.sweeps(plan), all_may_fail=bool(known))
        decided, fallback_notes = decide([]), list[str]()
        follow_up = self.follow_ups(plan, decided)
        followed = [sweep.model.family for sweep in follow_up]
        if follow_up:
            sweeps.run(follow_up)
            decided = decide(followed)
        if decisions.none_goes_on(decided):
            fallback_notes, families = self._fall_back(plan, sweeps)
            followed += families
            decided = decide(followed)
        if sweeps.results:
            study.write_results(self.family, sweeps.results)
        gone = sweeps.not_run()
        best = {d.family: d.coherent for d in decided if d.coherent is not None}
        return {
            "families": [
                *decided,
                *(d for d in known if d.family not in best),
                *decisions.untested_families(decided, known, gone),
            ],
            "outcomes": sweeps.outcomes(),
            "not_run": gone,
            "methods": analysis.compare_methods(sweeps.results, study.store),
            "depths": depth_rows(sweeps.results, study.models, plan.flat_within, seed=plan.seed),
            "layer_cosines": analysis.layer_cosines(sweeps.results, study.store),
            "followed_up": followed,
            "notes": [
                *fallback_notes,
                *decisions.family_notes(decided, known, gone),
                *triggers(plan.dropped, self.name, coherent=best),
            ],
        }

    def _fall_back(self, plan: Plan, sweeps: Growing) -> tuple[list[str], list[str]]:
        """Run the fallback on the first model that can; what to say of it, and whose family."""
        section = plan.section(FamilySweep)
        if section.fallback is None:
            return [], []
        planned = section.fallback.model
        names = [row.model for row in section.models]
        models = decisions.fallback_models(planned, names, sweeps.outcomes(), sweeps.not_run())
        for model in models:
            sweeps.run(self.fallbacks(plan, model))
            if model not in {gone.model for gone in sweeps.not_run(self.fallback.name)}:
                moved = "" if model == planned else f", since {planned} could not run"
                note = f"the fallback swept more layers and strengths of {model}{moved}"
                return [note], [plan.models[model].family]
        return ["the fallback could not run on any model, and has swept nothing"], []

    # -- what it found -----------------------------------------------------------------------------

    def findings(self, decision: Mapping[str, Any]) -> Iterator[str]:
        """See `Phase.findings`."""
        if outcomes := rows_of(Outcome, decision, "outcomes"):
            yield from text.outcome_table(outcomes)
        if decision["families"]:
            yield from text.family_actions(decision["families"])
        yield from text.depth_patterns(rows_of(DepthRow, decision, "depths"))

    def lines(self, decision: Mapping[str, Any]) -> Iterator[str]:
        """See `Phase.lines`."""
        for row in decision["families"]:
            yield f"{row['family']}: {row['action']}: {row['reason']}"
        yield from map(row_text, rows_of(DepthRow, decision, "depths"))


def confirmed(plan: Plan) -> list[FamilyDecision]:
    """Families that go on without a sweep."""
    return [
        _decision(plan, plan.models[row.model], row.layer, reason="confirmed before the study")
        for row in plan.section(FamilySweep).confirmed.values()
    ]


def supposed(
    plan: Plan, model: str, *, action: Action = "continue", layer: LayerChoice | None = None
) -> FamilyDecision:
    """A decision on a model's family as it might be, at a layer or at 60 % of the depth."""
    choice = layer or LayerChoice(str(SHOWN_DEPTH))
    return _decision(plan, plan.models[model], choice, action=action)


def _decision(
    plan: Plan,
    model: PlannedModel,
    choice: LayerChoice,
    *,
    action: Action = "continue",
    reason: str = "",
) -> FamilyDecision:
    layer = choice.index(model.n_layers)
    return FamilyDecision(
        family=model.family,
        model=model.name,
        action=action,
        method=plan.section(FamilySweep).methods[0],
        layer_idx=layer,
        layer_share=decisions.share_text(layer, choice.share(model.n_layers), model.n_layers),
        n_layers=model.n_layers,
        strength=plan.strength,
        coherent=None,
        diverged=False,
        reason=reason,
    )


def _worst_layer(row: FamilyModel, more: FollowUp | None, n_layers: int) -> LayerChoice:
    """The swept layer that a follow-up would cost most with: one that it would not sweep anyway."""
    again = {layer.index(n_layers) for layer in more.layers} if more is not None else set()
    new = [layer for layer in row.layers if layer.index(n_layers) not in again]
    depth = SHOWN_DEPTH * n_layers
    return min(new or row.layers, key=lambda layer: abs(layer.index(n_layers) - int(depth)))


def _indices(path: list[str | int], model: str, layers: Iterable[LayerChoice]) -> Iterator[Mention]:
    for j, layer in enumerate(layers):
        if not layer.is_share:
            yield Mention("layer", [*path, j], model, int(layer.text))


def _layers(section: Mapping[str, Any]) -> tuple[LayerChoice, ...]:
    return tuple(layer_choice(layer) for layer in section["layers"])


def _strengths_mentioned(section: str, strengths: Sequence[Strength]) -> Iterator[Mention]:
    if not strengths:
        yield Mention("strength", [section, "strengths"], FIND)
    for index, strength in enumerate(strengths):
        yield Mention("strength", [section, "strengths", index], str(strength))


def _strengths(section: Mapping[str, Any]) -> tuple[Strength, ...]:
    if section["strengths"] == FIND:
        return ()
    return tuple(strength_of(entry) for entry in section["strengths"])


def _of_window() -> tuple[Strength, ...]:
    from steersweep.sweeps.expansion import LADDER

    return LADDER


def _beside(plan: Plan, strengths: tuple[Strength, ...]) -> tuple[Strength, ...]:
    """What phase 1 had, and what a follow-up adds."""
    had = _of_window() if plan.window else (plan.strength,)
    return tuple(dict.fromkeys((*had, *(strengths or _of_window()))))


def _narrowed(plan: Plan, strengths: tuple[Strength, ...]) -> tuple[Strength, ...]:
    """Of a follow-up's strengths those that are tried only within the window."""
    if not plan.window and strengths:
        return ()
    asked = strengths if plan.window else (plan.strength,)
    return tuple(strength for strength in _of_window() if strength not in asked)


FAMILIES = Families()
