"""Eight bits on a CPU: what is computed, that rows do not touch each other, what is refused."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from conftest import random_model
from steersweep import ChatModel, InputError
from steersweep.model.int8 import Int8Linear, to_int8
from steersweep.model.precision import resolve_precision
from test_cli import run

MODEL = "lab:qwen-3b"


def linear(n_in: int = 48, n_out: int = 20, *, bias: bool = True) -> nn.Linear:
    torch.manual_seed(0)
    return nn.Linear(n_in, n_out, bias=bias).requires_grad_(False)


def in_whole_numbers(layer: nn.Linear, inputs: Tensor) -> Tensor:
    """The same by 64-bit integers, one token and one output at a time."""
    weights = layer.weight.double()
    found = torch.zeros(len(inputs), layer.out_features, dtype=torch.float64)
    for token, row in enumerate(inputs.double()):
        step = row.abs().max() / 127
        for output, column in enumerate(weights):
            size = column.abs().max() / 127
            product = ((row / step).round().long() * (column / size).round().long()).sum()
            found[token, output] = product * step * size
    return found if layer.bias is None else found + layer.bias.double()


@pytest.mark.parametrize("bias", [True, False])
def test_products_are_those_of_whole_numbers(bias: bool) -> None:
    layer, inputs = linear(bias=bias), torch.randn(7, 48)
    found = Int8Linear(layer)(inputs)
    assert found.dtype == torch.float32
    assert torch.allclose(found.double(), in_whole_numbers(layer, inputs), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("rows", [1, 3, 64, 200])
def test_a_tokens_result_depends_on_no_other(rows: int) -> None:
    """Not even beside a token a million times as large, or one of zeros, or one of no numbers."""
    layer, inputs = Int8Linear(linear(96, 300)), torch.randn(rows, 96)
    beside = torch.cat(
        [torch.randn(1, 96) * 1e6, torch.zeros(1, 96), torch.full((1, 96), torch.nan)]
    )
    together = layer(torch.cat([inputs, beside]))
    assert torch.equal(together[:rows], layer(inputs))
    assert all(torch.equal(together[row], layer(inputs[row : row + 1])[0]) for row in range(rows))
    assert torch.equal(layer(inputs[None, :, None]), together[None, :rows, None])
    assert torch.equal(together[rows + 1], layer.bias)
    assert together[rows + 2].isnan().all()


def test_a_prompts_logits_do_not_depend_on_its_batch() -> None:
    chat = ChatModel.load(MODEL, precision="int8-dynamic", device="cpu")
    texts = ["Name a river.", "How do I bake a cake for my grandmother?", "What is the capital?"]

    def logits(asked: list[str]) -> Tensor:
        batch = chat.pad([chat.prompt_ids(text) for text in asked])
        return chat.logits(batch.input_ids, batch.attention_mask, batch.position_ids)[:, 0]

    together = logits(texts)
    for row, text in enumerate(texts):
        apart = float((together[row] - logits([text])[0]).norm() / together[row].norm())
        assert apart < 1e-4  # LLM.int8() is a hundred times as far


def test_every_linear_layer_runs_in_eight_bits_and_the_stream_stays_float32() -> None:
    chat = ChatModel.load(MODEL, precision="int8-dynamic", device="cpu")
    assert not [module for module in chat.model.modules() if type(module) is nn.Linear]
    assert isinstance(chat.model.get_output_embeddings(), Int8Linear)
    assert chat.dtype == torch.float32
    assert chat.precision == "int8-dynamic"


def test_a_network_in_eight_bits_that_is_in_memory_says_so() -> None:
    """And is told from one with other weights, which lie where nothing can read them."""
    chat = ChatModel.load(MODEL, precision="int8-dynamic", device="cpu")
    wrapped = ChatModel.wrap(chat.model, chat.tokenizer, template=chat.tokenizer.chat_template)
    assert wrapped.precision == "int8-dynamic"
    before = wrapped.source.fingerprint()
    plain = linear(chat.d_model, chat.layers[0].mlp.up_proj.out_features, bias=False)
    other = copy.deepcopy(plain)
    other.weight[:, 1:] *= 0.9  # the largest of each output, and so the scales, may stay
    for layer in (plain, other):
        layer.weight[:, 0] = 9.0
    assert torch.equal(Int8Linear(plain).scale, Int8Linear(other).scale)
    held = chat.layers[0].mlp.up_proj
    prints = []
    for layer in (plain, other):
        chat.layers[0].mlp.up_proj = Int8Linear(layer)
        prints.append(wrapped.source.fingerprint())
    chat.layers[0].mlp.up_proj = held
    assert len({before, *prints}) == 3
    assert wrapped.source.fingerprint() == before


def test_what_cannot_run_in_eight_bits_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(InputError, match="is for CPUs; on cuda use int8"):
        resolve_precision("int8-dynamic", object(), "cuda")
    with pytest.raises(InputError, match="no linear layers that int8-dynamic"):
        to_int8(random_model("GPT2LMHeadModel", n_embd=32, n_layer=2, n_head=2).model, "gpt")
    monkeypatch.setattr("torch.cpu._is_vnni_supported", lambda: False)
    with pytest.raises(InputError, match=r"precision int8-dynamic: this processor has no"):
        ChatModel.load(MODEL, precision="int8-dynamic", device="cpu")


def test_a_sweep_by_the_command_says_what_it_ran_in(tmp_path: Path) -> None:
    command = ("sweep", MODEL, "--layers", "0.5", "--strengths", "0.2", "--max-prompts", "3")
    done = run(*command, "--precision", "int8-dynamic", "--out", "run", "--json", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["results"][0]["quantization"] == "int8-dynamic"
    records: list[Any] = [
        json.loads(file.read_text()) for file in (tmp_path / "run" / "conditions").iterdir()
    ]
    assert {record["condition"]["precision"] for record in records} == {"int8-dynamic"}
