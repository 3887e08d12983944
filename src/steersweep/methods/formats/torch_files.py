"""Torch files: only tensors and plain data are read, so that no file can run code."""

from __future__ import annotations

import io
import pickle
import re
import zipfile
from pathlib import Path
from typing import Any

from steersweep.core.atomic import write_bytes
from steersweep.core.errors import InputError
from steersweep.core.printing import first_line

# A class that a file names stands for its fields: none of its own code is imported or run.
_STEERING_VECTOR = (
    "steering_vectors.steering_vector.SteeringVector",
    "steering_vectors.SteeringVector",
)
_GLOBAL = re.compile(r"GLOBAL ([\w.]+)")
_FAILS = (
    pickle.UnpicklingError,
    RuntimeError,
    ValueError,
    TypeError,
    KeyError,
    IndexError,
    AttributeError,
    AssertionError,
    EOFError,
    OverflowError,
    RecursionError,
    zipfile.BadZipFile,
)


class Fields:
    """The fields of an object in a file, without its class."""


def loaded(path: Path, data: bytes) -> Any:
    """What a torch file holds: tensors on the CPU, numbers, texts, lists and dictionaries.

    A pickled `SteeringVector` becomes the dictionary of its fields.

    Raises:
        InputError: it is cut or damaged, would need more memory than it has bytes, or names code.
    """
    import torch

    if data.startswith(b"PK"):
        _check_archive(path, data)
    stand_in: list[Any] = [(Fields, name) for name in _STEERING_VECTOR]
    try:
        with torch.serialization.safe_globals(stand_in):
            value = torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)
    except _FAILS as error:
        if named := _GLOBAL.search(str(error)):
            raise InputError(
                f"{path}: is a pickle that names {named[1]}, and loading it could run code; save "
                f"tensors and plain data alone"
            ) from error
        raise InputError(
            f"{path}: is cut or damaged, or no torch file of tensors and plain data: "
            f"{first_line(error)[:200]}"
        ) from error
    return vars(value) if isinstance(value, Fields) else value


def _check_archive(path: Path, data: bytes) -> None:
    """Refuse compressed parts: `torch.save` writes none, and a few bytes may become gigabytes."""
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            parts = archive.infolist()
    except (zipfile.BadZipFile, ValueError, NotImplementedError, EOFError) as error:
        raise InputError(f"{path}: is cut or damaged: {first_line(error)}") from error
    for part in parts:
        if part.compress_type != zipfile.ZIP_STORED or part.file_size > len(data):
            raise InputError(
                f"{path}: {part.filename[:60]} in it is compressed, which torch.save does not do"
            )


def save(path: Path, value: Any) -> None:
    """Write a torch file that is there whole or not at all."""
    import torch

    buffer = io.BytesIO()
    torch.save(value, buffer)
    write_bytes(path, buffer.getvalue())
