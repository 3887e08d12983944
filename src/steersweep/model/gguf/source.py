"""A model in a GGUF file, on this machine or on the hub, as a source like any other."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from steersweep.core.errors import InputError
from steersweep.core.precision_labels import label, runs_as
from steersweep.model.explaining import explain_loading, loading_begins
from steersweep.model.fingerprint import file_hash
from steersweep.model.gguf.checks import check_model, check_package, main_type
from steersweep.model.gguf.config import load_config
from steersweep.model.gguf.converted import weights_folder
from steersweep.model.gguf.header import Header, read_header
from steersweep.model.gguf.tensors import weights_of
from steersweep.model.gguf.tokenizer import load_tokenizer, notes
from steersweep.model.hub import check_disk
from steersweep.model.model_folder import name_gguf
from steersweep.model.source import COMMIT, ModelSource

# Of how weights are made; another number makes them anew.
_FORM = 1


@dataclass(frozen=True)
class GgufSource(ModelSource):
    """A model in a GGUF file.

    Attributes:
        location: the file's full path, or the repository it lies in.
        file: its name in the repository; empty for files of this machine.
    """

    file: str = ""

    @property
    def is_local(self) -> bool:
        """Whether the file lies on this machine."""
        return not self.file and Path(self.location).is_file()

    @property
    def name(self) -> str:
        """The file's name without its ending."""
        return Path(self.file or self.location).name.removesuffix(".gguf")

    @property
    def folder(self) -> Path:
        """The folder that the file lies in."""
        return self.path.parent

    @property
    def path(self) -> Path:
        """Where the file lies; one on the hub is downloaded.

        Raises:
            InputError: the hub has no such file.
        """
        if not self.file:
            return Path(self.location)
        from huggingface_hub import try_to_load_from_cache

        cached = try_to_load_from_cache(self.location, self.file, revision=self.revision)
        is_pinned = self.revision and COMMIT.fullmatch(self.revision)
        return Path(cached) if is_pinned and isinstance(cached, str) else self._download()

    def _download(self) -> Path:
        from huggingface_hub import hf_hub_download
        from huggingface_hub.errors import EntryNotFoundError, LocalEntryNotFoundError

        files = self._on_hub()
        wanted = {name: size for name, size in files.items() if name == self.file}
        check_disk(self.model_id, self.location, self.revision, wanted)
        with explain_loading(self):
            try:
                return Path(hf_hub_download(self.location, self.file, revision=self.revision))
            except LocalEntryNotFoundError:
                raise
            except EntryNotFoundError:
                others = [name for name in files if name.endswith(".gguf")]
                hint = name_gguf(others, self.location) if others else "there is no GGUF file"
        raise InputError(f"{self.model_id}: {self.location} has no such file; {hint}")

    def _on_hub(self) -> dict[str, int]:
        """Sizes in bytes of the repository's files by name; none without a network."""
        from huggingface_hub import HfApi, constants
        from huggingface_hub.errors import HfHubHTTPError

        if constants.HF_HUB_OFFLINE:
            return {}
        with explain_loading(self):
            try:
                info = HfApi().model_info(
                    self.location, revision=self.revision, files_metadata=True, timeout=20
                )
            except OSError as error:
                if isinstance(error, HfHubHTTPError):
                    raise
                return {}
        return {file.rfilename: file.size or 0 for file in info.siblings or []}

    @property
    def header(self) -> Header:
        """What the file says of itself; it holds a whole model of a kind that can be read.

        Raises:
            InputError: it does not.
        """
        header = read_header(self.path, self.model_id)
        check_model(header, self.model_id)
        return header

    def files(self) -> dict[str, int]:
        """The file alone."""
        return {self.path.name: self.path.stat().st_size}

    def config(self) -> Any:
        """See `ModelSource.config`."""
        from steersweep.model.architectures import auto_class, check_shape

        loading_begins()
        header = self.header
        with explain_loading(self):
            config = load_config(header, self.model_id)
        auto_class(config, self.model_id)
        check_shape(config, self.model_id)
        return config

    def load_tokenizer(self) -> Any:
        """See `ModelSource.load_tokenizer`."""
        with explain_loading(self):
            return load_tokenizer(self.header)

    @property
    def without_template(self) -> str:
        """See `ModelSource.without_template`."""
        return "the file has no chat template (tokenizer.chat_template)"

    def notes(self) -> list[str]:
        """What a user should know of how the file is read."""
        return [f"{self.model_id}: {note}" for note in notes(self.header)]

    def precision(self, asked: str, config: Any, device: str) -> str:
        """How the weights are stored and in what they run: `Q4_1-as-fp32`."""
        stored = main_type(self.header)
        if asked.startswith(label(stored, "")):
            asked = runs_as(asked)
        return label(stored, super().precision(asked, config, device))

    def label_of(self, precision: str | None) -> str | None:
        """How the weights are stored, and a precision they run in."""
        return precision and label(main_type(self.header), runs_as(precision))

    def pinned(self) -> ModelSource:
        """This file; one on the hub at the commit its revision stands for now."""
        if not self.file:
            return self
        parents = self.path.parents
        return replace(self, revision=parents[self.file.count("/")].name)

    def check_files(self, config: Any) -> None:
        """Nothing more: the header was looked at."""

    def code(self) -> list[str]:
        """None: a GGUF file brings no code that runs here."""
        return []

    def fingerprint(self) -> str:
        """A hash over every byte of the file."""
        try:
            return f"sha256:{file_hash(self.path)[:32]}"
        except OSError as error:
            raise InputError(f"{self.model_id}: cannot be read: {error.strerror}") from error

    @contextmanager
    def weights(self, config: Any, dtype: Any) -> Iterator[ModelSource]:
        """See `ModelSource.weights`: a folder with the file's weights as ordinary numbers."""
        import transformers

        check_package(self.model_id)
        digest = self.fingerprint().removeprefix("sha256:")
        kind = str(dtype).removeprefix("torch.")
        key = f"{digest}-{kind}-{transformers.__version__}-{_FORM}"
        ending = transformers.GenerationConfig.from_model_config(config)
        made = partial(weights_of, self.header, config, self.model_id)
        with weights_folder(key, dtype, made) as folder:
            yield _Converted(self.model_id, str(folder), generation_config=ending)


@dataclass(frozen=True)
class _Converted(ModelSource):
    """A folder with the weights of a GGUF file, and what ends an answer by its fields."""

    generation_config: Any = None

    def load_options(self) -> dict[str, Any]:
        """See `ModelSource.load_options`."""
        return super().load_options() | {"generation_config": self.generation_config}
