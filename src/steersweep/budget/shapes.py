"""What a model's shape says of memory: weights, cache, activations, rows that fit."""

from __future__ import annotations

import math
from dataclasses import dataclass

from steersweep.catalog.models import model_shapes
from steersweep.core.precision_labels import INT8_DYNAMIC, is_quantized, runs_as, stored_bytes

# Bytes per element of weights that are ordinary numbers; for others see `stored_bytes`.
_DENSE_BYTES = {"fp32": 4.0, "bf16": 2.0, "fp16": 2.0}
# Context of the driver, libraries' workspaces, fragments.
OVERHEAD_BYTES = 1.5e9
# Share of free memory that rows may fill by this arithmetic; the rest is for what it does not know.
FILLED = 0.85


@dataclass(frozen=True)
class ModelShape:
    """What memory and time depend on; all counts are of elements.

    Attributes:
        parameters: weights in all.
        embeddings: those of the input and output embeddings, which most quantization leaves alone.
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
        if runs_as(precision) == INT8_DYNAMIC:
            # The output layer is apart from the input embedding, which stays as it is.
            return self.read(precision) + self._table * _state_bytes(precision)
        other = self.parameters - self.embeddings
        each = _DENSE_BYTES.get(runs_as(precision)) or stored_bytes(precision)
        embedded = float(_state_bytes(precision)) if is_quantized(precision) else each
        return int(other * each + self.embeddings * embedded)

    def read(self, precision: str) -> int:
        """Bytes of weights that a decoding step reads."""
        if runs_as(precision) != INT8_DYNAMIC:
            return self.weights(precision)
        layers = self.parameters - self.embeddings + self._table
        return int(layers * stored_bytes(precision))

    @property
    def _table(self) -> int:
        """Elements of the input embedding, or of the output layer."""
        return self.vocab_size * self.d_model

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
        return int(max(0.0, free) * FILLED // self.row(precision, prompt_tokens, new_tokens))


def catalog_shape(model_id: str, parameters: int) -> ModelShape | None:
    """The shape of a model of the catalog, which does not say how many parameters it has."""
    facts = model_shapes().get(model_id)
    if facts is None:
        return None
    matrices = 1 if facts["tied"] else 2
    return ModelShape(
        parameters=parameters,
        embeddings=matrices * facts["vocab_size"] * facts["d_model"],
        n_layers=facts["n_layers"],
        d_model=facts["d_model"],
        n_heads=facts["n_heads"],
        q_width=facts["n_heads"] * facts["head_dim"],
        kv_width=facts["kv_heads"] * facts["head_dim"],
        mlp_width=facts["mlp_width"],
        vocab_size=facts["vocab_size"],
    )


def guessed_shape(parameters: int, n_layers: int) -> ModelShape:
    """A shape that such a model often has.

    A layer has about twelve squares of its width; four queries share keys and values.
    """
    width = int(math.sqrt(parameters / (12 * n_layers))) + 1
    heads = max(1, width // 128)
    vocab = min(150_000, max(1, parameters // (10 * width)))
    return ModelShape(
        parameters, vocab * width, n_layers, width, heads, width, width // 4, 4 * width, vocab
    )


def _state_bytes(precision: str) -> int:
    """Bytes of an element of the residual stream, keys and values."""
    return 4 if runs_as(precision) in ("fp32", INT8_DYNAMIC) else 2
