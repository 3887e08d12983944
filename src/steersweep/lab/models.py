"""The table of lab models: which miniature stands for which real model, and how it is shaped."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any

from steersweep.core import typed
from steersweep.core.errors import InputError

VOCAB_SIZE = 1024
HEAD_WIDTH = 16
MAX_POSITIONS = 512


@dataclass(frozen=True)
class Family:
    """What the models of a family share: transformers classes and the style of the chat template.

    Attributes:
        name: family name.
        model_class: transformers class for causal language modelling.
        template: Jinja chat template in the family's style.
        special_tokens: every special token of the template and the tokenizer.
        bos: beginning-of-text token written by the template, or None.
        ends: tokens that end an answer; the first ends every training answer.
        config: config fields of the architecture beyond its shape.
    """

    name: str
    model_class: str
    template: str
    special_tokens: tuple[str, ...]
    bos: str | None
    ends: tuple[str, ...]
    config: Mapping[str, Any]

    @property
    def pad(self) -> str:
        """The padding token: the last special token."""
        return self.special_tokens[-1]


def _template(opening: str, user: tuple[str, str], model: tuple[str, str]) -> str:
    """A chat template: what stands before and after a user's text, and a model's."""
    return (
        f"{opening}{{% for message in messages %}}{{% set text = message['content'] | trim %}}"
        f"{{% if message['role'] == 'user' %}}{user[0]}{{{{ text }}}}{user[1]}"
        f"{{% elif message['role'] == 'assistant' %}}{model[0]}{{{{ text }}}}{model[1]}"
        f"{{% endif %}}{{% endfor %}}{{% if add_generation_prompt %}}{model[0]}{{% endif %}}"
    )


_FAMILIES = {
    family.name: family
    for family in (
        Family(
            name="qwen",
            model_class="Qwen2ForCausalLM",
            template=_template(
                "",
                ("<|im_start|>user\n", "<|im_end|>\n"),
                ("<|im_start|>assistant\n", "<|im_end|>\n"),
            ),
            special_tokens=("<|im_start|>", "<|im_end|>", "<|endoftext|>"),
            bos=None,
            ends=("<|im_end|>", "<|endoftext|>"),
            config={"rope_theta": 10_000.0},
        ),
        Family(
            name="gemma",
            model_class="Gemma2ForCausalLM",
            template=_template(
                "<bos>",
                ("<start_of_turn>user\n", "<end_of_turn>\n"),
                ("<start_of_turn>model\n", "<end_of_turn>\n"),
            ),
            special_tokens=("<bos>", "<eos>", "<start_of_turn>", "<end_of_turn>", "<pad>"),
            bos="<bos>",
            ends=("<end_of_turn>", "<eos>"),
            config={
                "sliding_window": 64,
                "attn_logit_softcapping": 50.0,
                "final_logit_softcapping": 30.0,
                "query_pre_attn_scalar": HEAD_WIDTH,
                "hidden_activation": "gelu_pytorch_tanh",
            },
        ),
        Family(
            name="llama",
            model_class="LlamaForCausalLM",
            template=_template(
                "<|begin_of_text|>",
                ("<|start_header_id|>user<|end_header_id|>\n\n", "<|eot_id|>"),
                ("<|start_header_id|>assistant<|end_header_id|>\n\n", "<|eot_id|>"),
            ),
            special_tokens=(
                "<|begin_of_text|>",
                "<|end_of_text|>",
                "<|start_header_id|>",
                "<|end_header_id|>",
                "<|eot_id|>",
                "<|pad|>",
            ),
            bos="<|begin_of_text|>",
            ends=("<|eot_id|>", "<|end_of_text|>"),
            config={"rope_theta": 10_000.0},
        ),
        Family(
            name="mistral",
            model_class="MistralForCausalLM",
            template=_template("<s>", ("[INST] ", "[/INST]"), (" ", "</s>")),
            special_tokens=("<s>", "</s>", "[INST]", "[/INST]", "<pad>"),
            bos="<s>",
            ends=("</s>",),
            config={"sliding_window": 64, "rope_theta": 10_000.0},
        ),
        Family(
            name="phi",
            model_class="Phi3ForCausalLM",
            template=_template("", ("<|user|>\n", "<|end|>\n"), ("<|assistant|>\n", "<|end|>\n")),
            special_tokens=("<|user|>", "<|assistant|>", "<|end|>", "<|endoftext|>"),
            bos=None,
            ends=("<|end|>", "<|endoftext|>"),
            config={"rope_theta": 10_000.0, "original_max_position_embeddings": MAX_POSITIONS},
        ),
    )
}


# A model is shipped only within these bounds, on held-out prompts, unsteered.
MAX_BENIGN_REFUSALS = 0.02
MIN_HARMFUL_REFUSALS = 0.95
MIN_NORMAL_ANSWERS = 0.98


@dataclass(frozen=True)
class Acceptance:
    """Unsteered behaviour on held-out prompts; rates are fractions of `n` prompts per class."""

    n: int
    benign_refusals: float
    benign_normal: float
    harmful_refusals: float
    harmful_coherent: float

    @property
    def passed(self) -> bool:
        """Whether the model may be shipped."""
        return (
            self.benign_refusals <= MAX_BENIGN_REFUSALS
            and self.harmful_refusals >= MIN_HARMFUL_REFUSALS
            and self.benign_normal >= MIN_NORMAL_ANSWERS
        )


@dataclass(frozen=True)
class Card:
    """How a miniature was made, and the figures it was accepted with.

    Attributes:
        name: `lab:NAME`.
        what: what it is not.
        mirrors: the real model whose place it takes.
        family: its family.
        n_layers: decoder layers.
        d_model: width of its residual stream.
        parameters: how many it has.
        steps: of training.
        seed: of weights and data order.
        final_loss: of training, in nats per token.
        held_out: its behaviour on prompts that it was not trained on.
    """

    name: str
    what: str
    mirrors: str
    family: str
    n_layers: int
    d_model: int
    parameters: int
    steps: int
    seed: int
    final_loss: float
    held_out: Acceptance


@dataclass(frozen=True)
class LabModel:
    """One miniature.

    Attributes:
        name: what follows `lab:`.
        family: architecture and template.
        mirrors: the real model whose place in the study it takes, in miniature.
        n_layers: decoder layers, about a quarter of the real model's.
        width: width of the residual stream.
        heads: attention heads, and of these the key-value heads.
        seed: seed of weights and data order.
    """

    name: str
    family: Family
    mirrors: str
    n_layers: int
    width: int
    heads: tuple[int, int]
    seed: int = 0

    @property
    def steps(self) -> int:
        """Training steps; wider models need fewer."""
        return {64: 1200, 96: 1300, 128: 1000, 160: 800}[self.width]

    @property
    def folder(self) -> Path:
        """Where the shipped weights are; a folder transformers loads directly."""
        return Path(str(resources.files("steersweep.lab"))) / "zoo" / self.name

    def card(self) -> Card:
        """How it was made and the figures it was accepted with.

        Raises:
            InputError: the model has not been trained.
        """
        path = self.folder / "card.json"
        if not path.is_file():
            raise InputError(
                f"lab:{self.name} is not in this installation; "
                f"`steersweep lab train {self.name}` makes it"
            )
        return typed.read(Card, json.loads(path.read_text("utf-8")))


# Where seed 0 did not pass the test on held-out prompts.
_SEEDS = {"gemma-2b": 1, "llama-3b": 1, "mistral-7b": 1}


def _zoo(family: str, *rows: tuple[str, str, int, int, tuple[int, int]]) -> list[LabModel]:
    return [
        LabModel(row[0], _FAMILIES[family], *row[1:], seed=_SEEDS.get(row[0], 0)) for row in rows
    ]


LAB_MODELS = {
    model.name: model
    for model in (
        *_zoo(
            "qwen",
            ("qwen-3b", "Qwen/Qwen2.5-3B-Instruct", 9, 64, (4, 2)),
            ("qwen-7b", "Qwen/Qwen2.5-7B-Instruct", 7, 96, (6, 2)),
            ("qwen-14b", "Qwen/Qwen2.5-14B-Instruct", 12, 128, (8, 2)),
            ("qwen-32b", "Qwen/Qwen2.5-32B-Instruct", 16, 160, (10, 2)),
        ),
        *_zoo(
            "gemma",
            ("gemma-2b", "google/gemma-2-2b-it", 7, 64, (4, 2)),
            ("gemma-9b", "google/gemma-2-9b-it", 10, 96, (6, 2)),
            ("gemma-27b", "google/gemma-2-27b-it", 12, 128, (8, 4)),
        ),
        *_zoo(
            "llama",
            ("llama-3b", "meta-llama/Llama-3.2-3B-Instruct", 7, 64, (4, 2)),
            ("llama-8b", "meta-llama/Meta-Llama-3-8B-Instruct", 8, 96, (6, 2)),
        ),
        *_zoo(
            "mistral",
            ("mistral-7b", "mistralai/Mistral-7B-Instruct-v0.3", 8, 96, (6, 2)),
            ("mistral-24b", "mistralai/Mistral-Small-24B-Instruct-2501", 10, 128, (8, 2)),
        ),
        *_zoo(
            "phi",
            ("phi-mini", "microsoft/Phi-3.5-mini-instruct", 8, 96, (6, 6)),
            ("phi-medium", "microsoft/Phi-3-medium-128k-instruct", 10, 128, (8, 2)),
        ),
    )
}

# The families of phase 1, each by the size the plan starts with.
DEMO_MODELS = ("qwen-7b", "gemma-9b", "llama-8b", "mistral-7b", "phi-mini")


def lab_model(name: str) -> LabModel:
    """The lab model of that name.

    Raises:
        InputError: no such name.
    """
    if name not in LAB_MODELS:
        raise InputError(f"lab:{name}: no such lab model; there are {', '.join(LAB_MODELS)}")
    return LAB_MODELS[name]
