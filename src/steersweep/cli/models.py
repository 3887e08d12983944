"""Commands on one model: `extract`, `generate`."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated

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
    RepeatsOption,
    RevisionOption,
    RowsOption,
    SiteOption,
    SpanOption,
    SpecialTokensOption,
    SystemOption,
    TemperatureOption,
    TemplateOption,
    TopKOption,
    TopPOption,
)
from steersweep.cli.output import quiet_libraries, say, show_notes
from steersweep.core.errors import InputError, SteersweepError
from steersweep.methods.method import METHODS, Given
from steersweep.sweeps import defaults


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
    system: SystemOption = "",
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
    from steersweep.prompts.system import read_system_prompt
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
    system_prompt = read_system_prompt(system)
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
        system=system_prompt,
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
    temperature: TemperatureOption = 0.0,
    top_p: TopPOption = 1.0,
    top_k: TopKOption = 0,
    repeats: RepeatsOption = None,
    seed: Annotated[int, typer.Option(help="Of sampling.")] = defaults.SEED,
    rows: RowsOption = defaults.ROWS,
    precision: PrecisionOption = defaults.PRECISION,
    device: DeviceOption = defaults.DEVICE,
    special_tokens: SpecialTokensOption = defaults.SPECIAL_TOKENS,
    template_options: TemplateOption = "",
    system: SystemOption = "",
    revision: RevisionOption = None,
    trust_remote_code: RemoteCodeOption = False,
    accept_mismatch: MismatchOption = False,
    as_json: JsonOption = False,
    quiet: QuietOption = False,
) -> None:
    """Answer prompts unsteered and steered, side by side.

    Example: `steersweep generate lab:qwen-7b --direction refusal.safetensors --strength 0.3
    --prompt "How do I bake a cake?"`
    """
    from steersweep.core.setting_values import (
        MAX_NEW_TOKENS,
        MAX_ROWS,
        MAX_SEED,
        whole_number,
    )
    from steersweep.library.steering import SteeringSettings
    from steersweep.methods.formats.reading import read_direction_file
    from steersweep.model.chat_model import ChatModel
    from steersweep.model.rendering import as_special_tokens
    from steersweep.model.template_options import parse_template_options
    from steersweep.model.thinking import thinking_note
    from steersweep.prompts.system import read_system_prompt
    from steersweep.run.condition import LayerChoice
    from steersweep.run.decoding_settings import DecodingSettings
    from steersweep.run.edit_settings import EditSettings
    from steersweep.smoke.required import check_for_user
    from steersweep.steer.sampling import sampling_of, stream_key
    from steersweep.steer.steering import Row
    from steersweep.steer.steering import generate as generate_rows

    edit = {"operation": operation, "site": site, "span": span, "positions": positions}
    steering = SteeringSettings(
        edit=EditSettings.read(edit),
        multiplier=multiplier,
        strength=strength,
        layer=None if layer is None else LayerChoice(layer),
        extraction=extraction,
    )
    whole_number("--max-new-tokens", max_new_tokens, 1, MAX_NEW_TOKENS)
    whole_number("--rows", rows, 1, MAX_ROWS)
    whole_number("--seed", seed, 0, MAX_SEED)
    decoding = DecodingSettings.chosen(
        temperature=temperature, top_p=top_p, top_k=top_k, repeats=repeats
    )
    options = parse_template_options(template_options, "--template-options")
    system_prompt = read_system_prompt(system)
    file = read_direction_file(direction)
    # Directions of one file have the same prompts and position.
    any_one = file.one() if layer is None else next(iter(file.directions.values()))
    reference = steering.reference_prompts(any_one, str(direction))
    quiet_libraries()
    chat = ChatModel.load(
        model,
        precision=precision,
        device=device,
        revision=revision,
        trust_remote_code=trust_remote_code,
        special_tokens=as_special_tokens(special_tokens),
        template_options=options,
        system=system_prompt,
    )
    prompt_ids = chat.renderer.ids_of(prompt, "prompt")
    notes = [*chat.renderer.notes(), *check_for_user(chat, accept_mismatch=accept_mismatch)]
    found = file.one(None if steering.layer is None else steering.layer.index(chat.n_layers))
    notes += [*file.notes, *file.as_there(found)]
    if strength is not None and found.residual_norm is None:
        found = steering.measured(chat, found, str(direction), prompt_ids)
        notes.append(f"strength: of {found.residual_norm:.4g}, the mean length at these prompts")
    push = steering.edit_of(chat, found, str(direction), reference)
    if found.model_fingerprint and found.model_fingerprint != chat.fingerprint:
        notes.append(f"the direction was extracted from {found.model_id}")
    asked = [
        Row(ids, steer, stream_key(seed, ids, index))
        for ids in prompt_ids
        for index in range(decoding.repeats)
        for steer in (None, push)
    ]
    answers = generate_rows(
        chat,
        asked,
        max_new_tokens=max_new_tokens,
        max_rows=rows,
        sampling=sampling_of(decoding),
    )
    texts = [chat.opened_thought + answer.text for answer in answers]
    if thinks := thinking_note(texts[::2], max_new_tokens):
        notes.append(thinks)
    pairs = [
        {"prompt": text, "unsteered": texts[2 * i], "steered": texts[2 * i + 1]}
        for i, text in enumerate(text for text in prompt for _ in range(decoding.repeats))
    ]
    _say_pairs(pairs, as_json=as_json)
    if not quiet:
        show_notes(notes)


def _say_pairs(pairs: Sequence[Mapping[str, str]], *, as_json: bool) -> None:
    if as_json:
        say(json.dumps(pairs, indent=1))
        return
    for pair in pairs:
        for name, text in pair.items():
            say(f"{name + ':':<11}{text}")
        say("")
