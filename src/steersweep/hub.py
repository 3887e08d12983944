"""A model's weight files: is there room for them, and are they whole."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

from steersweep.errors import InputError
from steersweep.model_source import ModelSource, explain_loading

_WEIGHTS = (".safetensors", ".safetensors.index.json")
_SPARE_BYTES = 1 << 30


def check_disk(source: ModelSource) -> None:
    """See that the weights still to be downloaded fit the disk of the hub's cache.

    Does nothing for folders, without a network, or where all weights are there.

    Raises:
        InputError: they do not fit; the message names the folder and the bytes.
    """
    from huggingface_hub import HfApi, constants

    if source.is_local or constants.HF_HUB_OFFLINE:
        return
    with explain_loading(source):
        try:
            info = HfApi().model_info(
                source.location, revision=source.revision, files_metadata=True, timeout=20
            )
        except OSError:  # no network: whatever is in the cache must do
            return
    sizes = {
        file.rfilename: file.size or 0
        for file in info.siblings or []
        if file.rfilename.endswith(_WEIGHTS) and "/" not in file.rfilename
    }
    missing = sum(size for name, size in sizes.items() if not _is_cached(source, name, info.sha))
    cache = Path(constants.HF_HUB_CACHE)
    there = next(folder for folder in (cache, *cache.parents) if folder.exists())
    free = shutil.disk_usage(there).free
    if missing and missing + _SPARE_BYTES > free:
        raise InputError(
            f"{source.model_id}: {missing / 1e9:.1f} GB must be downloaded, and {cache} has "
            f"{free / 1e9:.1f} GB free; make room, or set HF_HOME to a larger disk"
        )


def check_whole(source: ModelSource) -> None:
    """See that the weight files in a folder are what they say: none missing, cut or a pointer.

    Reads headers only. Files of the hub are checked by its client as they are downloaded.

    Raises:
        InputError: the first file that is not whole; the message says how it is not.
    """
    if not source.is_local:
        return
    folder = Path(source.location)
    names = {file.name for file in folder.glob("*.safetensors")}
    for index in folder.glob("*.safetensors.index.json"):
        try:
            names |= {*json.loads(index.read_text("utf-8"))["weight_map"].values()}
        except (ValueError, KeyError, AttributeError, TypeError) as error:
            raise InputError(f"{index}: is no index of weights: {error}") from error
    for name in sorted(names):
        trouble = _trouble(folder / name)
        if trouble:
            raise InputError(f"{folder / name}: {trouble}; download it again")


def _trouble(file: Path) -> str | None:
    """What is wrong with a safetensors file, by its size and header."""
    if not file.is_file():
        return "the index names it, but it is not there"
    size = file.stat().st_size
    with file.open("rb") as opened:
        start = opened.read(8)
        if start == b"version ":
            return f"a Git LFS pointer of {size} bytes instead of the weights (git lfs pull)"
        length = int.from_bytes(start, "little")
        if len(start) < 8 or length > size - 8:
            return f"{size} bytes, which is no whole safetensors file"
        try:
            header = json.loads(opened.read(length))
            spans = [facts["data_offsets"] for name, facts in header.items() if name[:2] != "__"]
            end = max((int(span[1]) for span in spans), default=0)
        except (ValueError, KeyError, AttributeError, TypeError, IndexError):
            return "its header cannot be read"
    expected = 8 + length + end
    return None if size == expected else f"{size} bytes instead of {expected}"


def _is_cached(source: ModelSource, name: str, commit: str | None) -> bool:
    from huggingface_hub import try_to_load_from_cache

    return isinstance(try_to_load_from_cache(source.location, name, revision=commit), str)
