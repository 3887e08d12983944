"""The command that looks for the best layer and strength: `find`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from steersweep.cli.options import (
    JUDGES,
    DeviceOption,
    DirectionsOption,
    ExtractionOption,
    JsonOption,
    MethodsBesideOption,
    MismatchOption,
    ModelArgument,
    PositionsOption,
    PrecisionOption,
    QuietOption,
    RemoteCodeOption,
    RevisionOption,
    RowsOption,
    SiteOption,
    SpanOption,
    SpecialTokensOption,
    StopLoopsOption,
    SystemOption,
    TemplateOption,
    split_files,
)
from steersweep.cli.output import quiet_libraries, say, show_notes
from steersweep.sweeps import defaults


def find(
    model: ModelArgument,
    methods: MethodsBesideOption = None,
    directions: DirectionsOption = "",
    layers: Annotated[
        str, typer.Option(help="Layers that may be chosen: shares or indices [default: all].")
    ] = "",
    operation: Annotated[
        str, typer.Option(help="What is done with a direction: add or affine.")
    ] = defaults.OPERATION,
    site: SiteOption = defaults.SITE,
    span: SpanOption = defaults.SPAN,
    positions: PositionsOption = defaults.POSITIONS,
    prompts: Annotated[
        str,
        typer.Option(
            help="A shipped set or a file; half of it, 60 at most, confirms what the rest finds."
        ),
    ] = defaults.PROMPTS,
    extraction: ExtractionOption = None,
    budget_rows: Annotated[
        int | None, typer.Option(help="Answers of the search at most [default: about 500].")
    ] = None,
    minutes: Annotated[
        float | None, typer.Option(help="Time for all of it, by the pace of the first answers.")
    ] = None,
    cheapest: Annotated[
        bool,
        typer.Option(
            help="Choose the cell that moves the model least from itself, of those that refuse as "
            "often as the best."
        ),
    ] = False,
    precision: PrecisionOption = defaults.PRECISION,
    max_new_tokens: Annotated[int, typer.Option(help="Longest answer.")] = defaults.FIND_NEW_TOKENS,
    stop_loops: StopLoopsOption = True,
    judge: Annotated[str, typer.Option(help=JUDGES)] = defaults.JUDGE,
    seed: Annotated[int, typer.Option(help="Of the random control direction.")] = defaults.SEED,
    rows: RowsOption = defaults.ROWS,
    special_tokens: SpecialTokensOption = defaults.SPECIAL_TOKENS,
    template_options: TemplateOption = "",
    system: SystemOption = "",
    device: DeviceOption = defaults.DEVICE,
    revision: RevisionOption = None,
    trust_remote_code: RemoteCodeOption = False,
    accept_mismatch: MismatchOption = False,
    out: Annotated[Path | None, typer.Option(help="Run folder [default: runs/MODEL-find].")] = None,
    as_json: JsonOption = False,
    quiet: QuietOption = False,
) -> None:
    """Find the best layer and strength of a model, and confirm them on prompts of their own.

    The same command again continues a killed search.

    Example: `steersweep find lab:qwen-7b`
    """
    from steersweep.model.find import find_model
    from steersweep.report.found import in_short, print_found
    from steersweep.report.html import write_report
    from steersweep.report.live import live_view
    from steersweep.run.paths import RunPaths
    from steersweep.sweeps.find import run_find
    from steersweep.sweeps.find_settings import make_find_settings

    source = find_model(model, revision=revision, trust_remote_code=trust_remote_code)
    settings = make_find_settings(
        source,
        methods=methods,
        directions=split_files(directions),
        layers=layers,
        operation=operation,
        site=site,
        span=span,
        positions=positions,
        prompts=prompts,
        extraction=extraction,
        budget_rows=budget_rows,
        minutes=minutes,
        cheapest=cheapest,
        precision=precision,
        max_new_tokens=max_new_tokens,
        stop_loops=stop_loops,
        judge=judge,
        seed=seed,
        rows=rows,
        accept_mismatch=accept_mismatch,
        special_tokens=special_tokens,
        template_options=template_options,
        system=system,
    )
    name = source.name.replace(":", "-").replace("/", "-")
    folder = out or Path("runs") / f"{name}-find"
    quiet_libraries()
    show_notes(settings.sweep.notes)
    with live_view(quiet=quiet) as view:
        outcome = run_find(
            settings,
            folder,
            device=device,
            on_progress=view.on_progress,
            on_note=view.on_note,
        )
    report = write_report(folder)
    if as_json:
        say(
            json.dumps(
                in_short(outcome.searched) | {"results_file": str(outcome.results_file)}, indent=1
            )
        )
        return
    print_found(outcome.searched)
    say(f"\nResults: {outcome.results_file}, {RunPaths(folder).search}")
    say(f"Report:  {report.path}")
