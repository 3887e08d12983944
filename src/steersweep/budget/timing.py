"""Time of forward passes before a run: arithmetic on a model's shape and a machine's rates.

A pass reads the weights once, multiplies them with every token, attends to what came before, and
takes a moment per layer whatever the batch. On a CPU other precisions multiply at other rates, and
take the same for all the rest; a GPU reads weights while it multiplies, and beside products a step
moves keys and values. `benchmarks/cost_curves.py` holds this against runs.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from steersweep.budget.shapes import ModelShape
from steersweep.core.precision_labels import INT8_DYNAMIC, is_quantized, runs_as


@dataclass(frozen=True)
class Machine:
    """What a machine reaches while it runs a model.

    Attributes:
        start_s: until a job's program runs: container, imports.
        load_rate: bytes of weights per second, from disk to where they are used.
        flops: operations per second of matrix products.
        read_rate: bytes of weights read per second.
        layer_s: seconds a layer takes at least, per pass.
        unrecorded_layer_s: the same of a model that a GPU cannot run as a recording.
        element_s: seconds per row, layer and element of the residual stream in a decoding step, for
            all that is not a matrix product.
        pass_element_s: the same per token of a pass over many tokens.
        logit_s: seconds per logit that is turned into a likelihood.
        attended_s: seconds per layer, element of the queries and position attended to.
        cached_s: seconds per row, layer, element of the keys and position in the cache.
        row_positions: what a row takes beside products and its positions, as so many of these.
        reads_beside: whether weights are read while products are made.
        products: how many times `flops` is reached, by the precision that a model runs in; once,
            where it is not named.
    """

    start_s: float
    load_rate: float
    flops: float
    read_rate: float
    layer_s: float
    element_s: float = 0.0
    pass_element_s: float = 0.0
    logit_s: float = 0.0
    attended_s: float = 0.0
    unrecorded_layer_s: float = 0.0
    cached_s: float = 0.0
    row_positions: float = 0.0
    reads_beside: bool = False
    products: Mapping[str, float] = field(default_factory=dict)

    def step(self, model: ModelShape, precision: str, rows: float, context: float) -> float:
        """Seconds of one decoding step.

        Args:
            model: its shape.
            precision: it runs in.
            rows: in the batch, on average.
            context: positions a row attends to.
        """
        moment = self.layer_s
        if is_quantized(precision):
            moment = max(moment, self.unrecorded_layer_s)
        reading = model.read(precision) / self.read_rate
        products = rows * self._products(model, precision)
        weights = max(reading, products) if self.reads_beside else reading + products
        of_row = self.element_s * model.d_model + self.attended_s * model.q_width * context
        of_row += self.cached_s * model.kv_width * (context + self.row_positions)
        return weights + model.n_layers * (moment + rows * of_row)

    def tokens(self, model: ModelShape, precision: str, count: float) -> float:
        """Seconds of passes over many tokens, by their number."""
        of_token = self.pass_element_s * model.n_layers * model.d_model
        return count * (self._products(model, precision) + of_token)

    def scored(self, model: ModelShape, precision: str, count: float) -> float:
        """The same, with how likely each token is."""
        return self.tokens(model, precision, count) + count * model.vocab_size * self.logit_s

    def _products(self, model: ModelShape, precision: str) -> float:
        # Of the input embedding only one row is read; where it is tied the output needs all.
        return 2 * model.parameters / (self.flops * self.products.get(runs_as(precision), 1.0))


# Shares of the data sheet that one H200 reached with three shapes of models and a family of random
# ones in bf16 (docs/performance.md); other GPUs are taken to reach them too. Finished jobs correct
# this (`calibration`). Not measured: fp16, and what bitsandbytes quantizes.
_COMPUTE_SHARE, _BANDWIDTH_SHARE = 0.76, 0.80
# Bytes of memory's traffic, at the rate that is reached: for an element of the keys and a position
# in a step, and for an element of the residual stream in a pass over many tokens.
_CACHED_BYTES, _PASS_BYTES = 15.3, 402


def gpu(facts: Mapping[str, float]) -> Machine:
    """A machine with one GPU of the catalog."""
    read_rate = facts["bandwidth_gb_s"] * 1e9 * _BANDWIDTH_SHARE
    return Machine(
        start_s=60.0,
        load_rate=0.5e9,
        flops=facts["tflops"] * 1e12 * _COMPUTE_SHARE,
        read_rate=read_rate,
        layer_s=0.00011,
        pass_element_s=_PASS_BYTES / read_rate,
        unrecorded_layer_s=0.001,
        cached_s=_CACHED_BYTES / read_rate,
        row_positions=182,
        reads_beside=True,
    )


# Two cores of a recent server (Intel Xeon with AVX-512), float32, from benchmarks/cost_curves.py.
# An older one took 1.5 times as long; finished jobs correct that. `products` are of the same Xeon,
# which multiplies bytes (VNNI) and 16 bits at half the rate of 32; others may multiply these faster
# (docs/performance.md). Not measured: fp16, and what bitsandbytes quantizes.
CPU = Machine(
    start_s=0.3,
    load_rate=0.5e9,
    flops=380e9,
    read_rate=30e9,
    layer_s=0.00022,
    element_s=3.4e-8,
    pass_element_s=1.2e-8,
    logit_s=1.5e-9,
    attended_s=3.1e-10,
    products={INT8_DYNAMIC: 3.6, "bf16": 0.55},
)
