"""Weights of GGUF files as safetensors, kept for the next time.

A file's weights are made ordinary numbers once, in the precision that they run in, and kept in the
user's cache folder under the file's hash. All of them together take at most `STEERSWEEP_GGUF_GB`
(40 GB where that is not set; 0 keeps none): those that were not used for longest go first. Where
nothing can be kept, they are made in the system's folder for temporary files, and removed once they
are loaded.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import struct
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from math import prod
from pathlib import Path
from typing import Any, Protocol

from steersweep.core.errors import InputError
from steersweep.core.user_cache import cache_folder
from steersweep.model.model_folder import WEIGHTS

VARIABLE = "STEERSWEEP_GGUF_GB"
DEFAULT_GB = 40.0
_SPARE_BYTES = 1 << 30  # of a disk that is never filled
_IN_USE_S = 300.0  # what was asked for so recently may be read just now
_MADE = "made.json"
_NAMES = {"torch.float32": "F32", "torch.bfloat16": "BF16", "torch.float16": "F16"}


class Tensors(Protocol):
    """Names and float32 tensors, one at a time and each in parts, the first numbers first.

    Attributes:
        shapes: of each tensor by name, in the order that they come in.
    """

    shapes: dict[str, tuple[int, ...]]

    def __iter__(self) -> Iterator[tuple[str, Iterable[Any]]]:
        """Makes them; a part may be overwritten by the next."""


@contextlib.contextmanager
def weights_folder(key: str, dtype: Any, made: Callable[[], Tensors]) -> Iterator[Path]:
    """A folder with weights as `model.safetensors`, to be read while it is open.

    Args:
        key: what they are kept under.
        dtype: the torch type that they are stored in.
        made: gives the weights; called only where they are not kept.

    Raises:
        InputError: there is no room for them anywhere.
    """
    place = cache_folder() / "gguf" / key
    if _is_whole(place):
        with contextlib.suppress(OSError):
            os.utime(place)
        yield place
        return
    tensors = made()
    size = sum(map(prod, tensors.shapes.values())) * dtype.itemsize
    if _keep(place, size, tensors, dtype):
        yield place
        return
    with contextlib.ExitStack() as stack:
        try:
            folder = tempfile.TemporaryDirectory(prefix="steersweep-", ignore_cleanup_errors=True)
            where = Path(stack.enter_context(folder))
            _write(where / WEIGHTS, tensors, dtype)
        except OSError as error:
            raise InputError(
                f"{tempfile.gettempdir()}: {size / 1e9:.1f} GB of weights cannot be written: "
                f"{error.strerror}; set STEERSWEEP_CACHE to a folder on a larger disk"
            ) from error
        yield where


def limit_bytes() -> float:
    """What all kept weights may take together.

    Raises:
        InputError: the variable holds no number.
    """
    text = os.environ.get(VARIABLE, "")
    try:
        found = float(text) if text else DEFAULT_GB
    except ValueError:
        found = -1.0
    if not 0 <= found < float("inf"):
        raise InputError(f"{VARIABLE} is {text!r}; give a number of gigabytes, 0 to keep nothing")
    return found * 1e9


def _keep(place: Path, size: int, tensors: Tensors, dtype: Any) -> bool:
    """Make weights where they are kept; whether that could be done."""
    from filelock import FileLock

    limit, root = limit_bytes(), place.parent
    if size > limit:
        return False
    try:
        root.mkdir(parents=True, exist_ok=True)
        # One at a time: two that make the same weights would take twice the time and room.
        with FileLock(root / "lock"):
            if not _is_whole(place):
                shutil.rmtree(place, ignore_errors=True)
                for left in root.glob("*.part"):
                    shutil.rmtree(left, ignore_errors=True)
                _make_room(root, size, limit)
                _make(place, tensors, dtype)
    except OSError:
        return False
    return True


def _make(place: Path, tensors: Tensors, dtype: Any) -> None:
    part = place.with_name(f"{place.name}.part")
    try:
        part.mkdir()
        _write(part / WEIGHTS, tensors, dtype)
        (part / _MADE).write_text(json.dumps(_facts(part / WEIGHTS)))
        part.rename(place)
    finally:
        shutil.rmtree(part, ignore_errors=True)


def _is_whole(place: Path) -> bool:
    """Whether weights are as they were written: nobody has touched the file since."""
    try:
        facts = json.loads((place / _MADE).read_bytes())
        return bool(facts == _facts(place / WEIGHTS))
    except (OSError, ValueError, RecursionError):
        return False


def _facts(file: Path) -> dict[str, int]:
    found = file.stat()
    return {"size": found.st_size, "mtime_ns": found.st_mtime_ns}


def _make_room(root: Path, size: int, limit: float) -> None:
    """Remove what was not used for longest, until the limit and the disk have room for `size`."""
    found = [place for place in root.iterdir() if place.is_dir()]
    found.sort(key=lambda place: place.stat().st_mtime)
    sizes = {place: sum(file.stat().st_size for file in place.iterdir()) for place in found}
    while found:
        fits_disk = shutil.disk_usage(root).free >= size + _SPARE_BYTES
        if sum(sizes[place] for place in found) + size <= limit and fits_disk:
            return
        oldest = found.pop(0)
        if time.time() - oldest.stat().st_mtime > _IN_USE_S:
            shutil.rmtree(oldest, ignore_errors=True)
    if shutil.disk_usage(root).free < size + _SPARE_BYTES:
        raise OSError("no room")


def _write(file: Path, tensors: Tensors, dtype: Any) -> None:
    """A safetensors file, written as its tensors come: it never lies in memory whole."""
    import torch

    table: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    end = 0
    for name, shape in tensors.shapes.items():
        begin, end = end, end + prod(shape) * dtype.itemsize
        table[name] = {
            "dtype": _NAMES[str(dtype)],
            "shape": list(shape),
            "data_offsets": [begin, end],
        }
    text = json.dumps(table).encode()
    text += b" " * (-len(text) % 8)
    with file.open("wb") as opened:
        opened.write(struct.pack("<Q", len(text)) + text)
        for _, parts in tensors:
            for part in parts:
                flat = part.to(dtype).contiguous().reshape(-1).view(torch.uint8)
                opened.write(memoryview(flat.numpy()))
