"""What a GGUF file's header says of its tokenizer and architecture."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
import torch
import transformers

from conftest import lab
from gguf_files import write_gguf
from helpers.gguf_models import refusal
from steersweep.model.find import find_model
from steersweep.model.gguf.config import load_config
from steersweep.model.gguf.header import read_header
from steersweep.model.gguf.tensors import weights_of

# -- tokenizers ----------------------------------------------------------------------------------


def pieces(path: Path, text: str) -> list[str]:
    tokenizer = find_model(str(path)).load_tokenizer()
    return list(
        tokenizer.convert_ids_to_tokens(tokenizer(text, add_special_tokens=False).input_ids)
    )


def test_smollm_takes_digits_one_by_one_before_anything_else(tmp_path: Path) -> None:
    tokens = ["a", "Ġ", "1", "2", "ĠĠ", "Ġ1", "12", *gguf_bytes()]
    fields = vocabulary(tokens, ["Ġ Ġ", "1 2", "Ġ 1"])
    kwargs: dict[str, Any] = {"fields": fields, "tensors": embedding(len(set(tokens)))}
    digits = write_gguf("llama-8b", tmp_path / "a.gguf", splits_as="smollm", **kwargs)
    assert pieces(digits, "a  12") == ["a", "ĠĠ", "1", "2"]
    plain = write_gguf("llama-8b", tmp_path / "b.gguf", splits_as="gpt-2", **kwargs)
    assert pieces(plain, "a  12") == ["a", "Ġ", "Ġ", "12"]


def test_qwen_composes_characters(tmp_path: Path) -> None:
    path = write_gguf("qwen-7b", tmp_path / "small.gguf")
    assert pieces(path, "a\u0301") == pieces(path, "á")


def test_llama3_takes_a_word_that_is_a_token_as_that(tmp_path: Path) -> None:
    tokens = ["abc", "ab", *gguf_bytes()]
    kwargs: dict[str, Any] = {
        "fields": vocabulary(tokens, ["a b"]),
        "tensors": embedding(len(tokens)),
    }
    path = write_gguf("llama-8b", tmp_path / "a.gguf", splits_as="llama-bpe", **kwargs)
    assert pieces(path, "abc") == ["abc"]
    path = write_gguf("llama-8b", tmp_path / "b.gguf", splits_as="gpt-2", **kwargs)
    assert pieces(path, "abc") == ["ab", "c"]


def test_control_tokens_are_those_of_the_file(tmp_path: Path) -> None:
    """Also ones with other characters than those of bytes, and none that the file has not."""
    tokens = ["<｜User｜>", "ab", *gguf_bytes()]
    fields = vocabulary(tokens, ["a b"], types=[3, *([1] * (len(tokens) - 1))])
    path = write_gguf(
        "llama-8b", tmp_path / "a.gguf", fields=fields, tensors=embedding(len(tokens))
    )
    tokenizer = find_model(str(path)).load_tokenizer()
    assert tokenizer("a<｜User｜>", add_special_tokens=False).input_ids[-1] == 0
    assert {int(i): str(t) for i, t in tokenizer.added_tokens_decoder.items()} == {0: "<｜User｜>"}
    assert len(tokenizer) == len(tokens)


@pytest.mark.parametrize(("prefix", "expected"), [(None, "▁hi"), (False, "hi")])
def test_sentencepiece_puts_a_space_before_text_unless_told(
    prefix: bool | None, expected: str, tmp_path: Path
) -> None:
    tokens = ["<unk>", "<s>", "</s>", "h", "i", "▁", "hi", "▁hi"]
    fields = vocabulary(tokens, None, types=[2, 3, 3, 1, 1, 1, 1, 1]) | {
        "tokenizer.ggml.model": "llama",
        "tokenizer.ggml.pre": "default",
        "tokenizer.ggml.scores": [0.0, 0.0, 0.0, -5.0, -5.0, -5.0, -1.0, -0.5],
        "tokenizer.ggml.add_space_prefix": prefix,
    }
    path = write_gguf(
        "llama-8b", tmp_path / "a.gguf", fields=fields, tensors=embedding(len(tokens))
    )
    assert pieces(path, "hi") == [expected]
    assert pieces(path, "<s>hi") == ["<s>", expected]
    tokenizer = find_model(str(path)).load_tokenizer()
    assert (tokenizer.bos_token, tokenizer.eos_token) == ("<s>", "</s>")


@pytest.mark.parametrize("pre", ["default", "new-rule"])
def test_an_unknown_rule_for_splitting_is_said(pre: str, tmp_path: Path) -> None:
    path = write_gguf("llama-8b", tmp_path / "small.gguf", splits_as=pre)
    (note,) = find_model(str(path)).notes()
    assert repr(pre) in note
    assert "as GPT-2 does" in note
    (note,) = find_model(
        str(write_gguf("llama-8b", path, fields={"tokenizer.ggml.pre": None}))
    ).notes()
    assert "names no rule" in note


def gguf_bytes() -> list[str]:
    """Tokens of the single characters that the tests' template and texts have."""
    return [*"abcdefghijklmnopqrstuvwxyz", "Ċ"]


def vocabulary(
    tokens: list[str], merges: list[str] | None, types: list[int] | None = None
) -> dict[str, Any]:
    tokens[:] = list(dict.fromkeys(tokens))
    parts = ("bos", "eos", "eot", "padding")
    return {
        "tokenizer.ggml.tokens": tokens,
        "tokenizer.ggml.token_type": types or [1] * len(tokens),
        "tokenizer.ggml.merges": merges,
        **{f"tokenizer.ggml.{part}_token_id": None for part in parts},
    }


def embedding(rows: int) -> dict[str, Any]:
    return {"token_embd.weight": np.ones((rows, 96), dtype=np.float32)}


# -- what transformers' reading leaves out -------------------------------------------------------


def config_of(tmp_path: Path, family: str = "llama-8b", **kwargs: Any) -> Any:
    return find_model(str(write_gguf(family, tmp_path / "small.gguf", **kwargs))).config()


def test_llama3_scaling_of_positions_comes_from_its_factors(tmp_path: Path) -> None:
    from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

    scaling = {
        "rope_type": "llama3",
        "rope_theta": 10000.0,
        "factor": 32.0,
        "low_freq_factor": 1.0,
        "high_freq_factor": 4.0,
        "original_max_position_embeddings": 8192,
    }
    config = find_model("lab:llama-8b").config()
    config.rope_parameters = scaling
    scaled, _ = ROPE_INIT_FUNCTIONS["llama3"](config, "cpu")
    plain = 10000.0 ** -(torch.arange(0, 16, 2).float() / 16)
    factors = (plain / scaled).numpy()
    assert factors.max() > 1
    found = config_of(tmp_path, tensors={"rope_freqs.weight": factors})
    assert found.rope_parameters == scaling
    odd = write_gguf("llama-8b", tmp_path / "odd.gguf", tensors={"rope_freqs.weight": factors**2})
    assert "rope_freqs.weight" in refusal(odd)


@pytest.mark.parametrize("kind", ["linear", "yarn"])
def test_other_scalings_of_positions_come_from_fields(kind: str, tmp_path: Path) -> None:
    fields = {
        "qwen2.rope.scaling.type": kind,
        "qwen2.rope.scaling.factor": 4.0,
        "qwen2.rope.scaling.original_context_length": 512,
    }
    rope = config_of(tmp_path, "qwen-7b", fields=fields).rope_parameters
    assert rope["rope_type"] == kind
    assert rope["factor"] == 4.0
    assert rope["original_max_position_embeddings"] == 512
    path = write_gguf(
        "qwen-7b", tmp_path / "odd.gguf", fields={"qwen2.rope.scaling.type": "spiral"}
    )
    assert "'spiral'" in refusal(path)


def test_padded_embeddings_and_every_end_count(tmp_path: Path) -> None:
    own = lab("qwen-7b").model.get_input_embeddings().weight.detach().numpy()
    wide = np.concatenate([own, np.zeros((32, own.shape[1]), dtype=np.float32)])
    config = config_of(
        tmp_path,
        "qwen-7b",
        tensors={"token_embd.weight": wide},
        fields={"tokenizer.ggml.eom_token_id": 5},
    )
    assert config.vocab_size == len(own) + 32
    assert config.eos_token_id == [1, 2, 5]


# -- architectures that are stored otherwise -----------------------------------------------------


def other_model(
    path: Path, network: Any, architecture: str, fields: dict[str, Any], stored: dict[str, Any]
) -> tuple[dict[str, Any], dict[str, torch.Tensor]]:
    """Weights read back from a file of another architecture, and those of the network."""
    names = read_header(write_gguf("qwen-7b", path), "a").by_name
    kwargs: dict[str, Any] = {
        "fields": {"general.architecture": architecture}
        | {f"{architecture}.{key}": value for key, value in (SHAPE | fields).items()},
        "tensors": dict.fromkeys(names) | stored,
    }
    header = read_header(write_gguf("qwen-7b", path, **kwargs), "b")
    made = weights_of(header, load_config(header, "b"), "b")
    found = {name: torch.cat([*parts]).reshape(made.shapes[name]) for name, parts in made}
    return found, network.state_dict()


SHAPE = {
    "context_length": 512,
    "embedding_length": 96,
    "block_count": 2,
    "feed_forward_length": 192,
    "attention.head_count": 6,
    "attention.head_count_kv": 2,
    "attention.layer_norm_rms_epsilon": 1e-5,
    "rope.freq_base": 10000.0,
}
SIZES: dict[str, Any] = {
    "vocab_size": 1024,
    "hidden_size": 96,
    "intermediate_size": 192,
    "num_hidden_layers": 2,
    "num_attention_heads": 6,
    "num_key_value_heads": 2,
}


def test_experts_that_are_stored_apart_are_put_together(tmp_path: Path) -> None:
    network = transformers.Qwen3MoeForCausalLM(
        transformers.Qwen3MoeConfig(**SIZES, moe_intermediate_size=32, head_dim=16, num_experts=4)
    )
    names = gguf.get_tensor_name_map(gguf.MODEL_ARCH.QWEN3MOE, 2)
    stored = {}
    for name, tensor in network.state_dict().items():
        layer = "".join(filter(str.isdigit, name))
        if name.endswith("gate_up_proj"):
            halves = np.split(tensor.numpy(), 2, axis=1)
            for part, half in zip(("gate", "up"), halves, strict=True):
                stored[f"blk.{layer}.ffn_{part}_exps.weight"] = np.ascontiguousarray(half)
        elif name.endswith("experts.down_proj"):
            stored[f"blk.{layer}.ffn_down_exps.weight"] = tensor.numpy()
        else:
            stored[str(names.get_name(name, try_suffixes=(".weight",)))] = tensor.numpy()
    fields = {
        "expert_feed_forward_length": 32,
        "attention.key_length": 16,
        "expert_count": 4,
        "expert_used_count": 2,
    }
    found, own = other_model(tmp_path / "moe.gguf", network, "qwen3moe", fields, stored)
    assert found.keys() == own.keys()
    assert all(torch.equal(found[name], own[name]) for name in own)


def test_architectures_of_transformers_newer_reading_do_too(tmp_path: Path) -> None:
    network = transformers.Lfm2ForCausalLM(
        transformers.Lfm2Config(
            **SIZES, layer_types=["conv", "full_attention"], block_auto_adjust_ff_dim=False
        )
    )
    names = gguf.get_tensor_name_map(gguf.MODEL_ARCH.LFM2, 2)
    stored = {
        str(names.get_name(name, try_suffixes=(".weight",))): (
            tensor[:, 0] if name.endswith("conv.conv.weight") else tensor
        ).numpy()
        for name, tensor in network.state_dict().items()
        if name != "lm_head.weight"
    }
    fields = {"attention.head_count_kv": [0, 2], "shortconv.l_cache": 3}
    found, own = other_model(tmp_path / "lfm2.gguf", network, "lfm2", fields, stored)
    assert found.keys() == own.keys() - {"lm_head.weight"}
    assert all(torch.equal(found[name], own[name]) for name in found)
