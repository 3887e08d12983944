"""A GGUF file is the model that its folder is: weights, commands, and files of the hub."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import gguf
import pytest
import torch
import yaml

from conftest import lab, rest_slow
from gguf_files import ARCHITECTURES, write_gguf
from helpers.gguf_models import TEXTS, logits, weights
from helpers.studies import SMALL
from hub_server import COMMIT, Hub, serving
from steersweep import ChatModel
from steersweep.core.errors import InputError, NumericalError
from steersweep.core.precision_labels import is_quantized, rounds_activations_by_batch, running_as
from steersweep.model.find import find_model
from steersweep.run.folder import RunFolder
from steersweep.sweeps.settings import make_job, make_settings
from steersweep.work.overflow import as_it_runs, note_overflow
from test_cli import run

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
