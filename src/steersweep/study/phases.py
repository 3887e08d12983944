"""What each phase of a plan runs: sweeps of one model each, from plan and decisions."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from steersweep.methods.method import METHODS
from steersweep.model.rendering import as_special_tokens
from steersweep.model.source import find_model
from steersweep.prompts.prompts import TestSet, load_extraction_set, load_test_set
from steersweep.run.condition import Borrowed, LayerChoice, Strength
from steersweep.run.label import Label
from steersweep.study.decisions import FamilyDecision, Outcome, SizeChoice
from steersweep.study.plan import Plan, PlannedModel, layer_choice, strength_of
from steersweep.sweep.expansion import distinct_layers, expand
from steersweep.sweep.settings import SweepSettings


@dataclass(frozen=True)
class Sweep:
    """One model's part of a phase.

    Attributes:
        phase: `1`, `2` or `3` as in result files.
        step: what it is for: `family`, `follow-up`, `fallback`, `validation`, `size`, `precision`.
        model: the model.
        methods: ways to find a direction.
        layers: where steering starts.
        strengths: how strongly to steer.
        precision: what the model runs in.
        timeout_s: the plan's limit for the job, or None.
        reference: with which precision this one is compared; see `SweepSettings`.
        borrowed: directions found elsewhere, to be tried too.
    """

    phase: str
    step: str
    model: PlannedModel
    methods: tuple[str, ...]
    layers: tuple[LayerChoice, ...]
    strengths: tuple[Strength, ...]
    precision: str
    timeout_s: int | None = None
    reference: str | None = None
    borrowed: tuple[Borrowed, ...] = ()

    @property
    def n_conditions(self) -> int:
        """Conditions it expands to, controls and methods' own choices included."""
        cells = expand(
            self.methods, self.layers, self.strengths, self.borrowed, self.model.n_layers
        )
        return sum(1 for _ in cells)

    @property
    def run_names(self) -> tuple[str, ...]:
        """What trackers call its runs."""
        names = [
            run_name(self.phase, self.step, self.model.name, self.precision, method)
            for method in self.methods
        ]
        return tuple(dict.fromkeys(names))

    def __str__(self) -> str:
        return f"{self.model.name} {self.step} {self.precision}"


def run_name(phase: str, step: str, model: str, precision: str, method: str) -> str:
    """What trackers call a run (source plan, section 4.2).

    Follow-up and fallback go on with phase 1's runs; a method's own choice of layer and borrowed
    directions belong to the method's run.
    """
    if step == "validation":
        return f"{model}-layer-validation"
    if phase == "3":
        return f"{model}-{precision}"
    suffix = {"1": "-layer-sweep", "4": "-transfer"}.get(phase, "")
    return f"{model}-{Label.parse(method).method}{suffix}"


@dataclass(frozen=True)
class Cuts:
    """Cuts of the plan that were applied; see `Plan.data["cuts"]`.

    Attributes:
        families: dropped after phase 1 if they failed there.
        models: dropped from phase 2 on.
        repeats: of each test prompt, or None.
        prompts: number of test prompts, or None.
    """

    families: frozenset[str] = frozenset()
    models: frozenset[str] = frozenset()
    repeats: int | None = None
    prompts: int | None = None

    @classmethod
    def first(cls, plan: Plan, count: int) -> Cuts:
        """The first `count` cuts of the plan's order."""
        cuts = cls()
        for cut in list(plan.data.get("cuts", []))[:count]:
            if cut["do"] == "drop-failed-families":
                cuts = replace(cuts, families=cuts.families | {*cut["what"]})
            elif cut["do"] == "drop-models":
                cuts = replace(cuts, models=cuts.models | {*cut["what"]})
            else:
                cuts = replace(cuts, repeats=cut.get("repeats"), prompts=cut.get("prompts"))
        return cuts


def test_set(plan: Plan, cuts: Cuts) -> TestSet:
    """The plan's test prompts, fewer if a cut says so."""
    prompts = load_test_set(plan.data["prompts"]["test"])
    for limit in (plan.data["prompts"].get("max"), cuts.prompts):
        if limit is not None:
            prompts = prompts.first(limit)
    if cuts.repeats is not None and cuts.repeats < prompts.repeats:
        prompts = replace(prompts, repeats=cuts.repeats)
    return prompts


def prompt_notes(plan: Plan) -> tuple[str, ...]:
    """What the user should know of the plan's prompt files, each once.

    Raises:
        InputError: a prompt set cannot be found or read.
    """
    prompts = plan.data["prompts"]
    found = [*load_test_set(prompts["test"]).notes]
    for name in prompts["extraction"].values():
        found += load_extraction_set(name).notes
    return tuple(dict.fromkeys(found))


def settings_of(plan: Plan, sweep: Sweep, cuts: Cuts, revision: str | None = None) -> SweepSettings:
    """Settings to run a sweep with; `revision`: of the model, where the plan names none.

    Raises:
        InputError: the model or a prompt set cannot be found.
    """
    data = plan.data
    decoding = data.get("decoding", {})
    extraction = data["prompts"]["extraction"]
    return SweepSettings(
        models=(find_model(sweep.model.model, revision=sweep.model.revision or revision),),
        methods=sweep.methods,
        layers=sweep.layers,
        strengths=sweep.strengths,
        test=test_set(plan, cuts),
        extraction={method: load_extraction_set(extraction[method]) for method in sweep.methods},
        precision=sweep.precision,
        max_new_tokens=decoding.get("max_new_tokens", 100),
        judge=data.get("judge", "default"),
        seed=data.get("seed", 42),
        rows=decoding.get("rows", 256),
        reference=sweep.reference,
        borrowed=sweep.borrowed,
        special_tokens=as_special_tokens(data["prompts"].get("special_tokens", "text")),
        template_options=sweep.model.template_options,
        own_methods=METHODS.own_of(sweep.methods),
        edit=plan.edit,
    )


def family_sweeps(plan: Plan) -> list[Sweep]:
    """Phase 1: every listed model at its layers with the standard strength."""
    phase = plan.data["family_sweep"]
    return [
        Sweep(
            "1",
            "family",
            plan.models[row["model"]],
            tuple(phase["methods"]),
            tuple(layer_choice(layer) for layer in row["layers"]),
            (plan.strength,),
            plan.data["precision"],
            row.get("timeout_s"),
        )
        for row in phase["models"]
    ]


def follow_up_sweeps(plan: Plan, decisions: Iterable[FamilyDecision]) -> list[Sweep]:
    """More layers and strengths for partial families, their best layer so far included."""
    phase = plan.data.get("follow_up")
    if phase is None:
        return []
    strengths = (plan.strength, *(strength_of(entry) for entry in phase["strengths"]))
    layers = [layer_choice(layer) for layer in phase["layers"]]
    return [
        Sweep(
            "1",
            "follow-up",
            plan.models[decision.model],
            tuple(plan.data["family_sweep"]["methods"]),
            distinct_layers([LayerChoice(str(decision.layer_idx)), *layers], decision.n_layers),
            tuple(dict.fromkeys(strengths)),
            plan.data["precision"],
        )
        for decision in decisions
        if decision.action == "follow-up"
    ]


def fallback_sweeps(plan: Plan) -> list[Sweep]:
    """Where every family failed: one model, every tenth of the depth, many strengths."""
    phase = plan.data.get("fallback")
    if phase is None:
        return []
    return [
        Sweep(
            "1",
            "fallback",
            plan.models[phase["model"]],
            tuple(plan.data["family_sweep"]["methods"]),
            tuple(layer_choice(layer) for layer in phase["layers"]),
            tuple(strength_of(entry) for entry in phase["strengths"]),
            plan.data["precision"],
        )
    ]


def validation_sweeps(plan: Plan, decisions: Iterable[FamilyDecision], cuts: Cuts) -> list[Sweep]:
    """Phase 2, first: which layer, for the sizes of a family that phase 1 did not sweep."""
    phase = plan.data.get("size_sweep", {}).get("validation")
    if phase is None:
        return []
    return [
        Sweep(
            "2",
            "validation",
            model,
            tuple(phase["methods"]),
            tuple(layer_choice(layer) for layer in phase["layers"]),
            (decision.strength,),
            plan.data["precision"],
        )
        for decision in going_on(decisions, cuts)
        if decision.family in phase["families"]
        for model in plan.family(decision.family)
        if model.name != decision.model and model.name not in cuts.models
    ]


def size_sweeps(
    plan: Plan,
    decisions: Iterable[FamilyDecision],
    validated: Mapping[str, LayerChoice],
    cuts: Cuts,
) -> list[Sweep]:
    """Phase 2: every size of the families that go on, at one layer each.

    Args:
        plan: the plan.
        decisions: of phase 1.
        validated: best layer by model name where a validation found one; elsewhere the depth that
            was best in the family's phase 1 is carried over.
        cuts: what was cut.
    """
    return [
        Sweep(
            "2",
            "size",
            model,
            tuple(plan.data["size_sweep"]["methods"]),
            (validated.get(model.name) or _carried(decision, model),),
            (decision.strength,),
            plan.data["precision"],
        )
        for decision in going_on(decisions, cuts)
        for model in plan.family(decision.family)
        if model.name not in cuts.models
    ]


def precision_sweeps(plan: Plan, choices: Sequence[SizeChoice]) -> list[Sweep]:
    """Phase 3: the chosen models at their best layer in every precision.

    The first precision is the reference; the others lack its directions, which are only known once
    it has run.
    """
    phase: Mapping[str, Any] = plan.data["precision_sweep"]
    return [
        Sweep(
            "3",
            "precision",
            plan.models[choice.model],
            tuple(phase["methods"]),
            (LayerChoice(str(choice.layer_idx)),),
            (choice.strength,),
            precision,
            reference=phase["precisions"][0],
        )
        for precision in phase["precisions"]
        for choice in choices
    ]


def transfer_sweeps(plan: Plan, outcomes: Iterable[Outcome]) -> list[Sweep]:
    """The follow-up: each model at the layer and strength that were best for it before.

    A model without a result in an earlier phase is left out. Borrowed directions come when all
    these have run.

    Args:
        plan: the plan.
        outcomes: of earlier phases.
    """
    phase: Mapping[str, Any] = plan.data["transfer_sweep"]
    best: dict[str, Outcome] = {}
    for outcome in outcomes:
        held = best.get(outcome.model)
        if outcome.method in phase["methods"] and (
            held is None or outcome.coherent > held.coherent
        ):
            best[outcome.model] = outcome
    return [
        Sweep(
            "4",
            "transfer",
            plan.models[name],
            tuple(phase["methods"]),
            (LayerChoice(str(best[name].layer_idx)),),
            (best[name].strength,),
            plan.data["precision"],
        )
        for name in phase["among"]
        if name in best
    ]


def borrowed_of(results: Iterable[Mapping[str, Any]], source: str, layer: int) -> list[Borrowed]:
    """What may be tried elsewhere of a model's results: each method's own direction.

    Args:
        results: of the model that found them.
        source: what to call it, a precision or a model.
        layer: where steering starts in the model that borrows.
    """
    return [
        Borrowed(
            Label(result["method"], source=source),
            layer,
            Path(result["conditions"][0]["direction_file"]).stem,
            result["conditions"][0]["extraction_prompts"],
        )
        for result in results
        if Label.parse(result["method"]).is_swept
    ]


def _carried(decision: FamilyDecision, model: PlannedModel) -> LayerChoice:
    """The best layer of phase 1 in a model of the same family."""
    same = model.name == decision.model
    return LayerChoice(str(decision.layer_idx) if same else decision.layer_share)


def going_on(decisions: Iterable[FamilyDecision], cuts: Cuts) -> list[FamilyDecision]:
    """Families that phase 2 takes: those not excluded, but failed or partial ones that were cut."""
    return [
        decision
        for decision in decisions
        if decision.action in ("continue", "continue-with-caveat")
        and not (decision.family in cuts.families and decision.action != "continue")
    ]
