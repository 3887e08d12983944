"""What a model's files must be before they are downloaded and read, and room for them."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from steersweep.core.errors import InputError
from steersweep.model.model_folder import check_readable
from steersweep.model.source import ModelSource, refuse_adapters
from steersweep.model.weight_files import Stored, check_types, stored_tensors

_WEIGHTS = (".safetensors", ".safetensors.index.json")
_SPARE_BYTES = 1 << 30


def check_files(source: ModelSource, config: Any) -> None:
    """See that a model's files can be loaded, and that those still to be downloaded fit the disk.

    Raises:
        InputError: an adapter, no safetensors weights, or no room; the message says what to do.
    """
    files = source.files()
    refuse_adapters(source, files)
    check_readable(files, source.model_id, getattr(config, "transformers_weights", None))
    if not source.is_local:
        check_disk(source, {n: size for n, size in files.items() if n.endswith(_WEIGHTS)})


def tensors_of(source: ModelSource, config: Any, method: str | None) -> dict[str, Stored]:
    """The tensors in a model's files, which must be on this machine, of types that fit its config.

    Raises:
        InputError: a file is not whole, or the files contradict each other or the config.
    """
    found = stored_tensors(source.folder, getattr(config, "transformers_weights", None))
    check_types(found, source.model_id, method)
    return found


def check_disk(source: ModelSource, weights: Mapping[str, int]) -> None:
    """See that those of a model's files that are still to be downloaded fit the disk.

    Args:
        source: the model.
        weights: sizes of the files in bytes, by name.

    Raises:
        InputError: they do not.
    """
    from huggingface_hub import constants

    missing = sum(size for name, size in weights.items() if not _is_cached(source, name))
    cache = Path(constants.HF_HUB_CACHE)
    there = next(folder for folder in (cache, *cache.parents) if folder.exists())
    free = shutil.disk_usage(there).free
    if missing and missing + _SPARE_BYTES > free:
        raise InputError(
            f"{source.model_id}: {missing / 1e9:.1f} GB must be downloaded, and {cache} has "
            f"{free / 1e9:.1f} GB free; make room, or set HF_HOME to a larger disk"
        )


def _is_cached(source: ModelSource, name: str) -> bool:
    from huggingface_hub import try_to_load_from_cache

    return isinstance(try_to_load_from_cache(source.location, name, revision=source.revision), str)
