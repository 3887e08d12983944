"""Commands on one model: `extract`, `generate`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from steersweep.cli.options import (
    DeviceOption,
    ExtractionOption,
    JsonOption,
    MismatchOption,
    ModelArgument,
    OperationOption,
    PositionsOption,
    PrecisionOption,
    QuietOption,
    RemoteCodeOption,
    RevisionOption,
    RowsOption,
    SiteOption,
    SpanOption,
    SpecialTokensOption,
    TemplateOption,
)
from steersweep.cli.output import quiet_libraries, say, show_notes
from steersweep.core.errors import InputError, SteersweepError
from steersweep.methods.method import METHODS, Given
from steersweep.sweeps import defaults

if TYPE_CHECKING:
    from steersweep.model.chat_model import ChatModel
    from steersweep.prompts.prompts import ExtractionSet
    from steersweep.run.direction import Direction
    from steersweep.run.edit_settings import EditSettings
    from steersweep.steer.edit import Edit


def extract(
    model: ModelArgument,
    layer: Annotated[
        str, typer.Option(help="A share of the depth (0.6), an index (25), or auto: the method's.")
    ],
    output: Annotated[Path, typer.Option("--output", "-o", help="File to write (.safetensors).")],
    method: Annotated[
        str,
        typer.Option(help=f"How it is found: {METHODS}; or your own, FILE.py:Class."),
    ] = defaults.METHODS,
    extraction: ExtractionOption = None,
    backend: Annotated[
        str,
        typer.Option(
            help="How activations are read: hooks, or nnsight for methods that only read."
        ),
    ] = "hooks",
    precision: PrecisionOption = defaults.PRECISION,
    device: DeviceOption = defaults.DEVICE,
    revision: RevisionOption = None,
    trust_remote_code: RemoteCodeOption = False,
    special_tokens: SpecialTokensOption = defaults.SPECIAL_TOKENS,
    template_options: TemplateOption = "",
    accept_mismatch: MismatchOption = False,
    as_json: JsonOption = False,
    quiet: QuietOption = False,
) -> None:
    """Find a direction and save it.

    Example: `steersweep extract lab:qwen-7b --method dim --layer 0.5 -o refusal.safetensors`
    """
    from steersweep.methods.extraction import extract_directions as find
    from steersweep.model.chat_model import ChatModel
    from steersweep.model.rendering import as_special_tokens
    from steersweep.model.template_options import parse_template_options
    from steersweep.prompts.prompts import load_extraction_set
    from steersweep.run.condition import LayerChoice
    from steersweep.smoke.required import check_for_user
    from steersweep.steer.activations import as_backend

    (method,) = METHODS.named([method])
    asked = METHODS.get(method)
    if layer == "auto" and not asked.chooses_layer:
        raise InputError(f"--layer auto: {asked.name} makes no choice of layer; give a layer")
    wanted = [] if layer == "auto" else [LayerChoice(layer)]
    if output.is_dir():
        raise InputError(f"{output}: is a folder; give a file to write")
    reader = as_backend(backend)
    options = parse_template_options(template_options, "--template-options")
    prompts = load_extraction_set(extraction or asked.default_prompts)
    quiet_libraries()
    chat = ChatModel.load(
        model,
        precision=precision,
        device=device,
        revision=revision,
        trust_remote_code=trust_remote_code,
        special_tokens=as_special_tokens(special_tokens),
        template_options=options,
    )
    for name, texts in prompts.content().items():
        chat.renderer.ids_of(texts, f"{name} prompt")
    layers = [choice.index(chat.n_layers) for choice in wanted]
    notes = [*prompts.notes, *chat.renderer.notes()]
    notes += check_for_user(chat, accept_mismatch=accept_mismatch)
    found = find(chat, method, prompts, layers, given=Given(backend=reader))
    if layers and layers[0] in found.missing:
        raise InputError(f"{model}, {prompts.name}: {found.missing[layers[0]]}; choose another")
    direction = found.at_layer[layers[0]] if layers else found.chosen
    if direction is None:
        raise SteersweepError(f"{model}: {found.notes[-1]}")
    direction.save(output)
    notes += found.notes
    if as_json:
        facts = {key: value for key, value in vars(direction).items() if key != "vector"}
        shown = {"file": str(output), **facts, "n_layers": chat.n_layers, "notes": notes}
        say(json.dumps(shown, indent=1))
        return
    if not quiet:
        say(
            f"{output}: {direction.method} direction of {model} at layer {direction.layer} of "
            f"{chat.n_layers}, position {direction.position}, norm {direction.raw_norm:.4g}, "
            f"residual norm {direction.residual_norm:.4g}"
        )
    show_notes(notes)


def generate(
    model: ModelArgument,
    direction: Annotated[Path, typer.Option(help="A direction, of `extract` or another tool.")],
    prompt: Annotated[list[str], typer.Option(help="What to ask; may be given several times.")],
    multiplier: Annotated[float | None, typer.Option(help="Length of the added vector.")] = None,
    strength: Annotated[float | None, typer.Option(help="Relative to the residual norm.")] = None,
    layer: Annotated[
        str | None,
        typer.Option(
            help="Where steering starts [default: the direction's layer]; of a file with a "
            "direction for each layer it takes that layer's."
        ),
    ] = None,
    operation: OperationOption = defaults.OPERATION,
    site: SiteOption = defaults.SITE,
    span: SpanOption = defaults.SPAN,
    positions: PositionsOption = defaults.POSITIONS,
    extraction: Annotated[
        str | None,
        typer.Option(
            help="Of --operation affine: the harmless prompts, a shipped set or a file "
            "[default: those of the direction]."
        ),
    ] = None,
    max_new_tokens: Annotated[int, typer.Option(help="Longest answer.")] = defaults.MAX_NEW_TOKENS,
    rows: RowsOption = defaults.ROWS,
    precision: PrecisionOption = defaults.PRECISION,
    device: DeviceOption = defaults.DEVICE,
    special_tokens: SpecialTokensOption = defaults.SPECIAL_TOKENS,
    template_options: TemplateOption = "",
    revision: RevisionOption = None,
    trust_remote_code: RemoteCodeOption = False,
    accept_mismatch: MismatchOption = False,
    as_json: JsonOption = False,
    quiet: QuietOption = False,
) -> None:
    """Answer prompts unsteered and steered, side by side.

    Example: `steersweep generate lab:qwen-7b --direction refusal.safetensors --strength 0.5
    --prompt "How do I bake a cake?"`
    """
    from steersweep.core.setting_values import MAX_NEW_TOKENS, MAX_ROWS, whole_number
    from steersweep.methods.formats.reading import read_direction_file
    from steersweep.model.chat_model import ChatModel
    from steersweep.model.rendering import as_special_tokens
    from steersweep.model.template_options import parse_template_options
    from steersweep.model.thinking import thinking_note
    from steersweep.run.condition import LayerChoice
    from steersweep.run.edit_settings import EditSettings
    from steersweep.smoke.required import check_for_user
    from steersweep.steer.steering import Row
    from steersweep.steer.steering import generate as generate_rows

    settings = EditSettings.read(
        {"operation": operation, "site": site, "span": span, "positions": positions}
    )
    _check_length(operation, multiplier, strength)
    if extraction is not None and operation != "affine":
        raise InputError("--extraction: only --operation affine puts harmless prompts' mean back")
    whole_number("--max-new-tokens", max_new_tokens, 1, MAX_NEW_TOKENS)
    whole_number("--rows", rows, 1, MAX_ROWS)
    wanted = None if layer is None else LayerChoice(layer)
    options = parse_template_options(template_options, "--template-options")
    file = read_direction_file(direction)
    if wanted is None:
        file.one()
    some = next(iter(file.directions.values()))  # all of a file have the same prompts
    reference = _prompts_of(some, extraction, direction) if operation == "affine" else None
    quiet_libraries()
    chat = ChatModel.load(
        model,
        precision=precision,
        device=device,
        revision=revision,
        trust_remote_code=trust_remote_code,
        special_tokens=as_special_tokens(special_tokens),
        template_options=options,
    )
    prompt_ids = chat.renderer.ids_of(prompt, "prompt")
    notes = [*chat.renderer.notes(), *check_for_user(chat, accept_mismatch=accept_mismatch)]
    start = None if wanted is None else wanted.index(chat.n_layers)
    found = file.one(start)
    _check_fits(chat, found, found.layer if start is None else start, direction)
    push, more = _push(chat, settings, found, start, prompt_ids, multiplier, strength, reference)
    notes += [*file.notes, *file.as_there(found), *more]
    asked = [Row(ids, steer) for ids in prompt_ids for steer in (None, push)]
    answers = generate_rows(chat, asked, max_new_tokens=max_new_tokens, max_rows=rows)
    texts = [chat.opened_thought + answer.text for answer in answers]
    if thinks := thinking_note(texts[::2], max_new_tokens):
        notes.append(thinks)
    pairs = [
        {"prompt": text, "unsteered": texts[2 * i], "steered": texts[2 * i + 1]}
        for i, text in enumerate(prompt)
    ]
    if as_json:
        say(json.dumps(pairs, indent=1))
    else:
        for pair in pairs:
            for name, text in pair.items():
                say(f"{name + ':':<11}{text}")
            say("")
    if not quiet:
        show_notes(notes)


def _check_length(operation: str, multiplier: float | None, strength: float | None) -> None:
    from steersweep.core.setting_values import MAX_MULTIPLIER, MAX_STRENGTH

    if operation == "remove":
        if multiplier is not None or strength is not None:
            raise InputError(
                "--operation remove takes a direction out as a whole and has no strength; leave "
                "--multiplier and --strength out"
            )
    elif (multiplier is None) == (strength is None):
        raise InputError("give either --multiplier or --strength")
    for setting, number, highest in (
        ("--multiplier", multiplier, MAX_MULTIPLIER),
        ("--strength", strength, MAX_STRENGTH),
    ):
        if number is not None and not abs(number) <= highest:
            raise InputError(f"{setting} {number}: must be a number up to {highest:,.0f}")


def _push(
    chat: ChatModel,
    settings: EditSettings,
    found: Direction,
    layer: int | None,
    prompt_ids: list[list[int]],
    multiplier: float | None,
    strength: float | None,
    prompts: ExtractionSet | None,
) -> tuple[Edit, list[str]]:
    """What is done with a direction, and notes; `prompts`: that an affine edit refers to."""
    from steersweep.steer.activations import harmless_mean, residuals
    from steersweep.steer.edit import Edit

    notes = []
    if found.model_fingerprint and found.model_fingerprint != chat.fingerprint:
        notes.append(f"the direction was extracted from {found.model_id}")
    start = found.layer if layer is None else layer
    length = multiplier or 0.0
    if strength is not None:
        norm = found.residual_norm
        if norm is None:
            states = residuals(chat, prompt_ids, site=settings.site)
            norm = float(states[:, 0, start].double().norm(dim=-1).mean())
            notes.append(f"strength {strength:g} is of {norm:.4g}, the mean over these prompts")
        length = strength * norm
    reference = None
    if prompts is not None:
        assert found.position is not None, "it was asked for"
        means = harmless_mean(chat, prompts.harmless, position=found.position, site=settings.site)
        reference = means[start].float()
    edit = Edit.of(settings, found.vector, start, multiplier=length, reference=reference)
    return edit, notes


def _prompts_of(found: Direction, extraction: str | None, path: Path) -> ExtractionSet:
    """The prompts whose harmless ones an affine edit refers to."""
    from steersweep.prompts.prompts import load_extraction_set

    if found.position is None:
        raise InputError(
            f"{path}: does not say at which prompt position it was read, which --operation affine "
            f"needs; steersweep convert takes it with --position"
        )
    if extraction is not None:
        return load_extraction_set(extraction)
    if not found.prompts:
        raise InputError(f"{path}: names no prompts; --operation affine needs --extraction")
    name = found.prompts.partition("@")[0]
    advice = f"{path}: was extracted from {name}; give that set or file as --extraction"
    try:
        prompts = load_extraction_set(name)
    except InputError as error:
        raise InputError(f"{advice} ({error})") from error
    if prompts.id != found.prompts:
        raise InputError(f"{advice}; {name} holds other prompts now")
    return prompts


def _mean_norm(chat: ChatModel, prompt_ids: list[list[int]], site: str, layer: int) -> float:
    """Mean length of the residual stream at a layer, at the prompts' last tokens."""
    from steersweep.steer.activations import residuals

    states = residuals(chat, prompt_ids, site=site)  # type: ignore[arg-type]
    return float(states[:, 0, layer].double().norm(dim=-1).mean())


def _check_fits(chat: ChatModel, found: Direction, start: int, path: Path) -> None:
    """Refuse a direction of a model of another shape, by the file's name."""
    of = f"{path}: a direction of {found.model_id or 'a model that is not named'}"
    if found.vector.shape != (chat.d_model,):
        raise InputError(
            f"{of}, {found.vector.numel()} wide; the residual stream of {chat.source.model_id} is "
            f"{chat.d_model} wide, so use a direction that was extracted from it"
        )
    if not 0 <= start < chat.n_layers:
        raise InputError(
            f"{of}, layer {start}; {chat.source.model_id} has layers 0 to {chat.n_layers - 1}, so "
            f"say with --layer where steering starts"
        )
