"""What a plan would run, for the terminal and as plain data."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from textwrap import wrap

from rich.console import Console
from rich.table import Table

from steersweep.catalog.gpus import LOCAL, prices_as_of
from steersweep.report.console import PlainConsole
from steersweep.report.terminal import power_line
from steersweep.run.condition import Strength
from steersweep.study.ahead import look_ahead
from steersweep.study.begun import Begun
from steersweep.study.costs import cheapest, estimate
from steersweep.study.cuts import savings
from steersweep.study.phases.phase import Expected
from steersweep.study.plan import Plan
from steersweep.study.plan_file import load_plan, shipped_on, shipped_plans
from steersweep.study.settings import prompts_of
from steersweep.study.sweeps import Cuts


@dataclass(frozen=True)
class Elsewhere:
    """The GPU that a sweep costs least on, and what it costs there."""

    gpu: str
    usd: float


@dataclass(frozen=True)
class Tracking:
    """What trackers call a sweep's project and runs."""

    project: str
    runs: tuple[str, ...]


@dataclass(frozen=True)
class PlannedSweep:
    """A sweep that a plan may run.

    Attributes:
        phase: number of the phase, with the step where it is not the main one.
        step: name of the step.
        model: the plan's name of the model.
        model_id: its id.
        methods: ways to find a direction.
        precision: what it runs in.
        layers: by what the plan calls a layer, its index.
        strengths: how strongly to steer.
        at_most: how many of them may be tried: of a window fewer than there are.
        n_conditions: with controls and methods' own choices.
        n_unique: test prompts.
        gpu: kind of GPU.
        timeout_s: limit of the job, in seconds; None: none.
        seconds: expected.
        memory_gb: expected on the GPU.
        rows: of a batch.
        fits: whether that is what the GPU has; None where its memory is unknown.
        usd: expected cost.
        cheapest: None for a job on this machine, or one that fits nowhere.
        note: what it depends on; empty: it runs for sure.
        tracking: how trackers call it.
    """

    phase: str
    step: str
    model: str
    model_id: str
    methods: tuple[str, ...]
    precision: str
    layers: dict[str, int]
    strengths: tuple[Strength, ...]
    at_most: int
    n_conditions: int
    n_unique: int
    gpu: str
    timeout_s: int | None
    seconds: float
    memory_gb: float
    rows: int
    fits: bool | None
    usd: float
    cheapest: Elsewhere | None
    note: str
    tracking: Tracking


def planned(plan: Plan, cuts: Cuts, only: str | None = None) -> list[PlannedSweep]:
    """Every sweep of every phase, or of the phase named `only`, as far as a plan can tell.

    Which families, models and layers later phases really take follows from results; this is the
    most they would run. `note` says what a sweep depends on; without one it runs for sure.
    """
    return [
        _row(plan, expected, len(prompts_of(plan, expected.sweep, cuts).prompts))
        for expected in look_ahead(plan, cuts)
        if only in (None, expected.sweep.step.phase)
    ]


def _row(plan: Plan, ahead: Expected, n_prompts: int) -> PlannedSweep:
    sweep = ahead.sweep
    expected = estimate(plan, sweep, n_prompts)
    best = None if sweep.model.gpu == LOCAL else cheapest(plan, sweep, n_prompts)
    return PlannedSweep(
        phase=str(sweep.step),
        step=sweep.step.name,
        model=sweep.model.name,
        model_id=sweep.model.model,
        methods=sweep.methods,
        precision=sweep.precision,
        layers={choice.text: choice.index(sweep.model.n_layers) for choice in sweep.layers},
        strengths=sweep.strengths,
        at_most=len(sweep.at_most),
        n_conditions=sweep.n_conditions,
        n_unique=n_prompts,
        gpu=sweep.model.gpu,
        timeout_s=sweep.timeout_s or plan.timeout(sweep.step.phase, sweep.model.gpu),
        seconds=round(expected.seconds, 1),
        memory_gb=round(expected.memory_gb, 1),
        rows=expected.rows,
        fits=expected.fits,
        usd=round(expected.usd, 4),
        cheapest=None if best is None else Elsewhere(best[0], round(best[1].usd, 4)),
        note=ahead.when,
        tracking=Tracking(plan.project(sweep.step.phase), sweep.run_names),
    )


def print_plan(
    plan: Plan, cuts: Cuts, only: str | None = None, console: Console | None = None
) -> None:
    """The sweeps with layers, time, memory and cost on their planned GPUs.

    Args:
        plan: the plan.
        cuts: that apply.
        only: name of the phase to show; None: all. What is said of the whole plan stays.
        console: where to print.
    """
    every = planned(plan, cuts)
    rows = every if only is None else planned(plan, cuts, only)
    console = console or PlainConsole()
    table = Table(box=None, pad_edge=False)
    for name, width in (("phase", 12), ("model", 11)):
        table.add_column(name, no_wrap=True, min_width=width)
    table.add_column("layers", overflow="fold")
    for name, width in (("cells", 5), ("GPU", 9), ("min", 4), ("GB", 3), ("USD", 4)):
        table.add_column(name, justify="right", no_wrap=True, min_width=width)
    for row in rows:
        fits = "" if row.fits is not False else "!"
        table.add_row(
            row.phase,
            row.model,
            " ".join(str(layer) for layer in row.layers.values()),
            str(row.n_conditions),
            row.gpu,
            f"{row.seconds / 60:.1f}",
            f"{row.memory_gb:.0f}{fits}",
            f"{row.usd:.2f}",
        )
    console.print(table)
    lines = [
        "",
        *([] if only is None else [f"This phase: {_range(rows, plan.budget.phases.get(only))}"]),
        f"The whole plan: {_range(every, plan.budget.total)}",
        _prices(plan, every),
        "cells: conditions with their controls; GB: memory on that GPU (!: does not fit).",
        *_power(rows),
        *_more_prompts(plan, every),
        *_cheaper(rows),
        *_depending(rows),
        *_cuts(plan),
    ]
    for line in lines:
        console.print(line, highlight=False, soft_wrap=True)


def _range(rows: Sequence[PlannedSweep], stop: float | None) -> str:
    """What sweeps cost, whatever comes out."""
    most, least = (sum(row.usd for row in found) for found in (rows, _certain(rows)))
    held = "" if stop is None else f"; hard stop {stop:g} USD"
    return f"at most {most:.2f} USD by this estimate, at least {least:.2f}{held}."


def _prices(plan: Plan, rows: Sequence[PlannedSweep]) -> str:
    """Which prices the figures rest on, and of when they are."""
    sources: dict[str, list[str]] = {}
    for gpu in dict.fromkeys(row.gpu for row in rows):
        if gpu in plan.prices:
            source = plan.prices_as_of or "the plan's, which gives no date"
        else:
            source = "this machine" if gpu == LOCAL else f"the catalog's of {prices_as_of()}"
        sources.setdefault(source, []).append(f"{gpu} {plan.price(gpu):g}")
    said = "; ".join(f"{', '.join(gpus)} ({source})" for source, gpus in sources.items())
    return f"Prices in USD per hour: {said}."


def _cuts(plan: Plan) -> list[str]:
    """What each of the plan's cuts saves."""
    found = savings(plan, Begun(), range(1, len(plan.cuts) + 1))
    head = ["Cuts, in the order in which they are applied:"] if found else []
    return [*head, *(f"  {saving}" for saving in found)]


def _certain(rows: Sequence[PlannedSweep]) -> list[PlannedSweep]:
    """Sweeps that run whatever comes out."""
    return [row for row in rows if not row.note]


def _depending(rows: Sequence[PlannedSweep]) -> list[str]:
    """Which sweeps depend on results, and on which."""
    conditions: dict[str, list[str]] = {}
    for row in rows:
        if row.note:
            conditions.setdefault(row.phase, []).append(row.note)
    if not conditions:
        return []
    said = "; ".join(
        f"{phase}: {', '.join(dict.fromkeys(notes))}" for phase, notes in conditions.items()
    )
    return [
        *wrap(f"What depends on results is shown as the most it can be ({said}).", 100),
        "Layers that follow from results are shown at 60 % of the depth.",
    ]


def _power(rows: Sequence[PlannedSweep]) -> list[str]:
    """What the first phase can show on one model with one method."""
    first = [row for row in rows if row.step == "family"]
    if not first:
        return []
    cells = max(len(row.layers) * row.at_most for row in first)
    return [f"{power_line(first[0].n_unique, cells)}."]


def _more_prompts(plan: Plan, rows: Sequence[PlannedSweep]) -> list[str]:
    """What a shipped plan costs and finds that is this one with more unique prompts."""
    most = max(row.n_unique for row in rows)
    lines = []
    for name in shipped_on(plan.name) if plan.name in shipped_plans() else ():
        other = replace(load_plan(name), prices=plan.prices, prices_as_of=plan.prices_as_of)
        found = planned(other, Cuts())
        if (n_unique := max(row.n_unique for row in found)) > most:
            usd = sum(row.usd for row in found)
            lines.append(
                f"Run {name} instead: the same study with {n_unique} unique prompts, at most "
                f"{usd:.2f} USD at these prices."
            )
            lines += (f"  {line}" for line in "".join(_power(found)).split("\n"))
    return lines


_WORTH_SAYING = 0.8  # of the planned cost


def _cheaper(rows: Sequence[PlannedSweep]) -> list[str]:
    """Where a model would be clearly cheaper than on its planned GPU, or fit at all."""
    elsewhere: dict[tuple[str, str, str], list[float]] = {}
    nowhere = []
    for row in rows:
        best = row.cheapest
        if best is None:
            nowhere += [row.model] if row.fits is False else []
        elif row.fits is False or best.usd < _WORTH_SAYING * row.usd:
            key = (row.model, row.gpu, best.gpu)
            costs = elsewhere.setdefault(key, [0.0, 0.0])
            costs[0] += row.usd
            costs[1] += best.usd
    unfit = {row.model for row in rows if row.fits is False}
    lines = [
        f"{model}: {other} {costs[1]:.2f} USD instead of {gpu} {costs[0]:.2f}"
        + (", where it does not fit" if model in unfit else "")
        for (model, gpu, other), costs in elsewhere.items()
    ]
    lines += [f"{model}: fits no GPU of the catalog" for model in dict.fromkeys(nowhere)]
    return ["Elsewhere, by this estimate:", *(f"  {line}" for line in lines)] if lines else []
