"""Room on the disk for what is downloaded of the hub."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path

from steersweep.core.errors import InputError

_SPARE_BYTES = 1 << 30


def check_disk(
    model_id: str, repository: str, revision: str | None, weights: Mapping[str, int]
) -> None:
    """See that those of a model's files that are still to be downloaded fit the disk.

    Args:
        model_id: what the user typed.
        repository: on the hub.
        revision: of it, None for the default branch.
        weights: sizes of the files in bytes, by name.

    Raises:
        InputError: they do not.
    """
    from huggingface_hub import constants

    missing = sum(
        size for name, size in weights.items() if not _is_cached(repository, name, revision)
    )
    cache = Path(constants.HF_HUB_CACHE)
    there = next(folder for folder in (cache, *cache.parents) if folder.exists())
    free = shutil.disk_usage(there).free
    if missing and missing + _SPARE_BYTES > free:
        raise InputError(
            f"{model_id}: {missing / 1e9:.1f} GB must be downloaded, and {cache} has "
            f"{free / 1e9:.1f} GB free; make room, or set HF_HOME to a larger disk"
        )


def _is_cached(repository: str, name: str, revision: str | None) -> bool:
    from huggingface_hub import try_to_load_from_cache

    return isinstance(try_to_load_from_cache(repository, name, revision=revision), str)
