"""Where a model comes from: a lab miniature, a local folder or the Hugging Face hub.

Knows names, folders and configs. Does not load weights; that is `chat_model`.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from steersweep.errors import InputError
from steersweep.model_folder import ADAPTER, check_adapters, no_config

LAB_PREFIX = "lab:"
_HUB = "hub:"  # of fingerprints
_COMMIT = re.compile(r"[0-9a-f]{40}")

# transformers' model_type -> the family name used in results.
_FAMILIES = {
    "qwen2": "qwen",
    "qwen2_vl": "qwen",
    "qwen2_5_vl": "qwen",
    "qwen3": "qwen",
    "qwen3_vl": "qwen",
    "gemma": "gemma",
    "gemma2": "gemma",
    "gemma3": "gemma",
    "gemma3_text": "gemma",
    "llama": "llama",
    "llama4": "llama",
    "mistral": "mistral",
    "mistral3": "mistral",
    "phi3": "phi",
}


@dataclass(frozen=True)
class ModelSource:
    """A model that has been found but not loaded.

    Attributes:
        model_id: what the user typed (`lab:qwen-7b`, `./folder`, `google/gemma-2-9b-it`).
        location: what transformers is given: a folder's full path, or the hub id.
        revision: the hub revision asked for; None for folders and the default branch.
        trust_remote_code: whether code from the model repository may run. Off unless asked.
    """

    model_id: str
    location: str
    revision: str | None = None
    trust_remote_code: bool = False

    @property
    def is_local(self) -> bool:
        """Whether the files lie in a folder on this machine."""
        return Path(self.location).is_dir()

    @property
    def name(self) -> str:
        """Short name for tables and files: the lab name, or the last part of the path or id."""
        if self.model_id.startswith(LAB_PREFIX):
            return self.model_id
        return Path(self.location).resolve().name if self.is_local else self.location.split("/")[-1]

    @property
    def folder(self) -> Path:
        """Where its files lie on this machine; of the hub those that were downloaded.

        Raises:
            InputError: nothing was downloaded yet.
        """
        if self.is_local:
            return Path(self.location)
        from huggingface_hub import try_to_load_from_cache

        config = try_to_load_from_cache(self.location, "config.json", revision=self.revision)
        if not isinstance(config, str):
            raise InputError(f"{self.model_id}: is not in the local cache of the hub")
        return Path(config).parent

    def files(self) -> dict[str, int]:
        """Sizes in bytes of its files by name; of the hub, without a network, those in the cache.

        Raises:
            InputError: the hub has no such model or revision, or the model is gated.
        """
        from huggingface_hub import HfApi, constants

        if not self.is_local and not constants.HF_HUB_OFFLINE:
            with explain_loading(self):
                try:
                    info = HfApi().model_info(
                        self.location, revision=self.revision, files_metadata=True, timeout=20
                    )
                except OSError:  # no network: whatever is in the cache must do
                    pass
                else:
                    files = info.siblings or []
                    return {f.rfilename: f.size or 0 for f in files if "/" not in f.rfilename}
        return {path.name: path.stat().st_size for path in self.folder.iterdir() if path.exists()}

    def fetched(self, name: str) -> Path:
        """One of its small files, downloaded if need be.

        Raises:
            InputError: it cannot be had.
        """
        if self.is_local:
            return Path(self.location) / name
        from huggingface_hub import hf_hub_download

        with explain_loading(self):
            return Path(hf_hub_download(self.location, name, revision=self.revision))

    def config(self) -> Any:
        """The transformers config of a model that can be run here, read without loading weights.

        Ids of padding tokens that the embedding has no row for are left out: no network can be
        made with them.

        Raises:
            InputError: if it cannot be found or read, contradicts itself, or is of a model of
                another kind; the message says why.
        """
        from transformers import AutoConfig

        from steersweep.architectures import auto_class, check_shape

        with explain_loading(self):
            config = AutoConfig.from_pretrained(self.location, **self.load_options())
        auto_class(config, self.model_id, trust_remote_code=self.trust_remote_code)
        check_shape(config, self.model_id)
        for part in (config, config.get_text_config()):
            pad, vocabulary = getattr(part, "pad_token_id", None), getattr(part, "vocab_size", None)
            if pad is not None and vocabulary and not 0 <= pad < vocabulary:
                part.pad_token_id = None
        return config

    def pinned(self) -> ModelSource:
        """This model at the hub commit its revision stands for now; folders as they are.

        Without a network, the commit that was downloaded last.

        Raises:
            InputError: the hub has no such model or revision, or the model is gated.
        """
        if self.is_local or (self.revision and _COMMIT.fullmatch(self.revision)):
            return self
        from huggingface_hub import hf_hub_download
        from huggingface_hub.errors import EntryNotFoundError, LocalEntryNotFoundError

        # transformers does not say which commit it read; the cache's folder does.
        with explain_loading(self):
            try:
                config = hf_hub_download(self.location, "config.json", revision=self.revision)
            except LocalEntryNotFoundError:
                raise
            except EntryNotFoundError:
                files = self.files()
                refuse_adapters(self, files)
                raise no_config(files, self.model_id) from None
        return replace(self, revision=Path(config).parent.name)

    def load_options(self) -> dict[str, Any]:
        """Keyword arguments shared by every `from_pretrained` call for this model."""
        return {"revision": self.revision, "trust_remote_code": self.trust_remote_code}

    def fingerprint(self) -> str:
        """What identifies the weights: the hub commit, or a hash over the folder's files.

        Results are only ever reused for an equal fingerprint, so a retrained model in the same
        folder is a different model.

        Raises:
            InputError: the hub does not say which commit this is.
        """
        if not self.is_local:
            return f"{_HUB}{self.pinned().revision}"
        digest = hashlib.sha256()
        patterns = ("*.safetensors", "*.json", "*.jinja", "*.model")
        files = sorted(path for pattern in patterns for path in Path(self.location).glob(pattern))
        for path in files:
            digest.update(f"{path.name}:{path.stat().st_size}\n".encode())
            for chunk in _sampled_chunks(path):
                digest.update(chunk)
        return f"sha256:{digest.hexdigest()[:32]}"


def hub_commit(fingerprint: str) -> str | None:
    """The commit in the fingerprint of a hub model; None for folders."""
    return fingerprint.removeprefix(_HUB) if fingerprint.startswith(_HUB) else None


def _sampled_chunks(
    path: Path, whole_below: int = 1 << 28, chunk: int = 1 << 20
) -> Iterator[bytes]:
    """The whole file if it is small, else 1 MiB of every 64 MiB: other weights differ anywhere."""
    size = path.stat().st_size
    stride = chunk if size <= whole_below else 64 * chunk
    with path.open("rb") as file:
        for offset in range(0, size, stride):
            file.seek(offset)
            yield file.read(chunk)


def find_model(
    model_id: str, *, revision: str | None = None, trust_remote_code: bool = False
) -> ModelSource:
    """Resolve what the user typed to a model that can be loaded.

    Raises:
        InputError: for an unknown lab name, a missing folder, or a folder without a config.
    """
    if model_id.startswith(LAB_PREFIX):
        from steersweep.lab.models import lab_model

        return ModelSource(model_id, str(lab_model(model_id.removeprefix(LAB_PREFIX)).folder))
    path = Path(model_id).expanduser()
    if path.is_dir():
        source = ModelSource(model_id, str(path.resolve()), None, trust_remote_code)
        files = source.files()
        refuse_adapters(source, files)
        if "config.json" not in files:
            raise no_config(files, model_id)
        return source
    if model_id.startswith((".", "/", "~")) or model_id.count("/") != 1 or path.exists():
        raise InputError(
            f"{model_id}: not a model folder, a hub id (owner/name) or a lab model "
            f"(`steersweep lab list` shows those)"
        )
    return ModelSource(model_id, model_id, revision, trust_remote_code)


def refuse_adapters(source: ModelSource, files: Mapping[str, int]) -> None:
    """Refuse a model with an adapter among its files; see `model_folder.check_adapters`.

    Raises:
        InputError: there is one; the message names it and its base.
    """
    found = source.fetched(ADAPTER) if ADAPTER in files else None
    check_adapters(files, source.model_id, found)


def family_of(config: Any) -> str:
    """The family name used in results; model types without one are their own family."""
    model_type = str(getattr(config, "model_type", "unknown"))
    return _FAMILIES.get(model_type, model_type)


@contextmanager
def explain_loading(source: ModelSource) -> Iterator[None]:
    """Turn the hub's and transformers' loading errors into one clear message."""
    from huggingface_hub.errors import (
        GatedRepoError,
        RepositoryNotFoundError,
        StrictDataclassError,
    )
    from safetensors import SafetensorError

    try:
        yield
    except (
        OSError,
        ValueError,
        LookupError,
        ImportError,
        TypeError,
        AttributeError,
        ArithmeticError,
        AssertionError,
        SafetensorError,
        StrictDataclassError,
    ) as error:
        # transformers wraps what the hub said.
        said = {type(cause) for cause in _causes(error)}
        if any(issubclass(kind, GatedRepoError) for kind in said):
            raise InputError(
                f"{source.model_id}: the model is gated. Accept its licence at "
                f"https://huggingface.co/{source.location} and set HF_TOKEN to a token of that "
                f"account"
            ) from error
        if any(issubclass(kind, RepositoryNotFoundError) for kind in said):
            raise InputError(
                f"{source.model_id}: the hub knows no such model (or HF_TOKEN may not read it)"
            ) from error
        where = "folder" if source.is_local else "hub or local cache"
        lines = [line.strip() for line in str(error).splitlines() if line.strip()]
        reason = lines[0] if lines else type(error).__name__
        if isinstance(error, StrictDataclassError) and len(lines) > 1:
            reason = f"config.json: {lines[-1]}"
        elif isinstance(error, TypeError | AttributeError | LookupError):
            reason = f"{type(error).__name__}: {reason}"
        raise InputError(
            f"{source.model_id}: cannot be loaded from the {where}: {reason}"
        ) from error


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__
