"""A model's safetensors files, by their headers: whole, told apart, and of types that are read.

Nothing here reads a tensor, so it takes milliseconds for any model.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from steersweep.core.errors import InputError
from steersweep.model.model_folder import INDEX, WEIGHTS

# Types that numbers are stored in as they are; others need scales or a meaning.
_PLAIN = ("F64", "F32", "F16", "BF16")
_LONGEST_HEADER = 100_000_000


@dataclass(frozen=True)
class Stored:
    """A tensor of a file.

    Attributes:
        file: where it lies.
        dtype: as safetensors calls it: `BF16`, `F8_E4M3`, `I32`, ...
        shape: its lengths.
    """

    file: Path
    dtype: str
    shape: tuple[int, ...]


def stored_tensors(folder: Path, named: str | None = None) -> dict[str, Stored]:
    """All tensors that loading the model would read, by name.

    Args:
        folder: of the model.
        named: the file or index that the model's config names instead of the usual ones.

    Raises:
        InputError: a file is missing, cut or a pointer, an index contradicts its files, or two
            files hold a tensor of the same name.
    """
    found: dict[str, Stored] = {}
    files, expected, index = _files(folder, named)
    for file in files:
        for name, tensor in _header(file).items():
            if name in found:
                raise InputError(
                    f"{file}: holds {name}, and so does {found[name].file.name}; keep the one that "
                    f"belongs to the model"
                )
            found[name] = tensor
    lost = sorted(expected - found.keys())
    if lost:
        raise InputError(
            f"{index}: names {_some(lost)}, which none of its files holds; download the model again"
        )
    return found


def check_types(tensors: Mapping[str, Stored], where: str, method: str | None) -> None:
    """See that weights are quantized where the config says so, and only there.

    Args:
        tensors: of the files.
        where: folder or hub id, for the message.
        method: how the config says that the weights are quantized, or None.

    Raises:
        InputError: it is otherwise; the message names a tensor.
    """
    coded = [name for name, tensor in tensors.items() if tensor.dtype not in _PLAIN]
    if method is None:
        weights = sorted(name for name in coded if name.endswith("weight"))
        if weights:
            raise InputError(
                f"{where}: {weights[0]} is stored as {tensors[weights[0]].dtype}, and config.json "
                f"has no quantization_config that says what these numbers mean; use the model's "
                f"full checkpoint, or add the quantization_config it was saved with"
            )
    elif method != "bitnet" and not coded:  # BitNet may quantize full weights as it runs
        raise InputError(
            f"{where}: config.json says that the weights are quantized ({method}), but the files "
            f"hold ordinary numbers; remove quantization_config from config.json"
        )


def _files(folder: Path, named: str | None) -> tuple[list[Path], set[str], Path]:
    """Files that are read, tensors that an index names, and that index."""
    weights, index = folder / WEIGHTS, folder / INDEX
    if named is not None:
        weights = index = folder / named
    expected: set[str] = set()
    names: set[str] = set()
    is_whole = weights.is_file() and weights.suffix == ".safetensors"
    if is_whole:
        names.add(weights.name)
    if index.is_file() and index.suffix == ".json":
        weight_map = _weight_map(index)
        parts = set(weight_map.values())
        for name in sorted(parts - names):
            if not (folder / name).is_file():
                raise InputError(
                    f"{folder / name}: the index names it, but it is not there; download it again"
                )
        if is_whole and parts - names:
            raise InputError(
                f"{weights}: is there beside the parts that {index.name} names "
                f"({min(parts - names)}, ...), and only one of both is the model; move the other "
                f"away"
            )
        names |= parts
        expected = set(weight_map)
    return [folder / name for name in sorted(names)], expected, index


def _weight_map(index: Path) -> dict[str, str]:
    try:
        found = json.loads(index.read_text("utf-8"))["weight_map"]
        pairs = {str(name): str(file) for name, file in found.items()}
        if any(os.path.basename(file) != file for file in pairs.values()):
            raise ValueError("a part lies in another folder")
    except (ValueError, KeyError, AttributeError, TypeError) as error:
        raise InputError(f"{index}: is no index of weights: {error}") from error
    return pairs


def _header(file: Path) -> dict[str, Stored]:
    """The tensors of a safetensors file, by its header; its size must be what that says."""
    size = file.stat().st_size
    with file.open("rb") as opened:
        start = opened.read(8)
        if start == b"version ":
            raise _broken(
                file, f"a Git LFS pointer of {size} bytes instead of the weights (git lfs pull)"
            )
        length = int.from_bytes(start, "little")
        if len(start) < 8 or length > min(size - 8, _LONGEST_HEADER):
            raise _broken(file, f"{size} bytes, which is no whole safetensors file")
        content = opened.read(length)
    try:
        header = json.loads(content)
        tensors = dict(_tensors(file, header))
        ends = [int(facts["data_offsets"][1]) for name, facts in header.items() if name[:2] != "__"]
    except (ValueError, KeyError, AttributeError, TypeError, IndexError):
        raise _broken(file, "its header cannot be read") from None
    expected = 8 + length + max(ends, default=0)
    if size != expected:
        raise _broken(file, f"{size} bytes instead of {expected}")
    return tensors


def _tensors(
    file: Path, header: Mapping[str, Mapping[str, object]]
) -> Iterator[tuple[str, Stored]]:
    for name, facts in header.items():
        if not name.startswith("__"):
            shape = facts["shape"]
            if not isinstance(shape, list):
                raise TypeError("shape")
            yield name, Stored(file, str(facts["dtype"]), tuple(int(n) for n in shape))


def _broken(file: Path, how: str) -> InputError:
    return InputError(f"{file}: {how}; download it again")


def _some(names: list[str]) -> str:
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")
