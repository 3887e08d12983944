"""A model that overflows in fp16: its job runs again in bf16, once, and its records say so."""

from __future__ import annotations

from pathlib import Path

import pytest

from conftest import with_a_long_stream
from steersweep.run.folder import RunFolder
from steersweep.sweeps.run import run_sweep
from steersweep.sweeps.settings import make_settings
from steersweep.work import worker
from steersweep.work.job import Job


def test_where_fp16_overflows_the_job_runs_again_in_bf16_and_the_record_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = with_a_long_stream(tmp_path / "long", 30_000.0)
    tried: list[str] = []
    load = worker._load

    def seen(job: Job) -> object:
        tried.append(job.precision)
        return load(job)

    monkeypatch.setattr(worker, "_load", seen)
    settings = make_settings(
        [str(model)],
        layers="0.5",
        strengths="0.3",
        max_prompts=2,
        precision="fp16",
        max_new_tokens=4,
    )
    (result,) = run_sweep(settings, tmp_path / "run", device="cpu").results
    assert tried == ["fp16", "bf16"]
    assert result.quantization == "bf16"
    (note,) = [note for note in result.notes if "bf16" in note]
    assert note.startswith("ran in bf16, since in fp16: ")
    assert "NaN or infinite" in note
    records = [RunFolder.existing(tmp_path / "run").get(cell.key) for cell in result.conditions]
    assert [record and record.condition.precision for record in records] == ["bf16"]
    # Run again, everything is there.
    run_sweep(settings, tmp_path / "run", device="cpu")
    assert tried == ["fp16", "bf16"]
