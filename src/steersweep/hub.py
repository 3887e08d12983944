"""The Hugging Face hub: is there room for a model before it is downloaded."""

from __future__ import annotations

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


def _is_cached(source: ModelSource, name: str, commit: str | None) -> bool:
    from huggingface_hub import try_to_load_from_cache

    return isinstance(try_to_load_from_cache(source.location, name, revision=commit), str)
