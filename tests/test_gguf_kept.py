"""Weights of GGUF files that are kept in the user's cache."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from conftest import lab
from gguf_files import write_gguf
from helpers.gguf_models import TEXTS, logits, weights
from steersweep import ChatModel
from steersweep.core.errors import InputError
from steersweep.core.user_cache import cache_folder
from steersweep.model.find import find_model
from steersweep.model.gguf.converted import VARIABLE, limit_bytes


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
