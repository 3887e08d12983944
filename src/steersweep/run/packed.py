"""Samples that take little memory until they are looked at, for results with very many."""

from __future__ import annotations

import json
import os
import re
import zlib
from collections.abc import Callable, Sequence
from functools import lru_cache, partial
from typing import Any, BinaryIO, overload

from steersweep.core import typed
from steersweep.core.errors import SteersweepError
from steersweep.run.records import Sample

# Samples of a run from which they are packed: as objects so many take some hundred MB.
MANY = 100_000


_CHUNK = 1 << 20
_BEGIN = re.compile(rb'\n( +)"samples": \[(?=\n)')


class PackedSamples(Sequence[Sample]):
    """A condition's samples as text; read anew when they are looked at.

    Args:
        text: gives them, a JSON list.
        n: how many there are; None: counted when somebody asks.
    """

    def __init__(self, text: Callable[[], bytes], n: int | None = None) -> None:
        self._text = text
        self._n = n

    @classmethod
    def of(cls, samples: Sequence[Sample]) -> PackedSamples:
        """Samples that are at hand."""
        plain = [typed.plain_fields(sample) for sample in samples]
        text = json.dumps(plain, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
        data = zlib.compress(text.encode("utf-8", "surrogatepass"), 1)
        return cls(partial(zlib.decompress, data), len(samples))

    @classmethod
    def in_file(cls, file: BinaryIO, begin: int, size: int) -> PackedSamples:
        """Samples that stand in an open file, which nobody writes in place."""
        return cls(partial(_read, file, begin, size))

    def as_json(self) -> list[dict[str, Any]]:
        """The samples as plain data."""
        found: list[dict[str, Any]] = json.loads(self._text().decode("utf-8", "surrogatepass"))
        return found

    def __len__(self) -> int:
        if self._n is None:
            self._n = len(_unpacked(self))
        return self._n

    @overload
    def __getitem__(self, index: int) -> Sample: ...
    @overload
    def __getitem__(self, index: slice) -> tuple[Sample, ...]: ...
    def __getitem__(self, index: int | slice) -> Sample | tuple[Sample, ...]:
        return _unpacked(self)[index]

    def __eq__(self, other: object) -> bool:
        if self is other:
            return True
        if isinstance(other, PackedSamples | tuple):
            return len(self) == len(other) and tuple(self) == tuple(other)
        return NotImplemented

    def __hash__(self) -> int:
        return id(self)  # two that are equal are never looked up for one another


@lru_cache(maxsize=4)
def _unpacked(packed: PackedSamples) -> tuple[Sample, ...]:
    """Those last looked at are kept: callers go from one to the next."""
    return typed.read(tuple[Sample, ...], packed.as_json())


def _read(file: BinaryIO, begin: int, size: int) -> bytes:
    found = os.pread(file.fileno(), size, begin)
    if len(found) != size:
        raise SteersweepError(f"{file.name}: was changed while it was read; try again")
    return found


def _end(indent: bytes) -> re.Pattern[bytes]:
    """The end of a list. Looked for by its bracket, it is found three times as fast as by lines."""
    return re.compile(rb"\](?<=\n%b\])" % indent)


def without_samples(file: BinaryIO) -> tuple[bytes, list[PackedSamples]]:
    """The JSON of a result file with a number in place of each list of samples; and these.

    Its lines are those of `indented`: no text holds a line feed, so the first line of a list's own
    depth with a bracket ends it.
    """
    head: list[bytes] = []
    found: list[PackedSamples] = []
    file.seek(0)
    data, place = b"", 0  # what was read, and where it begins in the file
    at = 0  # looked at so far, in the data
    ended = False
    while not ended or at < len(data):
        begun = _BEGIN.search(data, at)
        end = begun and _end(begun[1]).search(data, begun.end())
        if begun is not None and end is not None:
            begin, stop = begun.end() - 1, end.end()  # with its brackets
            head += [data[at:begin], str(len(found)).encode()]
            found.append(PackedSamples.in_file(file, place + begin, stop - begin))
            at = stop
        elif ended:
            head.append(data[at:])
            at = len(data)
        else:
            if begun is None and (cut := data.rfind(b"\n", at)) > 0:  # a line may go on
                head.append(data[at:cut])
                at = cut
            chunk = file.read(_CHUNK)
            data, place, at = data[at:] + chunk, place + at, 0
            ended = not chunk
    return b"".join(head), found
