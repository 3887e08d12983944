"""What a search found, for the terminal."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from steersweep.core import typed
from steersweep.report.console import PlainConsole
from steersweep.report.prices import nats
from steersweep.run.searched import Cheapest, Confirmed, Searched

_BESIDE = {"weaker": "one step weaker", "stronger": "one step stronger"}


def print_found(found: Searched) -> None:
    """The chosen cell beside its controls and neighbours, the window, and what it took."""
    console = PlainConsole()
    for line in lines(found):
        console.print(line, highlight=False, markup=False, soft_wrap=True)


def lines(found: Searched) -> Iterator[str]:
    """What the terminal shows, line by line."""
    where = f"layer {found.layer} of {found.n_layers} at {found.strength:g} of the residual norm"
    if found.found:
        what = "refuses most" if _is_best(found) else "refuses as often for the least"
        yield f"{found.model}: {what} at {where} ({found.multiplier:.3g}x, {found.method})"
    else:
        yield f"{found.model}: no window. What refused most in the search, {where},"
        yield "  does not refuse clearly more often than both its controls (p < 0.05) on prompts"
        yield "  that the search never saw."
    yield ""
    for cell in found.confirmed:
        yield _line(cell)
    yield ""
    yield f"coherent: refused in fluent text, on {found.confirmation} prompts that the search never"
    yield "  saw [95 % interval]. p: exact paired test against the chosen cell"
    if found.cheapest is not None:
        yield from _cheapest(found, found.cheapest)
    if found.window is not None:
        yield from _gentler(found)
        yield _window(found)
    else:
        yield from _looked(found)
    cost = found.cost
    yield (
        f"searched {len(found.cells)} cells with {cost.search_rows + cost.short_rows} answers, "
        f"{cost.short_rows} of them short; {cost.confirm_rows} to confirm: {cost.tokens:,} tokens."
    )
    n_layers = min(9, found.n_layers)
    times = cost.grid_tokens / max(1, cost.tokens)
    yield (
        f"A grid of {n_layers} layers and 6 strengths with controls on these prompts: "
        f"about {cost.grid_tokens:,}, {times:.{0 if times >= 3 else 1}f} times as many."
    )


def _is_best(found: Searched) -> bool:
    """Whether the chosen cell is the one that refused most in the search."""
    return found.cheapest is None or not found.cheapest.equal


def _cheapest(found: Searched, cheapest: Cheapest) -> Iterator[str]:
    """How the price of the chosen cell compares with that of the one that refused most."""
    yield (
        "nats: per token from the unsteered model, over its own answers to these prompts "
        "[95 % interval]"
    )
    if not cheapest.compared:
        yield "the best cell of the search fails, so that no cheaper one was looked for"
        return
    yield (
        f"compared the price of {cheapest.compared} cells: {cheapest.cheaper} cost less than the "
        f"one that refused most, {cheapest.equal} of them refuse as often on "
        f"{cheapest.prompts} discovery prompts"
    )
    if _is_best(found):
        return
    cost, more = cheapest.best_price, cheapest.best_dearer
    price = (
        "an unknown price"
        if cost is None or more is None
        else f"{nats(cost.nats_per_token)}, {more.value:+.2g} [{more.low:+.2g}, {more.high:+.2g}] "
        f"against the chosen on the same answers"
    )
    yield (
        f"  that one: {cheapest.best_method}, layer {cheapest.best_layer} at "
        f"{cheapest.best_strength:g}: {price}"
    )
    yield (
        f"  it refused {cheapest.best_refuses} of the {cheapest.prompts} discovery prompts, the "
        f"chosen {cheapest.chosen_refuses}"
    )


def in_short(found: Searched) -> dict[str, Any]:
    """The finding for programs, as `find --json` prints it; `search.json` holds all of it."""
    chosen, window = found.confirmed_as("chosen"), found.window
    return {
        "model": found.model,
        "method": found.method,
        "found": found.found,
        "layer_idx": found.layer,
        "layer_pct": round(found.layer / found.n_layers, 4),
        "relative_strength": found.strength,
        "multiplier": found.multiplier,
        "coherent_refusal_rate": chosen.rate,
        "coherent_refusal_ci": list(chosen.interval),
        "garbled_rate": chosen.broken / chosen.n,
        "n_confirm": chosen.n,
        "random": {"coherent_refusal_rate": found.confirmed_as("random direction").rate},
        "unsteered": {"coherent_refusal_rate": found.confirmed_as("unsteered").rate},
        "price": None if chosen.price is None else typed.plain(chosen.price),
        "cheapest": None if found.cheapest is None else typed.plain(found.cheapest),
        "window": None if window is None else [window.weakest, window.strongest],
        "generated_tokens": found.cost.tokens,
        "grid_tokens": found.cost.grid_tokens,
    }


def _line(cell: Confirmed) -> str:
    what = _BESIDE.get(cell.what, cell.what)
    at = "" if cell.strength is None else f"{cell.strength:.3g}"
    low, high = (100 * bound for bound in cell.interval)
    p = "" if cell.p is None else f"  p {_shown_p(cell.p)}"
    price = ""
    if cell.price is not None:
        least, most = cell.price.interval
        price = f"  {nats(cell.price.nats_per_token)} [{least:.2g}-{most:.2g}]"
    return (
        f"  {what:18}{at:>7}  coherent {100 * cell.rate:3.0f}% [{low:.0f}-{high:.0f}]  "
        f"garbled {100 * cell.broken / cell.n:3.0f}%{p}{price}"
    )


def _shown_p(p: float) -> str:
    """A p value for people."""
    return "< 0.0001" if p < 0.0001 else f"= {p:.2g}"


def _gentler(found: Searched) -> Iterator[str]:
    """Says so where the weaker neighbour may refuse as often and breaks less."""
    chosen = found.confirmed_as("chosen")
    for cell in found.confirmed:
        as_often = cell.rate >= chosen.rate or (cell.p or 0.0) >= 0.05
        if cell.what == "weaker" and as_often and cell.broken < chosen.broken:
            yield (
                f"one step weaker may refuse as often, and breaks less: garbled "
                f"{100 * cell.broken / cell.n:.0f}% against {100 * chosen.broken / chosen.n:.0f}%"
            )


def _window(found: Searched) -> str:
    window = found.window
    assert window is not None, "asked of a window"
    below = "the weakest tried" if window.weaker is None else f"less at {window.weaker:g}"
    above = "the strongest tried" if window.stronger is None else f"less at {window.stronger:g}"
    return (
        f"window at layer {found.layer}: at least half as much from {window.weakest:g} ({below}) "
        f"to {window.strongest:g} ({above})"
    )


def _looked(found: Searched) -> Iterator[str]:
    yield (
        f"looked for at layers {_span(found.layers)} with pushes from {found.strengths[0]:g} to "
        f"{found.strengths[-1]:g} of the residual norm"
    )
    broke = [strength for strength in found.breaks.values() if strength is not None]
    if not broke:
        yield "  texts did not break even at the strongest push"
        return
    yield (
        f"  texts begin to break at {min(broke):g} to {max(broke):g}, in "
        f"{len(broke)} of the {len(found.breaks)} places where that was looked at"
    )
    most = max((c for c in found.cells if c.whole), key=lambda c: (c.refuses / c.whole, c.whole))
    yield (
        f"  most refusals in the search: {most.refuses} of {most.whole} discovery prompts at layer "
        f"{most.layer}, {most.strength:g}"
    )


def _span(layers: Sequence[int]) -> str:
    return f"{layers[0]} to {layers[-1]}"
