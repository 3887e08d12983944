"""What follows from results: pure functions, nothing else decides.

docs/study-plan.md says why these are the rules.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypeVar

from steersweep.run.condition import LayerChoice, Strength
from steersweep.run.label import Label
from steersweep.study.plan import Dropped

Action = Literal["continue", "continue-with-caveat", "follow-up", "exclude"]


@dataclass(frozen=True)
class Outcome:
    """The best condition of a model and method, as a result file's verdict has it.

    Attributes:
        model: the plan's name of the model.
        family: its family.
        method: `dim`, `cosmic`, ...
        outcome: `works`, `partial` or `fails`.
        coherent: coherent refusal rate, 0 to 1.
        interval: 95 % Wilson interval of that condition.
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


def outcomes_of(results: Iterable[Mapping[str, Any]], names: Mapping[str, str]) -> list[Outcome]:
    """Outcomes of result objects; a method's own choice of layer is not one to decide by.

    Where people have labelled samples, the rate corrected by them counts.

    Args:
        results: result objects.
        names: from a result's `model_id` to the plan's name.
    """
    found = []
    for result in results:
        if Label.parse(result["method"]).chose_layer:
            continue
        best = result["verdict"]["best"]
        entry = next(entry for entry in result["conditions"] if entry["key"] == best["key"])
        verdict, coherent, interval = result["verdict"], best["coherent_refusal_rate"], None
        review = verdict.get("review")
        if review and review["n_reviewed"] >= review["n_wanted"]:
            coherent, interval = review["corrected_rate"], review["corrected_ci"]
        low, high = interval or best["coherent_refusal_ci"]
        found.append(
            Outcome(
                model=names[result["model_id"]],
                family=result["family"],
                method=result["method"],
                outcome=verdict["outcome"],
                coherent=coherent,
                interval=(low, high),
                layer_idx=best["layer_idx"],
                layer_pct=best["layer_pct"],
                n_layers=result["n_layers"],
                strength=Strength(**entry["strength"]),
                certainty=verdict["certainty"],
                garbled=best["garbled_rate"],
                n_unique=entry["n_unique"],
                precision=result["quantization"],
                provisional=verdict["provisional"],
                flags=tuple(verdict["flags"]),
            )
        )
    return found


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
    outcomes: Iterable[Outcome], *, followed_up: Iterable[str] = ()
) -> list[FamilyDecision]:
    """Which families go on after phase 1, by their best coherent rate with any method.

    Args:
        outcomes: of phase 1, one or more methods per family.
        followed_up: families whose follow-up has been run already.
    """
    by_family: dict[str, list[Outcome]] = {}
    for outcome in outcomes:
        by_family.setdefault(outcome.family, []).append(outcome)
    done = set(followed_up)
    return [_decide(found, family in done) for family, found in by_family.items()]


def _decide(found: Sequence[Outcome], followed_up: bool) -> FamilyDecision:
    best = best_outcome(found)
    diverged = len({outcome.outcome for outcome in found}) > 1
    rate = f"{best.coherent:.0%} coherent at best ({best.method}, layer {best.layer_idx})"
    action: Action
    if best.outcome == "works":
        action, reason = "continue", f"{rate}: works"
    elif best.outcome == "fails" and "breakdown" in best.flags:
        action, reason = "exclude", f"{rate}, most refusals in broken text: a breakdown"
    elif best.outcome == "fails":
        action, reason = "exclude", f"{rate} at all layers: a negative result"
    elif followed_up:
        action, reason = "continue-with-caveat", f"{rate} after the follow-up: partial"
    else:
        action, reason = "follow-up", f"{rate}: partial, more layers and strengths first"
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


def share_text(layer_idx: int, layer_pct: float, n_layers: int) -> str:
    """The depth of a layer to carry over: the share asked for, if that gives this layer."""
    asked = str(layer_pct)
    if LayerChoice(asked).index(n_layers) == layer_idx:
        return asked
    return f"{layer_idx}/{n_layers}"


def best_outcome(found: Iterable[Outcome]) -> Outcome:
    """The better verdict, then more coherent refusals, less garbled text, DIM, the lower layer."""
    rank = {"works": 2, "partial": 1, "fails": 0}
    return max(
        found,
        key=lambda o: (rank[o.outcome], o.coherent, -o.garbled, o.method == "dim", -o.layer_idx),
    )


def all_failed(decisions: Sequence[FamilyDecision]) -> bool:
    """Whether no family that was swept goes on."""
    return bool(decisions) and all(decision.action == "exclude" for decision in decisions)


@dataclass(frozen=True)
class SizeChoice:
    """A model that phase 3 takes.

    Attributes:
        model: the plan's name.
        family: its family.
        tier: `small`, `medium`, `large`, or `cross-family`.
        layer_idx: its best layer.
        strength: the strength there.
        reason: in words.
    """

    model: str
    family: str
    tier: str
    layer_idx: int
    strength: Strength
    reason: str


Stored = TypeVar("Stored", Outcome, FamilyDecision, SizeChoice)  # what decisions keep in files


def choose_for_precision(
    outcomes: Iterable[Outcome],
    order: Sequence[str],
    *,
    tiers: int = 3,
    also: Iterable[str] = (),
) -> list[SizeChoice]:
    """The models that phase 3 takes: those that work of the family with most, small to large.

    Args:
        outcomes: of phase 2.
        order: the plan's models, within a family from small to large.
        tiers: how many sizes to take of the best family.
        also: models of other families to add if they work.
    """
    working: dict[str, Outcome] = {}
    for outcome in outcomes:
        if outcome.outcome == "works":
            held = [working[outcome.model]] if outcome.model in working else []
            working[outcome.model] = best_outcome([outcome, *held])
    families: dict[str, list[Outcome]] = {}
    for name in order:
        if name in working:
            families.setdefault(working[name].family, []).append(working[name])
    if not families:
        return []
    best = max(families.values(), key=lambda found: (len(found), sum(o.coherent for o in found)))
    count = min(tiers, len(best))
    # Evenly from small to large, both ends included.
    places = [round(i * (len(best) - 1) / max(1, count - 1)) for i in range(count)]
    names = _tier_names(count)
    choices = [
        _choice(best[place], tier, f"{len(best)} of this family's sizes work")
        for place, tier in zip(places, names, strict=True)
    ]
    taken = {choice.model for choice in choices}
    choices += [
        _choice(working[name], "cross-family", "works, for comparison between families")
        for name in also
        if name in working and name not in taken
    ]
    return choices


def _choice(outcome: Outcome, tier: str, reason: str) -> SizeChoice:
    return SizeChoice(
        outcome.model, outcome.family, tier, outcome.layer_idx, outcome.strength, reason
    )


def _tier_names(count: int) -> list[str]:
    if count <= 3:
        return {1: ["small"], 2: ["small", "large"], 3: ["small", "medium", "large"]}[count]
    return ["small", *[f"medium {i}" for i in range(1, count - 1)], "large"]


Shape = Literal["increasing", "decreasing", "peak", "flat", "undecided"]


def curve_shape(intervals: Sequence[tuple[float, float]], flat_within: float) -> Shape:
    """The shape of a size curve, from the 95 % intervals of its points, small to large.

    Two points differ if their intervals do not overlap. With rises only the curve is increasing,
    with falls only decreasing; a peak has a point above an earlier and a later one, and no dip.
    Without any difference it is flat if all intervals together span at most three times
    `flat_within`; anything else is undecided.
    """
    pairs = [(i, j) for j in range(len(intervals)) for i in range(j)]
    rises = {(i, j) for i, j in pairs if intervals[j][0] > intervals[i][1]}
    falls = {(i, j) for i, j in pairs if intervals[j][1] < intervals[i][0]}
    if rises and not falls:
        return "increasing"
    if falls and not rises:
        return "decreasing"
    if rises and falls:
        peaked = any(j == k for _, j in rises for k, _ in falls)
        dips = any(j == k for _, j in falls for k, _ in rises)
        return "peak" if peaked and not dips else "undecided"
    if len(intervals) < 2:
        return "undecided"
    span = max(high for _, high in intervals) - min(low for low, _ in intervals)
    return "flat" if span <= 3 * flat_within else "undecided"


def triggers(
    dropped: Iterable[Dropped],
    after: str,
    *,
    shapes: Mapping[str, tuple[Shape, bool]],
    coherent: Mapping[str, float],
) -> list[str]:
    """Dropped models to think of again.

    Args:
        dropped: the plan's list.
        after: the phase that has ended.
        shapes: by family, the size curve's shape and whether its largest size is the best.
        coherent: by family, the best coherent rate.
    """
    found = []
    for entry in dropped:
        if entry.after != after:
            continue
        family = entry.family
        if entry.when == "peak at the largest size":
            shape, largest_best = shapes.get(family, ("undecided", False))
            if largest_best and shape != "flat":
                found.append(
                    f"{entry.model}: the largest {family} size is the best so far (curve "
                    f"{shape}); a larger one would show whether that is the peak"
                )
        elif coherent.get(family, 0.0) >= 0.40:
            found.append(
                f"{entry.model}: {family} reached {coherent[family]:.0%} coherent, at least 40 %"
            )
    return found
