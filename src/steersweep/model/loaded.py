"""A model that is in memory already, as a source like any other."""

from __future__ import annotations

import copy
import hashlib
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from steersweep.core.errors import InputError
from steersweep.model.source import ModelSource

# Of configs: where a model came from and which library wrote it change no result.
_NAMES = ("_name_or_path", "transformers_version")


@dataclass(frozen=True, eq=False)
class LoadedSource(ModelSource):
    """A transformers model and its tokenizer, both in this process.

    Attributes:
        network: the model.
        tokenizer: with a chat template.
    """

    network: Any = None
    tokenizer: Any = None

    @property
    def is_local(self) -> bool:
        """No folder holds it."""
        return False

    @property
    def name(self) -> str:
        """What the user calls it."""
        return self.model_id

    @property
    def folder(self) -> Path:
        """There is none.

        Raises:
            InputError: always.
        """
        raise InputError(f"{self.model_id}: is a model in memory and has no folder")

    def files(self) -> dict[str, int]:
        """None."""
        return {}

    def config(self) -> Any:
        """Its config, to be read only.

        Raises:
            InputError: it contradicts itself.
        """
        from steersweep.model.architectures import check_shape

        check_shape(self.network.config, self.model_id)
        return self.network.config

    def load_tokenizer(self) -> Any:
        """A copy, since what is set for a run must not change the user's."""
        return copy.deepcopy(self.tokenizer)

    def pinned(self) -> ModelSource:
        """Itself."""
        return self

    def code(self) -> list[str]:
        """None that this package would run."""
        return []

    def device(self, _asked: str) -> str:
        """Where it is.

        Raises:
            InputError: a part of it has no numbers.
        """
        if any(weights.is_meta for weights in self.network.parameters()):
            raise InputError(
                f"{self.model_id}: has weights on the meta device; load them before it is used"
            )
        return str(self.network.get_input_embeddings().weight.device)

    def precision(self, asked: str, config: Any, device: str) -> str:
        """The one it is in.

        Raises:
            InputError: another one is asked for.
        """
        from steersweep.model.precision import precision_of

        own = precision_of(self.network, config, device, self.model_id)
        if asked not in ("auto", own):
            raise InputError(
                f"precision {asked}: {self.model_id} is in memory in {own}; load it in {asked}, or "
                f"leave the precision out"
            )
        return own

    def fingerprint(self) -> str:
        """A hash over every number of its weights, its class and config, tokenizer and template.

        Computed anew each time: a model in memory can change.
        """
        digest = hashlib.sha256()
        for name, content in self._contents():
            digest.update(f"{name}\0{len(content)}\n".encode())
            digest.update(content)
        return f"memory:{digest.hexdigest()[:32]}"

    def _contents(self) -> Iterator[tuple[str, bytes]]:
        kind = type(self.network)
        yield "class", f"{kind.__module__}.{kind.__qualname__}".encode()
        for owner in (self.network.config, self.network.generation_config):
            facts = owner.to_dict() if owner is not None else {}
            kept = {key: value for key, value in facts.items() if key not in _NAMES}
            yield "config", json.dumps(kept, sort_keys=True, default=str).encode()
        yield "tokenizer", _tokenizer_bytes(self.tokenizer)
        tensors = dict(self.network.state_dict()) | dict(self.network.named_buffers())
        for name, value in sorted(tensors.items()):
            yield name, _bytes(value)


def _tokenizer_bytes(tokenizer: Any) -> bytes:
    backend = getattr(tokenizer, "backend_tokenizer", None)
    rules = backend.to_str() if backend is not None else json.dumps(tokenizer.get_vocab())
    facts = [type(tokenizer).__name__, tokenizer.special_tokens_map, tokenizer.chat_template, rules]
    return json.dumps(facts, sort_keys=True, default=str).encode()


def _bytes(value: Any) -> bytes:
    """A tensor's shape, type and numbers; what else a state holds, as text."""
    import torch

    if not isinstance(value, torch.Tensor):
        return repr(value).encode()
    flat = value.detach().cpu().contiguous().reshape(-1).view(torch.uint8)
    return f"{tuple(value.shape)} {value.dtype} ".encode() + flat.numpy().tobytes()
