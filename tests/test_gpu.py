"""What only a GPU shows: recorded steps, the same answers as on a CPU, and memory that runs out."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import torch

from conftest import FAMILIES, lab
from helpers.jobs import job_of
from steersweep import ChatModel, Row, Sampling, generate, load_test_set, stream_key
from steersweep.judging.fluency import response_nll
from steersweep.model.memory import model_shape
from steersweep.run.folder import RunFolder
from steersweep.steer.sampling import drawn
from steersweep.sweeps.run import run_sweep
from steersweep.sweeps.settings import make_settings
from steersweep.work.worker import run_job
from test_decoding import FIXED
from test_steering import mixed_rows

pytestmark = pytest.mark.gpu


def on_gpu(name: str, precision: str = "fp32") -> ChatModel:
    return ChatModel.load(f"lab:{name}", device="cuda", precision=precision)


@pytest.fixture
def memory_again() -> Iterator[None]:
    """Let go of what a test took, whatever became of it."""
    yield
    torch.cuda.set_per_process_memory_fraction(1.0)
    torch.cuda.empty_cache()


@pytest.mark.parametrize("name", FIXED)
def test_recorded_steps_equal_steps_that_are_not(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    chat = on_gpu(name)
    rows = mixed_rows(chat)
    recorded = generate(chat, rows, max_new_tokens=40)
    assert chat.has_recorded
    assert not chat.not_recorded
    monkeypatch.setattr("steersweep.steer.decoding.prefers_fixed", lambda _chat: False)
    assert generate(chat, rows, max_new_tokens=40) == recorded


@pytest.mark.parametrize("name", FAMILIES)
def test_answers_are_those_of_a_cpu(name: str) -> None:
    there, here = on_gpu(name), lab(name)
    ids = [here.prompt_ids(text) for text in load_test_set("benign-120").prompts[:40]]
    rows = [*mixed_rows(here), *(replace(mixed_rows(here)[0], prompt_ids=i) for i in ids)]
    found = generate(there, rows, max_new_tokens=40)
    expected = generate(here, rows, max_new_tokens=40)
    same = sum(a.token_ids == b.token_ids for a, b in zip(found, expected, strict=True))
    # A tie within float32's rounding may fall either way.
    assert same >= len(rows) - 1
    for a, b in zip(
        response_nll(there, ids, [e.token_ids for e in expected[-40:]]),
        response_nll(here, ids, [e.token_ids for e in expected[-40:]]),
        strict=True,
    ):
        assert a is not None
        assert b is not None
        assert (a.mean, a.worst) == pytest.approx((b.mean, b.worst), abs=1e-4)


def outcomes(folder: Path) -> list[dict[str, Any]]:
    (file,) = (folder / "results").glob("sweep_*.json")
    found: list[dict[str, Any]] = json.loads(file.read_text())
    return found


def test_a_sweep_gives_what_it_gives_on_a_cpu(tmp_path: Path) -> None:
    found = {}
    for device in ("cuda", "cpu"):
        settings = make_settings(
            ["lab:qwen-7b"],
            methods="dim,cosmic",
            layers="0.4,0.6",
            strengths="0.2,0.4",
            precision="fp32",
            max_prompts=20,
            max_new_tokens=30,
        )
        run_sweep(settings, tmp_path / device, device=device)
        found[device] = outcomes(tmp_path / device)
    for one, other in zip(found["cuda"], found["cpu"], strict=True):
        assert one["method"] == other["method"]
        assert one["verdict"]["outcome"] == other["verdict"]["outcome"]
        chosen = [(x["extraction"] or {}).get("chosen") for x in (one, other)]
        assert chosen[0] == chosen[1]
        for a, b in zip(one["conditions"], other["conditions"], strict=True):
            assert a["layer_idx"] == b["layer_idx"]
            assert a["multiplier"] == pytest.approx(b["multiplier"], rel=1e-4)
            texts = [[sample["response"] for sample in c["samples"]] for c in (a, b)]
            assert sum(t != u for t, u in zip(*texts, strict=True)) <= 1


@pytest.mark.parametrize("precision", ["bf16", "fp16", "int8", "int4"])
def test_a_sweep_in_each_precision(precision: str, tmp_path: Path) -> None:
    if precision.startswith("int") and find_spec("bitsandbytes") is None:
        pytest.skip("needs bitsandbytes")
    settings = make_settings(
        ["lab:qwen-7b"],
        layers="0.5",
        strengths="0.3",
        precision=precision,
        max_prompts=20,
        max_new_tokens=30,
    )
    run_sweep(settings, tmp_path / "run", device="cuda")
    (found,) = outcomes(tmp_path / "run")
    assert found["quantization"] == precision
    assert found["verdict"]["best"]["coherent_refusal_rate"] > 0.4


@pytest.mark.usefixtures("memory_again")
def test_a_batch_too_large_is_done_again_with_half_its_rows(tmp_path: Path) -> None:
    rows, tokens = 2048, 16
    job = job_of("lab:qwen-7b", prompts=120, rows=rows, tokens=tokens)
    job = replace(job, device="cuda")
    run_job(job, RunFolder(tmp_path / "free"))
    torch.cuda.empty_cache()
    total = torch.cuda.get_device_properties(0).total_memory
    taken = torch.cuda.memory_allocated() + 64 * 2**20
    torch.cuda.set_per_process_memory_fraction(taken / total)
    run_job(job, RunFolder(tmp_path / "tight"))
    texts = [
        sorted(
            sample["response"]
            for file in (tmp_path / name / "conditions").glob("*.json")
            for sample in json.loads(file.read_text())["samples"]
        )
        for name in ("free", "tight")
    ]
    assert texts[0] == texts[1]


@pytest.mark.usefixtures("memory_again")
def test_the_memory_model_covers_what_a_gpu_allocates(tmp_path: Path) -> None:
    job = replace(job_of("lab:qwen-32b", prompts=40, tokens=100), device="cuda")
    torch.cuda.reset_peak_memory_stats()
    run_job(job, RunFolder(tmp_path))
    chat = ChatModel.load("lab:qwen-32b", device="cpu")
    model = model_shape(chat.model.config)
    longest = max(len(chat.prompt_ids(text)) for text in job.test.prompts)
    needed = model.weights("fp32") + 64 * model.row("fp32", longest, 100)
    assert torch.cuda.max_memory_allocated() <= 1.5 * needed + 2e9


def test_sampled_tokens_are_those_of_a_cpu() -> None:
    made = torch.Generator().manual_seed(0)
    logits = 3 * torch.randn(200, 30_000, generator=made)
    uniform = torch.rand(200, generator=made, dtype=torch.float64)
    for sampling in (Sampling(0.7), Sampling(1.0, top_p=0.9), Sampling(1.0, top_k=50)):
        here, there = (drawn(logits.to(d), uniform.to(d), sampling).cpu() for d in ("cpu", "cuda"))
        assert (here == there).float().mean() > 0.99
    cpu, gpu = lab("qwen-7b"), on_gpu("qwen-7b")
    ids = [cpu.prompt_ids(text) for text in load_test_set("benign-120").prompts[:20]]
    rows = [Row(prompt, None, stream_key(1, prompt, repeat)) for prompt in ids for repeat in (0, 1)]
    found = [generate(c, rows, max_new_tokens=20, sampling=Sampling(1.0)) for c in (cpu, gpu)]
    same = [one.token_ids == other.token_ids for one, other in zip(*found, strict=True)]
    assert sum(same) >= 0.9 * len(same)
