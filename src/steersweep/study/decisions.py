"""What follows from results: pure functions, nothing else decides.

docs/study-plan.md says why these are the rules.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from steersweep.core import typed
from steersweep.run.condition import REMOVED, LayerChoice, Strength
from steersweep.run.result import Result
from steersweep.run.verdict import TOO_WEAK

Action = Literal["continue", "continue-with-caveat", "follow-up", "exclude", "undecided"]


@dataclass(frozen=True)
class Outcome:
    """The best condition of a model and method, as a result file's verdict has it.

    Attributes:
        model: the plan's name of the model.
        family: its family.
        method: `dim`, `cosmic`, ...
        outcome: `works`, `partial` or `fails`.
        coherent: coherent refusal rate, 0 to 1.
        interval: 95 % interval of that rate, the one that decides `certainty`.
        interval_name: what it is, in words.
        layer_idx: layer of the condition.
        layer_pct: its share of the depth.
        n_layers: of the model.
        strength: of the condition.
        certainty: `clear` or `borderline`.
        garbled: garbled rate of the condition.
        n_unique: prompts it rests on.
        precision: what the model ran in.
        provisional: whether it works by the judge alone, no person having labelled samples.
        flags: of the verdict.
        multiplier: length of the addition there.
        relative_strength: that length over the mean length of the residual stream at that layer.
        relative_range: smallest and largest relative strength of all cells tried.
    """

    model: str
    family: str
    method: str
    outcome: str
    coherent: float
    interval: tuple[float, float]
    layer_idx: int
    layer_pct: float
    n_layers: int
    strength: Strength
    certainty: str = "clear"
    garbled: float = 0.0
    n_unique: int = 0
    precision: str = ""
    provisional: bool = False
    flags: tuple[str, ...] = ()
    multiplier: float = 0.0
    relative_strength: float = 0.0
    relative_range: tuple[float, float] = (0.0, 0.0)
    interval_name: str = ""

    def as_json(self) -> dict[str, Any]:
        """Plain data, every field."""
        return typed.plain_fields(self, whole=True)


@dataclass(frozen=True)
class NotRun:
    """A sweep that could not run, or not to its end. It says nothing about steering.

    Attributes:
        model: the plan's name of the model.
        family: its family.
        precision: what it was to run in.
        step: what it was for, such as `follow-up`.
        reason: why it did not.
        finished_some: whether some of the model's conditions are there all the same.
        outcome: in place of a verdict.
    """

    model: str
    family: str
    precision: str
    step: str
    reason: str
    finished_some: bool = False
    outcome: Literal["not-run"] = "not-run"

    def as_json(self) -> dict[str, Any]:
        """Plain data, every field."""
        return typed.plain_fields(self, whole=True)


def outcomes_of(results: Iterable[Result], names: Mapping[str, str]) -> list[Outcome]:
    """Outcomes of result objects; a method's own choice of layer is not one to decide by.

    Where people have labelled samples, the rate corrected by them counts.

    Args:
        results: of any models and methods.
        names: from a result's `model_id` to the plan's name.
    """
    found = []
    for result in results:
        if result.label.chose_layer:
            continue
        verdict, best = result.verdict, result.best
        coherent, interval = best.rates.coherent_refusal_rate, verdict.interval
        certainty, name = verdict.certainty, interval_name(verdict.n_compared)
        review = verdict.review
        if review is not None and review.is_enough:
            coherent, interval = review.corrected_rate, review.corrected_ci
            certainty = review.corrected_certainty
            name = f"95 % corrected by {review.n_reviewed} labels of people"
        pushes = [cell.steering.relative_strength for cell in result.conditions]
        found.append(
            Outcome(
                model=names[result.model_id],
                family=result.family,
                method=result.method,
                outcome=verdict.outcome,
                coherent=coherent,
                interval=interval,
                layer_idx=best.layer,
                layer_pct=best.layer_pct,
                n_layers=result.n_layers,
                strength=best.strength,
                certainty=certainty,
                garbled=best.rates.garbled_rate,
                n_unique=best.rates.n_unique,
                precision=result.quantization,
                provisional=verdict.provisional,
                flags=verdict.flags,
                multiplier=best.steering.multiplier,
                relative_strength=best.steering.relative_strength,
                relative_range=(min(pushes), max(pushes)),
                interval_name=name,
            )
        )
    return found


def interval_name(n_compared: int) -> str:
    """What a verdict's interval is, in words."""
    widened = f", widened for the best of {n_compared} conditions" if n_compared > 1 else ""
    return f"Wilson 95 %{widened}"


@dataclass(frozen=True)
class FamilyDecision:
    """What happens to a family after phase 1.

    Attributes:
        family: the family.
        model: the model it was tried on.
        action: what follows.
        method: the better method.
        layer_idx: best layer with it.
        layer_share: that layer's depth as text, to carry over to other sizes.
        n_layers: of that model.
        strength: best strength.
        coherent: coherent refusal rate there; None for a family confirmed before the study.
        diverged: whether the methods' verdicts differ, which is a finding of its own.
        reason: in words.
    """

    family: str
    model: str
    action: Action
    method: str
    layer_idx: int
    layer_share: str
    n_layers: int
    strength: Strength
    coherent: float | None
    diverged: bool
    reason: str


def decide_families(
    outcomes: Iterable[Outcome],
    *,
    followed_up: Iterable[str] = (),
    not_run: Iterable[NotRun] = (),
) -> list[FamilyDecision]:
    """Which families go on after phase 1, by their best coherent rate with any method.

    A family without an outcome has no decision: it was not tested. What fails is a negative result
    only where the sweep came to its end and something changed in the answers; else it is undecided.

    Args:
        outcomes: of phase 1, one or more methods per family.
        followed_up: families whose follow-up was tried already.
        not_run: sweeps of phase 1 that could not run, or not to their end.
    """
    by_family: dict[str, list[Outcome]] = {}
    for outcome in outcomes:
        by_family.setdefault(outcome.family, []).append(outcome)
    done, missing = set(followed_up), list(not_run)
    return [
        _decide(found, family in done, [gone for gone in missing if gone.family == family])
        for family, found in by_family.items()
    ]


def _decide(
    found: Sequence[Outcome], followed_up: bool, missing: Sequence[NotRun]
) -> FamilyDecision:
    best = best_outcome(found)
    same: dict[tuple[str, str], set[str]] = {}  # verdicts of methods on a model in a precision
    for outcome in found:
        same.setdefault((outcome.model, outcome.precision), set()).add(outcome.outcome)
    diverged = any(len(verdicts) > 1 for verdicts in same.values())
    where = f"{best.method}, layer {best.layer_idx}"
    if best.multiplier or best.strength == REMOVED:
        where += f", {push_text(best.strength, best.multiplier, best.relative_strength)}"
    rate = f"{best.coherent:.0%} coherent at best ({where})"
    action: Action
    if best.outcome == "works":
        action, reason = "continue", f"{rate}: works"
    elif best.outcome == "fails":
        action, reason = _failed(rate, best, found, missing)
    elif not followed_up:
        action, reason = "follow-up", f"{rate}: partial, more layers and strengths first"
    else:
        action, reason = "continue-with-caveat", f"{rate} after the follow-up: partial"
        if gone := [sweep for sweep in missing if sweep.step == "follow-up"]:
            reason = f"{rate}: partial; the follow-up did not run to its end: {gone[0].reason}"
    untested = sorted({gone.model for gone in missing} - {outcome.model for outcome in found})
    if untested:
        reason += f"; {', '.join(untested)} of this family could not run and says nothing"
    return FamilyDecision(
        family=best.family,
        model=best.model,
        action=action,
        method=best.method,
        layer_idx=best.layer_idx,
        layer_share=share_text(best.layer_idx, best.layer_pct, best.n_layers),
        n_layers=best.n_layers,
        strength=best.strength,
        coherent=best.coherent,
        diverged=diverged,
        reason=reason,
    )


def _failed(
    rate: str, best: Outcome, found: Sequence[Outcome], missing: Sequence[NotRun]
) -> tuple[Action, str]:
    """What follows where no method does better than fail, and why."""
    weak = [outcome for outcome in found if TOO_WEAK in outcome.flags]
    if len(weak) == len(found):
        low = min(outcome.relative_range[0] for outcome in found)
        high = max(outcome.relative_range[1] for outcome in found)
        return "undecided", (
            f"{rate}, and answers are mostly the unsteered ones: a push of {low:.2g} to {high:.2g} "
            f"of the residual norm was too weak to conclude from; try stronger ones"
        )
    unfinished = [gone for gone in missing if gone.finished_some]
    if unfinished:
        return "undecided", (
            f"{rate} in the conditions that finished, which is not enough to conclude from: "
            f"{unfinished[0].reason}"
        )
    if "breakdown" in best.flags:
        return "exclude", f"{rate}, most refusals in broken text: a breakdown"
    reason = f"{rate} at all layers: a negative result"
    methods = ", ".join(dict.fromkeys(outcome.method for outcome in weak))
    return "exclude", f"{reason}, but for {methods}, pushed too weakly" if weak else reason


def push_text(strength: Strength, multiplier: float, relative: float) -> str:
    """A strength in both units, the one that was asked for first."""
    if strength == REMOVED:
        return str(strength)
    if strength.unit == "multiplier":
        return f"multiplier {multiplier:g} = {relative:.2g} of the residual norm"
    return f"{strength.value:g} of the residual norm = multiplier {multiplier:.3g}"


def share_text(layer_idx: int, layer_pct: float, n_layers: int) -> str:
    """The depth of a layer to carry over: the share asked for, if that gives this layer."""
    asked = str(layer_pct)
    if LayerChoice(asked).index(n_layers) == layer_idx:
        return asked
    return f"{layer_idx}/{n_layers}"


def best_outcome(found: Sequence[Outcome]) -> Outcome:
    """The better verdict; of equals more coherent refusals, less garbled text, the lower layer.

    Before the layer comes the method that the plan names first: `found` has them in its order.
    """
    rank = {"works": 2, "partial": 1, "fails": 0}
    order = [*dict.fromkeys(outcome.method for outcome in found)]
    return max(
        found,
        key=lambda o: (
            rank[o.outcome],
            o.coherent,
            -o.garbled,
            -order.index(o.method),
            -o.layer_idx,
        ),
    )


def none_goes_on(decisions: Sequence[FamilyDecision]) -> bool:
    """Whether no family that was tested goes on; False where none was tested."""
    return bool(decisions) and all(
        decision.action in ("exclude", "undecided") for decision in decisions
    )


def fallback_models(
    planned: str, swept: Sequence[str], outcomes: Iterable[Outcome], not_run: Iterable[NotRun]
) -> list[str]:
    """Models to try the fallback on, one after another until one runs.

    The plan's, unless it could not run; then those of the sweep that ran, in the plan's order.

    Args:
        planned: the plan's model for the fallback.
        swept: models of the sweep, in the plan's order.
        outcomes: of the sweep.
        not_run: of the sweep.
    """
    ran = {outcome.model for outcome in outcomes}
    impossible = {gone.model for gone in not_run} - ran
    first = [] if planned in impossible else [planned]
    return [*first, *(name for name in swept if name in ran and name != planned)]


def family_notes(
    decided: Sequence[FamilyDecision],
    known: Sequence[FamilyDecision],
    not_run: Sequence[NotRun],
) -> list[str]:
    """What phase 1 says of families together; nothing is said of those that were not tested.

    Args:
        decided: families that were tested.
        known: families confirmed before the study.
        not_run: sweeps that could not run, or not to their end.
    """
    tested = {decision.family for decision in decided}
    failed = [d.family for d in decided if d.action == "exclude"]
    notes = []
    if none_goes_on(decided):
        notes.append(f"no family that was tested goes on: {', '.join(d.family for d in decided)}")
    if failed:
        notes.append(
            f"a negative result, at the layers and strengths tried, for: {', '.join(failed)}"
        )
    if unclear := [d.family for d in decided if d.action == "undecided"]:
        notes.append(f"tested, but nothing can be concluded yet for: {', '.join(unclear)}")
    if before := [d.family for d in known if d.family not in tested]:
        notes.append(f"confirmed before the study and not tested in it: {', '.join(before)}")
    gone = {g.family: g for g in not_run if g.family not in tested}
    for family, sweep in gone.items():
        notes.append(f"{family} was not tested: {sweep.model} could not run")
    return notes


def untested_families(
    decided: Sequence[FamilyDecision], known: Sequence[FamilyDecision], not_run: Iterable[NotRun]
) -> list[dict[str, Any]]:
    """Families of which no model could run: rows beside the decisions, with the reason."""
    there = {decision.family for decision in (*decided, *known)}
    first: dict[str, NotRun] = {}
    for gone in not_run:
        if gone.family not in there:
            first.setdefault(gone.family, gone)
    return [
        {"family": gone.family, "model": gone.model, "action": "not-run", "reason": gone.reason}
        for gone in first.values()
    ]
