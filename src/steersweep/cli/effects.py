"""What steering costs the model, of runs that are finished: `effects` and `prices`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from steersweep.cli.options import (
    ChoicesOption,
    DeviceOption,
    EffectItemsOption,
    EffectsOption,
    JsonOption,
    MismatchOption,
    QuietOption,
    RemoteCodeOption,
    TextOption,
)
from steersweep.cli.output import effects_in, quiet_libraries, say, show_notes, tell_problems
from steersweep.core.errors import InputError
from steersweep.sweeps import defaults

if TYPE_CHECKING:
    from collections.abc import Sequence

    from steersweep.model.source import ModelSource


def effects(
    folder: Annotated[Path, typer.Argument(help="Run folder of a sweep or study.", metavar="DIR")],
    which: EffectsOption = "all",
    text: TextOption = None,
    choices: ChoicesOption = None,
    effect_items: EffectItemsOption = defaults.EFFECT_ITEMS,
    models: Annotated[
        list[str] | None,
        typer.Option("--models", help="A model of the run found elsewhere now: NAME=PLACE."),
    ] = None,
    device: DeviceOption = defaults.DEVICE,
    trust_remote_code: RemoteCodeOption = False,
    accept_mismatch: MismatchOption = False,
    as_json: JsonOption = False,
    quiet: QuietOption = False,
) -> None:
    """Measure what steering costs the model in every cell of a finished run, beside no steering.

    No answer is generated again, and no rate or verdict changes. What is there is not measured
    again; the same command continues one that was stopped.

    Example: `steersweep effects runs/qwen`, `steersweep effects runs/qwen --effects text,choices
    --choices arc.jsonl`
    """
    from steersweep.report.html import write_report
    from steersweep.report.live import live_view
    from steersweep.report.prices import price_lines
    from steersweep.run.folder import RunFolder
    from steersweep.sweeps.effect_settings import left_out_notes, make_effects
    from steersweep.sweeps.measure import Measure, check_models, measure_run

    asked = make_effects(which, text=text, choices=choices, items=effect_items)
    if not asked:
        raise InputError(f"--effects {which}: nothing to measure; name some, or give all")
    RunFolder.existing(folder)
    places = _places(models or ())
    check_models(folder, places)
    quiet_libraries()
    show_notes(left_out_notes(asked))
    damaged = tell_problems(folder)
    with live_view(quiet=quiet) as view:
        results = measure_run(
            folder,
            Measure(asked, places, device, trust_remote_code, accept_mismatch),
            on_progress=view.on_progress,
            on_model=view.on_model,
            on_note=view.on_note,
        )
    report = write_report(folder)
    if as_json:
        found = [one for result in results for one in effects_in(result)]
        say(json.dumps({"effects": found, "problems": damaged}, indent=1))
        return
    for line in price_lines(results):
        say(line)
    say(f"\nReport:  {report.path}")


def prices(
    folders: Annotated[
        list[Path],
        typer.Argument(help="Run folders of one model on the same prompts.", metavar="DIR ..."),
    ],
    figure: Annotated[
        Path | None, typer.Option(help="Draw it too: FILE.png, and FILE.svg beside it.")
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Compare ways to steer by what they cost where they refuse as often as the best of all.

    A way is a method with its operation, span, site and positions; each run has one of the latter.
    What a run costs must have been measured there: `steersweep effects DIR --effects divergence`.

    Example: `steersweep prices runs/to-the-end runs/one-layer runs/affine --figure ways.png`
    """
    from steersweep.core import typed
    from steersweep.report.drawing import draw_ways
    from steersweep.report.ways import way_lines
    from steersweep.sweeps.ways import compare_ways

    compared = compare_ways(folders)
    written = None if figure is None else draw_ways(compared, figure)
    if as_json:
        models = [typed.plain(model.without_samples()) for model in compared]
        say(json.dumps({"models": models, "figure": written and str(written)}, indent=1))
        return
    for line in way_lines(compared):
        say(line)
    if written is not None:
        say(f"Figure:  {written}")


def _places(models: Sequence[str]) -> dict[str, ModelSource]:
    """Where models are now, by their name in the run."""
    from steersweep.model.find import find_model

    found = {}
    for text in models:
        model, equals, place = text.partition("=")
        if not (model and equals and place):
            raise InputError(f"--models {text}: give NAME=PLACE, as in qwen-7b=models/qwen")
        found[model] = find_model(place)
    return found
