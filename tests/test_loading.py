"""What stops a checkpoint from loading: its weights, config, files, adapters and tokens."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file
from torch import nn

from helpers.checkpoints import (
    PROMPTS,
    Tensors,
    configure,
    logits,
    refusal,
    rewrite,
    small_llama,
    without,
)
from hub_server import Hub, serving
from steersweep import ChatModel, InputError, Row, generate
from steersweep.model import numbers
from steersweep.model.find import find_model
from steersweep.model.memory import OutOfMemory, model_shape
from steersweep.smoke import basics
from steersweep.smoke.passes import PlainPasses
from test_hub import NAME, steersweep


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A model of three layers, four heads and an output layer of its own."""
    return small_llama(tmp_path / "model")


def renamed(old: str, new: str) -> Callable[[Tensors], Tensors]:
    return lambda tensors: {name.replace(old, new): value for name, value in tensors.items()}


def added(name: str, *shape: int) -> Callable[[Tensors], Tensors]:
    return lambda tensors: {**tensors, name: torch.ones(shape)}


WEIGHTS: list[tuple[Callable[[Tensors], Tensors], dict[str, Any], list[str]]] = [
    (
        lambda tensors: {f"base_model.model.{name}": value for name, value in tensors.items()},
        {},
        ["base_model.model.", "was not merged"],
    ),
    (renamed("_proj.weight", "_proj.base_layer.weight"), {}, ["base_layer", "was not merged"]),
    (
        lambda tensors: {f"module.{name}": value for name, value in tensors.items()},
        {},
        ["begin with 'module.'"],
    ),
    (
        without("layers.2."),
        {},
        ["9 tensors that the model needs", "num_hidden_layers 3, and the files hold 2 whole"],
    ),
    (lambda tensors: tensors, {"num_hidden_layers": 2}, ["layers.2.", "the files hold 3"]),
    (without("layers.1.mlp.up_proj"), {}, ["1 tensor that the model needs is not", "up_proj"]),
    (without("lm_head"), {}, ["lm_head.weight", "tie_word_embeddings"]),
    (without("embed_tokens"), {}, ["model.embed_tokens.weight"]),
    (lambda tensors: tensors, {"vocab_size": 1000}, ["vocab_size 1000", "1024 rows"]),
    (lambda tensors: tensors, {"num_attention_heads": 8}, ["q_proj", "its widths"]),
    (lambda tensors: tensors, {"hidden_size": 64}, ["its widths"]),
    (added("score.weight", 2, 32), {}, ["score.weight", "another task"]),
    (added("model.layers.0.self_attn.q_proj.bias", 32), {}, ["q_proj.bias", "no place"]),
    (renamed("q_proj.weight", "q_proj.qweight"), {}, ["qweight", "quantization_config"]),
]


@pytest.mark.parametrize(("change", "config", "said"), WEIGHTS)
def test_tensors_that_do_not_fit_stop_the_load_and_are_named_with_the_cause(
    folder: Path,
    change: Callable[[Tensors], Tensors],
    config: dict[str, Any],
    said: list[str],
) -> None:
    rewrite(folder, change)
    configure(folder, **config)
    message = refusal(folder)
    for part in said:
        assert part in message


def test_what_is_tied_or_spare_by_design_does_not_stop_a_load(tmp_path: Path) -> None:
    tied = small_llama(tmp_path / "tied", tie_word_embeddings=True)
    assert "lm_head.weight" not in load_file(tied / "model.safetensors")
    before = logits(ChatModel.load(str(tied), device="cpu"))

    def spare(tensors: Tensors) -> Tensors:
        ahead = {f"model.layers.3.{name}.weight": torch.ones(32) for name in ("enorm", "eh_proj")}
        inside = {"model.layers.3.mlp.up_proj.weight": torch.ones(64, 32)}
        old = {"model.layers.0.self_attn.rotary_emb.inv_freq": torch.ones(4)}
        return {**tensors, **ahead, **inside, **old, "mtp.fc.weight": torch.ones(2, 2)}

    rewrite(tied, spare)
    assert torch.equal(logits(ChatModel.load(str(tied), device="cpu")), before)


def test_a_head_that_the_config_ties_and_the_files_hold_otherwise_stops_the_load(
    tmp_path: Path,
) -> None:
    tied = small_llama(tmp_path / "tied", tie_word_embeddings=True)
    before = logits(ChatModel.load(str(tied), device="cpu"))

    def head(times: float) -> Callable[[Tensors], Tensors]:
        return lambda held: {**held, "lm_head.weight": held["model.embed_tokens.weight"] * times}

    rewrite(tied, head(1))  # as pickles of tied models are converted
    assert torch.equal(logits(ChatModel.load(str(tied), device="cpu")), before)
    rewrite(tied, head(1.01))
    message = refusal(tied)
    assert "lm_head.weight is model.embed_tokens.weight (tie_word_embeddings)" in message
    configure(tied, tie_word_embeddings=False)
    assert not torch.equal(logits(ChatModel.load(str(tied), device="cpu")), before)


OWN_CODE = """
from transformers import LlamaConfig, LlamaForCausalLM

class OwnConfig(LlamaConfig):
    model_type = "own"

class OwnModel(LlamaForCausalLM):
    config_class = OwnConfig

    def forward(self, *args, **kwargs):
        return super().forward(*args, **kwargs)
"""


def test_code_of_a_model_that_hands_its_inputs_on_takes_what_its_base_takes(folder: Path) -> None:
    plain = ChatModel.load(str(folder), device="cpu")
    rows = [Row(plain.prompt_ids(text)) for text in PROMPTS]
    expected = [found.token_ids for found in generate(plain, rows, max_new_tokens=8)]
    (folder / "own.py").write_text(OWN_CODE)
    classes = {"AutoConfig": "own.OwnConfig", "AutoModelForCausalLM": "own.OwnModel"}
    configure(folder, model_type="own", architectures=["OwnModel"], auto_map=classes)
    assert "read it, then set trust_remote_code" in refusal(folder)
    own = ChatModel.load(str(folder), device="cpu", trust_remote_code=True)
    assert type(own.model).__name__ == "OwnModel"
    assert [found.token_ids for found in generate(own, rows, max_new_tokens=8)] == expected


@pytest.mark.parametrize(
    ("config", "said"),
    [
        ({"num_attention_heads": 5}, "attention heads"),
        ({"hidden_size": "wide"}, "hidden_size"),
        ({"num_hidden_layers": None}, "num_hidden_layers"),
        ({"num_hidden_layers": 10**9}, "num_hidden_layers"),
        ({"num_hidden_layers": 0}, "num_hidden_layers"),
        ({"num_key_value_heads": 3}, "num_key_value_heads"),
        ({"model_type": "none_such"}, "none_such"),
    ],
)
def test_a_config_that_contradicts_itself_is_one_line(
    folder: Path, config: dict[str, Any], said: str
) -> None:
    configure(folder, **config)
    assert said in refusal(folder)


def test_a_config_of_a_billion_layers_is_refused_before_lists_are_made_of_it(
    copied_lab_model: Path,
) -> None:
    """Qwen2's config holds the kind of each layer."""
    configure(copied_lab_model, num_hidden_layers=10**9, layer_types=None)
    assert "config.json: num_hidden_layers is 1e+09" in refusal(copied_lab_model)


@pytest.mark.parametrize("field", ["hidden_size", "vocab_size"])
def test_a_config_beyond_all_memory_is_refused_before_it_is_asked_for(
    folder: Path, field: str
) -> None:
    configure(folder, **{field: 10**12})
    with pytest.raises(OutOfMemory, match=rf"does not fit on cpu: config.json .*{field} 1,000,0"):
        ChatModel.load(str(folder), device="cpu")


@pytest.mark.parametrize("content", ["[]", "null", "{", "", '{"model_type": 3}', "{}"])
def test_a_config_that_is_none_is_one_line(folder: Path, content: str) -> None:
    (folder / "config.json").write_text(content)
    refusal(folder)


# -- weight files ----------------------------------------------------------------------------------


def sharded(folder: Path) -> tuple[Path, Path, Path]:
    """The folder's weights in two parts with an index."""
    tensors = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    names = sorted(tensors)
    parts = [folder / f"model-0000{number}-of-00002.safetensors" for number in (1, 2)]
    halves = (names[: len(names) // 2], names[len(names) // 2 :])
    for part, half in zip(parts, halves, strict=True):
        save_file({name: tensors[name] for name in half}, part, {"format": "pt"})
    index = folder / "model.safetensors.index.json"
    weight_map = {n: p.name for p, half in zip(parts, halves, strict=True) for n in half}
    index.write_text(json.dumps({"metadata": {}, "weight_map": weight_map}))
    return parts[0], parts[1], index


def test_parts_of_weights_load_with_their_index_and_only_if_all_agree(
    folder: Path, tmp_path: Path
) -> None:
    whole = logits(ChatModel.load(str(folder), device="cpu"))
    copy = Path(shutil.copytree(folder, tmp_path / "copy"))
    first, second, index = sharded(folder)
    assert torch.equal(logits(ChatModel.load(str(folder), device="cpu")), whole)
    content = index.read_text()
    index.unlink()
    assert "index.json, which says what the parts are, is not there" in refusal(folder)
    facts = json.loads(content)
    facts["weight_map"]["model.extra"] = first.name
    index.write_text(json.dumps(facts))
    assert "names model.extra, which none of its files holds" in refusal(folder)
    index.write_text(content)
    tensors = load_file(second)
    save_file({**tensors, **load_file(first)}, second, {"format": "pt"})
    assert f"and so does {first.name}" in refusal(folder)
    save_file(tensors, second, {"format": "pt"})
    shutil.copy(copy / "model.safetensors", folder)
    assert "only one of both is the model" in refusal(folder)


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("pytorch_model.bin", "pytorch_model.bin (PyTorch pickle)"),
        ("pytorch_model-00001-of-00002.bin", "loading pickles can run code"),
        ("model.pth", "use_safetensors=False"),
        ("tf_model.h5", "TensorFlow"),
        ("flax_model.msgpack", "Flax"),
        ("small-q4.gguf", "GGUF"),
        ("consolidated.safetensors", "consolidated.safetensors"),
        ("model.fp16.safetensors", "rename it"),
        ("training_args.bin", "holds no weights"),
        ("shard-00000-model-00001-of-00001.safetensors", "distributed checkpoint"),
        ("modules.json", "embedding model"),
    ],
)
def test_weights_in_another_form_are_named_with_what_to_do(
    folder: Path, name: str, said: str
) -> None:
    (folder / "model.safetensors").rename(folder / name)
    assert said in refusal(folder)


def test_no_pickle_is_opened(folder: Path) -> None:
    (folder / "model.safetensors").unlink()
    trap = b"cos\nsystem\n(S'touch " + str(folder / "ran").encode() + b"'\ntR."
    (folder / "pytorch_model.bin").write_bytes(trap)
    refusal(folder)
    assert not (folder / "ran").exists()


@pytest.mark.parametrize("dtype", [torch.float8_e4m3fn, torch.int8, torch.uint8])
def test_coded_weights_without_a_quantization_config_are_refused(
    folder: Path, dtype: torch.dtype
) -> None:
    name = "model.layers.1.mlp.up_proj.weight"
    rewrite(folder, lambda tensors: {**tensors, name: tensors[name].to(dtype)})
    assert f"{name} is stored as" in refusal(folder)


def test_a_quantization_config_beside_full_weights_is_refused(folder: Path) -> None:
    configure(folder, quantization_config={"quant_method": "fp8"})
    assert "hold ordinary numbers" in refusal(folder)


@pytest.mark.parametrize(
    ("value", "said"), [(float("nan"), "NaN or infinite"), (float("inf"), "NaN or infinite")]
)
def test_weights_that_are_no_numbers_are_named(folder: Path, value: float, said: str) -> None:
    def spoil(tensors: Tensors) -> None:
        tensors["model.layers.2.mlp.down_proj.weight"][3, 5] = value

    rewrite(folder, spoil)
    assert f"model.layers.2.mlp.down_proj.weight holds {said}" in refusal(folder)


def test_a_matrix_of_zeros_is_named_and_a_bias_of_zeros_is_none(tmp_path: Path) -> None:
    folder = small_llama(tmp_path / "model", attention_bias=True)  # biases begin as zeros
    ChatModel.load(str(folder), device="cpu")
    rewrite(folder, lambda tensors: {**tensors, "lm_head.weight": torch.zeros(1024, 32)})
    assert "lm_head.weight is 0 everywhere" in refusal(folder)


def test_the_weights_are_looked_through_once(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The check of a run's weights tells what was seen when they were loaded."""
    looks: list[nn.Module] = []
    look = numbers._odd_tensors
    monkeypatch.setattr(numbers, "_odd_tensors", lambda net: (looks.append(net), look(net))[1])
    chat = ChatModel.load(str(folder), device="cpu")
    basics.weights(chat, PlainPasses(chat))
    assert looks == [chat.model]
    with torch.no_grad():
        chat.model.lm_head.weight.fill_(2.0)
    wrapped = ChatModel.wrap(chat.model, chat.tokenizer)
    trouble, said = basics.weights(wrapped, PlainPasses(wrapped))
    assert trouble
    assert "lm_head.weight is 2 everywhere" in said


# -- adapters --------------------------------------------------------------------------------------


def adapter(folder: Path) -> None:
    facts = {"peft_type": "LORA", "base_model_name_or_path": "maker/base", "r": 4}
    (folder / "adapter_config.json").write_text(json.dumps(facts))
    save_file({"base_model.model.x": torch.ones(1)}, folder / "adapter_model.safetensors")


def test_an_adapter_is_refused_beside_a_model_and_alone_with_its_base(folder: Path) -> None:
    adapter(folder)
    assert "(a LORA adapter of maker/base) lies beside a model's weights" in refusal(folder)
    (folder / "model.safetensors").unlink()
    assert "holds a LORA adapter of maker/base" in refusal(folder)
    (folder / "config.json").unlink()
    message = refusal(folder)
    assert "holds a LORA adapter of maker/base" in message
    assert "merge_and_unload" in message


EXTRACT = ("extract", NAME, "--layer", "0.5", "-o", "x.safetensors")


@pytest.mark.slow
@pytest.mark.parametrize("has_model", [True, False])
def test_an_adapter_on_the_hub_is_refused_before_a_download(
    tmp_path: Path, has_model: bool
) -> None:
    model = small_llama(tmp_path / "model")
    adapter(model)
    if not has_model:
        (model / "model.safetensors").unlink()
        (model / "config.json").unlink()
    with serving(Hub({NAME: model})) as hub:
        (done,) = steersweep(hub, tmp_path, EXTRACT)
        assert done.returncode == 2, done.stderr
        assert "LORA adapter of maker/base" in done.stderr
        assert not any(path.endswith("model.safetensors") for _, path, _ in hub.requests)


@pytest.mark.slow
def test_weights_of_the_hub_that_do_not_fit_are_refused_alike(tmp_path: Path) -> None:
    model = small_llama(tmp_path / "model")
    rewrite(model, without("layers.2."))
    with serving(Hub({NAME: model})) as hub:
        (done,) = steersweep(hub, tmp_path, EXTRACT)
    assert done.returncode == 2, done.stderr
    assert "the files hold 2 whole layers" in done.stderr


# -- tokens ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("pad", [-1, 1024, 99_999])
def test_padding_ids_beyond_the_embedding_change_nothing(
    folder: Path, tmp_path: Path, pad: int
) -> None:
    chat = ChatModel.load(str(folder), device="cpu")
    expected = [a.text for a in generate(chat, [Row(chat.prompt_ids(t)) for t in PROMPTS])]
    configure(folder, pad_token_id=pad)
    generation = {"eos_token_id": [1, 5000], "pad_token_id": pad}
    (folder / "generation_config.json").write_text(json.dumps(generation))
    other = ChatModel.load(str(folder), device="cpu")
    assert 0 <= other.pad_id < 1024
    assert all(0 <= token < 1024 for token in other.eos_ids)
    rows = [Row(other.prompt_ids(text)) for text in PROMPTS]
    assert [answer.text for answer in generate(other, rows)] == expected
    assert model_shape(find_model(str(folder)).config()).vocab_size == 1024


def test_a_tokenizer_with_tokens_that_the_model_lacks_is_refused_by_token(folder: Path) -> None:
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    tokenizer.add_special_tokens(
        {"pad_token": "[PAD]"}
    )  # as training scripts do, never in a prompt
    tokenizer.save_pretrained(folder)
    chat = ChatModel.load(str(folder), device="cpu")
    assert 0 <= chat.pad_id < 1024
    with pytest.raises(InputError, match=r"'\[PAD\]', token 1024"):
        chat.pad([[5, 1024]])
    tokenizer.add_tokens(["<new>"])
    tokenizer.save_pretrained(folder)
    assert "'<new>' with id 1025" in refusal(folder)
