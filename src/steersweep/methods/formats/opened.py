"""A file somebody hands in, opened once: never a pipe, never more than it may hold, no code."""

from __future__ import annotations

from functools import cached_property
from pathlib import Path
from typing import Any

from steersweep.core.errors import InputError
from steersweep.core.text_files import parse_json, read_bytes

MAX_BYTES = 2**28  # a vector for each layer of the widest models takes a hundredth of that


class Opened:
    """A file's bytes, and what they are as JSON or as a torch file, each read once.

    Args:
        path: of the file.

    Raises:
        InputError: it is a folder, a pipe, a link to nothing or too large, or cannot be read.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.data = read_bytes(path, MAX_BYTES)
        if not self.data:
            raise InputError(f"{path}: is empty")

    def __str__(self) -> str:
        return str(self.path)

    @property
    def is_torch(self) -> bool:
        """Whether `torch.save` wrote it: a zip archive, or as before 2020 a bare pickle."""
        return self.data.startswith((b"PK\x03\x04", b"\x80"))

    @property
    def is_safetensors(self) -> bool:
        """Whether it begins as a safetensors file: a length, then JSON."""
        return self.data[8:9] == b"{" and self.data[:1] != b"{"

    @property
    def is_json(self) -> bool:
        """Whether it begins as an object in JSON."""
        return self.data.lstrip()[:1] == b"{"

    @cached_property
    def torch(self) -> Any:
        """Tensors, numbers, texts, lists and dictionaries of a torch file; see `loaded`."""
        from steersweep.methods.formats.torch_files import loaded

        return loaded(self.path, self.data)

    @cached_property
    def json(self) -> Any:
        """The value of a JSON file.

        Raises:
            InputError: it is no JSON, or not UTF-8.
        """
        try:
            return parse_json(self.data.decode("utf-8"))
        except ValueError as error:
            raise InputError(f"{self.path}: is no JSON: {error}") from error
