"""Torch files: only tensors and plain data are read, so that no file can run code."""

from __future__ import annotations

import io
import pickle
import pickletools
import re
import warnings
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
_OF_TORCH = ("torch.", "collections.OrderedDict")
_PROTOCOL = 2  # of pickles in torch's files; of others not all is read
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

    pickled = _in_archive(path, data) if data.startswith(b"PK") else data
    stand_in: list[Any] = [(Fields, name) for name in _STEERING_VECTOR]
    try:
        with torch.serialization.safe_globals(stand_in), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of other protocols; where they matter it fails
            value = torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)
    except _FAILS as error:
        raise InputError(f"{path}: {_reason(str(error), pickled)}") from error
    return vars(value) if isinstance(value, Fields) else value


def _in_archive(path: Path, data: bytes) -> bytes:
    """The pickle in an archive.

    Compressed parts are refused: `torch.save` writes none, and a few bytes may become gigabytes.
    """
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            for part in archive.infolist():
                if part.filename.endswith(".npy"):
                    raise InputError(
                        f"{path}: is an archive of arrays (.npz); save one of them as .npy"
                    )
                if part.compress_type != zipfile.ZIP_STORED or part.file_size > len(data):
                    raise InputError(
                        f"{path}: {part.filename[:60]} in it is compressed, which torch.save does "
                        f"not do"
                    )
            pickles = [name for name in archive.namelist() if name.endswith("data.pkl")]
            return archive.read(pickles[0]) if pickles else b""
    # RuntimeError: parts are encrypted, or compressed in a way that is not known here.
    except (zipfile.BadZipFile, ValueError, RuntimeError, EOFError, OSError) as error:
        raise InputError(f"{path}: is cut or damaged: {first_line(error)}") from error


def _reason(said: str, pickled: bytes) -> str:
    """Why a torch file was not loaded, with what it would have had run."""
    named = _GLOBAL.search(said)
    names = [named[1]] if named else _foreign_names(pickled)
    if names:
        return (
            f"is a pickle that names {names[0]}, and loading it could run code; save tensors and "
            f"plain data alone"
        )
    if pickled[:1] == b"\x80" and (protocol := pickled[1]) > _PROTOCOL:
        return f"has pickle protocol {protocol}; save it with {_PROTOCOL}, as torch.save does"
    why = said.rpartition("WeightsUnpickler error: ")[2].strip().partition("\n")[0]
    return f"is cut or damaged, or no torch file of tensors and plain data: {why[:200]}"


def _foreign_names(pickled: bytes) -> list[str]:
    """Classes and functions, of no part of torch, that a pickle names; nothing of it is run."""
    found, texts = [], ["", ""]
    try:
        for code, value, _ in pickletools.genops(pickled):
            if code.name == "STACK_GLOBAL":
                found.append(".".join(texts[-2:]))
            elif code.name == "GLOBAL":
                found.append(str(value).replace(" ", "."))
            elif isinstance(value, str):
                texts.append(value)
    except (ValueError, IndexError, KeyError, EOFError, RecursionError):
        pass  # damaged; what it named before that counts
    return [name for name in found if not name.startswith(_OF_TORCH)]


def save(path: Path, value: Any) -> None:
    """Write a torch file that is there whole or not at all."""
    import torch

    buffer = io.BytesIO()
    torch.save(value, buffer)
    write_bytes(path, buffer.getvalue())
