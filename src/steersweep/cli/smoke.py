"""`smoke`: is everything about a model as it should be, or about every model of a plan?"""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from steersweep.cli.engines import check_budget, check_engine, engine_here
from steersweep.cli.options import (
    BudgetOption,
    DeviceOption,
    EngineOption,
    JsonOption,
    PlanModelsOption,
    PrecisionOption,
    QuietOption,
    RayAddressOption,
    RayStorageOption,
    RemoteCodeOption,
    RevisionOption,
    TemplateOption,
)
from steersweep.cli.output import quiet_libraries, say
from steersweep.cli.plans import named_plan
from steersweep.core.errors import InputError
from steersweep.sweeps import defaults

if TYPE_CHECKING:
    from steersweep.engines.engine import Engine
    from steersweep.study.checking import Checked
    from steersweep.study.plan import Plan
    from steersweep.study.study import StudyOptions


def smoke(
    model: Annotated[
        str,
        typer.Argument(help="A hub id, a folder, a GGUF file or lab:NAME; a plan with --all."),
    ],
    every: Annotated[
        bool, typer.Option("--all", help="Every model of a plan, each in the plan's precision.")
    ] = False,
    engine: EngineOption = "local",
    out: Annotated[
        Path | None,
        typer.Option(help="With --all: run folder, also of the study later [default: PLAN-smoke]."),
    ] = None,
    models: PlanModelsOption = None,
    budget: BudgetOption = None,
    ray_address: RayAddressOption = None,
    ray_storage: RayStorageOption = None,
    precision: PrecisionOption = defaults.PRECISION,
    device: DeviceOption = defaults.DEVICE,
    revision: RevisionOption = None,
    trust_remote_code: RemoteCodeOption = False,
    template_options: TemplateOption = "",
    as_json: JsonOption = False,
    quiet: QuietOption = False,
) -> None:
    """Look at everything about a model that has misled people before. Exit code 1 if it fails.

    Example: `steersweep smoke lab:qwen-7b`, `steersweep smoke v3-120 --all --engine modal`
    """
    quiet_libraries()
    if every:
        if revision or trust_remote_code or template_options:
            raise InputError(
                "--revision, --trust-remote-code and --template-options go with one model; a plan "
                "says them of each of its own"
            )
        check_engine(engine, ray_address, ray_storage)
        check_budget(budget)
        here = None if engine == "modal" else engine_here(engine, device, ray_address, ray_storage)
        asked = None if precision == "auto" else precision
        plan = named_plan(model, models)
        _smoke_plan(plan, out, here, asked, budget, as_json=as_json, quiet=quiet)
        return
    if (engine, out, budget, ray_address, ray_storage, models) != ("local", *[None] * 5):
        raise InputError(
            f"{model}: --engine, --out, --models, --budget and Ray's options go with a plan and "
            f"--all"
        )
    _smoke_model(model, precision, device, revision, trust_remote_code, template_options, as_json)


def _smoke_model(
    model: str,
    precision: str,
    device: str,
    revision: str | None,
    trust_remote_code: bool,
    template_options: str,
    as_json: bool,
) -> None:
    from steersweep.model.template_options import parse_template_options
    from steersweep.smoke import smoke as smoke_test

    found = smoke_test.smoke(
        model,
        precision=precision,
        device=device,
        revision=revision,
        trust_remote_code=trust_remote_code,
        template_options=parse_template_options(template_options, "--template-options"),
    )
    if as_json:
        say(json.dumps(found.as_json(), indent=1))
    else:
        for line in smoke_test.shown(found):
            say(line)
    if not found.passed:
        raise typer.Exit(1)


def _smoke_plan(
    plan: Plan,
    out: Path | None,
    engine: Engine | None,
    precision: str | None,
    budget: float | None,
    *,
    as_json: bool,
    quiet: bool,
) -> None:
    """Check every model of a plan; `engine`: None for Modal."""
    from steersweep.report.smoke_table import print_smoke
    from steersweep.study.checking import expected
    from steersweep.study.study import StudyOptions

    folder = out or Path(f"{plan.name}-smoke")
    options = StudyOptions(budget=budget)
    seconds, usd = expected(plan, precision)
    if not quiet and usd:
        say(
            f"{plan.name}: the checks of its models take about {seconds / 60:.0f} minutes and "
            f"{usd:.2f} USD on the planned GPUs, by the estimate; money is reserved in the ledger "
            f"of {folder} before each begins",
            err=True,
        )
    if engine is None:
        found = _checked_on_modal(plan, folder, options, precision, quiet=quiet)
    else:
        found = _checked_here(plan, folder, options, engine, precision, quiet=quiet)
    if as_json:
        say(json.dumps([asdict(row) for row in found], indent=1))
    else:
        print_smoke(found, folder)
    if not all(row.passed for row in found):
        raise typer.Exit(1)


def _checked_here(
    plan: Plan,
    folder: Path,
    options: StudyOptions,
    engine: Engine,
    precision: str | None,
    *,
    quiet: bool,
) -> list[Checked]:
    from steersweep.budget.ledger import Ledger
    from steersweep.report.live import live_view
    from steersweep.study.checking import check_models

    stop = plan.budget.total if options.budget is None else options.budget
    with live_view(quiet=quiet, spent=Ledger(folder).spent, budget=stop) as view:
        return check_models(
            plan,
            folder,
            options,
            precision=precision,
            engine=engine,
            on_progress=view.on_progress,
            on_line=view.on_line,
            on_note=view.on_note,
        )


def _checked_on_modal(
    plan: Plan, folder: Path, options: StudyOptions, precision: str | None, *, quiet: bool
) -> list[Checked]:
    from steersweep.study.away import away
    from steersweep.study.checking import checked

    away.begin(plan, folder, {**asdict(options), "accept": [], "check": precision})
    end = away.follow(folder, lambda line: None if quiet else say(line, err=True))
    found = checked(folder)
    if end.exit_code and (not found or all(row.passed for row in found)):
        raise away.EndedThere(end.message, end.exit_code)  # a stop, or it could not begin
    return found
