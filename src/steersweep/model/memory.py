"""A model's shape by its config, and what happens when memory is not enough.

At run time free memory sets how many rows share a batch; where that was too many all the same, the
batch is done again with half of them.
"""

from __future__ import annotations

import gc
from collections.abc import Callable
from typing import Any, TypeVar

import psutil

from steersweep.budget.shapes import FILLED, ModelShape
from steersweep.core.errors import SteersweepError
from steersweep.core.printing import first_line

T = TypeVar("T")


class OutOfMemory(SteersweepError):
    """A model, or a single row of it, does not fit the memory of the device it was tried on."""


def model_shape(config: Any, network: Any = None) -> ModelShape:
    """The shape of a model by its transformers config.

    Args:
        config: of the model.
        network: the loaded model; without one its parameters are counted on the meta device.

    Raises:
        InputError: the model is of a kind that does not continue text.
    """
    import torch

    from steersweep.model.architectures import auto_class

    text = config.get_text_config()
    # State-space models have no attention heads, some others a number for each layer.
    heads = _most(text, "num_attention_heads") or 1
    head_width = _most(text, "head_dim") or int(text.hidden_size) // heads
    kv_heads = _most(text, "num_key_value_heads") or heads
    if network is None:
        with torch.device("meta"):
            network = auto_class(config, config.name_or_path).from_config(config)
    embeddings = {
        id(weight): weight.numel()
        for module in (network.get_input_embeddings(), network.get_output_embeddings())
        if (weight := getattr(module, "weight", None)) is not None
    }
    return ModelShape(
        parameters=sum(parameter.numel() for parameter in network.parameters()),
        embeddings=sum(embeddings.values()),
        n_layers=int(text.num_hidden_layers),
        d_model=int(text.hidden_size),
        n_heads=heads,
        q_width=heads * head_width,
        kv_width=kv_heads * head_width,
        mlp_width=_most(text, "intermediate_size") or 4 * int(text.hidden_size),
        vocab_size=int(text.vocab_size),
    )


def _most(config: Any, name: str) -> int:
    """A size in a config, the largest of a list of them; 0 where there is none."""
    value = getattr(config, name, None) or 0
    return int(max(value) if isinstance(value, (list, tuple)) else value)


class RowLimit:
    """Rows a batch may have: as many as asked for, fewer where memory does not allow it.

    Args:
        asked: rows at most.
        row_bytes: what one row takes by the memory model.
        device: torch device.
        what: model and device, for the message.
    """

    def __init__(self, asked: int, row_bytes: int, device: str, what: str) -> None:
        self._most = asked
        self._row_bytes = row_bytes
        self._device = device
        self._what = what
        self.used = asked

    @property
    def most(self) -> int:
        """As many as a batch may have by what was seen so far."""
        return self._most

    def fit(self, row_bytes: int) -> None:
        """Rows take so much from now on."""
        self._row_bytes = row_bytes

    def run(self, attempt: Callable[[int], T]) -> T:
        """`attempt(rows)`, again with half the rows as long as memory runs out.

        Raises:
            OutOfMemory: one row was too many.
        """
        rows = self._now()
        while True:
            try:
                result = attempt(rows)
            except (RuntimeError, MemoryError) as error:
                if not is_out_of_memory(error):
                    raise
                reason = first_line(error)
            else:
                self.used = rows
                return result
            # Only here have the tensors of the failed attempt been let go.
            free_memory()
            if rows == 1:
                raise OutOfMemory(f"{self._what}: out of memory with a single row: {reason}")
            rows = self._most = rows // 2

    def _now(self) -> int:
        free = free_bytes(self._device)
        if free is None:
            return self._most
        return max(1, min(self._most, int(free * FILLED // self._row_bytes)))


def free_bytes(device: str) -> int | None:
    """Memory that this process could have for work on a device; None where nothing tells."""
    import torch

    kind = torch.device(device).type
    if kind in ("cpu", "mps"):
        return int(psutil.virtual_memory().available)
    if kind != "cuda":
        return None
    free, _ = torch.cuda.mem_get_info(device)
    held = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
    return int(free + held)


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error says that memory ran out, on a GPU or in the machine."""
    import torch

    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return True
    text = str(error)
    return isinstance(error, RuntimeError) and any(
        sign in text
        for sign in ("out of memory", "can't allocate memory", "CUBLAS_STATUS_ALLOC_FAILED")
    )


def free_memory() -> None:
    """Let go of what a failed attempt held."""
    import torch

    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
