"""Which class of transformers runs a model, and which kinds of models are refused.

A model must answer by its text alone, token by token. Vision-language and audio-language models
are loaded whole, so that every tensor of their files has its place; only text is put to them.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from steersweep.core.errors import InputError

# Heads that say something of a text instead of continuing it, by the name of the class.
_OTHER_HEADS = re.compile(
    r"For(Sequence|Token|Image|Audio|Video)Classification|ForMaskedLM|ForQuestionAnswering"
    r"|ForMultipleChoice|ForNextSentencePrediction|ForPreTraining|ForEmbedding|ForRetrieval"
    r"|ForTextEncoding|RewardModel|ForScore|DoubleHeadsModel|Classifier$"
)
_WHAT_ELSE = "steersweep needs a decoder-only chat model that continues text"
# Parts of wrappers that a text prompt does not reach.
NOT_TEXT = re.compile(
    r"(^|\.)(\w*vision\w*|visual\w*|image_\w+|\w*audio\w*|video_\w+|multi_modal_projector"
    r"|mm_projector|\w*vit\w*|vpm|resampler|connector|aligner|embed_vision|embed_audio)\."
)
# They read a whole prompt in both directions before they answer.
_PREFIX_MODELS = ("paligemma",)
_MOST_LAYERS = 10_000
_DEPTH = re.compile(r"(n|num)_(\w+_)?layers?")


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
    if config.model_type in _PREFIX_MODELS or _sees_ahead(text):
        raise InputError(f"{kind} reads prompts in both directions; {_WHAT_ELSE}")
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
            network: Any = mapping[type(config)]
            name = network.__name__
            if "Diffusion" in name:
                raise InputError(f"{model_id}: a {name}, which writes by diffusion; {_WHAT_ELSE}")
            return found
    raise InputError(f"{kind} has no class in transformers that continues text; {_WHAT_ELSE}")


def check_depth(written: Mapping[str, Any], model_id: str) -> None:
    """See that no number of layers is beyond all bounds, before a config is made of it.

    transformers makes lists of so many entries of it.

    Args:
        written: what config.json holds.
        model_id: what to call the model in messages.

    Raises:
        InputError: one is; the message names the field.
    """
    for field, value in written.items():
        if isinstance(value, Mapping):
            check_depth(value, model_id)
        elif _DEPTH.fullmatch(field) and isinstance(value, int | float) and value > _MOST_LAYERS:
            raise InputError(
                f"{model_id}: config.json: {field} is {value:g}; {_MOST_LAYERS} is the most"
            )


def check_shape(config: Any, model_id: str) -> None:
    """See that the numbers of a config describe a network that can be made.

    Raises:
        InputError: they do not; the message names the field.
    """
    text = config.get_text_config()
    layers = getattr(text, "num_hidden_layers", None)
    if not isinstance(layers, int) or not 0 < layers <= _MOST_LAYERS:
        raise InputError(
            f"{model_id}: config.json: num_hidden_layers is {layers!r}; it must be from 1 to "
            f"{_MOST_LAYERS}"
        )
    heads, shared = (
        getattr(text, name, None) for name in ("num_attention_heads", "num_key_value_heads")
    )
    if isinstance(heads, int) and isinstance(shared, int) and (shared < 1 or heads % shared):
        raise InputError(
            f"{model_id}: config.json: num_attention_heads ({heads}) is no multiple of "
            f"num_key_value_heads ({shared})"
        )


def _sees_ahead(text: Any) -> bool:
    """Whether text attends to what follows it, as in embedding models made of decoders."""
    return getattr(text, "use_bidirectional_attention", None) in (True, "all")


def is_wrapper(config: Any) -> bool:
    """Whether a language model is a part of the model, beside one for images or sound."""
    return config.get_text_config() is not config
