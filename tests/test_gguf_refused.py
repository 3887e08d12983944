"""GGUF files that are cut, damaged or hold no whole chat model."""

from __future__ import annotations

import struct
from contextlib import suppress
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest

from conftest import lab
from gguf_files import write_gguf
from helpers.gguf_models import TEXTS, refusal
from steersweep import ChatModel
from steersweep.core.errors import InputError
from steersweep.model.find import find_model
from steersweep.model.gguf.header import read_header


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
