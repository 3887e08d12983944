"""What a GGUF file says of itself: its fields and where its tensors lie, without reading a tensor.

The header is read here, and not by the `gguf` package, for two reasons: a file that is cut or no
GGUF at all must be told apart before anything else is done, and a vocabulary of 150,000 tokens must
not cost ten seconds each time.
"""

from __future__ import annotations

import mmap
import struct
from dataclasses import dataclass
from functools import cached_property, lru_cache
from math import prod
from pathlib import Path
from typing import Any

from steersweep.core.errors import InputError

MAGIC = b"GGUF"
VERSIONS = (2, 3)

# Formats of fields of one number, by the number of their type.
_NUMBERS = dict(enumerate("BbHhIif?", start=0)) | {10: "Q", 11: "q", 12: "d"}
_TEXT, _ARRAY = 8, 9
_ALIGNMENT = 32  # of tensors, where the file does not say
_MOST_DIMENSIONS = 8

# What else people have, by how it begins.
_OTHERS = {
    b"version https://git-lfs": "a Git LFS pointer instead of the file (git lfs pull)",
    b"tjgg": "a GGML file from before GGUF (ggjt); convert it with llama.cpp, or download a GGUF",
    b"lmgg": "a GGML file from before GGUF; convert it with llama.cpp, or download a GGUF",
    b"fmgg": "a GGML file from before GGUF (ggmf); convert it with llama.cpp, or download a GGUF",
    b"algg": "an old GGML adapter (LoRA); merge it into its base and give the merged model",
    b"PK\x03\x04": "a zip archive (a PyTorch pickle?); give a folder with safetensors, or a GGUF",
    b"<": "a web page instead of the file; download it again",
    b"{": "JSON; give the model's folder, or a GGUF file",
}


@dataclass(frozen=True)
class StoredTensor:
    """A tensor of a GGUF file.

    Attributes:
        name: llama.cpp's, `blk.0.attn_q.weight`.
        shape: its lengths, rows first as in torch.
        kind: the number of its type, `GGMLQuantizationType`.
        start: where its bytes begin in the file.
    """

    name: str
    shape: tuple[int, ...]
    kind: int
    start: int

    @property
    def count(self) -> int:
        """Number of its elements."""
        return prod(self.shape)


@dataclass(frozen=True, eq=False)
class Header:
    """The header of a GGUF file.

    Attributes:
        path: of the file.
        size: of the file, in bytes.
        fields: numbers and texts by key; an array is a `Place` until `array` reads it.
        tensors: in the file's order.
        raw: the bytes of each field, key and value, as they stand in the file.
    """

    path: Path
    size: int
    fields: dict[str, Any]
    tensors: tuple[StoredTensor, ...]
    raw: dict[str, tuple[int, int]]

    @property
    def architecture(self) -> str:
        """`general.architecture`, such as `qwen2`; empty where the file names none."""
        return str(self.fields.get("general.architecture") or "")

    def of_architecture(self, key: str) -> Any:
        """A field of the architecture (`block_count` for `qwen2.block_count`), or None."""
        return self.fields.get(f"{self.architecture}.{key}")

    def array(self, key: str) -> list[Any]:
        """An array of numbers or texts; empty where there is none."""
        place = self.fields.get(key)
        if not isinstance(place, Place):
            return []
        with self.path.open("rb") as file:
            file.seek(place.start)
            data = file.read(place.end - place.start)
        if place.kind != _TEXT:
            return list(struct.unpack(f"<{place.count}{_NUMBERS[place.kind]}", data))
        found, position = [], 0
        for _ in range(place.count):
            (length,) = struct.unpack_from("<Q", data, position)
            position += 8 + length
            found.append(data[position - length : position].decode("utf-8", "replace"))
        return found

    @cached_property
    def by_name(self) -> dict[str, StoredTensor]:
        """Its tensors by name."""
        return {tensor.name: tensor for tensor in self.tensors}


@dataclass(frozen=True)
class Place:
    """Where an array of a header lies: the type of its elements, their number, and its bytes."""

    kind: int
    count: int
    start: int
    end: int


def read_header(path: Path, called: str) -> Header:
    """The header of a GGUF file.

    Args:
        path: of the file.
        called: what messages call it.

    Raises:
        InputError: it cannot be read, is no GGUF file, or is cut or damaged within its header.
    """
    try:
        facts = path.stat()
        return _read(path, called, facts.st_size, facts.st_mtime_ns, facts.st_ino)
    except OSError as error:
        raise InputError(f"{called}: cannot be read: {error.strerror}") from error


@lru_cache(maxsize=16)
def _read(path: Path, called: str, size: int, _mtime_ns: int, _inode: int) -> Header:
    with path.open("rb") as file:
        start = file.read(64)
        _check_start(start, called)
        with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
            try:
                return _Reader(data).header(path)
            except (struct.error, IndexError, OverflowError, MemoryError):
                raise InputError(
                    f"{called}: is cut or damaged within its header ({size} bytes); download it "
                    f"again"
                ) from None
            except UnicodeError:
                raise InputError(
                    f"{called}: its header is damaged: a name in it is no text; download it again"
                ) from None
            except ValueError as error:
                raise InputError(
                    f"{called}: its header is damaged: {error}; download it again"
                ) from None


def _check_start(start: bytes, called: str) -> None:
    if not start:
        raise InputError(f"{called}: is empty; download it again")
    if start[:4] != MAGIC:
        if start[8:10] == b'{"':
            raise InputError(f"{called}: is a safetensors file; give the folder that it lies in")
        for begin, what in _OTHERS.items():
            if start.lstrip().startswith(begin):
                raise InputError(f"{called}: is {what}")
        raise InputError(
            f"{called}: is no GGUF file (it begins with {start[:4]!r}, not {MAGIC!r}); give a "
            f"folder, a GGUF file, a hub id (owner/name) or a lab model"
        )
    if len(start) < 24:
        raise InputError(f"{called}: is cut after {len(start)} bytes; download it again")
    (version,) = struct.unpack_from("<I", start, 4)
    if version & 0xFFFF == 0:
        raise InputError(
            f"{called}: is a big-endian GGUF file, which is not read; download the usual one"
        )
    if version not in VERSIONS:
        raise InputError(
            f"{called}: is a GGUF file of version {version}; versions 2 and 3 are read; convert it "
            f"anew with llama.cpp"
        )


class _Reader:
    """Reads through a header from its beginning to its end."""

    def __init__(self, data: mmap.mmap) -> None:
        self._data = data
        self._at = 4

    def header(self, path: Path) -> Header:
        size = len(self._data)
        _, tensor_count, field_count = self._numbers("IQQ")
        fields: dict[str, Any] = {}
        raw: dict[str, tuple[int, int]] = {}
        for _ in range(field_count):
            begin = self._at
            key = self._text()
            (kind,) = self._numbers("I")
            fields[key] = self._value(kind)
            raw[key] = begin, self._at
        table = [self._tensor() for _ in range(tensor_count)]
        alignment = fields.get("general.alignment", _ALIGNMENT)
        if not isinstance(alignment, int) or alignment < 1:
            raise ValueError(f"general.alignment is {alignment!r}")
        data = -(-self._at // alignment) * alignment
        tensors = tuple(
            StoredTensor(name, shape, kind, data + offset) for name, shape, kind, offset in table
        )
        if len({tensor.name for tensor in tensors}) < len(tensors):
            raise ValueError("two tensors have the same name")
        return Header(path, size, fields, tensors, raw)

    def _numbers(self, form: str) -> tuple[Any, ...]:
        found = struct.unpack_from(f"<{form}", self._data, self._at)
        self._skip(struct.calcsize(f"<{form}"))
        return found

    def _skip(self, length: int) -> None:
        self._at += length
        if self._at > len(self._data):
            raise IndexError

    def _text(self) -> str:
        (length,) = self._numbers("Q")
        begin = self._at
        self._skip(length)
        return self._data[begin : self._at].decode("utf-8")

    def _value(self, kind: int) -> Any:
        if kind in _NUMBERS:
            return self._numbers(_NUMBERS[kind])[0]
        if kind == _TEXT:
            return self._text()
        if kind != _ARRAY:
            raise ValueError(f"a field has the type {kind}")
        of, count = self._numbers("IQ")
        begin = self._at
        if of in _NUMBERS:
            self._skip(count * struct.calcsize(f"<{_NUMBERS[of]}"))
        elif of == _TEXT:
            self._skip_texts(count)
        else:
            raise ValueError(f"an array holds the type {of}")
        return Place(of, count, begin, self._at)

    def _skip_texts(self, count: int) -> None:
        unpack, data, end = struct.Struct("<Q").unpack_from, self._data, len(self._data)
        at = self._at
        for _ in range(count):
            at += 8 + unpack(data, at)[0]
            if at > end:
                raise IndexError
        self._at = at

    def _tensor(self) -> tuple[str, tuple[int, ...], int, int]:
        name = self._text()
        (dimensions,) = self._numbers("I")
        if dimensions > _MOST_DIMENSIONS:
            raise ValueError(f"{name[:60]!r} has {dimensions} dimensions")
        shape = self._numbers(f"{dimensions}Q")
        kind, offset = self._numbers("IQ")
        return name, tuple(reversed(shape)), kind, offset
