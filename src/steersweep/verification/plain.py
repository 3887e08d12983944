"""The other side of the comparison: plain transformers, one prompt at a time, hooks of its own.

Uses nothing of the package, no cache, no padding and no mask.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor


@dataclass(frozen=True)
class Answer:
    """Greedy tokens, and how far below the second best was at each step, over the largest logit."""

    tokens: tuple[int, ...]
    margins: tuple[float, ...]

    def until(self, endings: Sequence[int]) -> Answer:
        """Cut before the first of these tokens; the margins keep that step."""
        for index, token in enumerate(self.tokens):
            if token in endings:
                return Answer(self.tokens[:index], self.margins[: index + 1])
        return self


@dataclass(frozen=True)
class Push:
    """`vector` `[d_model]` added to the output of layers `[start, stop)`, at all positions."""

    vector: Tensor
    start: int
    stop: int


def layers_of(model: Any) -> list[Any]:
    """The decoder's layers: the first list of as many modules as the text config says."""
    count = model.config.get_text_config().num_hidden_layers
    return next(
        list(module)
        for name, module in model.named_modules()
        if isinstance(module, torch.nn.ModuleList)
        and len(module) == count
        and "vision" not in name
        and "visual" not in name
    )


def prompt_ids(tokenizer: Any, text: str) -> list[int]:
    """A user prompt in the chat template."""
    ids = tokenizer.apply_chat_template(
        [{"role": "user", "content": text}],
        add_generation_prompt=True,
        tokenize=True,
        return_dict=False,
    )
    return [int(token) for token in ids]


@torch.inference_mode()
def greedy(model: Any, ids: Sequence[int], push: Push | None, count: int) -> Answer:
    """`count` tokens, each from a pass over everything before it."""
    tokens: list[int] = []
    margins: list[float] = []
    with _pushed(model, push):
        for _ in range(count):
            logits = _logits(model, [*ids, *tokens])[-1]
            best, second = logits.topk(2).values.tolist()
            margins.append((best - second) / float(logits.abs().max()))
            tokens.append(int(logits.argmax()))
    return Answer(tuple(tokens), tuple(margins))


@torch.inference_mode()
def last_states(model: Any, ids: Sequence[int]) -> Tensor:
    """Output of every layer at the last token, `[layer, d_model]`, float64."""
    layers = layers_of(model)
    found = [torch.zeros(0, dtype=torch.float64)] * len(layers)

    def read(module: Any, _inputs: Any, output: Any) -> None:
        states = output[0] if isinstance(output, tuple) else output
        while states.ndim > 3:  # of several streams side by side, the first
            states = states[0]
        found[layers.index(module)] = states[0, -1].double()

    handles = [layer.register_forward_hook(read) for layer in layers]
    try:
        _logits(model, ids)
    finally:
        for handle in handles:
            handle.remove()
    width = max(map(len, found))
    empty = torch.zeros(width, dtype=torch.float64)  # layers that do not run for a text alone
    return torch.stack([states if len(states) else empty for states in found])


@torch.inference_mode()
def nll(model: Any, ids: Sequence[int], response: Sequence[int]) -> float:
    """Mean negative log-likelihood of a response after a prompt, nats per token."""
    logits = _logits(model, [*ids, *response])[len(ids) - 1 : -1]
    return float(torch.nn.functional.cross_entropy(logits, torch.tensor(response)))


@contextmanager
def stream_lengths(model: Any, unit: Tensor) -> Iterator[list[float]]:
    """Largest share of each layer's output along `unit`, as later hooks leave it, pass by pass."""
    found: list[float] = []
    handles: list[Any] = []
    layers = layers_of(model)

    def read(_module: Any, _inputs: Any, output: Any) -> None:
        states = output[0] if isinstance(output, tuple) else output
        found.append(float(((states @ unit).abs() / states.norm(dim=-1).clamp(min=1e-9)).max()))

    def begin(_module: Any, _inputs: Any) -> None:
        # Only now, so that these hooks are called after those that edit.
        while len(handles) > 1:
            handles.pop().remove()
        handles.extend(layer.register_forward_hook(read) for layer in layers)

    handles.append(layers[0].register_forward_pre_hook(begin))
    try:
        yield found
    finally:
        for handle in handles:
            handle.remove()


def _logits(model: Any, ids: Sequence[int]) -> Tensor:
    logits: Tensor = model(input_ids=torch.tensor([list(ids)]), use_cache=False).logits
    return logits[0].float()


@contextmanager
def _pushed(model: Any, push: Push | None) -> Iterator[None]:
    def add(_module: Any, _inputs: Any, output: Any) -> Any:
        assert push is not None
        if isinstance(output, tuple):
            return (output[0] + push.vector, *output[1:])
        return output + push.vector

    some = [] if push is None else layers_of(model)[push.start : push.stop]
    handles = [layer.register_forward_hook(add) for layer in some]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
