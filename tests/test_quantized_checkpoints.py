"""Checkpoints that are stored quantized: what they are called, and what they run as."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file

from helpers.checkpoints import (
    TEXT_CONFIG,
    Tensors,
    configure,
    logits,
    refusal,
    rewrite,
    saved,
    small_llama,
)
from steersweep import ChatModel, InputError
from steersweep.core.precision_labels import is_quantized
from steersweep.model.precision import check_usable, resolve_precision
from steersweep.model.quantization import METHODS


def labelled(device: str = "cpu", **facts: Any) -> str:
    return resolve_precision("auto", transformers.LlamaConfig(quantization_config=facts), device)


@pytest.mark.parametrize(
    ("facts", "expected"),
    [
        ({"quant_method": "gptq", "bits": 4}, "gptq-int4"),
        ({"quant_method": "gptq", "bits": 3}, "gptq-int3"),
        ({"quant_method": "awq", "bits": 4}, "awq-int4"),
        ({"quant_method": "awq", "w_bit": 4}, "awq-int4"),
        ({"quant_method": "auto-round", "bits": 2}, "auto-round-int2"),
        ({"quant_method": "bitsandbytes", "load_in_8bit": True}, "bnb-int8"),
        (
            {"quant_method": "bitsandbytes", "load_in_4bit": True, "bnb_4bit_quant_type": "nf4"},
            "bnb-nf4",
        ),
        ({"load_in_4bit": True}, "bnb-fp4"),
        ({"quant_method": "mxfp4"}, "mxfp4-as-fp32"),
        ({"quant_method": "fp8", "weight_block_size": [128, 128]}, "fp8-as-fp32"),
        ({"quant_method": "fbgemm_fp8"}, "fbgemm-fp8"),
        (
            {
                "quant_method": "compressed-tensors",
                "config_groups": {"group_0": {"weights": {"num_bits": 4, "type": "int"}}},
            },
            "compressed-tensors-int4",
        ),
        (
            {
                "quant_method": "compressed-tensors",
                "config_groups": {
                    "group_0": {"weights": {"num_bits": 8, "type": "float"}},
                    "group_1": {"weights": {"num_bits": 4, "type": "int"}},
                },
            },
            "compressed-tensors-fp8-int4",
        ),
        (
            {
                "quant_method": "torchao",
                "quant_type": {"default": {"_type": "Int4WeightOnlyConfig"}},
            },
            "torchao-int4",
        ),
        (
            {"quant_method": "hqq", "quant_config": {"weight_quant_params": {"nbits": 4}}},
            "hqq-int4",
        ),
        ({"quant_method": "bitnet"}, "bitnet"),
        ({"quant_method": "eetq", "weights": "int8"}, "eetq-int8"),
        ({"quant_method": "quanto", "weights": "float8"}, "quanto-fp8"),
        ({"quant_method": "aqlm"}, "aqlm"),
        ({"quant_method": "vptq"}, "vptq"),
        ({"quant_method": "spqr", "bits": 3}, "spqr-int3"),
        ({"quant_method": "higgs", "bits": 4}, "higgs-int4"),
    ],
)
def test_a_quantized_checkpoint_is_called_what_it_is_and_what_it_runs_as(
    facts: dict[str, Any], expected: str
) -> None:
    assert labelled(**facts) == expected
    assert is_quantized(expected) == ("-as-" not in expected)


@pytest.mark.parametrize("method", ["modelopt", "nvfp4", "int8", "none of these", ""])
def test_an_unknown_method_is_refused_by_name(method: str) -> None:
    with pytest.raises(InputError, match=f"quant_method is {method!r}"):
        labelled(quant_method=method)
    with pytest.raises(InputError, match="names no quant_method"):
        labelled(group_size=64, bits=4)


@pytest.mark.parametrize(
    "method", sorted(name for name, needs in METHODS.items() if needs.modules or needs.on_gpu_only)
)
def test_a_method_that_cannot_run_here_says_what_it_needs(
    method: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("steersweep.model.quantization.find_spec", lambda _name: None)
    config = transformers.LlamaConfig(quantization_config={"quant_method": method})
    with pytest.raises(InputError, match=r"needs .*pip install"):
        check_usable(resolve_precision("auto", config, "cpu"), config, "cpu")


def test_every_method_that_transformers_loads_is_known() -> None:
    """A new one in a new transformers shows here."""
    from transformers.quantizers.auto import AUTO_QUANTIZER_MAPPING

    names = {name.removesuffix("_4bit").removesuffix("_8bit") for name in AUTO_QUANTIZER_MAPPING}
    # No checkpoints: a file of its own, and one that is only made as it is loaded.
    assert names - {"gguf", "nvfp4"} == set(METHODS)


def test_mxfp4_runs_as_full_numbers_here_and_is_labelled_so(tmp_path: Path) -> None:
    """Four bits are e2m1, two in a byte, low ones first; 32 of them share a power of two."""
    shape = {**TEXT_CONFIG, "hidden_size": 32, "intermediate_size": 32, "num_hidden_layers": 2}
    config = transformers.GptOssConfig(
        **shape, num_local_experts=2, num_experts_per_tok=1, sliding_window=8,
        layer_types=["sliding_attention", "full_attention"],
        rope_parameters={"rope_type": "default", "rope_theta": 10000.0},
    )  # fmt: skip
    torch.manual_seed(0)
    network = transformers.GptOssForCausalLM(config)
    values = torch.tensor([0.0, 0.5, 1, 1.5, 2, 3, 4, 6])
    values = torch.cat([values, -values])
    packed: Tensors = {}
    for number, layer in enumerate(network.model.layers):
        for name in ("gate_up_proj", "down_proj"):
            weights = getattr(layer.mlp.experts, name)  # [expert, in, out]
            experts, width, out = weights.shape
            codes = torch.randint(0, 16, (experts, out, width // 32, 32))
            scales = torch.randint(122, 126, (experts, out, width // 32))
            numbers = values[codes] * 2.0 ** (scales[..., None] - 127)
            weights.data = numbers.reshape(experts, out, width).transpose(1, 2).contiguous()
            key = f"model.layers.{number}.mlp.experts.{name}"
            pairs = codes.view(experts, out, width // 32, 16, 2)
            packed[f"{key}_blocks"] = (pairs[..., 0] | pairs[..., 1] << 4).to(torch.uint8)
            packed[f"{key}_scales"] = scales.to(torch.uint8)
    full = ChatModel.load(str(saved(network, tmp_path / "full")), device="cpu")
    folder = Path(shutil.copytree(tmp_path / "full", tmp_path / "mxfp4"))
    rewrite(
        folder,
        lambda tensors: {
            **{n: t for n, t in tensors.items() if not n.endswith(("gate_up_proj", "down_proj"))},
            **packed,
        },
    )
    configure(folder, quantization_config={"quant_method": "mxfp4"})
    chat = ChatModel.load(str(folder), device="cpu")
    assert chat.precision == "mxfp4-as-fp32"
    assert {p.dtype for p in chat.model.parameters()} == {torch.float32}
    assert torch.allclose(logits(chat), logits(full), atol=1e-5)


def test_fp8_runs_as_full_numbers_here_and_is_labelled_so(tmp_path: Path) -> None:
    folder = small_llama(tmp_path / "model")

    def coded(tensors: Tensors) -> Tensors:
        found: Tensors = {}
        for name, weights in tensors.items():
            if "_proj" not in name:
                found[name] = weights
                continue
            found[name] = (weights * 64).to(torch.float8_e4m3fn)
            found[f"{name}_scale_inv"] = torch.full((1, 1), 1 / 64)
        return found

    def decoded(tensors: Tensors) -> Tensors:
        return {
            name: (t * 64).to(torch.float8_e4m3fn).float() / 64 if "_proj" in name else t
            for name, t in tensors.items()
        }

    original = load_file(folder / "model.safetensors")
    rewrite(folder, decoded)
    full = logits(ChatModel.load(str(folder), device="cpu"))
    save_file(coded(original), folder / "model.safetensors", {"format": "pt"})
    assert "is stored as F8_E4M3" in refusal(folder)
    configure(folder, quantization_config={"quant_method": "fp8", "weight_block_size": [128, 128]})
    chat = ChatModel.load(str(folder), device="cpu")
    assert chat.precision == "fp8-as-fp32"
    assert torch.allclose(logits(chat), full, atol=1e-5)


@pytest.mark.parametrize(("asked", "stored"), [("int8", "bnb-int8"), ("int4", "bnb-nf4")])
def test_a_checkpoint_that_bitsandbytes_saved_runs_as_it_did(
    tmp_path: Path, asked: str, stored: str
) -> None:
    folder = small_llama(tmp_path / "model", hidden_size=64)
    made = ChatModel.load(str(folder), precision=asked, device="cpu")
    saved(made.model, tmp_path / "saved")
    chat = ChatModel.load(str(tmp_path / "saved"), device="cpu")
    assert chat.precision == stored
    assert torch.allclose(logits(chat), logits(made), atol=1e-4)
    with pytest.raises(InputError, match=f"already quantized \\({stored}\\)"):
        ChatModel.load(str(tmp_path / "saved"), precision=asked, device="cpu")
