"""Files of a study that are damaged: named, set aside and made again."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from safetensors import safe_open
from safetensors.torch import save_file

from conftest import rest_slow
from helpers.studies import comparable, small
from steersweep import InputError
from steersweep.budget.ledger import Ledger
from steersweep.engines import engine
from steersweep.report.run import read_run
from steersweep.run.folder import RunFolder
from steersweep.study.status import decided, status
from steersweep.study.study import run_study
from steersweep.work import worker
from test_cli import run


def test_damaged_lines_are_named_and_nothing_ends_in_a_traceback(
    finished_study: Path, tmp_path: Path
) -> None:
    folder = Path(shutil.copytree(finished_study, tmp_path / "run"))
    ledger = folder / "ledger.jsonl"
    first, *others = ledger.read_bytes().splitlines(keepends=True)
    settled = next(line for line in others if b'"settle"' in line)
    others.remove(settled)
    damaged = [first.replace(b'"usd": 0', b'"usd": 1'), *others, b"\x00" * 512 + b"\n"]
    ledger.write_bytes(b"".join(damaged) + b'{"do": "settle", "id": "x", "usd": NaN}\n')
    for name in ("gates", "reviews"):
        (folder / f"{name}.jsonl").write_bytes(b'{"gate": "\xff\x1b[31m"}\n[]\n')
    shown = run("status", str(folder), cwd=tmp_path)
    assert shown.returncode == 0
    for line in (
        f"ledger.jsonl: line {len(damaged)} ",
        "gates.jsonl: line 1 ",
        "reviews.jsonl: line 2 ",
    ):
        assert line in shown.stdout
    assert "\x1b" not in shown.stdout
    done = run("report", str(folder), cwd=tmp_path)
    assert done.returncode == 0
    for name in ("ledger", "gates", "reviews"):
        assert f"note: {folder}/{name}.jsonl: line 1 is damaged" in done.stderr
    assert "Traceback" not in done.stderr
    assert "\x1b" not in done.stderr
    assert "Damaged:" in (folder / "report.html").read_text()
    lines: list[str] = []
    run_study(small(), folder, on_line=lines.append)  # nothing is left to pay for
    assert any("ledger.jsonl: line 1 is damaged" in line for line in lines)


def test_damaged_files_are_set_aside_and_named(finished_study: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(finished_study, tmp_path / "run"))
    conditions = sorted(folder.glob("conditions/*.json"))
    conditions[0].write_text(conditions[0].read_text()[:100])  # torn
    conditions[1].write_text("")  # empty
    conditions[2].write_text(json.dumps({"key": "of another"}))  # foreign
    decision = folder / "decisions" / "size_sweep.json"
    decision.write_text("{")
    next(folder.glob("extraction/dim-*.json")).write_bytes(b"\x00\x01")
    run_study(small(), folder)
    assert comparable(folder) == comparable(finished_study)
    state = json.loads(run("status", str(folder), "--json", cwd=tmp_path).stdout)
    assert len(state["damaged"]) == 5


DIRECTIONS = {
    "zeroed": lambda vector: 0 * vector,
    "tripled": lambda vector: 3 * vector,
    "negated": lambda vector: -vector,
}


def test_damaged_checks_are_made_again_by_one_job_and_no_condition_is(
    finished_study: Path, tmp_path: Path
) -> None:
    """As after a run that was killed when it had set their file aside."""
    folder = Path(shutil.copytree(finished_study, tmp_path / "run"))
    path = min((folder / "extraction").glob("checks-*.json"))
    whole = json.loads(path.read_text())
    path.rename(f"{path}.damaged")
    conditions = {p.name: p.stat().st_mtime_ns for p in (folder / "conditions").iterdir()}
    before = Ledger(folder).jobs()
    run_study(small(), folder)
    after = Ledger(folder).jobs()
    assert len(after) == len(before) + 1
    assert after[-1].job in {job.job for job in before}
    assert after[-1].whole
    assert {p.name: p.stat().st_mtime_ns for p in (folder / "conditions").iterdir()} == conditions
    seen, again = (
        [(check["name"], check["passed"]) for check in held["checks"]]
        for held in (whole, json.loads(path.read_text()))
    )
    assert again == seen
    run_study(small(), folder)
    assert Ledger(folder).jobs() == after


def edit_direction(path: Path, kind: str) -> None:
    """Damage a direction's file, its metadata as they were."""
    if kind == "truncated":
        path.write_bytes(path.read_bytes()[:-9])
        return
    with safe_open(path, "pt") as file:
        metadata, vector = file.metadata(), file.get_tensor("direction")
    save_file({"direction": DIRECTIONS[kind](vector)}, path, metadata)


def test_bad_directions_are_made_again(finished_study: Path, tmp_path: Path) -> None:
    """Every direction of a finished study, in four ways."""
    folder = Path(shutil.copytree(finished_study, tmp_path / "run"))
    paths = sorted(folder.glob("directions/*.safetensors"))
    for number, path in enumerate(paths):
        edit_direction(path, [*DIRECTIONS, "truncated"][number % 4])
    activations = next(folder.glob("extraction/activations-*.safetensors"))
    activations.write_bytes(activations.read_bytes()[:-4] + b"\0\0\0\0")
    run_study(small(), folder)
    assert comparable(folder) == comparable(finished_study)
    assert {path.name for path in folder.glob("directions/*.safetensors")} == {
        path.name for path in paths
    }


@pytest.mark.parametrize("kind", rest_slow([*DIRECTIONS, "truncated"]))
def test_a_direction_damaged_while_others_borrow_it_is_made_again(
    finished_study: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    """Between the job that found it and the job that borrows it, in one run."""
    folder = Path(shutil.copytree(finished_study, tmp_path / "run"))
    store = RunFolder(folder)
    borrowed = None
    for path in folder.glob("conditions/*.json"):
        record = store.get(path.stem)
        if record is not None and str(record.condition.label) == "dim@fp32":
            borrowed = str(record.condition.direction)
            path.unlink()
    assert borrowed is not None
    original = worker.run_job
    damaged: list[Any] = []

    def damage_first(job: Any, *arguments: Any) -> None:
        if not damaged and any(c.direction == borrowed for c in job.conditions):
            damaged.append(job)
            edit_direction(folder / f"directions/{borrowed}.safetensors", kind)
        original(job, *arguments)

    monkeypatch.setattr(engine, "run_job", damage_first)
    run_study(small(), folder)
    assert damaged
    assert comparable(folder) == comparable(finished_study)
    assert store.read_json(store.root / "phases/precision_sweep-failures.json") == {}


@pytest.mark.parametrize(
    "name",
    ["decisions/family_sweep.json", "phases/family_sweep.json", "phases/size_sweep-failures.json"],
)
@pytest.mark.parametrize("data", [b"", b"null", b"[]", b"{}", b"[" * 100_000, None])
def test_commands_that_read_name_what_is_damaged_and_leave_it(
    finished_study: Path, tmp_path: Path, name: str, data: bytes | None
) -> None:
    folder = Path(shutil.copytree(finished_study, tmp_path / "run"))
    condition = next(folder.glob("conditions/*.json"))
    condition.write_bytes(b"null")
    path = folder / name
    path.unlink()
    if data is None:
        path.symlink_to(path.name)
    else:
        path.write_bytes(data)
    before = sorted(folder.rglob("*"))
    state = status(folder)
    assert name in state.damaged
    if not name.startswith("phases/family_sweep.json"):
        assert condition.relative_to(folder).as_posix() in state.damaged
        assert state.done == state.total - 1
    if name.startswith("decisions/"):
        assert state.phase == "family_sweep"
        for use in (decided, read_run):
            with pytest.raises(InputError, match=rf"{name}: is damaged"):
                use(folder)
    assert before == sorted(folder.rglob("*"))
