"""Jobs that run out of memory, and what memory a job is expected to take."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
import torch
from transformers import PreTrainedModel

from helpers.jobs import PHASE_1, job_of, out_of_memory_above, planned_on, records, results
from steersweep import ChatModel, SteersweepError
from steersweep.budget.ledger import Ledger
from steersweep.engines.engine import Event, Work
from steersweep.engines.local import LocalEngine
from steersweep.model import loading
from steersweep.model.memory import free_bytes, model_shape
from steersweep.model.source import ModelSource
from steersweep.run.folder import RunFolder
from steersweep.study.study import run_study
from steersweep.sweeps.run import run_sweep
from steersweep.sweeps.settings import make_settings
from steersweep.work import answering
from steersweep.work.worker import run_job


def test_rows_are_halved_until_they_fit_and_results_stay(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = job_of(prompts=6, rows=12)
    run_job(job, RunFolder(tmp_path / "ample"))
    tried = out_of_memory_above(4, monkeypatch)
    run_job(job, RunFolder(tmp_path / "scarce"))
    assert tried == [12, 6, 3, 3]  # what was too much is not tried again
    ample, scarce = records(tmp_path / "ample"), records(tmp_path / "scarce")
    assert {r["provenance"]["rows"] for r in ample.values()} == {12}
    assert {r["provenance"]["rows"] for r in scarce.values()} == {3}
    for key, record in ample.items():
        texts = [sample["response"] for sample in record["samples"]]
        assert texts == [sample["response"] for sample in scarce[key]["samples"]]


@pytest.fixture
def no_search_for_garbage() -> Iterator[None]:
    """Python looks for dead objects that hold each other when it pleases."""
    gc.collect()
    gc.disable()
    yield
    gc.enable()


def networks() -> int:
    return sum(issubclass(type(thing), PreTrainedModel) for thing in gc.get_objects())


def test_a_model_is_gone_before_the_next_is_loaded(
    tmp_path: Path, no_search_for_garbage: None
) -> None:
    before, there = networks(), []
    models = make_settings(
        ["lab:qwen-3b", "lab:qwen-7b"], layers="0.5", strengths="0.2", max_prompts=2
    )
    run_sweep(models, tmp_path / "sweep", on_model=lambda *_which: there.append(networks()))
    assert there == [before, before]

    def at_start(event: Event) -> None:
        assert event.error is None
        if event.kind == "started":
            there.append(networks())

    engine = LocalEngine("cpu")
    engine.open(tmp_path)
    for folder in ("one", "two"):
        engine.submit(Work(folder, job_of(), "local", folder=folder))
        engine.wait(at_start)
    assert there[2:] == [before, before]


def test_memory_of_a_cpu_is_that_of_the_machine() -> None:
    assert 0 < free_bytes("cpu") <= psutil.virtual_memory().total


def test_rows_follow_free_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As on a GPU that has room for two rows of this job."""
    job = job_of(prompts=6, rows=12)
    chat = ChatModel.load("lab:qwen-3b")
    longest = max(len(chat.prompt_ids(text)) for text in job.test.prompts)
    row = model_shape(chat.model.config).row("fp32", longest, 12)
    monkeypatch.setattr("steersweep.model.memory.free_bytes", lambda _device: int(2.5 * row / 0.85))
    tried = out_of_memory_above(12, monkeypatch)
    run_job(job, RunFolder(tmp_path))
    assert tried == [2, 2]


class TwoKinds(LocalEngine):
    """This machine under the name of whatever GPU was planned."""

    def kind(self, gpu: str) -> str:
        return gpu


def test_a_job_that_does_not_fit_moves_to_the_next_larger_gpu(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    load = loading._loaded
    loaded: list[str] = []

    def too_large_once(source: ModelSource, *options: Any) -> Any:
        loaded.append(source.model_id)
        if loaded.count(source.model_id) == 1:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return load(source, *options)

    monkeypatch.setattr(loading, "_loaded", too_large_once)
    plan = planned_on("A10G", fallback_gpu={"A10G": "A100-80GB"})
    lines: list[str] = []
    store = run_study(plan, tmp_path / "run", PHASE_1, engine=TwoKinds("cpu"), on_line=lines.append)
    assert store.read_json(store.root / "phases/family_sweep-failures.json") == {}
    assert any("moved from A10G to A100-80GB" in line for line in lines)
    for found in results(tmp_path / "run")["v3_phase1_family_sweep"]:
        assert found["provenance"]["moved_from"] == ["A10G"]
    reserved = [e for e in Ledger(tmp_path / "run").entries() if e["do"] == "reserve"]
    assert [(e["gpu"], e.get("moved_from")) for e in reserved[:2]] == [
        ("A10G", None),
        ("A100-80GB", ["A10G"]),
    ]


@pytest.mark.slow
def test_a_job_that_fits_nowhere_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out_of_memory_above(0, monkeypatch)
    plan = planned_on("A10G", fallback_gpu={"A10G": "A100-80GB", "A100-80GB": "A10G"})
    with pytest.raises(SteersweepError, match=r"no model could run.*with a single row"):
        run_study(plan, tmp_path / "run", PHASE_1, engine=TwoKinds("cpu"))


def test_other_errors_are_not_taken_for_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[int] = []

    def broken(*_arguments: Any, **_options: Any) -> Any:
        calls.append(1)
        raise RuntimeError("shapes do not match")

    monkeypatch.setattr(answering, "generate", broken)
    with pytest.raises(RuntimeError, match="shapes"):
        run_job(job_of(), RunFolder(tmp_path))
    assert calls == [1]


def test_the_memory_model_is_exact_where_it_can_be(family: ChatModel) -> None:
    """Weights and keys and values, against the tensors of a real model."""
    from steersweep.model.kv_cache import make_cache

    model = model_shape(family.model.config)
    weights = sum(p.numel() * p.element_size() for p in family.model.parameters())
    assert model.weights("fp32") == weights
    assert model == model_shape(family.model.config, family.model)
    cache: Any = make_cache(family.model.config, 20)
    batch = family.pad([family.prompt_ids("Hello")])
    family.logits(batch.input_ids, batch.attention_mask, batch.position_ids, cache=cache)
    held = sum(t.numel() * t.element_size() for x in cache.layers for t in (x._keys, x._values))
    assert model.cache("fp32", 20) == held
    assert model.weights("bf16") == weights // 2
    assert model.weights("int4") < model.weights("int8") < model.weights("bf16")
    one = model.row("fp32", 16, 4)
    assert model.rows_that_fit("fp32", 16, 4, free=100 * one) == 85
    assert model.rows_that_fit("fp32", 16, 4, free=-1) == 0
