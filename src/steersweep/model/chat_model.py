"""A chat model: a network with its tokenizer and chat template, loaded or wrapped.

What it is, and how text becomes tokens and back. Passes through it and hooks into it are its
`network`; how a prompt becomes token ids is `rendering`.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from typing import Any

import torch

from steersweep.core.errors import InputError, NumericalError
from steersweep.core.precision_labels import runs_as
from steersweep.model.batch import Batch
from steersweep.model.device import resolve_device
from steersweep.model.find import find_model
from steersweep.model.loaded import LoadedSource
from steersweep.model.loading import load_network
from steersweep.model.network import Network
from steersweep.model.numbers import check_numbers
from steersweep.model.precision import check_usable
from steersweep.model.rendering import Renderer, SpecialTokens, load_renderer, max_positions
from steersweep.model.source import ModelSource, family_of
from steersweep.model.template_options import TemplateOptions
from steersweep.model.turns import TurnEnd, thinking_tokens, thought_opened_by, turn_end
from steersweep.model.vocabulary import check_vocabulary
from steersweep.prompts.conversation import Prompt


class ChatModel(Network):
    """A loaded causal language model that answers chat prompts.

    Attributes:
        records_steps: whether decoding steps may be recorded as CUDA graphs; see `decoding`.
        has_recorded: whether one was, and gave the step's own numbers.
        not_recorded: why they are not; empty if nothing is known against it.
        renderer: what makes token ids of prompts.
        found: what was found by looking at the model, by name, or why nothing was; see
            `looked_once`.
        is_of_files: whether it is what its files are, and so known by their fingerprint.
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
        super().__init__(model, source.model_id)
        self.tokenizer = tokenizer
        self.source = source
        self.precision = precision
        self.renderer = renderer or Renderer(
            tokenizer, source, max_positions=max_positions(model.config)
        )
        self.records_steps = torch.device(model.device).type == "cuda"
        self.has_recorded = False
        self.not_recorded = ""
        self.found: dict[str, Any] = {}
        self.is_of_files = False

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
        system: str | None = None,
    ) -> ChatModel:
        """Load a model with its tokenizer; only weights in safetensors and GGUF files are read.

        Args:
            model: a hub id, a local folder, a GGUF file, one of the hub (`owner/name:file.gguf`) or
                `lab:NAME`; or a source already found.
            precision: one of `PRECISIONS`, or `auto`: float32 on a CPU, the checkpoint's own 16-bit
                type on a GPU, and of a quantized checkpoint its own. A GGUF file's weights are made
                ordinary numbers of it.
            device: a torch device, or `auto`: the first GPU if there is one, else the CPU.
            revision: hub revision; ignored for folders.
            trust_remote_code: let code from the model's repository run. Off by default.
            date: what day the chat template is told it is, `2026-11-25`; None: today, in UTC.
            special_tokens: whether control tokens that a prompt spells are `text` or `tokens`.
            template: a chat template in place of the model's own, or None.
            template_options: variables that the chat template is given, such as `enable_thinking`.
            system: a system prompt that goes before every prompt, or None.

        Raises:
            InputError: unknown model, no usable chat template, or one that does not take the system
                prompt; unknown precision or device, no room on the disk for what must be
                downloaded; an adapter, or weights that do not fit the config; a tokenizer whose
                tokens the model does not have.
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
            source.check_files(config)
        renderer = load_renderer(
            source,
            config,
            date=date,
            special_tokens=special_tokens,
            template=template,
            template_options=template_options,
            system=system,
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
        chat.is_of_files = not isinstance(source, LoadedSource)
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
        system: str | None = None,
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
            system: see `load`.

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
            system=system,
        )

    # -- facts about the model -------------------------------------------------------------------

    @property
    def family(self) -> str:
        """Family name for results (`qwen`, `gemma`, ...)."""
        return family_of(self.model.config)

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

    # -- text to tokens and back -----------------------------------------------------------------

    def prompt_ids(self, prompt: Prompt) -> list[int]:
        """Token ids of a prompt in the model's own chat template, ready to be answered.

        Raises:
            InputError: the prompt cannot be put to this model; see `Renderer.ids`.
        """
        return self.renderer.ids(prompt)

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


def not_finite(chat: ChatModel, layer: int) -> NumericalError:
    """The error for activations that are no numbers from a layer on."""
    if runs_as(chat.precision) == "fp16":
        advice = "float16 overflows on this model; use precision bf16"
    else:
        advice = "the weights may be damaged; check the files or try another precision"
    return NumericalError(
        f"{chat.source.model_id}: activations are NaN or infinite from layer {layer} on, in "
        f"{chat.precision}: {advice}"
    )
