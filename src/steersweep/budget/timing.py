"""Time of forward passes before a run: arithmetic on a model's shape and a machine's rates.

A pass reads the weights once, multiplies them with every token, attends to what came before, and
takes a moment per layer whatever the batch. On a CPU other precisions multiply at other rates, and
take the same for all the rest. `benchmarks/cost_curves.py` holds this against runs.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from steersweep.budget.shapes import ModelShape
from steersweep.core.precision_labels import INT8_DYNAMIC, runs_as


@dataclass(frozen=True)
class Machine:
    """What a machine reaches while it runs a model.

    Attributes:
        start_s: until a job's program runs: container, imports.
        load_rate: bytes of weights per second, from disk to where they are used.
        flops: operations per second of matrix products.
        read_rate: bytes of weights read per second.
        layer_s: seconds a layer takes at least, per pass.
        element_s: seconds per row, layer and element of the residual stream in a decoding step, for
            all that is not a matrix product.
        pass_element_s: the same per token of a pass over many tokens.
        logit_s: seconds per logit that is turned into a likelihood.
        attended_s: seconds per layer, element of the queries and position attended to.
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
    products: Mapping[str, float] = field(default_factory=dict)

    def step(self, model: ModelShape, precision: str, rows: float, context: float) -> float:
        """Seconds of one decoding step.

        Args:
            model: its shape.
            precision: it runs in.
            rows: in the batch, on average.
            context: positions a row attends to.
        """
        reading = self.layer_s * model.n_layers + model.read(precision) / self.read_rate
        attending = self.attended_s * model.n_layers * model.q_width * context
        return reading + rows * (self._token(model, precision, self.element_s) + attending)

    def tokens(self, model: ModelShape, precision: str, count: float) -> float:
        """Seconds of passes over many tokens, by their number."""
        return count * self._token(model, precision, self.pass_element_s)

    def scored(self, model: ModelShape, precision: str, count: float) -> float:
        """The same, with how likely each token is."""
        return self.tokens(model, precision, count) + count * model.vocab_size * self.logit_s

    def _token(self, model: ModelShape, precision: str, element_s: float) -> float:
        # Of the input embedding only one row is read; where it is tied the output needs all.
        flops = self.flops * self.products.get(runs_as(precision), 1.0)
        products = 2 * model.parameters / flops
        return products + element_s * model.n_layers * model.d_model


# Shares of the data sheet that a GPU reaches; rough, finished jobs correct them (`calibration`).
_COMPUTE_SHARE, _BANDWIDTH_SHARE = 0.3, 0.6


def gpu(facts: Mapping[str, float]) -> Machine:
    """A machine with one GPU of the catalog."""
    return Machine(
        start_s=60.0,
        load_rate=0.5e9,
        flops=facts["tflops"] * 1e12 * _COMPUTE_SHARE,
        read_rate=facts["bandwidth_gb_s"] * 1e9 * _BANDWIDTH_SHARE,
        layer_s=0.001,
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
