"""Which class of transformers runs a model, and which kinds of models are refused.

A model must answer by its text alone, token by token. Vision-language and audio-language models
are loaded whole, so that every tensor of their files has its place; only text is put to them.
"""

from __future__ import annotations

import re
from typing import Any

from steersweep.errors import InputError

# Heads that say something of a text instead of continuing it, by the name of the class.
_OTHER_HEADS = re.compile(
    r"For(Sequence|Token|Image|Audio|Video)Classification|ForMaskedLM|ForQuestionAnswering"
    r"|ForMultipleChoice|ForNextSentencePrediction|ForPreTraining|ForEmbedding|ForRetrieval"
    r"|ForTextEncoding|RewardModel|ForScore|DoubleHeadsModel|Classifier$"
)
_WHAT_ELSE = "steersweep needs a decoder-only chat model that continues text"


def auto_class(config: Any, model_id: str, *, trust_remote_code: bool = False) -> Any:
    """The `AutoModelFor...` of transformers that loads a model with its output layer.

    Raises:
        InputError: the model is of another kind; the message says which.
    """
    from transformers import (
        AutoModelForCausalLM,
        AutoModelForImageTextToText,
        AutoModelForMultimodalLM,
    )
    from transformers.models.auto import modeling_auto as known

    kind = f"{model_id}: a model of type {config.model_type}"
    text = config.get_text_config()
    if getattr(config, "is_encoder_decoder", False) or getattr(text, "is_encoder_decoder", False):
        raise InputError(f"{kind} is an encoder-decoder; {_WHAT_ELSE}")
    remote = getattr(config, "auto_map", None) or {}
    if trust_remote_code and "AutoModelForCausalLM" in remote:
        return AutoModelForCausalLM
    for name in getattr(config, "architectures", None) or ():
        if _OTHER_HEADS.search(str(name)):
            raise InputError(f"{model_id}: a {name}; {_WHAT_ELSE}")
    # BERT and its like read in both directions unless their config makes them decoders.
    if getattr(type(config), "is_decoder", True) is False and not config.is_decoder:
        raise InputError(f"{kind} reads in both directions (is_decoder is false); {_WHAT_ELSE}")
    if getattr(text, "cross_attention_layers", None):
        raise InputError(
            f"{kind} has cross-attention layers that do not run for text without an image, so they "
            f"cannot be steered; use the text-only model it was made from"
        )
    candidates = [
        (known.MODEL_FOR_CAUSAL_LM_MAPPING, AutoModelForCausalLM),
        (known.MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING, AutoModelForImageTextToText),
        (known.MODEL_FOR_MULTIMODAL_LM_MAPPING, AutoModelForMultimodalLM),
    ]
    if is_wrapper(config):
        candidates = [*candidates[1:], candidates[0]]
    for mapping, found in candidates:
        if type(config) in mapping:
            name = mapping[type(config)].__name__
            if "Diffusion" in name:
                raise InputError(f"{model_id}: a {name}, which writes by diffusion; {_WHAT_ELSE}")
            return found
    raise InputError(f"{kind} has no class in transformers that continues text; {_WHAT_ELSE}")


def is_wrapper(config: Any) -> bool:
    """Whether a language model is a part of the model, beside one for images or sound."""
    return config.get_text_config() is not config
