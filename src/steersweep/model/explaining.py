"""What went wrong where transformers or the hub's client could not load a model, in one line."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Protocol

from steersweep.core.errors import InputError, setting


class Loaded(Protocol):
    """What is said of a model that cannot be loaded; see `ModelSource`."""

    @property
    def model_id(self) -> str:
        """What the user typed."""
        ...

    @property
    def location(self) -> str:
        """Folder, file or hub id."""
        ...

    @property
    def is_local(self) -> bool:
        """Whether it lies on this machine."""
        ...

    @property
    def trust_remote_code(self) -> bool:
        """Whether its own code may run."""
        ...


# What a command does before transformers loads anything; see `loading_begins`.
before_loading: list[Callable[[], None]] = []


def loading_begins() -> None:
    """transformers is imported now: do, once, what was to be done first."""
    while before_loading:
        before_loading.pop()()


@contextmanager
def explain_loading(source: Loaded) -> Iterator[None]:
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
        RecursionError,
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
        if "trust_remote_code" in str(error) and not source.trust_remote_code:
            raise InputError(
                f"{source.model_id}: comes with code of its own, which runs only where that is "
                f"trusted; read it, then set {setting('trust_remote_code')}"
            ) from error
        where = "file" if Path(source.location).is_file() else "folder"
        where = where if source.is_local else "hub or local cache"
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
