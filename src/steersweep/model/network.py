"""A causal language model's network: its decoder layers, passes through it, hooks into it."""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, nn

from steersweep.core.errors import InputError
from steersweep.model.batch import Batch, at_positions, index_of
from steersweep.model.decoder import MLP, decoder_layers, taken_by_forward
from steersweep.run.edit_settings import Site

LayerHook = Callable[[int, Tensor], Tensor | None]

# Tokens of a row that prompts share, for each number of a residual stream: where attention, which
# grows with their square, still costs little.
ROW_PER_WIDTH = 0.25

# What configs call the number of tokens that attention sees.
_WINDOWS = (
    "sliding_window",
    "attention_chunk_size",
    "window_size",
    "attention_window_size",
    "index_topk",
)


class Network:
    """A causal language model of transformers, of which layers can be read and edited.

    Site convention, used everywhere: `resid_post[l]` is the output of decoder layer l and
    `resid_pre[l]` its input.

    Attributes:
        model: the network itself.
        layers: its decoder layers, in order.
    """

    def __init__(self, model: Any, model_id: str) -> None:
        self.model = model
        self.layers: Sequence[nn.Module] = decoder_layers(model, model_id)
        taken = taken_by_forward(model)
        self._takes_position_ids = "position_ids" in taken
        self._takes_logits_to_keep = "logits_to_keep" in taken
        self._takes_cache = "past_key_values" in taken

    # -- facts -----------------------------------------------------------------------------------

    @property
    def n_layers(self) -> int:
        """Number of decoder layers."""
        return len(self.layers)

    @property
    def d_model(self) -> int:
        """Width of the residual stream."""
        return int(self.model.get_input_embeddings().weight.shape[1])

    @property
    def device(self) -> torch.device:
        """Where inputs go."""
        return torch.device(self.model.get_input_embeddings().weight.device)

    @property
    def dtype(self) -> torch.dtype:
        """The type of activations."""
        dtype: torch.dtype = self.model.get_input_embeddings().weight.dtype
        return dtype

    @property
    def vocab_size(self) -> int:
        """Number of logits per position."""
        return int(self.model.config.get_text_config().vocab_size)

    @property
    def n_tokens(self) -> int:
        """Number of tokens that the model has an embedding of."""
        return len(self.model.get_input_embeddings().weight)

    @property
    def attention_window(self) -> float:
        """Tokens that attention reaches back in every layer; infinite if nothing limits it."""
        config = self.model.config.get_text_config()
        found = (getattr(config, name, None) for name in _WINDOWS)
        return min((float(size) for size in found if size), default=math.inf)

    # -- running ---------------------------------------------------------------------------------

    @torch.inference_mode()
    def logits(
        self,
        input_ids: Tensor,
        attention_mask: Tensor,
        position_ids: Tensor,
        *,
        cache: Any = None,
        keep: int = 1,
    ) -> Tensor:
        """One forward pass; logits of the last `keep` positions, `[row, keep, vocabulary]`.

        Args:
            input_ids: `[row, new position]`.
            attention_mask: `[row, all positions so far]`; of a model that `takes_pair_masks` it may
                be `[row, 1, new position, all positions so far]`, added to the attention's scores.
            position_ids: `[row, new position]`. A bare forward does not derive them from the mask.
            cache: key-value cache to read and extend, or None.
            keep: how many final positions to compute logits for.
        """
        options: dict[str, Any] = {}
        if self._takes_position_ids:
            options["position_ids"] = position_ids
        if self._takes_logits_to_keep:
            options["logits_to_keep"] = keep
        if cache is not None:
            if not self._takes_cache:  # some of state spaces only keep theirs in ways of their own
                raise InputError(f"a {type(self.model).__name__} takes no key-value cache")
            options["past_key_values"] = cache
        # The head gets the last positions as a slice, of which torch makes a product per row.
        with self.head_input(Tensor.contiguous):
            output = self.model(
                input_ids=input_ids,
                attention_mask=attention_mask,
                use_cache=cache is not None,
                **options,
            )
        logits: Tensor = output.logits
        return logits if self._takes_logits_to_keep else logits[:, -keep:]

    @contextmanager
    def layer_hooks(
        self, hook: LayerHook, layers: Iterable[int], site: Site = "resid_post"
    ) -> Iterator[None]:
        """Call `hook(l, hidden)` at a site of each given decoder layer, while the context is open.

        Hidden states are `[row, position, d_model]`. A returned tensor replaces them; None leaves
        them. The hook must not edit its argument in place: other hooks hold it too.
        """
        handles = [self._attach(hook, layer, site) for layer in layers]
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()

    @contextmanager
    def unhooked(self) -> Iterator[None]:
        """While open, hooks that others have put into the network are not called.

        For looking at the model itself, whoever asks for it and when.
        """
        names = ("_forward_pre_hooks", "_forward_hooks")
        held = [
            (module, name, getattr(module, name))
            for module in self.model.modules()
            for name in names
        ]
        for module, name, _ in held:
            setattr(module, name, OrderedDict())
        try:
            yield
        finally:
            for module, name, hooks in held:
                setattr(module, name, hooks)

    def _attach(self, hook: LayerHook, layer: int, site: Site) -> Any:
        def on_input(_module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
            edited = hook(layer, args[0] if args else kwargs["hidden_states"])
            if edited is None:
                return None
            if args:
                return (edited, *args[1:]), kwargs
            return args, {**kwargs, "hidden_states": edited}

        def on_output(_module: nn.Module, _inputs: Any, output: Any) -> Any:
            # A tensor, or a tuple beginning with it (attention; the layers of Falcon and Bloom).
            is_tuple = isinstance(output, tuple)
            edited = hook(layer, output[0] if is_tuple else output)
            if edited is None:
                return None
            return (edited, *output[1:]) if is_tuple else edited

        module = self.layers[layer]
        if site == "resid_pre":
            return module.register_forward_pre_hook(on_input, with_kwargs=True)
        return module.register_forward_hook(on_output)

    @contextmanager
    def head_input(self, hook: Callable[[Tensor], Tensor | None]) -> Iterator[None]:
        """Call `hook(states)` with what the final norm gives, `[row, position, d_model]`.

        The positions are those that logits are computed for, or all. A tensor it returns takes
        their place: logits are computed for no more than is wanted.
        """

        def before_head(_module: nn.Module, args: tuple[Tensor, ...]) -> Tensor | None:
            return hook(args[0])

        handle = self.model.get_output_embeddings().register_forward_pre_hook(before_head)
        try:
            yield
        finally:
            handle.remove()

    @contextmanager
    def final_states(self, read: Callable[[Tensor], None]) -> Iterator[None]:
        """Call `read(states)` with the last position after the final norm, `[row, d_model]`."""

        def at_end(states: Tensor) -> None:
            read(states[:, -1])

        with self.head_input(at_end):
            yield

    def forward_inputs(self, batch: Batch) -> dict[str, Tensor]:
        """What a plain forward pass of the network is given for a batch."""
        inputs = {"input_ids": batch.input_ids, "attention_mask": batch.attention_mask}
        return inputs | ({"position_ids": batch.position_ids} if self._takes_position_ids else {})

    @torch.inference_mode()
    def hidden_states(self, batch: Batch) -> tuple[Tensor, ...]:
        """transformers' own, to be compared with: the input of every layer, then the final norm.

        They may miss what hooks change; never read activations from them.
        """
        output = self.model(
            **self.forward_inputs(batch), output_hidden_states=True, use_cache=False
        )
        states: tuple[Tensor, ...] = output.hidden_states
        return states

    @contextmanager
    def only_layers(self, start: int, stop: int) -> Iterator[None]:
        """While open, layers outside `[start, stop)` hand on what they receive, at no cost.

        With a hook that replaces the input of layer `start`, a forward pass resumes from residual
        streams computed before. Hooks on skipped layers still run. A cache holds nothing of them.
        """
        skipped = [*range(start), *range(stop, self.n_layers)]
        kept = {layer: self.layers[layer].__dict__.get("forward") for layer in skipped}
        in_tuples = bool(skipped) and self._layers_return_tuples

        def skip(hidden_states: Tensor, *_args: Any, **_kwargs: Any) -> Any:
            return (hidden_states,) if in_tuples else hidden_states

        for layer in skipped:
            self.layers[layer].forward = skip
        try:
            yield
        finally:
            for layer, forward in kept.items():
                if forward is None:
                    del self.layers[layer].forward
                else:
                    self.layers[layer].forward = forward

    @contextmanager
    def mlp_at(self, layer: int, positions: Tensor) -> Iterator[None]:
        """While open, the MLP of a layer works at some positions and adds 0 elsewhere.

        For the last layer of a pass of which only these positions are read: a layer's MLP is most
        of it. Where an architecture's MLP is not known here, nothing changes.

        Args:
            layer: its index.
            positions: `[row, position]`; a batch may hold these rows several times.
        """
        parts = (getattr(self.layers[layer], name, None) for name in MLP)
        mlp = next((part for part in parts if isinstance(part, nn.Module)), None)
        if mlp is None:
            yield
            return
        width, count = 0, positions.shape[1]

        def narrow(_module: nn.Module, args: tuple[Any, ...]) -> Any:
            nonlocal width
            width = args[0].shape[1]
            return at_positions(args[0], positions), *args[1:]

        def widen(_module: nn.Module, _inputs: Any, output: Any) -> Any:
            is_tuple = isinstance(output, tuple)
            part: Tensor = output[0] if is_tuple else output
            if part.ndim == 2:  # mixtures of experts that lay all positions in one row
                part = part.view(-1, count, part.shape[-1])
            if part.shape[1] != count:
                return None  # it has added the residual stream itself, to every position
            wide = part.new_zeros((len(part), width, part.shape[2]))
            wide.scatter_(1, index_of(part, positions), part)
            return (wide, *output[1:]) if is_tuple else wide

        handles = [mlp.register_forward_pre_hook(narrow), mlp.register_forward_hook(widen)]
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()

    @cached_property
    @torch.inference_mode()
    def _layers_return_tuples(self) -> bool:
        """Found out by looking: it depends on the architecture and the version of transformers."""
        found: list[bool] = []
        handle = self.layers[0].register_forward_hook(
            lambda _module, _inputs, output: found.append(isinstance(output, tuple))
        )
        try:
            first = torch.zeros((1, 1), dtype=torch.long, device=self.device)
            self.logits(first, torch.ones_like(first), first)
        finally:
            handle.remove()
        return found[0]
