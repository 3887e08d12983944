"""The tokenizer that a GGUF file describes: transformers' conversion, put right where it differs.

A GGUF file names how text is split before its merges apply, and does not hold the rule. What
transformers leaves out, and what is added here:

- Qwen's tokenizers compose characters first (NFC).
- SmolLM's, StarCoder's and others take digits one by one, then split as GPT-2 does.
- Llama 3's and Mistral's (Tekken) take a word that is a token as that token, whatever the merges
  give.
- SentencePiece: a space is put before the text, and after every control token, unless the file says
  otherwise.
- Control tokens are those that the file marks: also ones written with other characters than those
  of bytes (`<｜User｜>`), and no `<|endoftext|>` where a vocabulary has none.
"""

from __future__ import annotations

import json
import re
from typing import Any

from steersweep.model.gguf.header import Header, Place

_CONTROL, _USER_DEFINED = 3, 4  # of `tokenizer.ggml.token_type`
_LOOKS_CONTROL = re.compile(r"<.+>|\[[A-Z_/]+\]", re.DOTALL)

# By `tokenizer.ggml.pre`.
_COMPOSED = ("qwen2", "qwen35", "megrez", "kormo", "f2llmv2")
_DIGITS_FIRST = (
    "smollm",
    "starcoder",
    "refact",
    "command-r",
    "codeshell",
    "exaone",
    "minerva-7b",
)
_AS_GPT2 = ("gpt-2", "phi-2", "olmo", "jais", "trillion", "mpt")
_WHOLE_WORDS = (
    "llama3",
    "llama-v3",
    "llama-bpe",
    "falcon3",
    "falcon-h1",
    "pixtral",
    "midm-2.0",
    "lfm2",
    "tekken",
    "gpt-4o",
    "llama4",
)
_PARTS = ("bos", "eos", "unknown", "padding", "eot", "eom")  # that tokens play
# Arrays without which a vocabulary of a kind is not whole.
_NEEDED = {"gpt2": ("merges",), "llama": ("scores",)}
# What llama.cpp takes for a SentencePiece vocabulary that names none.
_SENTENCEPIECE = {"unk_token": 0, "bos_token": 1, "eos_token": 2}


def load_tokenizer(header: Header) -> Any:
    """The tokenizer of a file, with its chat template if it has one.

    Raises:
        ValueError: it is not whole, or of a kind that transformers does not read.
    """
    from transformers import PreTrainedTokenizerFast
    from transformers.integrations.gguf.gguf_tokenizer_mapping import (
        convert_gguf_tokenizer,
        get_gguf_tokenizer,
    )

    kind = str(header.fields.get("tokenizer.ggml.model"))
    needed = ["tokens", *_NEEDED.get(kind, ())]
    for name in needed:
        if not isinstance(header.fields.get(f"tokenizer.ggml.{name}"), Place):
            raise ValueError(f"tokenizer.ggml.{name} is missing, so there is no whole tokenizer")
    # Not `from_pretrained`: it would take what lies beside the file, which is another model's.
    architecture, vocabulary, settings = get_gguf_tokenizer(str(header.path))
    backend, _ = convert_gguf_tokenizer(architecture, vocabulary)
    tokenizer: Any = PreTrainedTokenizerFast(tokenizer_object=backend, **settings)
    tokenizer.chat_template = header.fields.get("tokenizer.chat_template") or None
    _correct(tokenizer, header)
    _own_control_tokens(tokenizer, header)
    _name_special_tokens(tokenizer, header)
    return tokenizer


def notes(header: Header) -> list[str]:
    """What a user should know of how text is split."""
    pre = header.fields.get("tokenizer.ggml.pre")
    if header.fields.get("tokenizer.ggml.model") != "gpt2" or pre in _known_splits():
        return []
    rule = f"names the rule {str(pre)[:40]!r}, which is not known here" if pre else "names no rule"
    return [
        f"the file {rule} for splitting text (tokenizer.ggml.pre); it is split as GPT-2 does, and "
        f"tokens may differ from those that the model was trained on"
    ]


def _known_splits() -> set[str]:
    from transformers.integrations.gguf import gguf_tokenizer_mapping as known

    return {*known.GGUF_PRE_TOKENIZER_SPLITS, *_DIGITS_FIRST, *_AS_GPT2}


def _correct(tokenizer: Any, header: Header) -> None:
    from tokenizers import normalizers, pre_tokenizers

    backend = tokenizer.backend_tokenizer
    kind, pre = (header.fields.get(f"tokenizer.ggml.{name}") for name in ("model", "pre"))
    if kind == "gpt2":
        if pre in _COMPOSED:
            backend.normalizer = normalizers.NFC()
        if pre in _DIGITS_FIRST:
            backend.pre_tokenizer = pre_tokenizers.Sequence(
                [
                    pre_tokenizers.Digits(individual_digits=True),
                    pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True),
                ]
            )
        if pre in _WHOLE_WORDS:
            backend.model.ignore_merges = True
    elif kind == "llama" and not header.architecture.startswith("gemma"):
        spaces = normalizers.Replace(" ", "▁")
        has_prefix = header.fields.get("tokenizer.ggml.add_space_prefix", True)
        backend.normalizer = (
            normalizers.Sequence([normalizers.Prepend("▁"), spaces]) if has_prefix else spaces
        )
        backend.pre_tokenizer = None


def _own_control_tokens(tokenizer: Any, header: Header) -> None:
    """Make the file's control tokens, and no others, tokens that text is never cut at."""
    from tokenizers import Tokenizer

    wanted = _control_tokens(tokenizer, header)
    there = {index: str(token) for index, token in tokenizer.added_tokens_decoder.items()}
    if {index: token["content"] for index, token in wanted.items()} == there:
        return
    state = json.loads(tokenizer.backend_tokenizer.to_str())
    vocabulary = state["model"]["vocab"]
    spelt = {index: content for content, index in vocabulary.items() if index in wanted}
    for index, token in wanted.items():
        vocabulary.pop(spelt.get(index), None)
        vocabulary[token["content"]] = index
    state["added_tokens"] = list(wanted.values())
    tokenizer._tokenizer = Tokenizer.from_str(json.dumps(state))


def _control_tokens(tokenizer: Any, header: Header) -> dict[int, dict[str, Any]]:
    """The file's control tokens as the library of tokenizers writes them, by id.

    One with other characters than those of bytes is only taken for one if it looks like it:
    converters have marked words so.
    """
    tokens = header.array("tokenizer.ggml.tokens")
    types = header.array("tokenizer.ggml.token_type") or [1] * len(tokens)
    template = str(tokenizer.chat_template or "")
    added = {str(token) for token in tokenizer.added_tokens_decoder.values()}
    parts = {header.fields.get(f"tokenizer.ggml.{name}_token_id") for name in _PARTS}
    found = {}
    for index, (content, kind) in enumerate(zip(tokens, types, strict=False)):
        is_marked = kind == _USER_DEFINED or (
            kind == _CONTROL
            and (content in added or content in template or _LOOKS_CONTROL.fullmatch(content))
        )
        if is_marked or (index in parts and content in added):
            found[index] = {
                "id": index,
                "content": content,
                "single_word": False,
                "lstrip": False,
                "rstrip": False,
                "normalized": False,
                "special": kind != _USER_DEFINED,
            }
    return found


def _name_special_tokens(tokenizer: Any, header: Header) -> None:
    """Beginning, end and unknown of a SentencePiece vocabulary that does not name them."""
    if header.fields.get("tokenizer.ggml.model") != "llama":
        return
    tokens = header.array("tokenizer.ggml.tokens")[: len(_SENTENCEPIECE)]
    for name, index in _SENTENCEPIECE.items():
        if getattr(tokenizer, name) is None and index < len(tokens):
            setattr(tokenizer, name, tokens[index])
