"""Ways to steer a model by price, in words, for the terminal."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict

from steersweep.report.figures.style import short
from steersweep.report.prices import nats
from steersweep.sweeps.ways import Compared, Way

_WORDS = {
    "to-end": "to the end",
    "one": "one layer",
    "resid_pre": "before the layer",
    "resid_post": "after the layer",
    "all": "all tokens",
    "prompt": "the prompt",
    "last": "its last token",
    "new": "new tokens",
}


def names_of_ways(ways: Sequence[Way]) -> list[str]:
    """Each way by its method, and by what else is not the same in all of them.

    Prompts that directions are from go by the method; they are named where one method has several.
    """
    edits = [asdict(way.edit) for way in ways]
    differ = [name for name in edits[0] if len({edit[name] for edit in edits}) > 1]
    prompts = {(way.method, way.extraction_prompts) for way in ways}
    several = len(prompts) > len({method for method, _ in prompts})
    return [
        ", ".join(
            [
                way.method.upper(),
                *(_WORDS.get(edit[name], edit[name]) for name in differ),
                *[way.extraction_prompts or "no prompts"] * several,
            ]
        )
        for way, edit in zip(ways, edits, strict=True)
    ]


def way_lines(compared: Sequence[Compared]) -> Iterator[str]:
    """Every way with its price, line by line."""
    for model in compared:
        yield (
            f"{short(model.model)} {model.precision}: what each way to steer costs where it "
            f"refuses as often as the best of all ({model.outcome})"
        )
        names = names_of_ways(model.ways)
        width = max(map(len, names))
        for name, way in zip(names, model.ways, strict=True):
            yield f"  {name:{width}}  {_way(way)}"
        yield (
            f"cheapest cell of each way, of those whose paired difference from the best on "
            f"{model.n_prompts} prompts holds 0"
        )
        yield (
            f"nats: per token from the unsteered model; differences are on the same "
            f"{model.n_answers} answers; 95 % intervals, not corrected for the number of ways"
        )


def _way(way: Way) -> str:
    cell = way.cheapest
    if cell is None or cell.effects is None or cell.effects.divergence is None:
        return f"no cell refuses as often: {way.best.rates.coherent_refusal_rate:.0%} at most"
    price, more = cell.effects.divergence, way.dearer
    least, most = price.interval
    push = f", {cell.steering.relative_strength:.2g}" if cell.steering.multiplier else ""
    found = [
        f"{nats(price.nats_per_token)} [{least:.2g}, {most:.2g}]",
        "the cheapest"
        if more is None
        else f"{more.value:+.2g} [{more.low:+.2g}, {more.high:+.2g}] against the cheapest",
        f"layer {cell.layer}{push}: {cell.rates.coherent_refusal_rate:.0%}",
    ]
    if way.random is not None:
        found.append(f"random there {nats(way.random.nats_per_token)}")
    return "; ".join(found)
