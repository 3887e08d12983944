"""Where a model comes from: a lab miniature, a local folder or the Hugging Face hub.

Knows names, folders, files and configs. Does not load weights; that is `chat_model`.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from steersweep.core.errors import InputError
from steersweep.model.explaining import explain_loading, loading_begins
from steersweep.model.fingerprint import folder_fingerprint
from steersweep.model.hub import check_disk
from steersweep.model.model_folder import ADAPTER, check_adapters, check_readable, no_config

LAB_PREFIX = "lab:"
_HUB = "hub:"  # of fingerprints
_WEIGHTS = (".safetensors", ".safetensors.index.json")
COMMIT = re.compile(r"[0-9a-f]{40}")

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
        code_revision: commit of the other repository that this code is taken from, if it is.
    """

    model_id: str
    location: str
    revision: str | None = None
    trust_remote_code: bool = False
    code_revision: str | None = None

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
        if self.is_local:
            return _sizes(self.folder)
        from huggingface_hub import HfApi, constants

        if not constants.HF_HUB_OFFLINE:
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
        return _sizes(self.folder)

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
        from transformers import AutoConfig, PreTrainedConfig

        from steersweep.model.architectures import auto_class, check_depth, check_shape

        loading_begins()
        with explain_loading(self):
            written, _ = PreTrainedConfig.get_config_dict(self.location, **self.load_options())
            check_depth(written, self.model_id)
            config = AutoConfig.from_pretrained(self.location, **self.load_options())
        auto_class(config, self.model_id, trust_remote_code=self.trust_remote_code)
        check_shape(config, self.model_id)
        for part in (config, config.get_text_config()):
            pad, vocabulary = getattr(part, "pad_token_id", None), getattr(part, "vocab_size", None)
            if pad is not None and vocabulary and not 0 <= pad < vocabulary:
                part.pad_token_id = None
        return config

    def load_tokenizer(self) -> Any:
        """Its tokenizer.

        Raises:
            InputError: it cannot be loaded.
        """
        from transformers import AutoTokenizer

        with explain_loading(self):
            return AutoTokenizer.from_pretrained(self.location, **self.load_options())

    def device(self, asked: str) -> str:
        """Where it runs: where it is asked to."""
        return asked

    def precision(self, asked: str, config: Any, device: str) -> str:
        """In what it runs on a device; see `resolve_precision`."""
        from steersweep.model.precision import resolve_precision

        return resolve_precision(asked, config, device)

    def label_of(self, precision: str | None) -> str | None:
        """What results call a precision that this model runs in: that itself."""
        return precision

    def pinned(self) -> ModelSource:
        """This model at the hub commit its revision stands for now; folders as they are.

        So is code that it takes from another repository. Without a network, the commits that were
        downloaded last.

        Raises:
            InputError: the hub has no such model or revision, or the model is gated.
        """
        source = self
        if not self.is_local and not (self.revision and COMMIT.fullmatch(self.revision)):
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
                    self.refuse_adapters(files)
                    raise no_config(files, self.model_id) from None
            source = replace(self, revision=Path(config).parent.name)
        return source._with_pinned_code()

    def _with_pinned_code(self) -> ModelSource:
        """Code of another repository (`auto_map`: `owner/name--module.Class`) at one commit."""
        others = {
            tuple(reference.split("--", maxsplit=1))
            for reference in self.code()
            if "--" in reference
        }
        if not others or (self.code_revision and COMMIT.fullmatch(self.code_revision)):
            return self
        from huggingface_hub import hf_hub_download

        commits = set()
        for repository, reference in sorted(others):
            file = reference.rpartition(".")[0].replace(".", "/") + ".py"
            with explain_loading(self):
                path = hf_hub_download(repository, file, revision=self.code_revision)
            commits.add(Path(path).parents[file.count("/")].name)
        if len(commits) > 1:
            names = ", ".join(sorted({repository for repository, _ in others}))
            raise InputError(
                f"{self.model_id}: its auto_map takes code from several repositories ({names}); "
                f"copy that code into a folder with the model and use the folder"
            )
        return replace(self, code_revision=commits.pop())

    def code(self) -> list[str]:
        """What the model's `auto_map` says of code that runs; none unless that is trusted."""
        if not self.trust_remote_code:
            return []
        return sorted(
            {
                reference
                for file in ("config.json", "tokenizer_config.json")
                for value in _auto_map(self._json(file)).values()
                for reference in (value if isinstance(value, list) else [value])
                if isinstance(reference, str)
            }
        )

    def _json(self, name: str) -> Any:
        """A JSON file of the model, None if there is none or it cannot be read."""
        path: str | Path = Path(self.location) / name
        if not self.is_local:
            from huggingface_hub import hf_hub_download
            from huggingface_hub.errors import EntryNotFoundError

            try:
                with explain_loading(self):
                    path = hf_hub_download(self.location, name, revision=self.revision)
            except InputError as error:
                if isinstance(error.__cause__, EntryNotFoundError):
                    return None
                raise
        try:
            return json.loads(Path(path).read_text("utf-8"))
        except (OSError, ValueError, RecursionError):
            return None

    def load_options(self) -> dict[str, Any]:
        """Keyword arguments shared by every `from_pretrained` call for this model."""
        options = {"revision": self.revision, "trust_remote_code": self.trust_remote_code}
        return options | ({"code_revision": self.code_revision} if self.code_revision else {})

    def check_files(self, config: Any) -> None:
        """See that its files can be loaded, and that those to be downloaded fit the disk.

        Raises:
            InputError: an adapter, no safetensors weights, or no room; the message says what to do.
        """
        files = self.files()
        self.refuse_adapters(files)
        check_readable(files, self.model_id, getattr(config, "transformers_weights", None))
        if not self.is_local:
            weights = {name: size for name, size in files.items() if name.endswith(_WEIGHTS)}
            check_disk(self.model_id, self.location, self.revision, weights)

    def refuse_adapters(self, files: Mapping[str, int]) -> None:
        """Refuse a model with an adapter among its files; see `model_folder.check_adapters`.

        Raises:
            InputError: there is one; the message names it and its base.
        """
        found = self.fetched(ADAPTER) if ADAPTER in files else None
        check_adapters(files, self.model_id, found)

    @contextmanager
    def weights(self, config: Any, dtype: Any) -> Iterator[ModelSource]:
        """Where safetensors with its weights are while this is open: here itself.

        Args:
            config: of the model.
            dtype: the torch type that they will run in.
        """
        yield self

    @property
    def without_template(self) -> str:
        """What to say where it has no chat template."""
        return "the tokenizer has no chat template"

    def notes(self) -> list[str]:
        """What a user should know of how its files are read."""
        return []

    def fingerprint(self) -> str:
        """What identifies the model: the hub commit, or a hash over every byte of the folder.

        Which files count, see `fingerprint`. Where code that came with the model runs, this says
        so (`+code`), and names the commit of code from another repository. Results are only ever
        reused for an equal fingerprint, so a changed model in the same folder is another model.

        Raises:
            InputError: the hub does not say which commit this is; a file cannot be read.
        """
        source = self.pinned()
        if source.is_local:
            found = folder_fingerprint(Path(source.location))
        else:
            found = f"{_HUB}{source.revision}"
        code = "+code" if source.code() else ""
        return found + code + (f"@{source.code_revision}" if source.code_revision else "")


def _sizes(folder: Path) -> dict[str, int]:
    return {path.name: path.stat().st_size for path in folder.iterdir() if path.exists()}


def hub_commit(fingerprint: str) -> str | None:
    """The commit in the fingerprint of a hub model; None for folders."""
    if not fingerprint.startswith(_HUB):
        return None
    return fingerprint.removeprefix(_HUB).split("+")[0]


def _auto_map(config: Any) -> dict[str, Any]:
    found = config.get("auto_map") if isinstance(config, dict) else None
    return found if isinstance(found, dict) else {"AutoTokenizer": found}


def family_of(config: Any) -> str:
    """The family name used in results; model types without one are their own family."""
    model_type = str(getattr(config, "model_type", "unknown"))
    return _FAMILIES.get(model_type, model_type)
