"""How much memory a model and its rows take, and what happens when there is not enough.

The model below is arithmetic on a config. At run time free memory sets how many rows share a batch;
where that was too many all the same, the batch is done again with half of them.
"""

from __future__ import annotations

import gc
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar

from steersweep.core.errors import SteersweepError
from steersweep.core.printing import first_line
from steersweep.model.quantization import is_quantized, runs_as, stored_bytes

T = TypeVar("T")

# Bytes per element of weights that are ordinary numbers; others see `quantization.stored_bytes`.
_DENSE_BYTES = {"fp32": 4.0, "bf16": 2.0, "fp16": 2.0}
# Context of the driver, libraries' workspaces, fragments.
OVERHEAD_BYTES = 1.5e9
# Share of free memory that rows may fill by the model; the rest is for what it does not know.
_FILLED = 0.85


class OutOfMemory(SteersweepError):
    """A model, or a single row of it, does not fit the memory of the device it was tried on."""


@dataclass(frozen=True)
class MemoryModel:
    """What memory depends on; all counts are of elements.

    Attributes:
        parameters: weights in all.
        embeddings: those of the input and output embeddings, which quantization leaves in 16 bits.
        n_layers: decoder layers.
        d_model: width of the residual stream.
        n_heads: attention heads.
        q_width: width of all queries.
        kv_width: width of all keys of a layer (grouped heads: fewer than queries).
        mlp_width: width inside the MLP.
        vocab_size: logits per position.
    """

    parameters: int
    embeddings: int
    n_layers: int
    d_model: int
    n_heads: int
    q_width: int
    kv_width: int
    mlp_width: int
    vocab_size: int

    def weights(self, precision: str) -> int:
        """Bytes of the loaded weights."""
        other = self.parameters - self.embeddings
        each = _DENSE_BYTES.get(runs_as(precision)) or stored_bytes(precision)
        embedded = 2.0 if is_quantized(precision) else each
        return int(other * each + self.embeddings * embedded)

    def cache(self, precision: str, positions: int) -> int:
        """Bytes of keys and values of one row of `positions` tokens."""
        return int(2 * self.n_layers * self.kv_width * positions * _state_bytes(precision))

    def activations(self, precision: str, prompt_tokens: int) -> int:
        """Bytes one row needs at most in the prefill of a layer, and for its logits."""
        one = _state_bytes(precision)
        per_token = 4 * self.d_model + 2 * self.q_width + 2 * self.kv_width + 3 * self.mlp_width
        scores = self.n_heads * prompt_tokens * prompt_tokens * (4 + one)
        return int(prompt_tokens * per_token * one + scores + self.vocab_size * (one + 4))

    def row(self, precision: str, prompt_tokens: int, new_tokens: int) -> int:
        """Bytes of one row of a generation batch."""
        cache = self.cache(precision, prompt_tokens + new_tokens)
        return cache + self.activations(precision, prompt_tokens)

    def rows_that_fit(
        self, precision: str, prompt_tokens: int, new_tokens: int, *, free: float
    ) -> int:
        """Rows for which `free` bytes beside the weights are enough; 0: none."""
        return int(max(0.0, free) * _FILLED // self.row(precision, prompt_tokens, new_tokens))


def memory_model(config: Any, network: Any = None) -> MemoryModel:
    """The memory model of a transformers config.

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
    return MemoryModel(
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
        device: torch device; only a CUDA device tells its free memory.
        what: model and device, for the message.
    """

    def __init__(self, asked: int, row_bytes: int, device: str, what: str) -> None:
        self._most = asked
        self._row_bytes = row_bytes
        self._device = device
        self._what = what
        self.used = asked

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
        return max(1, min(self._most, int(free * _FILLED // self._row_bytes)))


def free_bytes(device: str) -> int | None:
    """Memory on a CUDA device that this process could have; None on other devices."""
    import torch

    if torch.device(device).type != "cuda":
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


def _state_bytes(precision: str) -> int:
    """Bytes of an element of the residual stream, keys and values."""
    return 4 if runs_as(precision) == "fp32" else 2
