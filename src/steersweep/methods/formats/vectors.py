"""Vectors from files: checked, and made directions."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from steersweep.core.errors import InputError
from steersweep.core.text_files import shown
from steersweep.methods.formats.format import MAX_LAYER, Said
from steersweep.run.direction import Direction, unit_direction
from steersweep.run.edit_settings import Site

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

MAX_WIDTH = 2**20


def vector_of(called: str, value: Any) -> NDArray[np.float64]:
    """A vector `[d_model]` from a tensor, an array or a list of numbers.

    Args:
        called: file and field, for messages.
        value: what was read; `[1, d_model]` is taken for `[d_model]`.

    Raises:
        InputError: another shape, no numbers, NaN or infinity, or nothing but zeros.
    """
    import numpy as np

    array = numbers_of(called, value)
    if array.ndim == 2 and array.shape[0] == 1:
        array = array[0]
    if array.ndim != 1:
        raise InputError(f"{called}: has shape {list(array.shape)}; a vector has one dimension")
    if not 1 < array.size <= MAX_WIDTH:
        raise InputError(f"{called}: has {array.size} numbers, which is no residual stream's width")
    found = array.astype(np.float64)
    if not np.isfinite(found).all():
        raise InputError(f"{called}: holds NaN or infinity")
    with np.errstate(over="ignore"):
        length = float(np.linalg.norm(found))
    if not 0 < length < np.finfo(np.float32).max:
        raise InputError(f"{called}: has no length that can be used (zeros, or far too large)")
    return found


def numbers_of(called: str, value: Any) -> NDArray[Any]:
    """An array of real numbers, of any shape, from a tensor, an array or lists.

    Raises:
        InputError: something else, or a shape larger than what is stored.
    """
    import numpy as np
    import torch

    if isinstance(value, torch.Tensor):
        dense = value.layout == torch.strided and not value.is_quantized
        if not dense or value.is_complex() or value.dtype == torch.bool or value.is_meta:
            raise InputError(f"{called}: is a tensor of {value.dtype}; real numbers are needed")
        if value.numel() * value.element_size() > value.untyped_storage().nbytes():
            raise InputError(f"{called}: has shape {list(value.shape)}, and fewer numbers stored")
        value = value.detach().double().numpy()
    if isinstance(value, list):
        flat = value[0] if len(value) == 1 and isinstance(value[0], list) else value
        if not all(type(number) in (int, float) for number in flat):
            raise InputError(f"{called}: is no list of numbers")
        try:
            value = np.asarray(flat, dtype=np.float64)
        except OverflowError as error:
            raise InputError(f"{called}: holds a number that is too large") from error
    if not isinstance(value, np.ndarray) or value.dtype.kind not in "fiu":
        raise InputError(f"{called}: is {type(value).__name__}, and no vector of numbers")
    return value


def layer_of(called: str, value: Any) -> int:
    """A decoder layer, the first is 0, from a number or its text.

    Raises:
        InputError: no whole number, or negative: counted from an end that the file does not know.
    """
    if isinstance(value, str) and value.isascii() and value.lstrip("-").isdigit():
        value = int(value[:9])
    if type(value) is not int:
        raise InputError(f"{called}: layer {shown(str(value))} is no whole number")
    if value < 0:
        raise InputError(
            f"{called}: layer {value} counts from the end of a model, which the file does not "
            f"name; count from the first layer, which is 0"
        )
    if value > MAX_LAYER:
        raise InputError(f"{called}: layer {value}: no model has as many")
    return value


def directions_of(
    path: Path,
    vectors: Mapping[int, NDArray[np.float64]],
    said: Said,
    *,
    method: str,
    site: Site | None,
    position: int | None = None,
    model: str = "",
) -> dict[int, Direction]:
    """Directions from vectors by layer, with what the file says of them and what a user says.

    Vectors that are all the same are one direction, which belongs to the first of their layers.

    Args:
        path: of the file.
        vectors: raw, `[d_model]`, by decoder layer.
        said: by the user: sign and scale are applied; a layer picks one.
        method: what the direction was found by, as far as the file tells.
        site: where they were read; None: the file does not say.
        position: the same.
        model: whose they are, as far as the file tells.

    Raises:
        InputError: vectors of different widths, no such layer, or the user says other than the
            file.
    """
    import numpy as np
    import torch

    if not vectors:
        raise InputError(f"{path}: holds no vector")
    if len(widths := {vector.size for vector in vectors.values()}) > 1:
        raise InputError(f"{path}: holds vectors of different widths: {sorted(widths)[:6]}")
    if said.layer is not None:
        if said.layer not in vectors:
            there = ", ".join(map(str, sorted(vectors)[:40]))
            raise InputError(f"{path}: holds no direction of layer {said.layer}; it has {there}")
        vectors = {said.layer: vectors[said.layer]}
    first = min(vectors)
    if all(np.array_equal(vector, vectors[first]) for vector in vectors.values()):
        vectors = {first: vectors[first]}
    at = agreed(path, "site", site, said.read_at)
    assert at is not None, "formats see to it"
    facts = {"site": at, "position": agreed(path, "position", position, said.position)}
    factor = (said.sign or 1) * (said.scale or 1.0)
    return {
        layer: unit_direction(
            torch.from_numpy(vector * factor),
            method=method,
            layer=layer,
            residual_norm=None,
            model_id=model,
            model_fingerprint="",
            precision="",
            prompts="",
            **facts,
        )
        for layer, vector in sorted(vectors.items())
    }


def agreed(path: Path, name: str, file: Any, user: Any) -> Any:
    """What file and user say of a field.

    Raises:
        InputError: each says something else.
    """
    if None not in (file, user) and file != user:
        raise InputError(f"{path}: its {name} is {file}, and not {user}")
    return user if file is None else file
