"""Effects of a finished run from Python."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from steersweep.library.results import SweepResults
from steersweep.library.sweeping import Model, listed, source_of
from steersweep.report.live import live_view
from steersweep.sweeps import defaults
from steersweep.sweeps.effect_settings import left_out_notes, make_effects
from steersweep.sweeps.measure import Measure, check_models, measure_run


def measure_effects(
    folder: str | Path,
    *,
    effects: str | Sequence[str] = "all",
    text: str | Path | None = None,
    choices: str | Path | None = None,
    effect_items: str = defaults.EFFECT_ITEMS,
    models: Mapping[str, Model] | None = None,
    device: str = defaults.DEVICE,
    accept_mismatch: bool = False,
    quiet: bool = False,
) -> SweepResults:
    """Measure what steering costs the model in every cell of a run that is finished.

    Does what `steersweep effects` does: nothing is generated again, and no rate changes.

    Args:
        folder: of a sweep, search or study.
        effects: see `sweep`.
        text: see `sweep`.
        choices: see `sweep`.
        effect_items: see `sweep`.
        models: by a model's name in the run, where it is now, or the model itself
            (`ChatModel.wrap`); those that are left out are where the run found them.
        device: see `sweep`.
        accept_mismatch: see `sweep`.
        quiet: show notes alone, and no progress.

    Returns:
        All results of the run, with their effects.

    Raises:
        InputError: a setting that cannot be read; no run there, or a model that is another now.
        SteersweepError: something could not be measured; what was is in the folder.
    """
    asked = make_effects(
        listed("effects", effects),
        text=None if text is None else str(text),
        choices=None if choices is None else str(choices),
        items=effect_items,
    )
    places = {name: source_of(model) for name, model in (models or {}).items()}
    check_models(Path(folder), places)
    with live_view(quiet=quiet) as view:
        for note in left_out_notes(asked):
            view.on_note(note)
        results = measure_run(
            Path(folder),
            Measure(asked, places, device, accept_mismatch=accept_mismatch),
            on_progress=view.on_progress,
            on_model=view.on_model,
            on_note=view.on_note,
        )
    return SweepResults(Path(folder), results)
