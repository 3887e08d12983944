"""Directions of other tools, in and out."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import cast

from steersweep.core.errors import InputError, setting
from steersweep.core.setting_values import MAX_MULTIPLIER
from steersweep.core.text_files import shown
from steersweep.library.sweeping import Model, source_of
from steersweep.methods.formats.format import FORMATS, Said, Target, Use
from steersweep.methods.formats.reading import DirectionFile, read_direction_file
from steersweep.run.direction import Direction
from steersweep.run.edit_settings import EditSettings, Site
from steersweep.sweeps import defaults

_SITES = ("resid_post", "resid_pre")
_MAX_SCALE = 1e9


@dataclass(frozen=True, eq=False)
class Converted:
    """What `convert` did.

    Attributes:
        direction: what was written.
        read: the file that it is from.
        format: what it was written as.
        lines: how the other side is told to use it.
        notes: what a user should know.
    """

    direction: Direction
    read: DirectionFile
    format: str
    lines: tuple[str, ...]
    notes: tuple[str, ...]


def read_direction(
    path: str | Path,
    *,
    layer: int | None = None,
    row: int | None = None,
    read_at: str | None = None,
    sign: int | None = None,
    scale: float | None = None,
    position: int | None = None,
) -> Direction:
    """A direction from a file of any format that is known; see docs/exchange.md.

    Args:
        path: of the file.
        layer: that it belongs to, the first is 0: picks one where the file has several.
        row: of a matrix of vectors, the first is 0.
        read_at: that layer's output, `resid_post`, or its input, `resid_pre`.
        sign: 1: as it is; -1: turned round, so that it points towards refusal.
        scale: factor that makes the file's numbers units of the residual stream.
        position: prompt position that it was read at; -1 is the last token.

    Raises:
        InputError: the file is damaged, of no known format, or does not say what has to be known.
    """
    said = said_of(layer, row, read_at, sign, scale, position)
    return read_direction_file(Path(path), said).one()


def convert(
    path: str | Path,
    out: str | Path,
    *,
    format: str | None = None,
    model: Model | None = None,
    operation: str = defaults.OPERATION,
    site: str = defaults.SITE,
    span: str = defaults.SPAN,
    positions: str = defaults.POSITIONS,
    multiplier: float | None = None,
    layer: int | None = None,
    row: int | None = None,
    read_at: str | None = None,
    sign: int | None = None,
    scale: float | None = None,
    position: int | None = None,
) -> Converted:
    """Write the direction of a file in another format.

    Args:
        path: the file that is read.
        out: the file to write.
        format: of `out`; None: by its suffix.
        model: that it belongs to; its config tells how many layers there are, and how wide.
        operation: what the other side should do with it; see `sweep`.
        site: the same.
        span: the same.
        positions: the same.
        multiplier: length of the addition, in units of the residual stream.
        layer: this and the rest: see `read_direction`.
        row: see there.
        read_at: see there.
        sign: see there.
        scale: see there.
        position: see there.

    Raises:
        InputError: as `read_direction`; or the format cannot say what is asked for.
    """
    out = Path(out)
    name = _format_of(out, format)
    edit = EditSettings.read(
        {"operation": operation, "site": site, "span": span, "positions": positions}
    )
    _check_multiplier(multiplier, edit)
    said = said_of(layer, row, read_at, sign, scale, position)
    read = read_direction_file(Path(path), said)
    if out.is_dir() or (out.exists() and out.samefile(path)):
        raise InputError(f"{out}: is a folder, or the file that is read; give another to write")
    found = read.one()
    target = None if model is None else Target.of(source_of(model))
    notes = read.notes
    if target is not None:
        read.check_fits(target.source.model_id, target.n_layers, target.d_model)
        found, more = _belonging(found, target)
        notes += more
    lines = FORMATS.get(name).write(out, found, Use(edit, multiplier, target))
    return Converted(found, read, name, tuple(lines), notes)


def said_of(
    layer: int | None,
    row: int | None,
    read_at: str | None,
    sign: int | None,
    scale: float | None,
    position: int | None,
) -> Said:
    """What a user says of a file; see `read_direction`.

    Raises:
        InputError: a value that cannot be; the message names the setting.
    """
    for name, value in (("layer", layer), ("row", row)):
        if value is not None and value < 0:
            raise InputError(f"{setting(name)} {value}: counts from 0, the first")
    if read_at not in (None, *_SITES):
        raise InputError(
            f"{setting('read_at')} {shown(str(read_at))}: choose from {', '.join(_SITES)}"
        )
    if sign not in (None, 1, -1):
        raise InputError(f"{setting('sign')} {sign}: is 1 or -1")
    if scale is not None and not 0 < scale <= _MAX_SCALE:
        raise InputError(f"{setting('scale')} {scale}: must be a number above 0")
    if position is not None and position >= 0:
        raise InputError(f"{setting('position')} {position}: counts from the end: -1, -2, ...")
    return Said(layer, row, cast(Site | None, read_at), sign, scale, position)


def _check_multiplier(multiplier: float | None, edit: EditSettings) -> None:
    if multiplier is None:
        return
    if edit.operation == "remove":
        raise InputError(
            f"{setting('multiplier')}: {setting('operation')} remove has none; leave it out"
        )
    if not 0 < abs(multiplier) <= MAX_MULTIPLIER:
        raise InputError(
            f"{setting('multiplier')} {multiplier}: must be a number up to {MAX_MULTIPLIER:,.0f}, "
            f"and not 0"
        )


def _format_of(out: Path, name: str | None) -> str:
    """The format to write, by its name or by the file's suffix."""
    if name is not None:
        FORMATS.get(name)
        return name
    fits = [one for one in FORMATS.names if FORMATS.get(one).suffix == out.suffix]
    if len(fits) == 1:
        return fits[0]
    raise InputError(f"{out}: say what it should be with {setting('format')}: {FORMATS}")


def _belonging(found: Direction, target: Target) -> tuple[Direction, tuple[str, ...]]:
    """A direction with the model that a user says it belongs to, where its file names none."""
    source, hint = target.source, found.model_id
    if found.model_fingerprint:
        same = found.model_fingerprint == source.fingerprint()
        return found, () if same else (f"the direction was extracted from {hint}",)
    notes = (
        ()
        if hint in ("", target.model_type)
        else (
            f"the file says that it is of a {hint}, and {source.model_id} is a {target.model_type}",
        )
    )
    own = replace(found, model_id=source.model_id, model_fingerprint=source.fingerprint())
    return own, notes
