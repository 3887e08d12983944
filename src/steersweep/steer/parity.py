"""Do different ways of reading a model's residual stream see the same numbers?

Tooling is a hidden variable: a library that reads another site, or another row, gives directions
that steer a little worse and look like a finding. Every job compares the readers that are installed
on the model at hand before anything else.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any

import torch
from torch import Tensor, nn

from steersweep.core.printing import first_line
from steersweep.model.chat_model import ChatModel

Sites = dict[str, Tensor]
Reader = Callable[[ChatModel, Sequence[Sequence[int]]], Sites]

# Largest relative difference that counts as equal: a few roundings of the type.
TOLERANCES = {
    torch.float64: 1e-12,
    torch.float32: 1e-5,
    torch.bfloat16: 1e-2,
    torch.float16: 2e-3,
}
_MOST = 1e9  # stands for infinity, which JSON has not
_LONGEST = 12  # tokens at a prompt's end: a site that is wrong is wrong at any length
PROBES = ("Hello", "What is the capital of France, and which river flows through it?")


@dataclass(frozen=True)
class Parity:
    """A reader compared with this package's hooks.

    Attributes:
        reader: `nnsight` or `transformers`.
        equal: whether every site agrees within the tolerance.
        difference: largest difference over the largest value of the site, over all sites.
        tolerance: of the model's type.
        site: the first site that is apart, in the order of computation; None if none is.
        n_sites: sites compared.
        error: why the reader cannot read this model at all, which is no disagreement; else empty.
    """

    reader: str
    equal: bool
    difference: float
    tolerance: float
    site: str | None
    n_sites: int
    error: str = ""


def compare_readers(chat: ChatModel, texts: Sequence[str] = PROBES) -> list[Parity]:
    """Every installed reader against the hooks: embeddings, each layer's output, the final norm.

    Prompts of different lengths share the batch, so padding is in it; padded positions do not
    count. The ends of the prompts are read, the first one's shorter than the others'.
    """
    first, *others = [chat.prompt_ids(text)[-_LONGEST:] for text in texts]
    prompts = [first[len(first) // 3 :], *others]
    own = read_with_hooks(chat, prompts)
    real = chat.pad(prompts).attention_mask.bool()
    readers: dict[str, Reader] = {"transformers": read_with_transformers}
    if find_spec("nnsight") is not None:
        readers["nnsight"] = read_with_nnsight
    found = []
    for name, reader in readers.items():
        try:
            other = reader(chat, prompts)
        except Exception as error:  # a library that cannot read a model says so in many ways
            reason = f"{type(error).__name__}: {first_line(error)}"
            found.append(Parity(name, True, 0.0, TOLERANCES[chat.dtype], None, 0, reason))
        else:
            found.append(_compared(chat, name, own, other, real))
    return found


def _compared(chat: ChatModel, reader: str, own: Sites, other: Sites, real: Tensor) -> Parity:
    tolerance = TOLERANCES[chat.dtype]
    if "norm" in other:
        # Some networks scale what the norm gives before the head; it is one direction all the same.
        scale = own["norm"].float().norm() / other["norm"].float().norm().clamp(min=1e-9)
        if abs(float(scale) - 1) > tolerance:
            other = {**other, "norm": other["norm"].float() * scale}
    differences = {
        site: _difference(own[site][real], other[site][real]) for site in own if site in other
    }
    apart = [site for site, value in differences.items() if value > tolerance]
    return Parity(
        reader,
        not apart,
        max(differences.values()),
        tolerance,
        apart[0] if apart else None,
        len(differences),
    )


def _difference(own: Tensor, other: Tensor) -> float:
    own, other = own.float(), other.float()
    if own.shape != other.shape:
        return _MOST
    # Two readers of an overflow agree: that the model broke is for others to say.
    same = (own == other) | (own.isnan() & other.isnan())
    apart = (own - other).abs().masked_fill(same, 0.0).nan_to_num(nan=torch.inf)
    size = own[own.isfinite()].abs().max() if bool(own.isfinite().any()) else own.new_tensor(1.0)
    return min(_MOST, float(apart.max() / size.clamp(min=1e-9)))


@torch.inference_mode()
def read_with_hooks(chat: ChatModel, prompts: Sequence[Sequence[int]]) -> Sites:
    """By site, `[row, position, d_model]`, read as everything in this package is."""
    found: Sites = {}

    def read_input(_layer: int, hidden: Tensor) -> None:
        found["embeddings"] = hidden

    def read(layer: int, hidden: Tensor) -> None:
        found[f"layer {layer}"] = hidden

    def read_norm(hidden: Tensor) -> Tensor:
        found["norm"] = hidden
        return hidden[:, -1:].contiguous()  # nobody wants the logits

    batch = chat.pad(prompts)
    with (
        chat.layer_hooks(read_input, [0], "resid_pre"),
        chat.layer_hooks(read, range(chat.n_layers)),
        chat.head_input(read_norm),
    ):
        chat.logits(
            batch.input_ids,
            batch.attention_mask,
            batch.position_ids,
            keep=batch.input_ids.shape[1],
        )
    return found


@torch.inference_mode()
def read_with_transformers(chat: ChatModel, prompts: Sequence[Sequence[int]]) -> Sites:
    """transformers' own hidden states. The last of them lies after the final norm."""
    batch = chat.pad(prompts)
    with chat.head_input(lambda hidden: hidden[:, -1:].contiguous()):
        states = chat.hidden_states(batch)
    last = len(states) - 1
    names = ["embeddings", *(f"layer {layer}" for layer in range(last - 1)), "norm"]
    return dict(zip(names, states, strict=True))


def read_with_nnsight(chat: ChatModel, prompts: Sequence[Sequence[int]]) -> Sites:
    """The same sites in one nnsight trace. The network is afterwards what it was before."""
    with _put_back(chat.model):
        return _traced(chat, prompts)


@contextmanager
def _put_back(network: nn.Module) -> Iterator[None]:
    """nnsight gives every module a `forward` of its own, which would stay for good."""
    held = [(module, dict(vars(module))) for module in network.modules()]
    try:
        yield
    finally:
        for module, attributes in held:
            vars(module).clear()
            vars(module).update(attributes)


def _traced(chat: ChatModel, prompts: Sequence[Sequence[int]]) -> Sites:
    import nnsight

    model = nnsight.TransformersModel(chat.model, tokenizer=chat.tokenizer, task="text-generation")
    names = {id(module): name for name, module in chat.model.named_modules()}
    layers = [_envoy(model, names[id(layer)]) for layer in chat.layers]
    head = _envoy(model, names[id(chat.model.get_output_embeddings())])
    batch = chat.pad(prompts)
    inputs = chat.forward_inputs(batch)
    with torch.no_grad(), model.trace(inputs):
        # In the order of computation, as nnsight demands.
        embeddings = layers[0].input.save()
        outputs = nnsight.save([])
        for layer in layers:
            outputs.append(layer.output)
        norm = head.input.save()
    found = {"embeddings": embeddings}
    for index, output in enumerate(outputs):
        found[f"layer {index}"] = output[0] if isinstance(output, tuple) else output
    return {**found, "norm": norm}


def _envoy(model: Any, path: str) -> Any:
    """nnsight's handle of a module by its name, such as `model.layers.3`."""
    for part in path.split("."):
        model = model[int(part)] if part.isdigit() else getattr(model, part)
    return model
