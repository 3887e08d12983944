"""A chat model with its template, decoder layers and tokenizer.

How a model is loaded, where its decoder layers are and how prompts of different lengths share a
batch (left padding, explicit position ids). How a prompt becomes token ids is `rendering`.
"""

from __future__ import annotations

import inspect
import math
import re
from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal

import torch
from torch import Tensor, nn

from steersweep.core.errors import InputError, NumericalError, setting
from steersweep.core.printing import first_line
from steersweep.model.hub import check_files
from steersweep.model.loaded import LoadedSource
from steersweep.model.loading import load_network
from steersweep.model.numbers import check_numbers
from steersweep.model.precision import check_usable
from steersweep.model.rendering import Renderer, SpecialTokens, load_renderer, max_positions
from steersweep.model.source import ModelSource, family_of, find_model
from steersweep.model.template_options import TemplateOptions
from steersweep.model.turns import TurnEnd, thinking_tokens, thought_opened_by, turn_end
from steersweep.model.vocabulary import check_vocabulary

# Parts of a network that are no text decoder.
_OTHER_PARTS = re.compile(r"vision|visual|image|audio|speech|encoder|depth_decoder|mtp")

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

# What decoder layers call their two parts.
ATTENTION = ("self_attn", "attn", "attention", "self_attention")
MLP = ("mlp", "feed_forward", "block_sparse_moe")

# Where a hook sits: a layer's input or its output.
Site = Literal["resid_pre", "resid_post"]
LayerHook = Callable[[int, Tensor], Tensor | None]


@dataclass(frozen=True)
class Batch:
    """Left-padded prompts, each tensor `[row, position]`.

    Attributes:
        input_ids: token ids; padding repeats the pad token.
        attention_mask: 1 for real tokens, 0 for padding.
        position_ids: 0, 1, 2, ... over the real tokens of each row, so padding changes nothing.
    """

    input_ids: Tensor
    attention_mask: Tensor
    position_ids: Tensor

    def rows(self, chosen: Sequence[int] | Tensor) -> Batch:
        """A batch of some of its rows, which may repeat."""
        return Batch(self.input_ids[chosen], self.attention_mask[chosen], self.position_ids[chosen])


class ChatModel:
    """A loaded causal language model that answers chat prompts.

    Site convention, used everywhere: `resid_post[l]` is the output of decoder layer l and
    `resid_pre[l]` its input.

    Attributes:
        records_steps: whether decoding steps may be recorded as CUDA graphs; see `decoding`.
        has_recorded: whether one was, and gave the step's own numbers.
        renderer: what makes token ids of prompts.
        regime: how rows may share a batch, or why they cannot; see `regime_of`.
        ablation_sites: where a direction is ablated everywhere, or why it cannot; see
            `ablation_sites_of`.
    """

    def __init__(
        self,
        model: Any,
        tokenizer: Any,
        *,
        source: ModelSource,
        precision: str = "fp32",
        renderer: Renderer | None = None,
    ) -> None:
        self.model = model
        self.tokenizer = tokenizer
        self.source = source
        self.precision = precision
        self.renderer = renderer or Renderer(
            tokenizer, source, max_positions=max_positions(model.config)
        )
        self.layers: Sequence[nn.Module] = decoder_layers(model, source.model_id)
        self.records_steps = torch.device(model.device).type == "cuda"
        self.has_recorded = False
        self.regime: Any = None
        self.ablation_sites: Any = None
        taken = _taken_by_forward(model)
        self._takes_position_ids = "position_ids" in taken
        self._takes_logits_to_keep = "logits_to_keep" in taken
        self._takes_cache = "past_key_values" in taken

    @classmethod
    def load(
        cls,
        model: str | ModelSource,
        *,
        precision: str = "auto",
        device: str = "auto",
        revision: str | None = None,
        trust_remote_code: bool = False,
        date: str | None = None,
        special_tokens: SpecialTokens = "text",
        template: str | None = None,
        template_options: TemplateOptions | None = None,
    ) -> ChatModel:
        """Load a model with its tokenizer; only safetensors weights are read.

        Args:
            model: a hub id, a local folder or `lab:NAME`; or a source already found.
            precision: one of `PRECISIONS`, or `auto`: float32 on a CPU, the checkpoint's own 16-bit
                type on a GPU, and of a quantized checkpoint its own.
            device: a torch device, or `auto`: the first GPU if there is one, else the CPU.
            revision: hub revision; ignored for folders.
            trust_remote_code: let code from the model's repository run. Off by default.
            date: what day the chat template is told it is, `2026-11-25`; None: today, in UTC.
            special_tokens: whether control tokens that a prompt spells are `text` or `tokens`.
            template: a chat template in place of the model's own, or None.
            template_options: variables that the chat template is given, such as `enable_thinking`.

        Raises:
            InputError: unknown model, no usable chat template, unknown precision or device, no room
                on the disk for what must be downloaded; an adapter, or weights that do not fit the
                config; a tokenizer whose tokens the model does not have.
        """

        source = (
            model
            if isinstance(model, ModelSource)
            else find_model(model, revision=revision, trust_remote_code=trust_remote_code)
        )
        source = source.pinned()
        target = resolve_device(source.device(device))
        config = source.config()
        precision = source.precision(precision, config, target)
        if not isinstance(source, LoadedSource):
            check_usable(precision, config, target)
            check_files(source, config)
        renderer = load_renderer(
            source,
            config,
            date=date,
            special_tokens=special_tokens,
            template=template,
            template_options=template_options,
        )
        renderer.check()
        if isinstance(source, LoadedSource):
            network = source.network.eval()
            check_numbers(network, source.model_id)
        else:
            network = load_network(source, config, precision, target)
        chat = cls(
            network, renderer.tokenizer, source=source, precision=precision, renderer=renderer
        )
        check_vocabulary(renderer.tokenizer, chat.n_tokens, source.model_id, chat.prompt_ids)
        return chat

    @classmethod
    def wrap(
        cls,
        model: Any,
        tokenizer: Any,
        *,
        name: str = "model",
        date: str | None = None,
        special_tokens: SpecialTokens = "text",
        template: str | None = None,
        template_options: TemplateOptions | None = None,
    ) -> ChatModel:
        """A model and tokenizer that are loaded already.

        The model is put into evaluation mode, so that dropout is off. Its numbers are not changed.

        Args:
            model: a causal language model of transformers.
            tokenizer: its tokenizer; without a chat template of its own, give `template`.
            name: what results call the model.
            date: see `load`.
            special_tokens: see `load`.
            template: see `load`.
            template_options: see `load`.

        Raises:
            InputError: no usable chat template; a type of numbers that is not supported; weights
                that are damaged or not in memory; a tokenizer whose tokens the model does not have.
        """
        return cls.load(
            LoadedSource(name, name, network=model, tokenizer=tokenizer),
            date=date,
            special_tokens=special_tokens,
            template=template,
            template_options=template_options,
        )

    # -- facts about the model -------------------------------------------------------------------

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
    def family(self) -> str:
        """Family name for results (`qwen`, `gemma`, ...)."""
        return family_of(self.model.config)

    @property
    def vocab_size(self) -> int:
        """Number of logits per position."""
        return int(self.model.config.get_text_config().vocab_size)

    @cached_property
    def fingerprint(self) -> str:
        """Identity of the weights; see `ModelSource.fingerprint`."""
        return self.source.fingerprint()

    @cached_property
    def eos_ids(self) -> frozenset[int]:
        """Every token that ends an answer.

        All of the generation config, the tokenizer's, and the control token by which the template
        ends a turn: fine-tunes of base models often name only the base model's own.
        """
        end = None if self.turn_end is None else self.turn_end.token
        ends = self.declared_eos_ids
        return ends | {end} if end is not None and self._has_token(end) else ends

    @cached_property
    def declared_eos_ids(self) -> frozenset[int]:
        """The ids that the generation config and the tokenizer say end an answer.

        Those that the model has no row for are left out: it cannot give them.
        """
        found: list[Any] = []
        for owner in (self.model.generation_config, self.tokenizer):
            value = getattr(owner, "eos_token_id", None)
            found += value if isinstance(value, (list, tuple)) else [value]
        return frozenset(int(token) for token in found if self._has_token(token))

    @cached_property
    def turn_end(self) -> TurnEnd | None:
        """How the template ends an answer; None where it does not show it."""
        return turn_end(self.renderer, self.declared_eos_ids)

    @cached_property
    def opened_thought(self) -> str:
        """What opens the model's reasoning at the end of every prompt, such as `<think>`, or ""."""
        return thought_opened_by(self.renderer)

    @cached_property
    def pad_id(self) -> int:
        """Token used for padding; it is masked out everywhere, so any valid id will do."""
        pad = self.tokenizer.pad_token_id
        return int(pad) if self._has_token(pad) else min(self.eos_ids, default=0)

    @property
    def n_tokens(self) -> int:
        """Number of tokens that the model has an embedding of."""
        return len(self.model.get_input_embeddings().weight)

    def _has_token(self, token: int | None) -> bool:
        return token is not None and 0 <= token < self.n_tokens

    @property
    def post_instruction_ids(self) -> tuple[int, ...]:
        """The template's tokens after the user's text, as token ids, in order."""
        return self.renderer.post_instruction_ids

    @property
    def max_positions(self) -> int | None:
        """Longest sequence the model was made for, if its config says."""
        return max_positions(self.model.config)

    @property
    def attention_window(self) -> float:
        """Tokens that attention reaches back in every layer; infinite if nothing limits it."""
        config = self.model.config.get_text_config()
        found = (getattr(config, name, None) for name in _WINDOWS)
        return min((float(size) for size in found if size), default=math.inf)

    # -- text to tokens and back -----------------------------------------------------------------

    def prompt_ids(self, text: str) -> list[int]:
        """Token ids of a user prompt in the model's own chat template, ready to be answered.

        Raises:
            InputError: the prompt cannot be put to this model; see `Renderer.ids`.
        """
        return self.renderer.ids(text)

    def token_ids(self, text: str) -> list[int]:
        """Token ids of a text that the model answered, without special tokens."""
        return [int(token) for token in self.tokenizer(text, add_special_tokens=False).input_ids]

    def decode(self, ids: Sequence[int]) -> str:
        """Text of generated token ids, without special tokens but those that mark reasoning."""
        marked = not self._thinking_tokens.isdisjoint(ids)
        kept = [token for token in ids if token not in self._left_out] if marked else list(ids)
        return str(
            self.tokenizer.decode(
                kept, skip_special_tokens=not marked, clean_up_tokenization_spaces=False
            )
        )

    @cached_property
    def _thinking_tokens(self) -> frozenset[int]:
        return thinking_tokens(self.tokenizer)

    @cached_property
    def _left_out(self) -> frozenset[int]:
        """Special tokens that are no text."""
        return frozenset(self.tokenizer.all_special_ids) - self._thinking_tokens

    def pad(self, sequences: Sequence[Sequence[int]]) -> Batch:
        """Left-pad token sequences into one batch on the model's device.

        Raises:
            InputError: a token that the model has no embedding of.
        """
        width = max(len(ids) for ids in sequences)
        if (highest := max(max(ids, default=0) for ids in sequences)) >= self.n_tokens:
            raise InputError(
                f"{self.source.model_id}: a prompt holds "
                f"{self.tokenizer.convert_ids_to_tokens(highest)!r}, token {highest}, and the "
                f"model has embeddings of {self.n_tokens} tokens; leave it out of the prompts"
            )
        input_ids = torch.full((len(sequences), width), self.pad_id, dtype=torch.long)
        mask = torch.zeros((len(sequences), width), dtype=torch.long)
        for row, ids in enumerate(sequences):
            input_ids[row, width - len(ids) :] = torch.tensor(ids, dtype=torch.long)
            mask[row, width - len(ids) :] = 1
        positions = (mask.cumsum(-1) - 1).clamp(min=0)
        return Batch(*(tensor.to(self.device) for tensor in (input_ids, mask, positions)))

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
            attention_mask: `[row, all positions so far]`; where `takes_pair_masks`, it may be
                `[row, 1, new position, all positions so far]`, added to the attention's scores.
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
            wide.scatter_(1, _index_of(part, positions), part)
            return (wide, *output[1:]) if is_tuple else wide

        handles = [mlp.register_forward_pre_hook(narrow), mlp.register_forward_hook(widen)]
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()

    @cached_property
    @torch.inference_mode()
    def takes_pair_masks(self) -> bool:
        """Whether a mask may say for every pair of positions whether one attends to the other.

        Found out by looking: a token after a prompt's first one, alone, and behind a row full of
        others that follow that one too. As long as rows are, so that windows show.
        """
        first, token, *others = [id_ for id_ in range(self.vocab_size) if id_ != self.pad_id][:64]
        count = max(len(others), int(ROW_PER_WIDTH * self.d_model))
        branch = (others * (count // len(others) + 1))[:count]
        alone = self.pad([[first, token]])
        seen = torch.ones((count + 2, count + 2), device=self.device, dtype=self.dtype).tril()
        seen[-1, 1:-1] = 0
        mask = (1 - seen) * torch.finfo(self.dtype).min
        tokens = torch.tensor([[first, *branch, token]], device=self.device)
        positions = torch.tensor([[*range(count + 1), 1]], device=self.device)
        expected = self.logits(alone.input_ids, alone.attention_mask, alone.position_ids)[0, 0]
        try:
            found = self.logits(tokens, mask[None, None], positions)[0, 0]
        except (RuntimeError, ValueError, TypeError, IndexError):
            return False
        # A rough comparison: eight bits round by the batch, a mask not heeded changes everything.
        error = (found - expected).float().norm() / expected.float().norm()
        return bool(error < 0.02)

    @cached_property
    @torch.inference_mode()
    def _layers_return_tuples(self) -> bool:
        """Found out by looking: it depends on the architecture and the version of transformers."""
        found: list[bool] = []
        handle = self.layers[0].register_forward_hook(
            lambda _module, _inputs, output: found.append(isinstance(output, tuple))
        )
        try:
            batch = self.pad([[self.pad_id]])
            self.logits(batch.input_ids, batch.attention_mask, batch.position_ids)
        finally:
            handle.remove()
        return found[0]


def at_positions(hidden: Tensor, positions: Tensor) -> Tensor:
    """`[copy x row, position, size]` at some positions of each row, `[row, chosen position]`."""
    return hidden.gather(1, _index_of(hidden, positions))


def _index_of(hidden: Tensor, positions: Tensor) -> Tensor:
    copies = len(hidden) // len(positions)
    return positions.repeat(copies, 1)[..., None].expand(-1, -1, hidden.shape[-1])


def decoder_layers(model: Any, model_id: str) -> Sequence[nn.Module]:
    """The stack of decoder layers of a transformers model.

    The list of as many modules as the config has layers; not one within a layer, nor of a part that
    sees or hears.

    Raises:
        InputError: there is no such list, or more than one.
    """
    expected = getattr(model.config.get_text_config(), "num_hidden_layers", None)
    found: dict[str, nn.ModuleList] = {}
    for name, module in model.named_modules():
        if (
            isinstance(module, nn.ModuleList)
            and len(module) == expected
            and not _OTHER_PARTS.search(name)
            and not any(name.startswith(f"{outer}.") for outer in found)
        ):
            found[name] = module
    if len(found) != 1:
        what = f"{len(found)} lists ({', '.join(found)})" if found else "no list"
        raise InputError(
            f"{model_id}: the decoder layers of a {type(model).__name__} were not found: {what} of "
            f"{expected} layers in it"
        )
    return list(*found.values())


def not_finite(chat: ChatModel, layer: int) -> NumericalError:
    """The error for activations that are no numbers from a layer on."""
    if chat.precision == "fp16":
        advice = "float16 overflows on this model; use precision bf16"
    else:
        advice = "the weights may be damaged; check the files or try another precision"
    return NumericalError(
        f"{chat.source.model_id}: activations are NaN or infinite from layer {layer} on, in "
        f"{chat.precision}: {advice}"
    )


def _taken_by_forward(model: Any) -> set[str]:
    """Names of what the forward of a network takes.

    Code that came with a model often hands all on to the class it is made from (`**kwargs`); then
    what that takes counts too.
    """
    names: set[str] = set()
    own = [vars(cls)["forward"] for cls in type(model).__mro__ if "forward" in vars(cls)]
    for forward in (model.forward, *own):
        parameters = inspect.signature(forward).parameters
        names.update(parameters)
        if all(found.kind is not found.VAR_KEYWORD for found in parameters.values()):
            break
    return names


def resolve_device(device: str) -> str:
    """`auto` becomes the first GPU or the CPU; anything else must be a device that exists here."""
    if device == "auto":
        return "cuda:0" if torch.cuda.is_available() else "cpu"
    try:
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        raise InputError(
            f"{setting('device')} {device}: not available on this machine ({first_line(error)})"
        ) from error
    return device
