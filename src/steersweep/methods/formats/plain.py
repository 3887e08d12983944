"""Vectors without facts: `.npy`, a tensor or tensors by layer in `.pt`, one in safetensors."""

from __future__ import annotations

import io
from math import prod
from pathlib import Path
from typing import Any

from steersweep.core.atomic import write_bytes
from steersweep.core.errors import InputError, setting
from steersweep.core.printing import first_line
from steersweep.core.text_files import shown
from steersweep.methods.formats.format import Held, Said, Use
from steersweep.methods.formats.opened import Opened
from steersweep.methods.formats.torch_files import save
from steersweep.methods.formats.vectors import directions_of, layer_of, numbers_of, vector_of
from steersweep.run.direction import Direction

_NUMPY = b"\x93NUMPY"


class Plain:
    """See the module."""

    name = "plain"
    suffix = ".npy"

    def recognises(self, file: Opened) -> bool:
        """See `Format`."""
        return file.data.startswith(_NUMPY) or file.is_torch or file.is_safetensors

    def read(self, file: Opened, said: Said) -> Held:
        """See `Format`."""
        value = _value(file)
        by_layer = isinstance(value, dict)
        needed = ["read_at", "sign", "scale"]
        needed += [] if by_layer else ["layer"]
        missing = [setting(name) for name in needed if getattr(said, name) is None]
        if missing:
            raise InputError(
                f"{file}: says nothing but numbers; steersweep convert has to be told "
                f"{', '.join(missing)} (docs/exchange.md)"
            )
        if by_layer:
            if said.row is not None:
                raise InputError(f"{file}: holds vectors by layer; give {setting('layer')}, no row")
            vectors = {}
            for key, numbers in value.items():
                called = f"{file}: {shown(str(key), 40)}"
                vectors[layer_of(called, key)] = vector_of(called, numbers)
        else:
            assert said.layer is not None, "it was asked for"
            vectors = {layer_of(str(file), said.layer): _row(file, value, said.row)}
        found = directions_of(file.path, vectors, said, method=self.name, site=None)
        return Held(found, tuple(vectors))

    def write(self, path: Path, direction: Direction, _use: Use) -> list[str]:
        """See `Format`."""
        import numpy as np

        vector = direction.vector.detach().cpu()
        if path.suffix == ".npy":
            buffer = io.BytesIO()
            np.save(buffer, vector.numpy(), allow_pickle=False)
            write_bytes(path, buffer.getvalue())
        elif path.suffix in (".pt", ".pth"):
            save(path, vector)
        else:
            raise InputError(f"{path}: plain vectors are written as .npy or .pt")
        return [
            f"only the unit vector is in it; to read it again: --layer {direction.layer} --read-at "
            f"{direction.site} --sign 1 --scale {direction.raw_norm!r}"
        ]


def _value(file: Opened) -> Any:
    """The array, the tensor, or the tensors by layer in a file."""
    if file.is_torch:
        if not isinstance(file.torch, dict) or all(map(_is_layer, file.torch)):
            return file.torch
        names = ", ".join(shown(str(key), 20) for key in list(file.torch)[:6])
        raise InputError(f"{file}: holds {names or 'nothing'}, and no vectors by layer")
    if file.is_safetensors:
        return _only_tensor(file)
    return _array(file)


def _is_layer(key: Any) -> bool:
    return type(key) is int or (isinstance(key, str) and key.isdigit())


def _array(file: Opened) -> Any:
    import numpy as np
    from numpy.lib import format as npy

    try:
        stream = io.BytesIO(file.data)
        read = {(1, 0): npy.read_array_header_1_0, (2, 0): npy.read_array_header_2_0}
        shape, _, kind = read[npy.read_magic(stream)](stream)
        if kind.itemsize * prod(shape) > len(file.data):
            raise InputError(f"{file}: is cut: it should hold an array of shape {list(shape)}")
        return np.load(io.BytesIO(file.data), allow_pickle=False)
    except (ValueError, EOFError, OSError, KeyError, SyntaxError) as error:
        reason = first_line(error)
        if "allow_pickle" in reason:
            raise InputError(
                f"{file}: holds pickled objects, and loading them could run code; save numbers"
            ) from error
        raise InputError(f"{file}: is cut or damaged: {reason[:200]}") from error


def _only_tensor(file: Opened) -> Any:
    from safetensors import SafetensorError
    from safetensors.torch import load

    try:
        tensors = load(file.data)
    except (SafetensorError, ValueError, KeyError, TypeError) as error:
        raise InputError(f"{file}: no whole safetensors file ({first_line(error)})") from error
    if len(tensors) != 1:
        names = ", ".join(shown(name, 30) for name in list(tensors)[:6])
        raise InputError(f"{file}: holds {len(tensors)} tensors ({names}); one is read")
    return next(iter(tensors.values()))


def _row(file: Opened, value: Any, row: int | None) -> Any:
    """The vector, or the row of a matrix that was asked for."""
    array = numbers_of(str(file), value)
    if array.ndim != 2:
        if row is not None:
            raise InputError(f"{file}: has shape {list(array.shape)}, and no rows")
        return vector_of(str(file), array)
    if row is None:
        raise InputError(
            f"{file}: has shape {list(array.shape)}; give {setting('row')}, from 0 to "
            f"{array.shape[0] - 1}"
        )
    if not 0 <= row < array.shape[0]:
        raise InputError(f"{file}: {setting('row')} {row}: it has {array.shape[0]} rows")
    return vector_of(f"{file}: row {row}", array[row])
