"""Jobs of lab models, what schedules them, and what they left in a folder."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import psutil
import pytest
import torch

from helpers.studies import SMALL, comparable, small
from steersweep.budget.ledger import Ledger, Limits
from steersweep.engines.engine import Engine
from steersweep.study.listeners import Listeners
from steersweep.study.plan import Plan
from steersweep.study.scheduler import Scheduler
from steersweep.study.study import StudyOptions
from steersweep.sweeps.settings import make_job, make_settings
from steersweep.work import answering
from steersweep.work.job import Job

PHASE_1 = StudyOptions(until="family_sweep")


def job_of(name: str = "lab:qwen-3b", prompts: int = 3, rows: int = 64, tokens: int = 12) -> Job:
    settings = make_settings(
        [name], layers="0.5", strengths="0.2", max_prompts=prompts, max_new_tokens=tokens, rows=rows
    )
    return make_job(settings, settings.models[0], "cpu", "2026-11-25")


def records(folder: Path) -> dict[str, Any]:
    """Conditions by key, without moments and durations."""
    found = {}
    for file in folder.glob("conditions/*.json"):
        record = json.loads(file.read_text())
        kept = {k: v for k, v in record.items() if k not in ("timestamp", "runtime_seconds")}
        kept["result"] = {k: v for k, v in kept["result"].items() if k != "extraction_seconds"}
        found[file.name] = kept
    return found


def results(folder: Path) -> dict[str, Any]:
    return {name: found for name, found in comparable(folder).items() if name.startswith("v3_")}


def engine_processes() -> list[psutil.Process]:
    children = psutil.Process().children()
    return [p for p in children if "steersweep.engines.processes" in p.cmdline()]


def scheduler(engine: Engine, folder: Path, limits: Limits | None = None, **plan: Any) -> Scheduler:
    return Scheduler(
        small(**plan),
        Ledger(folder),
        limits or Limits(),
        engine,
        Listeners(),
        on_finished=lambda _name: None,
    )


def out_of_memory_above(most: int, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Generation that runs out of memory with more than `most` rows; says what was tried."""
    generate, tried = answering.generate, []

    def limited(*arguments: Any, max_rows: int, **options: Any) -> Any:
        tried.append(max_rows)
        if max_rows > most:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB")
        return generate(*arguments, max_rows=max_rows, **options)

    monkeypatch.setattr(answering, "generate", limited)
    return tried


def planned_on(gpu: str, **changes: Any) -> Plan:
    families = copy.deepcopy(SMALL["families"])
    for models in families.values():
        for model in models:
            model["gpu"] = gpu
    return small(families=families, **changes)
