"""The command `convert`: directions of other tools, in and out."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from steersweep.cli.options import (
    JsonOption,
    OperationOption,
    PositionsOption,
    RemoteCodeOption,
    RevisionOption,
    SiteOption,
    SpanOption,
)
from steersweep.cli.output import quiet_libraries, say, show_notes
from steersweep.core.errors import InputError
from steersweep.methods.formats.format import FORMATS
from steersweep.sweeps import defaults


def convert(
    file: Annotated[Path, typer.Argument(help="A file with a direction.", metavar="IN")],
    out: Annotated[Path, typer.Argument(help="The file to write.", metavar="OUT")],
    to: Annotated[
        str | None,
        typer.Option("--format", help=f"What OUT is [default: by its suffix]: {FORMATS}."),
    ] = None,
    model: Annotated[
        str | None,
        typer.Option(help="The model it belongs to: for the number of layers and the width."),
    ] = None,
    layer: Annotated[
        int | None,
        typer.Option(help="Its decoder layer, from 0; chooses one where IN has several."),
    ] = None,
    read_at: Annotated[
        str | None,
        typer.Option(help="It is of that layer's output, resid_post, or its input, resid_pre."),
    ] = None,
    sign: Annotated[
        int | None, typer.Option(help="1: points towards refusal; -1: away, and is turned round.")
    ] = None,
    scale: Annotated[
        float | None,
        typer.Option(help="Factor that makes its numbers units of the residual stream."),
    ] = None,
    row: Annotated[int | None, typer.Option(help="Which row of a matrix, from 0.")] = None,
    position: Annotated[
        int | None, typer.Option(help="Prompt position it was read at; -1: the last token.")
    ] = None,
    multiplier: Annotated[
        float | None, typer.Option(help="For the other side: length of the addition.")
    ] = None,
    operation: OperationOption = defaults.OPERATION,
    site: SiteOption = defaults.SITE,
    span: SpanOption = defaults.SPAN,
    positions: PositionsOption = defaults.POSITIONS,
    revision: RevisionOption = None,
    trust_remote_code: RemoteCodeOption = False,
    as_json: JsonOption = False,
) -> None:
    """Read a direction of any tool, write it for another, and say how that one is told to use it.

    --operation, --site, --span and --positions are what the other side should do.

    Example: `steersweep convert refusal.safetensors refusal.gguf --model lab:qwen-7b`
    """
    from steersweep.library.exchanging import convert as convert_file
    from steersweep.model.find import find_model

    quiet_libraries()
    if model is None and (revision or trust_remote_code):
        raise InputError("--revision and --trust-remote-code go with --model")
    source = None
    if model is not None:
        source = find_model(model, revision=revision, trust_remote_code=trust_remote_code)
    done = convert_file(
        file,
        out,
        format=to,
        model=source,
        operation=operation,
        site=site,
        span=span,
        positions=positions,
        multiplier=multiplier,
        layer=layer,
        row=row,
        read_at=read_at,
        sign=sign,
        scale=scale,
        position=position,
    )
    found = done.direction
    notes = [*done.notes, *done.read.as_there(found)]
    if as_json:
        facts = {"file": str(out), "format": done.format, "read_as": done.read.format}
        say(json.dumps({**facts, **found.facts, "use": list(done.lines), "notes": notes}, indent=1))
        return
    of = f" of {found.model_id}" if found.model_id else ""
    where = "output" if found.site == "resid_post" else "input"
    position_text = "" if found.position is None else f", position {found.position}"
    say(
        f"{out} ({done.format}), from {file} ({done.read.format}): direction{of}, of the {where} "
        f"of layer {found.layer}{position_text}, length {found.raw_norm:.4g}"
    )
    for line in done.lines:
        say(f"  {line}")
    show_notes(notes)
