"""A sweep from Python."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from steersweep.core.errors import InputError, setting
from steersweep.core.text_files import shown
from steersweep.library.results import SweepResults
from steersweep.model.chat_model import ChatModel
from steersweep.model.find import find_model
from steersweep.model.source import ModelSource
from steersweep.prompts.system import read_system_prompt
from steersweep.report.live import live_view
from steersweep.sweeps import defaults
from steersweep.sweeps.effect_settings import make_effects
from steersweep.sweeps.run import run_sweep
from steersweep.sweeps.settings import make_settings

Model = str | Path | ModelSource | ChatModel


def sweep(
    model: Model | Sequence[Model],
    *,
    out: str | Path,
    methods: str | Sequence[str] | None = None,
    directions: Sequence[str | Path] = (),
    layers: Sequence[float | int | str] = defaults.LAYERS,
    strengths: Sequence[float] = (),
    multipliers: Sequence[float] = (),
    operation: str = defaults.OPERATION,
    site: str = defaults.SITE,
    span: str = defaults.SPAN,
    positions: str = defaults.POSITIONS,
    prompts: str | Path = defaults.PROMPTS,
    extraction: str | Path | None = None,
    max_prompts: int | None = None,
    precision: str = defaults.PRECISION,
    device: str = defaults.DEVICE,
    max_new_tokens: int = defaults.MAX_NEW_TOKENS,
    stop_loops: bool = False,
    temperature: float = 0.0,
    top_p: float = 1.0,
    top_k: int = 0,
    repeats: int | None = None,
    judge: str = defaults.JUDGE,
    seed: int = defaults.SEED,
    rows: int = defaults.ROWS,
    effects: str | Sequence[str] = defaults.EFFECTS,
    text: str | Path | None = None,
    choices: str | Path | None = None,
    effect_items: str = defaults.EFFECT_ITEMS,
    system: str | Path = "",
    accept_mismatch: bool = False,
    quiet: bool = False,
) -> SweepResults:
    """Sweep layers and strengths of one model or several; the same call again continues it.

    Does what `steersweep sweep` does, with the same settings, the same run folder and the same
    results. Progress goes to standard error.

    Args:
        model: a folder, a hub id, `lab:NAME`, or a model that is in memory (`ChatModel.wrap`).
        out: the run folder: new, or of a sweep with these settings.
        methods: how directions are found, such as `dim`, `cosmic`; None: DIM, or no method where
            there are `directions`.
        directions: files with directions, tried like those of a method; see `read_direction`.
        layers: where steering starts: a share of the depth (0.6, below 1) or an index (25).
        strengths: lengths of the addition over the mean residual norm at the layer; at most
            five of each model's own window where neither these nor `multipliers` are given.
        multipliers: lengths of the addition in units of the residual stream.
        operation: `add` directions; `remove` the component along them, without a strength; or
            `affine`: set it to that of harmless prompts, then add.
        site: `resid_post`, after each layer, or `resid_pre`, before it.
        span: `one` layer, or each from that one `to-end`.
        positions: `all` tokens; those of the `prompt`; its `last` one; `new` ones.
        prompts: test prompts: a shipped set or a file.
        extraction: extraction prompts: a shipped set or a file; None: those made for each method.
        max_prompts: use the first so many test prompts; None: all.
        precision: `auto`, `fp32`, `bf16`, `fp16`, `int8`, `int4`, `int8-dynamic` or `fastest`.
        device: `auto` or a torch device.
        max_new_tokens: longest answer.
        stop_loops: end an answer where it is stuck in a loop; the judge calls it broken.
        temperature: sample answers at this temperature; 0: greedy answers.
        top_p: of sampling: only the likeliest tokens that together have this probability.
        top_k: of sampling: only so many of the likeliest tokens; 0: all.
        repeats: of sampling: answers to each prompt; None: as the prompts say.
        judge: name of the judge.
        seed: of the random control direction, and of sampling.
        rows: rows per generation batch.
        effects: what steering costs the model, measured besides: `text`, `choices`, `divergence`,
            `harmful`, `borderline`, or a user's own by its place; `all`, or `none`.
        text: file of texts for the effect `text`; None: those that come with the package.
        choices: file of questions for the effect `choices`, the same.
        effect_items: `sample`: as much of each set as takes about a quarter of the time of a sweep
            of 120 prompts; or `all` of it.
        system: a system prompt before every prompt: a text, or a file that holds it.
        accept_mismatch: go on whatever the checks find to be wrong with the model.
        quiet: show notes alone, and no progress.

    Raises:
        InputError: a setting that cannot be read; a model, file or folder that cannot be used.
        SteersweepError: the run could not finish; what did finish is in `out`.
    """
    models = [model] if isinstance(model, str | Path | ModelSource | ChatModel) else [*model]
    pushes = listed("multipliers", multipliers)
    settings = make_settings(
        [asked_source(one, system) for one in models],
        methods=None if methods is None else listed("methods", methods),
        directions=directions,
        layers=listed("layers", layers),
        strengths=listed("strengths", strengths) or defaults.strengths_beside(pushes, operation),
        multipliers=pushes,
        operation=operation,
        site=site,
        span=span,
        positions=positions,
        prompts=str(prompts),
        extraction=None if extraction is None else str(extraction),
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
        effects=make_effects(
            listed("effects", effects),
            text=None if text is None else str(text),
            choices=None if choices is None else str(choices),
            items=effect_items,
        ),
        system=system,
        accept_mismatch=accept_mismatch,
    )
    with live_view(quiet=quiet) as view:
        for note in settings.notes:
            view.on_note(note)
        outcome = run_sweep(
            settings,
            Path(out),
            device=device,
            on_progress=view.on_progress,
            on_model=view.on_model,
            on_note=view.on_note,
        )
    return SweepResults(outcome.folder, outcome.results)


def asked_source(model: Model, system: str | Path) -> ModelSource:
    """Where a model comes from that is to be run with a system prompt, or without.

    Raises:
        InputError: it was loaded with another one, which would not be used.
    """
    own = model.renderer.template.system if isinstance(model, ChatModel) else None
    if own is not None and own != read_system_prompt(system):
        raise InputError(
            f"{source_of(model).model_id}: was loaded with a system prompt, {shown(own)}; give it "
            f"as {setting('system')} here too"
        )
    return source_of(model)


def source_of(model: Model) -> ModelSource:
    """Where a model comes from."""
    if isinstance(model, ChatModel):
        return model.source
    return model if isinstance(model, ModelSource) else find_model(str(model))


def listed(setting: str, values: str | Sequence[float | int | str]) -> str:
    """As a user types a list."""
    items = [values] if isinstance(values, str) else [*values]
    for item in items:
        if not isinstance(item, str | int | float) or isinstance(item, bool):
            raise InputError(f"{setting}: {shown(str(item))}: give numbers or texts")
    return ",".join(map(str, items))
