"""Models in GGUF files: small ones, written here as llama.cpp writes them."""

from __future__ import annotations

import json
import os
import shutil
import struct
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
import torch
import transformers
import yaml
from safetensors.torch import load_file

from conftest import lab, rest_slow
from gguf_files import ARCHITECTURES, write_gguf
from helpers.studies import SMALL
from hub_server import COMMIT, Hub, serving
from steersweep import ChatModel
from steersweep.core.errors import InputError, NumericalError
from steersweep.core.precision_labels import is_quantized, rounds_activations_by_batch, running_as
from steersweep.core.user_cache import cache_folder
from steersweep.model.gguf.config import load_config
from steersweep.model.gguf.converted import VARIABLE, limit_bytes
from steersweep.model.gguf.header import read_header
from steersweep.model.gguf.tensors import weights_of
from steersweep.model.source import find_model
from steersweep.run.folder import RunFolder
from steersweep.sweeps.settings import make_job, make_settings
from steersweep.work.overflow import as_it_runs, note_overflow
from test_cli import run

TEXTS = (
    "How do I bake a cake?",
    "你好，世界！今天天气怎么样？",
    "emoji 😀👩‍👩‍👧‍👦🇩🇪 and naïve cafés, a\u0301",
    "  leading\n\n\n  many   spaces\t\ttabs \r\n",
    "def f(x):\n    return x ** 2  # 12345 is 3.14",
    "CAN'T we've <|im_start|> [INST] <s>",
)


def logits(chat: ChatModel, text: str) -> torch.Tensor:
    batch = chat.pad([chat.prompt_ids(text)])
    return chat.logits(batch.input_ids, batch.attention_mask, batch.position_ids)


def weights(path: Path | str, dtype: torch.dtype = torch.float32) -> dict[str, torch.Tensor]:
    """What loading reads of a file, by transformers' names."""
    source = find_model(str(path))
    with source.weights(source.config(), dtype) as stored:
        held = load_file(Path(stored.location) / "model.safetensors")
        return {name: tensor.clone() for name, tensor in held.items()}  # not the file's pages


def refusal(path: Path | str) -> str:
    with pytest.raises(InputError) as caught:
        ChatModel.load(str(path), device="cpu")
    message = str(caught.value)
    assert "\n" not in message
    assert Path(str(path)).name.split(":")[0] in message
    return message


# -- the same model ------------------------------------------------------------------------------


@pytest.mark.parametrize("family", rest_slow(list(ARCHITECTURES), fast=2))
def test_a_file_is_the_model_that_its_folder_is(family: str, tmp_path: Path) -> None:
    found = ChatModel.load(str(write_gguf(family, tmp_path / "small.gguf")), device="cpu")
    own = ChatModel.load(f"lab:{family}", device="cpu")  # prompts with control tokens are noted
    assert [found.prompt_ids(text) for text in TEXTS] == [own.prompt_ids(text) for text in TEXTS]
    assert torch.equal(logits(found, TEXTS[0]), logits(own, TEXTS[0]))
    assert (found.eos_ids, found.turn_end) == (own.eos_ids, own.turn_end)
    assert (found.precision, found.source.name) == ("F32-as-fp32", "small")
    assert found.source.notes() == []


@pytest.mark.parametrize("kind", ["F16", "BF16", "Q8_0", "Q4_0", "Q4_1", "Q5_0", "Q5_1"])
def test_weights_are_what_their_blocks_stand_for(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # In parts that no tensor is a multiple of, and that threads share.
    monkeypatch.setattr("steersweep.model.gguf.tensors._PART", 32 * 7)
    monkeypatch.setattr("steersweep.model.gguf.tensors._CHUNK", 32 * 2)
    found = weights(write_gguf("qwen-7b", tmp_path / "small.gguf", kind))
    of = gguf.GGMLQuantizationType[kind]
    for name, own in lab("qwen-7b").model.named_parameters():
        whole = own.detach().numpy()
        blocks = gguf.dequantize(gguf.quantize(whole, of), of) if whole.ndim > 1 else whole
        assert torch.equal(found[name], torch.from_numpy(blocks)), name


def test_eight_bits_answer_nearly_alike(tmp_path: Path) -> None:
    path = write_gguf("qwen-7b", tmp_path / "small.gguf", "Q8_0")
    found, own = ChatModel.load(str(path), device="cpu"), lab("qwen-7b")
    assert found.precision == "Q8_0-as-fp32"
    wanted = logits(own, TEXTS[0])
    assert 0 < (logits(found, TEXTS[0]) - wanted).norm() / wanted.norm() < 0.02


def test_a_mixed_file_is_called_by_what_most_of_its_layers_have(tmp_path: Path) -> None:
    def kind_of(name: str) -> str:
        return "Q8_0" if name == "token_embd.weight" or "attn_v" in name else "Q4_0"

    path = write_gguf("qwen-7b", tmp_path / "small.gguf", kind_of=kind_of)
    source = find_model(str(path))
    assert source.precision("auto", source.config(), "cpu") == "Q4_0-as-fp32"
    assert source.precision("Q4_0-as-bf16", source.config(), "cpu") == "Q4_0-as-bf16"
    assert source.label_of("int8") == "Q4_0-as-int8"
    assert source.label_of(None) is None


@pytest.mark.parametrize("precision", ["bf16", "int8", "int8-dynamic"])
def test_a_file_runs_in_every_precision_that_its_folder_runs_in(
    precision: str, tmp_path: Path
) -> None:
    path = write_gguf("llama-8b", tmp_path / "small.gguf")
    found = ChatModel.load(str(path), precision=precision, device="cpu")
    own = ChatModel.load("lab:llama-8b", precision=precision, device="cpu")
    assert found.precision == f"F32-as-{precision}"
    assert torch.equal(logits(found, TEXTS[0]), logits(own, TEXTS[0]))


def test_names_without_an_ending_and_in_other_folders_do(tmp_path: Path) -> None:
    """Ollama calls its files by their hash."""
    blob = write_gguf("qwen-7b", tmp_path / "sha256-0e58630f")
    others = {"chat_template": "another model's", "eos_token": "<other>", "bos_token": "<other>"}
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(others))
    (tmp_path / "added_tokens.json").write_text('{"cake": 3}')
    (tmp_path / "config.json").write_text('{"model_type": "gpt2"}')
    (tmp_path / "generation_config.json").write_text('{"eos_token_id": 7}')
    found = ChatModel.load(str(blob), device="cpu")
    assert found.prompt_ids(TEXTS[0]) == lab("qwen-7b").prompt_ids(TEXTS[0])
    assert found.eos_ids == lab("qwen-7b").eos_ids
    assert found.tokenizer.eos_token != "<other>"


def test_the_fingerprint_is_of_every_byte_of_the_file_and_no_other(tmp_path: Path) -> None:
    path = write_gguf("qwen-7b", tmp_path / "a.gguf")
    first = find_model(str(path)).fingerprint()
    (tmp_path / "beside.txt").write_text("x")
    copy = shutil.copy(path, tmp_path / "b.gguf")
    assert find_model(str(copy)).fingerprint() == first
    with path.open("r+b") as file:
        file.seek(-1, os.SEEK_END)
        file.write(b"\x7f")
    assert find_model(str(path)).fingerprint() != first


# -- commands ------------------------------------------------------------------------------------


def test_a_sweep_of_a_file_is_that_of_its_folder(tmp_path: Path) -> None:
    path = write_gguf("qwen-7b", tmp_path / "small.gguf")
    answers = []
    for model, name in ((str(path), "file"), ("lab:qwen-7b", "folder")):
        sizes = ("--layers", "0.5", "--strengths", "0.3", "--max-prompts", "3")
        rest = ("--max-new-tokens", "12", "--out", name, "--quiet")
        done = run("sweep", model, *sizes, *rest, cwd=tmp_path)
        assert done.returncode == 0, done.stderr
        assert ("small: F32 → fp32 (stored, and what runs)" in done.stdout) == (name == "file")
        (results,) = (tmp_path / name / "results").glob("sweep_*.json")
        (result,) = json.loads(results.read_text("utf-8"))
        assert result["quantization"] == ("F32-as-fp32" if name == "file" else "fp32")
        answers.append([sample["response"] for sample in result["conditions"][0]["samples"]])
    assert answers[0] == answers[1]
    assert len(answers[0]) == 3
    assert "(F32 → fp32)" in (tmp_path / "file" / "report.html").read_text("utf-8")


def test_a_bad_file_ends_a_command_with_2_and_one_line(tmp_path: Path) -> None:
    (tmp_path / "small.gguf").write_bytes(b"GGUF")
    for command in (("sweep",), ("extract", "-o", "x.safetensors", "--layer", "0.5")):
        done = run(*command, "small.gguf", cwd=tmp_path)
        assert done.returncode == 2
        assert done.stderr.count("\n") == 1
        assert "small.gguf: is cut" in done.stderr


@pytest.mark.slow
def test_a_study_of_files_and_folders(tmp_path: Path) -> None:
    write_gguf("qwen-7b", tmp_path / "q7.gguf", "Q8_0")
    write_gguf("mistral-7b", tmp_path / "m7.gguf", "F16")
    (tmp_path / "plan.yaml").write_text(yaml.safe_dump(SMALL, sort_keys=False))
    places = ("--models", "q7=q7.gguf", "--models", "m7=m7.gguf")
    done = run("run", "plan.yaml", *places, "--out", "study", "--quiet", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    shown = run("status", "study", cwd=tmp_path).stdout
    assert "q7: Q8_0 → fp32, Q8_0 → int8 (stored, and what runs)" in shown
    assert "m7: F16 → fp32, F16 → int8 (stored, and what runs)" in shown
    findings = (tmp_path / "study" / "FINDINGS_LOG.md").read_text("utf-8")
    assert "Q8_0-as-int8 with the direction from Q8_0-as-fp32" in findings


def test_a_file_that_overflows_in_16_bits_runs_in_others_and_says_so(tmp_path: Path) -> None:
    path = write_gguf("qwen-7b", tmp_path / "small.gguf", "Q8_0")
    settings = make_settings([str(path)], precision="fp16", strengths="0.3", max_prompts=2)
    job = make_job(settings, settings.models[0], "cpu", "2026-11-26")
    assert job.precision == "Q8_0-as-fp16"
    store = RunFolder(tmp_path / "run")
    assert as_it_runs(job, store) is job
    note_overflow(job, store, NumericalError("NaN from layer 3 on"))
    instead = as_it_runs(job, store)
    assert instead.precision == "Q8_0-as-bf16"
    assert {condition.precision for condition in instead.conditions} == {"Q8_0-as-bf16"}


def test_labels_say_what_is_stored_and_what_runs() -> None:
    assert running_as("fp16", "bf16") == "bf16"
    assert rounds_activations_by_batch("Q8_0-as-int8")
    assert not rounds_activations_by_batch("Q8_0-as-fp32")
    assert is_quantized("Q4_0-as-int4")
    assert not is_quantized("Q4_0-as-fp32")


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


# -- files that are refused ----------------------------------------------------------------------


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    folder = tmp_path_factory.mktemp("whole")
    return write_gguf("qwen-7b", folder / "small.gguf", "Q8_0").read_bytes()


@pytest.mark.parametrize("share", [0.0, 0.00001, 0.0001, 0.01, 0.05, 0.5, 0.999])
def test_a_cut_file_is_refused_by_its_header(whole: bytes, share: float, tmp_path: Path) -> None:
    path = tmp_path / "small.gguf"
    path.write_bytes(whole[: int(len(whole) * share)])
    message = refusal(path)
    assert "cut" in message or "empty" in message
    assert "download it again" in message


def test_one_byte_short_is_cut(whole: bytes, tmp_path: Path) -> None:
    header = read_whole(whole, tmp_path)
    last = max(header.tensors, key=lambda tensor: tensor.start)
    size = gguf.GGML_QUANT_SIZES[gguf.GGMLQuantizationType(last.kind)]
    end = last.start + last.count // size[0] * size[1]
    path = tmp_path / "small.gguf"
    path.write_bytes(whole[: end - 1])
    assert f"is cut: {end - 1} bytes of {end}" in refusal(path)
    path.write_bytes(whole[:end])
    assert ChatModel.load(str(path), device="cpu").n_layers == 7


def read_whole(whole: bytes, tmp_path: Path) -> Any:
    path = tmp_path / "read.gguf"
    path.write_bytes(whole)
    return read_header(path, "read.gguf")


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"GGUF" + struct.pack(">IQQ", 3, 1, 1) + bytes(80), "big-endian"),
        (b"GGUF" + struct.pack("<IQQ", 1, 1, 1) + bytes(80), "version 1"),
        (b"GGUF" + struct.pack("<IQQ", 99, 1, 1) + bytes(80), "version 99"),
        (b"GGUF" + struct.pack("<IQQ", 3, 1 << 60, 1 << 60) + bytes(80), "damaged"),
        (b"tjgg" + bytes(80), "before GGUF"),
        (b"PK\x03\x04" + bytes(80), "pickle"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n", "git lfs pull"),
        (b"<!DOCTYPE html><html>not found</html>", "web page"),
        (struct.pack("<Q", 100) + b'{"a": {}}' + bytes(100), "safetensors"),
        (b"\x89PNG\r\n\x1a\n" + bytes(80), "no GGUF file"),
        (b"hello", "no GGUF file"),
    ],
)
def test_what_is_no_gguf_file_is_told_apart(content: bytes, said: str, tmp_path: Path) -> None:
    path = tmp_path / "small.gguf"
    path.write_bytes(content)
    assert said in refusal(path)


def test_damage_in_the_header_is_no_traceback(whole: bytes, tmp_path: Path) -> None:
    """Any byte of the beginning may be wrong."""
    path = tmp_path / "small.gguf"
    generator = np.random.default_rng(0)
    refused = 0
    for place in [*range(4, 200, 3), *generator.integers(200, 3000, 60)]:
        damaged = bytearray(whole)
        damaged[place] ^= 0xFF
        path.write_bytes(damaged)
        with suppress(InputError):
            find_model(str(path))
            continue
        refused += 1
    assert refused > 60


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"fields": {"general.type": "adapter"}}, "LoRA adapter"),
        ({"fields": {"adapter.type": "lora"}}, "LoRA adapter"),
        ({"fields": {"general.type": "imatrix"}}, "importance matrix"),
        ({"fields": {"general.type": "mmproj"}}, "sees or hears"),
        ({"fields": {"general.architecture": "clip"}}, "sees or hears"),
        ({"fields": {"general.architecture": "mpt"}}, "'mpt' from GGUF files, only bloom, deci"),
        (
            {"fields": {"tokenizer.chat_template": None}},
            "no chat template (tokenizer.chat_template)",
        ),
        ({"fields": {"qwen2.block_count": 9}}, "no tensors of layers 7, 8"),
        ({"fields": {"qwen2.block_count": None}}, "block_count is None"),
        ({"tensors": {"blk.2.ffn_down.weight": None}}, "blk.2.ffn_down.weight"),
        ({"tensors": {"token_embd.weight": None}}, "token_embd.weight"),
        (
            {"tensors": {"blk.0.attn_q_norm.weight": np.ones(16, dtype=np.float32)}},
            "blk.0.attn_q_norm.weight",
        ),
        (
            {"tensors": {"blk.1.ffn_down.weight": np.ones((96, 64), dtype=np.float32)}},
            "blk.1.ffn_down.weight is (96, 64)",
        ),
        ({"fields": {"tokenizer.ggml.model": "rwkv"}}, "'rwkv'"),
        ({"fields": {"tokenizer.ggml.merges": None}}, "tokenizer.ggml.merges is missing"),
        ({"fields": {"tokenizer.ggml.tokens": None}}, "tokenizer.ggml.tokens is missing"),
    ],
)
def test_files_that_hold_no_whole_chat_model_are_refused(
    change: dict[str, Any], said: str, tmp_path: Path
) -> None:
    assert said in refusal(write_gguf("qwen-7b", tmp_path / "small.gguf", **change))


def test_missing_layers_are_named(tmp_path: Path) -> None:
    names = [t.name for t in read_header(write_gguf("qwen-7b", tmp_path / "a.gguf"), "a").tensors]
    gone = {name: None for name in names if name.startswith(("blk.3.", "blk.4."))}
    path = write_gguf("qwen-7b", tmp_path / "small.gguf", tensors=gone)
    assert "has 7 layers by its header, and no tensors of layers 3, 4" in refusal(path)


def test_a_vocabulary_alone_is_no_model(tmp_path: Path) -> None:
    names = [t.name for t in read_header(write_gguf("qwen-7b", tmp_path / "a.gguf"), "a").tensors]
    path = write_gguf("qwen-7b", tmp_path / "small.gguf", tensors=dict.fromkeys(names))
    assert "a vocabulary and no weights" in refusal(path)


@pytest.mark.parametrize(("kind", "said"), [(9, "Q8_1"), (31, "type 31"), (77, "type 77")])
def test_types_that_cannot_be_read_are_named(
    kind: int, said: str, whole: bytes, tmp_path: Path
) -> None:
    name = b"blk.0.ffn_down.weight"
    place = whole.index(name) + len(name) + 4 + 16
    path = tmp_path / "small.gguf"
    path.write_bytes(whole[:place] + struct.pack("<I", kind) + whole[place + 4 :])
    message = refusal(path)
    assert f"blk.0.ffn_down.weight is stored as {said}" in message


def test_parts_are_named_and_how_to_merge_them(whole: bytes, tmp_path: Path) -> None:
    first = tmp_path / "small-00001-of-00003.gguf"
    write_gguf("qwen-7b", first, fields={"split.count": 3, "split.no": 0})
    message = refusal(first)
    assert "small-00002-of-00003.gguf, small-00003-of-00003.gguf are not beside it" in message
    for number in (2, 3):
        (tmp_path / f"small-0000{number}-of-00003.gguf").write_bytes(whole)
    message = refusal(tmp_path / "small-00002-of-00003.gguf")
    assert "llama-gguf-split --merge small-00001-of-00003.gguf small.gguf" in message
    renamed = first.rename(tmp_path / "renamed.gguf")
    assert "one of 3 parts" in refusal(renamed)


def test_a_folder_of_gguf_files_says_how_to_name_one(tmp_path: Path) -> None:
    folder = tmp_path / "models"
    folder.mkdir()
    for name in ("mmproj-small.gguf", "small-q4.gguf", "small-q8.gguf"):
        (folder / name).write_bytes(b"GGUF")
    assert f"name its GGUF file: {folder}/small-q4.gguf (or small-q8.gguf)" in refusal(folder)
    (folder / "config.json").write_text('{"model_type": "qwen2"}')
    assert f"name its GGUF file: {folder}/small-q4.gguf (or small-q8.gguf)" in refusal(folder)


def test_a_file_that_is_not_there_is_said(tmp_path: Path) -> None:
    assert "no such file" in refusal(tmp_path / "gone.gguf")
    assert "no such file" in refusal("gone.gguf")


def test_without_the_package_the_extra_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from steersweep.model.gguf import checks

    monkeypatch.setattr(checks, "find_spec", lambda _name: None)
    path = write_gguf("qwen-7b", tmp_path / "small.gguf")
    assert "pip install 'steersweep[gguf]'" in refusal(path)


def test_a_template_of_the_users_stands_in_for_a_missing_one(tmp_path: Path) -> None:
    fields = {"tokenizer.chat_template": None}
    path = write_gguf("qwen-7b", tmp_path / "small.gguf", fields=fields)
    template = lab("qwen-7b").tokenizer.chat_template
    found = ChatModel.load(str(path), device="cpu", template=template)
    assert found.prompt_ids(TEXTS[0]) == lab("qwen-7b").prompt_ids(TEXTS[0])


# -- what is kept --------------------------------------------------------------------------------


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("STEERSWEEP_CACHE", str(tmp_path / "cache"))
    return cache_folder() / "gguf"


def entries(cache: Path) -> dict[str, int]:
    """What is kept, and when each was written."""
    return {path.parent.name: path.stat().st_mtime_ns for path in cache.glob("*/model.safetensors")}


def same(found: dict[str, torch.Tensor], own: dict[str, torch.Tensor]) -> bool:
    return found.keys() == own.keys() and all(torch.equal(found[name], own[name]) for name in own)


def test_weights_are_made_once_for_each_precision(cache: Path, tmp_path: Path) -> None:
    path = str(write_gguf("qwen-7b", tmp_path / "small.gguf"))
    first = weights(path)
    made = entries(cache)
    assert len(made) == 1
    assert same(weights(path), first)
    assert entries(cache) == made
    half = weights(path, torch.bfloat16)
    assert same(half, {name: tensor.bfloat16() for name, tensor in first.items()})
    assert entries(cache).items() > made.items()
    assert len(entries(cache)) == 2
    ChatModel.load(path, device="cpu", precision="int8")  # of float32
    assert len(entries(cache)) == 2
    digest = find_model(path).fingerprint().removeprefix("sha256:")
    assert all(name.startswith(digest) for name in entries(cache))


def damage(file: Path) -> None:
    with file.open("r+b") as opened:
        opened.seek(-4, os.SEEK_END)
        opened.write(b"\x00\x00\xc0\x7f")


@pytest.mark.parametrize(
    "harm",
    [
        damage,
        lambda file: os.truncate(file, file.stat().st_size // 2),
        lambda file: file.unlink(),
        lambda file: file.with_name("made.json").write_text("{"),
        lambda file: file.with_name("made.json").unlink(),
        lambda file: file.write_bytes(b""),
    ],
)
def test_damaged_weights_are_made_again(
    harm: Callable[[Path], object], cache: Path, tmp_path: Path
) -> None:
    path = write_gguf("qwen-7b", tmp_path / "small.gguf")
    first = weights(path)
    (file,) = cache.glob("*/model.safetensors")
    harm(file)
    assert same(weights(path), first)
    (file,) = cache.glob("*/model.safetensors")
    assert same(load_file(file), first)


def test_leftovers_of_a_killed_run_go(cache: Path, tmp_path: Path) -> None:
    left = cache / "dead.part"
    left.mkdir(parents=True)
    (left / "model.safetensors").write_bytes(bytes(1000))
    weights(write_gguf("qwen-7b", tmp_path / "small.gguf"))
    assert not left.exists()


def test_what_was_not_used_for_longest_goes_first(
    cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    paths = [write_gguf(name, tmp_path / f"{name}.gguf") for name in ("qwen-7b", "llama-8b")]
    digests = [find_model(str(path)).fingerprint().removeprefix("sha256:") for path in paths]
    for days, (path, digest) in enumerate(zip(paths, digests, strict=True), 1):
        weights(path)
        (entry,) = cache.glob(f"{digest}*")
        os.utime(entry, (time.time() - days * 86400,) * 2)
    size = sum(file.stat().st_size for file in cache.glob("*/*"))
    monkeypatch.setenv(VARIABLE, str(1.4 * size / 1e9))
    weights(paths[1])  # used again: the other is the oldest now
    third = write_gguf("mistral-7b", tmp_path / "third.gguf")
    weights(third)
    kept = {name.split("-")[0] for name in entries(cache)}
    assert kept == {digests[1], find_model(str(third)).fingerprint().removeprefix("sha256:")}


@pytest.mark.parametrize("why", ["no room", "a file in its place"])
def test_where_nothing_can_be_kept_a_model_loads_all_the_same(
    why: str, cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if why == "no room":
        monkeypatch.setenv(VARIABLE, "0")
    else:
        cache.parent.mkdir()
        cache.write_text("")
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "temporary"))
    (tmp_path / "temporary").mkdir()
    path = write_gguf("qwen-7b", tmp_path / "small.gguf")
    found = ChatModel.load(str(path), device="cpu")
    assert torch.equal(logits(found, TEXTS[0]), logits(lab("qwen-7b"), TEXTS[0]))
    assert not entries(cache)
    assert not list((tmp_path / "temporary").glob("steersweep-*"))


@pytest.mark.usefixtures("cache")
def test_where_nothing_can_be_written_is_said_with_what_to_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = find_model(str(write_gguf("qwen-7b", tmp_path / "small.gguf")))
    config = source.config()
    monkeypatch.setenv(VARIABLE, "0")
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "gone"))
    with (
        pytest.raises(InputError, match="set STEERSWEEP_CACHE to a folder on a larger disk"),
        source.weights(config, torch.float32),
    ):
        pass


@pytest.mark.parametrize("value", ["much", "-1", "inf", "nan"])
def test_a_limit_that_is_no_number_is_refused(value: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(VARIABLE, value)
    with pytest.raises(InputError, match=f"{VARIABLE} is '{value}'"):
        limit_bytes()


# -- the hub -------------------------------------------------------------------------------------


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    folder = tmp_path / "repository"
    folder.mkdir()
    write_gguf("qwen-7b", folder / "small-q8.gguf", "Q8_0")
    write_gguf("qwen-7b", folder / "small-q4.gguf", "Q4_0")
    with serving(Hub({"maker/small-gguf": folder})) as found:
        files = found.url + "/{repo_id}/resolve/{revision}/{filename}"
        monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", found.url)
        monkeypatch.setattr("huggingface_hub.constants.HUGGINGFACE_CO_URL_TEMPLATE", files)
        monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
        monkeypatch.setattr("huggingface_hub.constants.HF_HUB_DISABLE_XET", True)
        yield found


def test_a_file_of_the_hub_is_named_with_a_colon(hub: Hub) -> None:
    source = find_model("maker/small-gguf:small-q8.gguf")
    pinned = source.pinned()
    assert (source.name, pinned.revision) == ("small-q8", COMMIT)
    found = ChatModel.load(source, device="cpu")
    assert found.precision == "Q8_0-as-fp32"
    assert found.prompt_ids(TEXTS[0]) == lab("qwen-7b").prompt_ids(TEXTS[0])
    asked = len(hub.requests)
    assert pinned.fingerprint() == found.fingerprint
    assert len(hub.requests) == asked  # a commit that is there is not asked for again
    assert not any("q4" in path for _, path, _ in hub.requests)


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("maker/small-gguf", "name its GGUF file: maker/small-gguf:small-q4.gguf"),
        ("maker/small-gguf:other.gguf", "name its GGUF file: maker/small-gguf:small-q4.gguf"),
        ("maker/small-gguf:Q4_0", "the name of a GGUF file"),
        ("maker/nothing:small.gguf", "no such model"),
    ],
)
def test_other_names_of_the_hub_are_refused(name: str, said: str, hub: Hub) -> None:
    with pytest.raises(InputError) as caught:
        find_model(name).pinned()
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)


def test_room_on_the_disk_is_looked_at_before_a_download(hub: Hub) -> None:
    hub.claimed_bytes = 10**15
    with pytest.raises(InputError, match="must be downloaded"):
        find_model("maker/small-gguf:small-q8.gguf").pinned()


def test_what_lies_here_comes_before_the_hub(
    hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "maker").mkdir()
    write_gguf("qwen-7b", tmp_path / "maker" / "small-gguf:small-q8.gguf")
    source = find_model("maker/small-gguf:small-q8.gguf")
    assert source.is_local
    assert hub.requests == []
