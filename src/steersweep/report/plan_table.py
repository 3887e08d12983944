"""What a plan would run, for the terminal and as plain data."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from rich.console import Console
from rich.table import Table

from steersweep.catalog.gpus import LOCAL
from steersweep.report.console import PlainConsole
from steersweep.report.terminal import power_line
from steersweep.study import phases
from steersweep.study.costs import cheapest, estimate
from steersweep.study.decisions import FamilyDecision
from steersweep.study.phases import Cuts, Sweep
from steersweep.study.plan import PHASES, Plan


def planned(plan: Plan, cuts: Cuts, only: str | None = None) -> list[dict[str, Any]]:
    """Every sweep of every phase, as if all families went on at 60 % of the depth.

    Which families and layers phases 2 and 3 really take follows from results; this is the most
    they would run.
    """
    n_prompts = len(phases.test_set(plan, cuts).prompts)
    rows = []
    for phase, sweep, note in _most(plan, cuts):
        if only is not None and not phase.startswith(only):
            continue
        expected = estimate(plan, sweep, n_prompts)
        best = None if sweep.model.gpu == LOCAL else cheapest(plan, sweep, n_prompts)
        rows.append(
            {
                "phase": phase,
                "step": sweep.step,
                "model": sweep.model.name,
                "model_id": sweep.model.model,
                "methods": list(sweep.methods),
                "precision": sweep.precision,
                "layers": {
                    choice.text: choice.index(sweep.model.n_layers) for choice in sweep.layers
                },
                "strengths": [asdict(strength) for strength in sweep.strengths],
                "n_conditions": sweep.n_conditions,
                "n_unique": n_prompts,
                "gpu": sweep.model.gpu,
                "timeout_s": sweep.timeout_s,
                "seconds": round(expected.seconds, 1),
                "memory_gb": round(expected.memory_gb, 1),
                "rows": expected.rows,
                "fits": expected.fits,
                "usd": round(expected.usd, 4),
                "cheapest": best and {"gpu": best[0], "usd": round(best[1].usd, 4)},
                "note": note,
                "tracking": {
                    "project": plan.project(PHASES[int(sweep.phase)]),
                    "runs": list(sweep.run_names),
                },
            }
        )
    return rows


def _most(plan: Plan, cuts: Cuts) -> list[tuple[str, Sweep, str]]:
    found = [("1", sweep, "") for sweep in phases.family_sweeps(plan)]
    swept = [_supposed(plan, sweep) for sweep in phases.family_sweeps(plan)]
    rows = [
        ("1 follow-up", sweep, "if partial")
        for sweep in phases.follow_up_sweeps(
            plan, [_with(decision, "follow-up") for decision in swept]
        )
    ]
    rows += [("1 fallback", sweep, "if all fail") for sweep in phases.fallback_sweeps(plan)]
    confirmed = [
        _supposed_model(plan, row["model"])
        for row in plan.data["family_sweep"].get("confirmed", {}).values()
    ]
    going = [*swept, *confirmed]
    if "size_sweep" in plan.data:
        rows += [
            ("2 validation", sweep, "") for sweep in phases.validation_sweeps(plan, going, cuts)
        ]
        rows += [
            ("2", sweep, "if the family goes on")
            for sweep in phases.size_sweeps(plan, going, {}, cuts)
        ]
    return [*found, *rows]


def _supposed(plan: Plan, sweep: Sweep) -> FamilyDecision:
    return _supposed_model(plan, sweep.model.name)


def _supposed_model(plan: Plan, name: str) -> FamilyDecision:
    model = plan.models[name]
    return FamilyDecision(
        family=model.family,
        model=name,
        action="continue",
        method="dim",
        layer_idx=int(0.6 * model.n_layers),
        layer_share="0.6",
        n_layers=model.n_layers,
        strength=plan.strength,
        coherent=None,
        diverged=False,
        reason="",
    )


def _with(decision: FamilyDecision, action: Any) -> FamilyDecision:
    from dataclasses import replace

    return replace(decision, action=action)


def print_plan(plan: Plan, rows: Sequence[dict[str, Any]], console: Console | None = None) -> None:
    """The sweeps with layers, time, memory and cost on their planned GPUs."""
    console = console or PlainConsole()
    table = Table(box=None, pad_edge=False)
    for name, width in (("phase", 12), ("model", 11)):
        table.add_column(name, no_wrap=True, min_width=width)
    table.add_column("layers", overflow="fold")
    for name, width in (("cells", 5), ("GPU", 9), ("min", 4), ("GB", 3), ("USD", 4)):
        table.add_column(name, justify="right", no_wrap=True, min_width=width)
    for row in rows:
        fits = "" if row["fits"] is not False else "!"
        table.add_row(
            row["phase"],
            row["model"],
            " ".join(str(layer) for layer in row["layers"].values()),
            str(row["n_conditions"]),
            row["gpu"],
            f"{row['seconds'] / 60:.1f}",
            f"{row['memory_gb']:.0f}{fits}",
            f"{row['usd']:.2f}",
        )
    console.print(table)
    total = sum(row["usd"] for row in rows)
    stop = plan.data.get("budget", {}).get("total")
    lines = [
        "",
        f"At most {total:.2f} USD by this estimate"
        + (f"; hard stop {stop:g} USD." if stop is not None else "."),
        "cells: conditions with their controls; GB: memory on that GPU (!: does not fit).",
        *_power(rows),
        *_cheaper(rows),
        "Follow-up, fallback, phase 2 and phase 3 depend on results; this is the most they run,",
        "phase 2 shown at 60 % of the depth. Phase 3 takes what phase 2 chooses.",
    ]
    for line in lines:
        console.print(line, highlight=False, soft_wrap=True)


def _power(rows: Sequence[dict[str, Any]]) -> list[str]:
    """What the first phase can show on one model with one method."""
    first = [row for row in rows if row["step"] == "family"]
    if not first:
        return []
    cells = max(len(row["layers"]) * len(row["strengths"]) for row in first)
    return [f"{power_line(first[0]['n_unique'], cells)}."]


_WORTH_SAYING = 0.8  # of the planned cost


def _cheaper(rows: Sequence[dict[str, Any]]) -> list[str]:
    """Where a model would be clearly cheaper than on its planned GPU, or fit at all."""
    elsewhere: dict[tuple[str, str, str], list[float]] = {}
    nowhere = []
    for row in rows:
        best = row["cheapest"]
        if best is None:
            nowhere += [row["model"]] if row["fits"] is False else []
        elif row["fits"] is False or best["usd"] < _WORTH_SAYING * row["usd"]:
            key = (row["model"], row["gpu"], best["gpu"])
            costs = elsewhere.setdefault(key, [0.0, 0.0])
            costs[0] += row["usd"]
            costs[1] += best["usd"]
    unfit = {row["model"] for row in rows if row["fits"] is False}
    lines = [
        f"{model}: {other} {costs[1]:.2f} USD instead of {gpu} {costs[0]:.2f}"
        + (", where it does not fit" if model in unfit else "")
        for (model, gpu, other), costs in elsewhere.items()
    ]
    lines += [f"{model}: fits no GPU of the catalog" for model in dict.fromkeys(nowhere)]
    return ["Elsewhere, by this estimate:", *(f"  {line}" for line in lines)] if lines else []
