"""Commands that sweep layers and strengths: `demo`, `sweep`."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from steersweep.cli.options import (
    JUDGES,
    ChoicesOption,
    DeviceOption,
    DirectionsOption,
    EffectItemsOption,
    EffectsOption,
    ExtractionOption,
    JsonOption,
    MethodsBesideOption,
    MethodsOption,
    MismatchOption,
    ModelArgument,
    OfflineOption,
    OperationOption,
    PositionsOption,
    PrecisionOption,
    PromptsOption,
    QuietOption,
    RemoteCodeOption,
    RepeatsOption,
    RevisionOption,
    RowsOption,
    SiteOption,
    SpanOption,
    SpecialTokensOption,
    StopLoopsOption,
    SystemOption,
    TemperatureOption,
    TemplateOption,
    TextOption,
    TopKOption,
    TopPOption,
    split_files,
)
from steersweep.cli.output import (
    quiet_libraries,
    say,
    show_notes,
    tell_tracker,
    verdicts_of,
)
from steersweep.sweeps import defaults

if TYPE_CHECKING:
    from steersweep.sweeps.settings import SweepSettings


# The plan's shares of the depth, but 65 % for 60 %: in eight layers 50 % and 60 % are the same one.
DEMO_LAYERS = "0.2,0.4,0.5,0.65,0.8"
DEMO_STRENGTHS = "0.1,0.2,0.3,0.5"  # from a nudge to destruction, for miniatures
DEMO_PROMPTS = 40
QUICK_PROMPTS = 12


def demo(
    out: Annotated[Path, typer.Option(help="Where results, figures and report go.")] = Path("demo"),
    quick: Annotated[bool, typer.Option("--quick", help="Fewer prompts, wider intervals.")] = False,
    methods: MethodsOption = defaults.METHODS,
    as_json: JsonOption = False,
    quiet: QuietOption = False,
) -> None:
    """Sweep the five phase-1 families of the lab zoo: the main job, on a CPU, in minutes.

    Example: `steersweep demo --out demo`
    """
    from steersweep.lab.models import DEMO_MODELS
    from steersweep.run.result_files import FAMILY_SWEEP
    from steersweep.sweeps.settings import make_settings

    settings = make_settings(
        [f"lab:{name}" for name in DEMO_MODELS],
        methods=methods,
        layers=DEMO_LAYERS,
        strengths=DEMO_STRENGTHS,
        max_prompts=QUICK_PROMPTS if quick else DEMO_PROMPTS,
    )
    if quick and not quiet:
        say(
            f"--quick: {QUICK_PROMPTS} prompts instead of {DEMO_PROMPTS}; intervals are wide.",
            err=True,
        )
    settings = replace(settings, results_name=FAMILY_SWEEP)
    _run_and_show(settings, out, "auto", as_json=as_json, quiet=quiet)


def sweep(
    model: ModelArgument,
    layers: Annotated[
        str, typer.Option(help="Where steering starts: shares of the depth or layer indices.")
    ] = defaults.listed(defaults.LAYERS),
    methods: MethodsBesideOption = None,
    directions: DirectionsOption = "",
    operation: OperationOption = defaults.OPERATION,
    site: SiteOption = defaults.SITE,
    span: SpanOption = defaults.SPAN,
    positions: PositionsOption = defaults.POSITIONS,
    multipliers: Annotated[str, typer.Option(help="Lengths of the added vector.")] = "",
    strengths: Annotated[
        str,
        typer.Option(
            help="The same relative to the residual norm; find: those of the model's window."
        ),
    ] = "",
    prompts: PromptsOption = defaults.PROMPTS,
    extraction: ExtractionOption = None,
    max_prompts: Annotated[int | None, typer.Option(help="Only the first N prompts.")] = None,
    precision: PrecisionOption = defaults.PRECISION,
    max_new_tokens: Annotated[int, typer.Option(help="Longest answer.")] = defaults.MAX_NEW_TOKENS,
    stop_loops: StopLoopsOption = False,
    temperature: TemperatureOption = 0.0,
    top_p: TopPOption = 1.0,
    top_k: TopKOption = 0,
    repeats: RepeatsOption = None,
    judge: Annotated[str, typer.Option(help=JUDGES)] = defaults.JUDGE,
    seed: Annotated[
        int, typer.Option(help="Of random directions and of sampling.")
    ] = defaults.SEED,
    rows: RowsOption = defaults.ROWS,
    effects: EffectsOption = defaults.EFFECTS,
    text: TextOption = None,
    choices: ChoicesOption = None,
    effect_items: EffectItemsOption = defaults.EFFECT_ITEMS,
    special_tokens: SpecialTokensOption = defaults.SPECIAL_TOKENS,
    template_options: TemplateOption = "",
    system: SystemOption = "",
    device: DeviceOption = defaults.DEVICE,
    revision: RevisionOption = None,
    trust_remote_code: RemoteCodeOption = False,
    accept_mismatch: MismatchOption = False,
    track: Annotated[str, typer.Option(help="Tell a tracker: none, wandb or trackio.")] = "none",
    offline: OfflineOption = False,
    out: Annotated[Path | None, typer.Option(help="Run folder [default: runs/MODEL].")] = None,
    as_json: JsonOption = False,
    quiet: QuietOption = False,
) -> None:
    """Sweep layers and strengths on one model. The same command again continues a killed run.

    Without --strengths or --multipliers: up to five strengths of the model's own window, from some
    short answers that show where texts break (--strengths find); with --operation remove, none.

    Example: `steersweep sweep lab:qwen-7b --layers 0.4,0.6 --strengths 0.2,0.4`
    """
    from steersweep.model.find import find_model
    from steersweep.sweeps.effect_settings import make_effects
    from steersweep.sweeps.settings import make_settings
    from steersweep.tracking.tracker import open_tracker

    source = find_model(model, revision=revision, trust_remote_code=trust_remote_code)
    settings = make_settings(
        [source],
        methods=methods,
        directions=split_files(directions),
        layers=layers,
        multipliers=multipliers,
        strengths=strengths or defaults.strengths_beside(multipliers, operation),
        operation=operation,
        site=site,
        span=span,
        positions=positions,
        prompts=prompts,
        extraction=extraction,
        max_prompts=max_prompts,
        precision=precision,
        max_new_tokens=max_new_tokens,
        stop_loops=stop_loops,
        temperature=temperature,
        top_p=top_p,
        top_k=top_k,
        repeats=repeats,
        judge=judge,
        seed=seed,
        rows=rows,
        accept_mismatch=accept_mismatch,
        special_tokens=special_tokens,
        template_options=template_options,
        effects=make_effects(effects, text=text, choices=choices, items=effect_items),
        system=system,
    )
    name = source.name.replace(":", "-").replace("/", "-")
    folder = out or Path("runs") / name
    tracker = open_tracker(track, folder, online=not offline)
    _run_and_show(settings, folder, device, as_json=as_json, quiet=quiet)
    if tracker is not None:
        tell_tracker(folder, tracker, quiet=quiet or as_json)


def _run_and_show(
    settings: SweepSettings, out: Path, device: str, *, as_json: bool, quiet: bool
) -> None:
    from steersweep.model.explaining import before_loading
    from steersweep.report.live import live_view
    from steersweep.report.standing import standing_report
    from steersweep.report.terminal import print_verdicts
    from steersweep.sweeps.run import run_sweep
    from steersweep.work.job import ALREADY, Progress

    before_loading.append(quiet_libraries)
    show_notes(settings.notes)
    with live_view(quiet=quiet) as view:
        said = False

        def on_progress(progress: Progress) -> None:
            nonlocal said
            if not (said or quiet or progress.note == ALREADY):
                said = True
                view.on_line(_power_line(settings))
            view.on_progress(progress)

        outcome = run_sweep(
            settings,
            out,
            device=device,
            on_progress=on_progress,
            on_model=view.on_model,
            on_note=view.on_note,
        )
    made = standing_report(out) if outcome.stood else None
    if made is None:
        from steersweep.report.html import write_report

        report = write_report(out)
        made = report.path, report.figures
    if as_json:
        say(json.dumps(verdicts_of(outcome.results, outcome.results_file), indent=1))
        return
    print_verdicts(outcome.results)
    say(f"\nResults: {outcome.results_file}")
    page, figures = made
    say(f"Figures: {figures[-1]} and {len(figures) - 1} more")
    say(f"Report:  {page}")


def _power_line(settings: SweepSettings) -> str:
    """What a sweep can show with its prompts."""
    from steersweep.report.terminal import power_line
    from steersweep.search.window import MOST

    strengths = MOST if settings.window else len(settings.strengths)
    cells = len(settings.methods) * len(settings.layers) * strengths
    return power_line(len(settings.test.unique), cells)
