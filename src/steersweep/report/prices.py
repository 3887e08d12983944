"""What each verdict costs, in words: for the terminal and the page."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence

from steersweep.report.figures.style import short
from steersweep.run.cell import SteeredCell
from steersweep.run.effect import Change
from steersweep.run.price import Effects, LossEffect, OwnEffect, RefusalEffect
from steersweep.run.result import Result


def price_lines(results: Sequence[Result]) -> Iterator[str]:
    """Every verdict with its price, line by line; nothing where no effect was measured."""
    priced = [result for result in results if result.best.effects is not None]
    if not priced:
        return
    yield "What it costs (effects on the model, beside no steering):"
    said: set[str] = set()
    for result in priced:
        base = result.controls.unsteered
        if base is not None and base.effects is not None and base.key not in said:
            said.add(base.key)
            yield f"  {short(result.model)} unsteered: {'; '.join(_unsteered(base.effects))}"
        name = f"{short(result.model)}, {result.method}"
        yield f"  {name}: {result.verdict.outcome} at {cell_line(result.best)}"
        random = result.controls.random_direction
        if random is not None and random.effects is not None:
            yield f"    random direction there: {cell_line(random, place=False)}"
        yield from _cheapest(result)
    yield from method_lines(priced)


def _cheapest(result: Result) -> Iterator[str]:
    """The cheapest cell of those that refuse as often as the best."""
    cell, priced = result.cheapest, result.priced
    if cell is None or priced is None:
        return
    if cell.key == result.best.key:
        others = len(priced.equal) - 1
        what = (
            f"of the {others + 1} that refuse as often" if others else "no other refuses as often"
        )
        yield f"    that is the cheapest cell: {what}"
    else:
        yield f"    cheapest of {len(priced.equal)} that refuse as often: {cell_line(cell)}"
    if priced.breaks_from is not None:
        far = [
            c for c in result.conditions if c.price is not None and c.price >= priced.breaks_from
        ]
        yield (
            f"    a random direction breaks the model from {nats(priced.breaks_from)} on; as far "
            f"from itself or farther: {len(far)} of {len(result.conditions)} cells"
        )


def cell_line(cell: SteeredCell, *, place: bool = True) -> str:
    """A cell in a line: where, how often it refuses, and what it costs."""
    low, high = cell.rates.coherent_refusal_ci
    rate = f"{cell.rates.coherent_refusal_rate:.0%} [{low * 100:.0f}-{high * 100:.0f}]"
    at = f"layer {cell.layer}"
    if cell.steering.multiplier:
        at += f", {cell.steering.relative_strength:.2g}"
    costs = [] if cell.effects is None else effect_parts(cell.effects)
    return "; ".join([f"{at}: {rate}" if place else rate, *costs])


def effect_parts(effects: Effects) -> Iterator[str]:
    """Each effect of a steered cell in a few words."""
    if effects.harmful_kept is not None:
        yield f"harmful kept {_refused(effects.harmful_kept)}"
    if effects.borderline is not None:
        yield f"borderline refused {_refused(effects.borderline)}"
    if effects.divergence is not None:
        yield f"{nats(effects.divergence.nats_per_token)} from itself"
    if effects.text is not None:
        yield f"text {loss_change(effects.text)}"
    if effects.choices is not None:
        change = effects.choices.change
        yield f"choices {_points(change)}" if change else f"choices {effects.choices.accuracy:.0%}"
    for name, own in (effects.others or {}).items():
        yield f"{name} {_own(own)}"


def _unsteered(effects: Effects) -> Iterator[str]:
    if effects.harmful_kept is not None:
        yield f"harmful refused {effects.harmful_kept.rate:.0%} of {effects.harmful_kept.n}"
    if effects.borderline is not None:
        yield f"borderline refused {effects.borderline.rate:.0%} of {effects.borderline.n}"
    if effects.text is not None:
        shown = "" if effects.text.perplexity is None else f"{effects.text.perplexity:.3g}"
        yield f"text perplexity {shown} ({effects.text.n} texts)"
    if effects.choices is not None:
        yield f"choices {effects.choices.accuracy:.0%} of {effects.choices.n} right"
    for name, own in (effects.others or {}).items():
        yield f"{name} {own.value:.3g}"


def _refused(effect: RefusalEffect) -> str:
    change = effect.change
    p = "" if change is None or change.p is None else f" (p {shown_p(change.p)})"
    return f"{effect.rate:.0%}{p}"


def nats(value: float) -> str:
    """Nats per token for people."""
    return f"{value:.2g} nats" if value < 10 else f"{value:.0f} nats"


def loss_change(effect: LossEffect) -> str:
    """How much higher perplexity is on text of others."""
    if effect.change is None:
        return "" if effect.perplexity is None else f"perplexity {effect.perplexity:.3g}"
    more = math.exp(min(effect.change.value, 700.0))
    if more >= 3:
        return f"x{more:.3g} perplexity"
    return f"{100 * (more - 1):+.0f} %".replace("-", "−")


def _points(change: Change) -> str:
    p = "" if change.p is None else f" (p {shown_p(change.p)})"
    return f"{100 * change.value:+.0f} points{p}".replace("-", "−").replace("+0 ", "±0 ")


def _own(own: OwnEffect) -> str:
    return (
        f"{own.value:.3g}" if own.change is None else f"{own.value:.3g} ({own.change.value:+.2g})"
    )


def shown_p(p: float) -> str:
    """A p value for people."""
    return "< .001" if p < 0.001 else f"= {p:.2g}".replace("0.", ".")


def method_lines(results: Iterable[Result]) -> Iterator[str]:
    """What methods cost where they refuse as often as the best of all of a model."""
    models: dict[tuple[str, str], list[Result]] = {}
    for result in results:
        if result.priced is not None and result.priced.among_methods is not None:
            models.setdefault((result.model, result.quantization), []).append(result)
    for (model, _), held in models.items():
        yield f"  {short(model)}, methods where they refuse as often as the best of all:"
        yield from (f"    {line}" for line in map(method_line, held))


def method_line(result: Result) -> str:
    """A method's cheapest cell of equal refusal, beside the cheapest method's."""
    among = result.priced.among_methods if result.priced else None
    assert among is not None, "asked of a method that is compared"
    cell = next((one for one in result.conditions if one.key == among.key), None)
    if cell is None or cell.price is None:
        return f"{result.method}: no cell refuses as often"
    found = f"{result.method}: {nats(cell.price)} at {_where(cell)}"
    if among.dearer is None:
        return f"{found}, the cheapest"
    more = among.dearer
    return (
        f"{found}, {more.value:+.2g} [{more.low:+.2g}, {more.high:+.2g}] against {among.cheapest} "
        f"on the same answers"
    )


def _where(cell: SteeredCell) -> str:
    push = f", {cell.steering.relative_strength:.2g}" if cell.steering.multiplier else ""
    return f"layer {cell.layer}{push} ({cell.rates.coherent_refusal_rate:.0%})"
