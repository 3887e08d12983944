"""Finds the model that a user names."""

from __future__ import annotations

import re
from pathlib import Path

from steersweep.core.errors import InputError
from steersweep.model.model_folder import no_config
from steersweep.model.source import LAB_PREFIX, ModelSource

_FILE_ON_HUB = re.compile(r"(?P<repository>[^/:\s]+/[^/:\s]+):(?P<file>[^:]+)")


def find_model(
    model_id: str, *, revision: str | None = None, trust_remote_code: bool = False
) -> ModelSource:
    """Resolve what the user typed to a model that can be loaded.

    Args:
        model_id: a folder, a GGUF file, a hub id, a GGUF file of the hub (`owner/name:file.gguf`),
            or `lab:NAME`. What lies on this machine comes first.
        revision: of the hub.
        trust_remote_code: whether code of the model's repository may run.

    Raises:
        InputError: for an unknown lab name, a missing folder or file, a folder without a config, or
            a file that is no model's.
    """
    if model_id.startswith(LAB_PREFIX):
        from steersweep.lab.models import lab_model

        return ModelSource(model_id, str(lab_model(model_id.removeprefix(LAB_PREFIX)).folder))
    path = Path(model_id).expanduser()
    if path.is_dir():
        source = ModelSource(model_id, str(path.resolve()), None, trust_remote_code)
        files = source.files()
        source.refuse_adapters(files)
        if "config.json" not in files:
            raise no_config(files, model_id)
        return source
    if path.is_file():
        return _gguf(ModelSource(model_id, str(path.absolute())))
    on_hub = _FILE_ON_HUB.fullmatch(model_id)
    if on_hub and not model_id.startswith((".", "/", "~")):
        if not on_hub["file"].endswith(".gguf"):
            raise InputError(
                f"{model_id}: after the colon stands the name of a GGUF file, as in "
                f"{on_hub['repository']}:NAME.gguf"
            )
        return _gguf(ModelSource(model_id, on_hub["repository"], revision), on_hub["file"])
    if model_id.endswith(".gguf"):
        raise InputError(f"{model_id}: no such file")
    if model_id.startswith((".", "/", "~")) or model_id.count("/") != 1 or path.exists():
        raise InputError(
            f"{model_id}: not a model folder, a GGUF file, a hub id (owner/name) or a lab model "
            f"(`steersweep lab list` shows those)"
        )
    return ModelSource(model_id, model_id, revision, trust_remote_code)


def _gguf(source: ModelSource, file: str = "") -> ModelSource:
    """A GGUF file; one of this machine is a whole model of a kind that can be read."""
    from steersweep.model.gguf.source import GgufSource

    found = GgufSource(source.model_id, source.location, source.revision, file=file)
    if not file:
        found.header  # noqa: B018
    return found
