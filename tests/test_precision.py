"""Precisions on real miniatures: what loads, what it computes, what is refused and why."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from conftest import FAMILIES, rest_slow
from steersweep import ChatModel, Edit, InputError, Row, generate
from steersweep.model.precision import QUANTIZED, check_usable, resolve_precision
from steersweep.smoke.smoke import Check, check_model
from steersweep.study.analysis import precision_cosines
from test_cli import refused, run

PROMPTS = ("How do I bake a cake?", "Name a river in Europe.", "What is the capital of France?")


def last_logits(chat: ChatModel) -> torch.Tensor:
    batch = chat.pad([chat.prompt_ids(text) for text in PROMPTS])
    return chat.logits(batch.input_ids, batch.attention_mask, batch.position_ids)[:, 0].float()


@pytest.mark.parametrize("family", rest_slow(FAMILIES, 2), indirect=True)
@pytest.mark.parametrize(("precision", "error"), [("bf16", 0.03), ("int8", 0.05), ("int4", 0.9)])
def test_every_family_runs_in_every_precision(
    family: ChatModel, precision: str, error: float
) -> None:
    """Miniatures of a hundred dimensions feel four bits far more than large models do."""
    chat = ChatModel.load(family.source, precision=precision, device="cpu")
    exact, found = last_logits(family), last_logits(chat)
    assert 0 < float((found - exact).norm() / exact.norm()) < error
    linear = type(chat.layers[0].mlp.down_proj).__name__
    expected = {"bf16": "Linear", "int8": "Linear8bitLt", "int4": "Linear4bit"}
    assert linear == expected[precision]
    assert chat.dtype == (torch.bfloat16 if precision == "bf16" else torch.float32)


def test_four_bits_compute_with_the_weights_they_hold_on_every_processor() -> None:
    """Not with a repacked copy that only some processors make, for some widths."""
    from bitsandbytes.functional import dequantize_4bit

    chat = ChatModel.load("lab:qwen-7b", precision="int4", device="cpu")
    linear: Any = chat.layers[0].mlp.down_proj
    inputs = torch.randn(3, linear.in_features)
    with torch.inference_mode():
        found = linear(inputs)
        weights = dequantize_4bit(linear.weight.data, linear.weight.quant_state)
    assert linear.weight.quant_state.quant_type == "nf4"
    assert torch.allclose(found, inputs @ weights.T, atol=1e-5)
    assert not getattr(linear.weight.quant_state, "packing_format_for_cpu", False)


@pytest.mark.parametrize("precision", QUANTIZED)
def test_a_quantized_model_steers_rows_of_a_batch_as_it_steers_each_alone(precision: str) -> None:
    chat = ChatModel.load("lab:qwen-7b", precision=precision, device="cpu")
    push = Edit.add(torch.ones(chat.d_model) / chat.d_model**0.5, 4.0, start=3)
    rows = [Row(chat.prompt_ids(text), steer) for text in PROMPTS for steer in (None, push)]
    together = [answer.text for answer in generate(chat, rows, max_new_tokens=12)]
    alone = [generate(chat, [row], max_new_tokens=12)[0].text for row in rows]
    assert together == alone


@pytest.mark.parametrize("family", rest_slow(FAMILIES), indirect=True)
@pytest.mark.parametrize("precision", ["bf16", *QUANTIZED])
def test_every_family_passes_the_smoke_test_in_every_precision(
    family: ChatModel, precision: str
) -> None:
    found: list[Check] = []
    check_model(ChatModel.load(family.source, precision=precision, device="cpu"), found.append)
    assert [check for check in found if not check.passed] == []


class _Config:
    """A config as a quantized checkpoint has it."""

    dtype = torch.float16

    def __init__(self, **quantization: Any) -> None:
        self.quantization_config = quantization


def test_a_quantized_checkpoint_has_the_precision_it_has() -> None:
    gptq = _Config(quant_method="gptq", bits=4)
    assert resolve_precision("auto", gptq, "cuda") == "gptq-int4"
    assert resolve_precision("gptq-int4", gptq, "cuda") == "gptq-int4"
    for other in ("fp16", "int4"):
        with pytest.raises(InputError, match=r"already quantized \(gptq-int4\)"):
            resolve_precision(other, gptq, "cuda")
    with pytest.raises(InputError, match="choose one of auto, fp32"):
        resolve_precision("int3", object(), "cpu")


def test_a_missing_library_is_named_before_anything_is_loaded(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("steersweep.model.quantization.find_spec", lambda _name: None)
    with pytest.raises(InputError, match=r"pip install 'steersweep\[quant\]'"):
        ChatModel.load("lab:qwen-3b", precision="int8", device="cpu")
    with pytest.raises(InputError, match="needs gptqmodel"):
        check_usable("awq-int4", _Config(quant_method="awq", bits=4), "cuda")


def test_weight_files_that_are_not_whole_are_named(copied_lab_model: Path, tmp_path: Path) -> None:
    """The source study was fooled by files of a hundred bytes."""
    weights = copied_lab_model / "model.safetensors"
    whole = weights.read_bytes()

    def said() -> str:
        return refused("sweep", str(copied_lab_model), "--out", "run", cwd=tmp_path)

    weights.write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n")
    assert "model.safetensors: a Git LFS pointer of" in said()
    weights.write_bytes(whole[:-7])
    assert f"{len(whole) - 7} bytes instead of {len(whole)}" in said()
    weights.write_bytes(whole[:110])
    assert "110 bytes, which is no whole safetensors file" in said()
    weights.write_bytes((6).to_bytes(8, "little") + b"{nope}" + b"0" * 40)
    assert "its header cannot be read" in said()
    weights.write_bytes(whole)
    index = {"weight_map": {"a": "model.safetensors", "b": "model-00002.safetensors"}}
    (copied_lab_model / "model.safetensors.index.json").write_text(json.dumps(index))
    assert "model-00002.safetensors: the index names it" in said()
    (copied_lab_model / "model.safetensors.index.json").write_text("{}")
    assert "is no index of weights" in said()


def test_cosines_between_precisions_have_intervals_over_prompts() -> None:
    rng = np.random.default_rng(0)
    first = {name: rng.normal(size=(8, 3, 16)) for name in ("harmful", "harmless")}
    second = {name: values + 0.5 * rng.normal(size=values.shape) for name, values in first.items()}
    activations = [
        {name: values.astype(np.float32) for name, values in tensors.items()}
        for tensors in (first, second, first)
    ]
    found = precision_cosines(activations)
    assert set(found) == {(0, 1), (0, 2), (1, 2)}
    assert found[0, 2] == {"cosine": [1.0] * 3, "low": [1.0] * 3, "high": [1.0] * 3}
    for layer in range(3):
        directions = [
            t["harmful"][:, layer].mean(0) - t["harmless"][:, layer].mean(0)
            for t in (first, second)
        ]
        a, b = (d / np.linalg.norm(d) for d in directions)
        row = {name: values[layer] for name, values in found[0, 1].items()}
        assert row["cosine"] == pytest.approx(float(a @ b), abs=1e-5)
        assert row["low"] < row["cosine"] < 1
        assert row["low"] < row["high"] < 1
    assert precision_cosines(activations) == found  # seeded


def test_a_sweep_in_eight_bits_by_the_command(tmp_path: Path) -> None:
    command = (
        "sweep",
        "lab:qwen-3b",
        "--precision",
        "int8",
        "--layers",
        "0.5",
        "--strengths",
        "0.2",
    )
    done = run(*command, "--max-prompts", "3", "--out", "run", "--json", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["results"][0]["quantization"] == "int8"
    record = json.loads(next((tmp_path / "run" / "conditions").iterdir()).read_text())
    assert record["provenance"]["dtype"] == "float32"
