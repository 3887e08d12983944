"""GGUF control vectors, as repeng, llama.cpp and EasySteer read and write them.

`direction.N` is added to the output of decoder layer N, which counts from 0: repeng to
`model.layers[N]`, llama.cpp to `l_out` of block N, never to that of block 0. llama.cpp's own
generator reads one layer lower than it adds (`direction.1` comes from block 0); a file does not
say who wrote it, so a direction belongs to the layer that it is added at.
"""

from __future__ import annotations

import json
import struct
from pathlib import Path
from typing import TYPE_CHECKING, Any

from steersweep.core.atomic import write_bytes
from steersweep.core.errors import InputError, setting
from steersweep.core.text_files import parse_json, shown
from steersweep.methods.formats.format import Held, Said, Use, only_add, outputs
from steersweep.methods.formats.opened import Opened
from steersweep.methods.formats.vectors import directions_of, layer_of, vector_of
from steersweep.run.direction import Direction
from steersweep.run.edit_settings import EditSettings

if TYPE_CHECKING:
    from steersweep.model.gguf.header import Header, StoredTensor

_ARCHITECTURE = "controlvector"
_KINDS = {0: "<f4", 1: "<f2", 28: "<f8"}
_TENSOR = "direction."
_STREAM = "hidden_states"  # what EasySteer calls the residual stream
_ALIGNMENT = 32
_TEXT, _NUMBER = 8, 4  # types of fields


class Gguf:
    """See the module."""

    name = "gguf"
    suffix = ".gguf"

    def recognises(self, file: Opened) -> bool:
        """See `Format`."""
        return file.data.startswith(b"GGUF")

    def read(self, file: Opened, said: Said) -> Held:
        """See `Format`."""
        from steersweep.model.gguf.header import read_header

        header = read_header(file.path, str(file))
        if header.architecture != _ARCHITECTURE:
            raise InputError(
                f"{file}: general.architecture is {shown(header.architecture)}; that of a control "
                f"vector is {_ARCHITECTURE!r}"
            )
        vectors = {}
        for tensor in header.tensors:
            begins = tensor.name.startswith(_TENSOR)
            called = f"{file}: {tensor.name[:60]}"
            if not begins:
                raise InputError(f"{called}: is no direction.N")
            layer = layer_of(called, tensor.name.removeprefix(_TENSOR))
            if layer in vectors:
                raise InputError(f"{called}: layer {layer} is there twice")
            vectors[layer] = vector_of(called, _numbers(file, tensor, called))
        count = header.fields.get(f"{_ARCHITECTURE}.layer_count")
        if count is not None and count != len(vectors):
            raise InputError(
                f"{file}: {_ARCHITECTURE}.layer_count is {count!r}, and it holds {len(vectors)} "
                f"directions"
            )
        hint = header.fields.get(f"{_ARCHITECTURE}.model_hint", "")
        if not isinstance(hint, str):
            raise InputError(f"{file}: {_ARCHITECTURE}.model_hint is no text")
        found = directions_of(
            file.path,
            vectors,
            said,
            method=self.name,
            site=_site(file, header, said),
            model=hint,
        )
        return Held(found, tuple(vectors), EditSettings(span="one"))

    def write(self, path: Path, direction: Direction, use: Use) -> list[str]:
        """See `Format`."""
        only_add(use, self.name)
        layers = outputs(direction, use, self.name)
        if layers[0] == 0:
            raise InputError(
                f"{self.name}: llama.cpp edits no output of layer 0; begin at layer 1 at least"
            )
        if set(str(path)) & set(",:"):
            raise InputError(f"{path}: llama.cpp takes a name apart at ',' and ':'; choose another")
        hint = use.target.model_type if use.target else direction.model_id
        write_bytes(path, _file(direction, layers, hint))
        first, last = layers[0], layers[-1]
        return [
            f"llama-cli -m MODEL.gguf --control-vector-scaled {path}:{use.length} "
            f"--control-vector-layer-range {first} {last}",
            f"repeng: ControlModel(model, range({first}, {last + 1})).set_control("
            f"ControlVector.import_gguf({str(path)!r}), {use.length})",
            f"EasySteer: VectorSpec(source={str(path)!r}, scale={use.length}, layers=list(range("
            f'{first}, {last + 1})), apply=ApplySpec(phases=["prompt", "generation"]))',
        ]


def _numbers(file: Opened, tensor: StoredTensor, called: str) -> Any:
    import numpy as np

    if tensor.kind not in _KINDS:
        raise InputError(
            f"{called}: is stored as type {tensor.kind}; 32, 16 or 64 bits are read (0, 1, 28)"
        )
    kind = np.dtype(_KINDS[tensor.kind])
    if not 0 <= tensor.start <= tensor.start + tensor.count * kind.itemsize <= len(file.data):
        raise InputError(f"{called}: is cut: its bytes lie beyond the end of the file")
    numbers = np.frombuffer(file.data, kind, tensor.count, tensor.start)
    return numbers.reshape(tensor.shape)


def _site(file: Opened, header: Header, said: Said) -> Any:
    """Where they are added; EasySteer's files may be of attention heads, or not say."""
    native = header.fields.get(f"{_ARCHITECTURE}.easysteer")
    if native is None and f"{_ARCHITECTURE}.method" not in header.fields:
        return "resid_post"
    component = None
    if native is not None:
        called = f"{file}: {_ARCHITECTURE}.easysteer"
        try:
            value = parse_json(native if isinstance(native, str) else "null")
        except ValueError as error:
            raise InputError(f"{called}: {error}") from error
        if not isinstance(value, dict) or value.get("version") != 1:
            raise InputError(f"{called}: is no metadata of version 1")
        component = value.get("component")
    if component is None and said.read_at is None:
        raise InputError(
            f"{file}: EasySteer wrote it and does not say of what; if of layers' outputs, "
            f"steersweep convert takes it with {setting('read_at')} resid_post"
        )
    if component not in (None, _STREAM):
        raise InputError(f"{file}: is of {shown(str(component))}, not of the residual stream")
    return "resid_post"


def _file(direction: Direction, layers: range, hint: str) -> bytes:
    """A GGUF file of version 3 with the unit vector at each layer, float32.

    Written here, for the `gguf` package is no dependency and this is all that is needed of it.
    """
    vector = direction.vector.detach().cpu().numpy().astype("<f4").tobytes()
    padded = vector + b"\0" * (-len(vector) % _ALIGNMENT)
    fields: dict[str, str | int] = {
        "general.architecture": _ARCHITECTURE,
        f"{_ARCHITECTURE}.model_hint": hint,
        f"{_ARCHITECTURE}.layer_count": len(layers),
        f"{_ARCHITECTURE}.method": direction.method,
        f"{_ARCHITECTURE}.easysteer": json.dumps(
            {"version": 1, "component": _STREAM, "metadata": None}
        ),
    }
    parts = [b"GGUF", struct.pack("<IQQ", 3, len(layers), len(fields))]
    for key, value in fields.items():
        parts.append(_text(key))
        if isinstance(value, str):
            parts += [struct.pack("<I", _TEXT), _text(value)]
        else:
            parts.append(struct.pack("<II", _NUMBER, value))
    for number, layer in enumerate(layers):
        place = struct.pack("<IQIQ", 1, len(vector) // 4, 0, number * len(padded))
        parts += [_text(f"{_TENSOR}{layer}"), place]
    head = b"".join(parts)
    return head + b"\0" * (-len(head) % _ALIGNMENT) + padded * len(layers)


def _text(text: str) -> bytes:
    data = text.encode()
    return struct.pack("<Q", len(data)) + data
