"""Where a direction must be ablated so that nothing is left of it in the residual stream.

The official code edits every layer's input, its attention's output and its MLP's output. In other
architectures more is written into the stream (a second MLP, a state space, norms after both), so
there the writers are found by looking at a pass. Either way what is left is measured on the model.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from steersweep.core.errors import InputError
from steersweep.core.printing import first_line
from steersweep.model.batch import Batch
from steersweep.model.chat_model import ChatModel
from steersweep.model.decoder import ATTENTION, MLP
from steersweep.model.memory import is_out_of_memory
from steersweep.steer.found import looked_once
from steersweep.steer.probe import ordinary_tokens
from steersweep.steer.regime_search import regime_of

# Architectures that the official code knows: its own places are kept there, also where norms after
# attention and MLP (Gemma 2) bring something back.
_OFFICIAL = ("gemma", "gemma2", "llama", "mistral", "qwen2")
_TOKENS = 16
_LEFT = 1e-6  # of the stream's length, in float32

PartHook = Callable[[Tensor], Tensor | None]


@dataclass(frozen=True)
class AblationSites:
    """Where a direction is ablated, beside every layer's input.

    Attributes:
        writers: by layer, its parts whose output is written into the stream, by name.
        outputs: whether every layer's output is edited too.
        left: largest share of the stream that lies along an ablated direction afterwards.
        complete: whether that is no more than rounding.
    """

    writers: list[list[str]]
    outputs: bool
    left: float = 0.0
    complete: bool = True

    @contextmanager
    def edited(self, chat: ChatModel, edit: PartHook, layers: range) -> Iterator[None]:
        """While open, `edit` changes what these layers write: `[..., d_model]`."""
        with ExitStack() as stack:
            for layer in layers:
                for name in self.writers[layer]:
                    module = chat.layers[layer].get_submodule(name)
                    stack.enter_context(_output_hook(module, edit))
            if self.outputs:
                stack.enter_context(chat.layer_hooks(lambda _layer, hidden: edit(hidden), layers))
            yield


def ablation_sites_of(chat: ChatModel) -> AblationSites:
    """Where a direction is ablated everywhere in a model; found and measured once.

    Raises:
        InputError: something of it stays in the stream whatever is edited.
    """
    return looked_once(chat, "ablation", AblationSites, _looked)


def _looked(chat: ChatModel) -> AblationSites | InputError:
    regime_of(chat)
    name = type(chat.model).__name__
    kind = getattr(chat.model.config.get_text_config(), "model_type", "")
    if kind in _OFFICIAL:
        writers = [[_there(layer, ATTENTION), _there(layer, MLP)] for layer in chat.layers]
        left, _ = _left(chat, AblationSites(writers, outputs=False))
        return AblationSites(writers, False, left, left <= _limit(chat))
    reason = ""
    try:
        branches, norms = _writers(chat)
        both = [[*some, *after] for some, after in zip(branches, norms, strict=True)]
        # No more than is needed: a norm after a part may also be what the next part reads through.
        for writers, outputs in ((branches, False), (both, False), (branches, True), (both, True)):
            left, where = _left(chat, AblationSites(writers, outputs))
            if left <= _limit(chat):
                return AblationSites(writers, outputs, left)
            reason = reason or f"{left:.1e} of the stream's length is left {where}"
    except Exception as error:  # of a network whose parts cannot be edited
        if is_out_of_memory(error):
            raise
        reason = first_line(error)
    return InputError(
        f"{chat.source.model_id}: a direction cannot be ablated everywhere in a {name} ({reason}); "
        f"use a method that does not need it, such as dim or cosmic-affine"
    )


def _there(layer: nn.Module, names: tuple[str, ...]) -> str:
    return next(name for name in names if getattr(layer, name, None) is not None)


def _limit(chat: ChatModel) -> float:
    """What rounding may leave."""
    return max(_LEFT, torch.finfo(chat.dtype).eps / 2 if chat.dtype != torch.float32 else 0.0)


def _writers(chat: ChatModel) -> tuple[list[list[str]], list[list[str]]]:
    """By layer, names of parts that may write into the stream, found in a pass.

    Of the parts of a layer (its attention, MLPs, state space, ...) those that give a state of the
    stream's width; and the norms that take what one of these gave.
    """
    batch = chat.pad([ordinary_tokens(chat, _TOKENS)])
    size = batch.input_ids.numel() * chat.d_model
    seen: list[tuple[nn.Module, Any, Any]] = []  # also keeps tensors alive, so that none is reused

    def look(module: nn.Module, args: tuple[Any, ...], output: Any) -> None:
        seen.append((module, args[0] if args else None, _first(output)))

    def gives_state(module: nn.Module) -> bool:
        return any(
            one is module and _is_state(output, size, chat.d_model) for one, _, output in seen
        )

    modules = {id(part): part for layer in chat.layers for part in layer.modules()}
    handles = [part.register_forward_hook(look) for part in modules.values()]
    try:
        _run(chat, batch)
    finally:
        for handle in handles:
            handle.remove()
    found: tuple[list[list[str]], list[list[str]]] = [], []
    for layer in chat.layers:
        parts = list(_parts(layer, gives_state))
        branches = [part for part in parts if not _passes_on(part) and gives_state(part)]
        given = {
            output.data_ptr() for module, _, output in seen if any(module is b for b in branches)
        }
        after = [
            module
            for module, taken, _ in seen
            if _is_norm(module)
            and any(module is part for part in parts)
            and isinstance(taken, Tensor)
            and taken.data_ptr() in given
        ]
        names = {id(part): name for name, part in layer.named_modules()}
        found[0].append([names[id(part)] for part in branches])
        found[1].append([names[id(part)] for part in after])
    return found


def _parts(module: nn.Module, gives_state: Callable[[nn.Module], bool]) -> Iterator[nn.Module]:
    """Modules that a layer calls itself; those in lists, and in layers within the layer, too."""
    for child in module.children():
        if isinstance(child, (nn.ModuleList, nn.ModuleDict)):
            yield from _parts(child, gives_state)
            continue
        inner = list(child.children())
        yield child
        if any(map(_is_norm, inner)) and any(
            list(part.children()) and gives_state(part) for part in inner
        ):
            yield from _parts(child, gives_state)


def _is_norm(module: nn.Module) -> bool:
    return "norm" in type(module).__name__.lower() and not any(
        list(part.children()) for part in module.children()
    )


def _passes_on(module: nn.Module) -> bool:
    """Whether a module only changes the form of what it takes."""
    return _is_norm(module) or isinstance(module, (nn.Dropout, nn.Identity))


def _is_state(output: Any, size: int, d_model: int) -> bool:
    return isinstance(output, Tensor) and output.shape[-1:] == (d_model,) and output.numel() == size


def _first(output: Any) -> Any:
    return output[0] if isinstance(output, tuple) and output else output


@contextmanager
def _output_hook(module: nn.Module, edit: PartHook) -> Iterator[None]:
    def on_output(_module: nn.Module, _inputs: Any, output: Any) -> Any:
        is_tuple = isinstance(output, tuple)
        edited = edit(output[0] if is_tuple else output)
        if edited is None:
            return None
        return (edited, *output[1:]) if is_tuple else edited

    handle = module.register_forward_hook(on_output)
    try:
        yield
    finally:
        handle.remove()


def _left(chat: ChatModel, sites: AblationSites) -> tuple[float, str]:
    """Largest share along an ablated direction, of what layers give and what their norms take."""
    noise = torch.randn(chat.d_model, generator=torch.Generator().manual_seed(1))
    unit = (noise / noise.norm()).to(chat.device, chat.dtype)
    found: list[tuple[float, str]] = []

    def ablate(hidden: Tensor) -> Tensor:
        left: Tensor = hidden - (hidden @ unit)[..., None] * unit
        return left

    def measure(hidden: Tensor, where: str) -> None:
        states = hidden.float()
        along = (states @ unit.float()).abs() / states.norm(dim=-1).clamp(min=1e-9)
        found.append((float(along.max().nan_to_num(nan=torch.inf)), where))

    layers = range(chat.n_layers)
    with ExitStack() as stack:
        stack.enter_context(
            chat.layer_hooks(lambda _layer, hidden: ablate(hidden), layers, "resid_pre")
        )
        stack.enter_context(sites.edited(chat, ablate, layers))
        stack.enter_context(
            chat.layer_hooks(lambda layer, hidden: measure(hidden, f"after layer {layer}"), layers)
        )
        for index, layer in enumerate(chat.layers):
            for name, part in layer.named_children():
                if _is_norm(part):
                    stack.enter_context(
                        _input_hook(part, f"before {name} of layer {index}", measure)
                    )
        batch = chat.pad([ordinary_tokens(chat, _TOKENS)])
        _run(chat, batch)
    return max(found)


def _run(chat: ChatModel, batch: Batch) -> None:
    """A pass in which no layer leaves out positions whose logits nobody wants."""
    tokens = batch.input_ids
    chat.logits(tokens, batch.attention_mask, batch.position_ids, keep=tokens.shape[1])


@contextmanager
def _input_hook(
    module: nn.Module, where: str, measure: Callable[[Tensor, str], None]
) -> Iterator[None]:
    def on_input(_module: nn.Module, args: tuple[Any, ...]) -> None:
        if args and isinstance(args[0], Tensor):
            measure(args[0], where)

    handle = module.register_forward_pre_hook(on_input)
    try:
        yield
    finally:
        handle.remove()
