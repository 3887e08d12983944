"""`smoke PLAN --all`: every model of a plan is checked where it will run, before it is paid for."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from conftest import with_a_long_stream
from helpers.studies import SMALL, small
from steersweep.budget.ledger import SMOKE, BudgetStop, Ledger
from steersweep.smoke import required
from steersweep.study.checking import check_models, checked, expected, sweeps_to_check
from steersweep.study.plan import Plan
from steersweep.study.plan_file import load_plan, parse_plan
from steersweep.study.study import StudyOptions, run_study
from test_checks import copied
from test_cli import refused, run


def endless(folder: Path) -> Path:
    """A model whose template ends answers with a text that no token is."""
    copied("qwen-3b", folder)
    template = folder / "chat_template.jinja"
    template.write_text(template.read_text().replace("<|im_end|>", "<|im_over|>"))
    return folder


def two_bad_ones(folder: Path) -> Plan:
    """A plan of four models: one is not there, and one ends in a way that nothing ends."""
    data: dict[str, Any] = copy.deepcopy(SMALL)
    for phase in ("precision_sweep", "transfer_sweep", "follow_up"):
        del data[phase]
    row = data["families"]["mistral"][0]
    data["families"]["mistral"] = [
        row | {"name": "gone", "model": str(folder / "nowhere")},
        row | {"name": "endless", "model": str(endless(folder / "endless"))},
    ]
    data["family_sweep"]["models"] = [
        {"model": "gone", "layers": [0.5]},
        {"model": "endless", "layers": [0.5]},
    ]
    return parse_plan(yaml.safe_dump(data), "bad.yaml")


def test_every_model_is_checked_and_those_that_fail_are_named(tmp_path: Path) -> None:
    plan = two_bad_ones(tmp_path)
    (tmp_path / "plan.yaml").write_text(yaml.safe_dump(dict(plan.written)))
    done = run("smoke", "plan.yaml", "--all", "--quiet", cwd=tmp_path)
    assert done.returncode == 1
    rows = [line.split() for line in done.stdout.splitlines()]
    assert {row[0]: row[-1] for row in rows[1:5]} == {
        "q3": "passed",
        "q7": "passed",
        "gone": "FAILED",
        "endless": "FAILED",
    }
    assert "gone: " in done.stdout
    assert "endless: " in done.stdout
    assert "incompatible: ending" in done.stdout
    assert "2 of 4 models passed; kept in small-smoke" in done.stdout
    out = tmp_path / "small-smoke"
    assert {row.model: row.passed for row in checked(out)} == {
        "q3": True,
        "q7": True,
        "gone": False,
        "endless": False,
    }
    # Nothing else was done.
    assert not list(out.glob("conditions/*"))
    assert not list(out.glob("directions/*"))


def test_money_is_reserved_and_a_study_that_begins_there_finds_the_checks_made(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    dear = small(prices={"local": 3600}, budget={"total": 1000})  # a dollar a second
    seconds, usd = expected(dear)
    assert usd > 0
    assert usd == pytest.approx(seconds)
    found = check_models(dear, tmp_path / "run")
    assert [row.passed for row in found] == [True] * 3
    entries = Ledger(tmp_path / "run").entries()
    assert {entry["phase"] for entry in entries} == {SMOKE}
    assert sum(e["usd"] for e in entries if e["do"] == "reserve") == pytest.approx(1.5 * usd)
    spent = Ledger(tmp_path / "run").spent()
    assert spent == pytest.approx(sum(row.usd or 0 for row in checked(tmp_path / "run")))
    # What a check takes says nothing of what a sweep does.
    assert Ledger(tmp_path / "run").timings("local") == []
    with pytest.raises(BudgetStop, match="Raise"):
        check_models(dear, tmp_path / "other", StudyOptions(budget=0.001))
    made: list[str] = []
    monkeypatch.setattr(required, "make_checks", lambda chat, only: made.append(chat) or [])
    run_study(dear, tmp_path / "run", StudyOptions(until="family_sweep"))
    assert made == []


def test_a_model_that_overflows_is_checked_in_bf16_and_named_so(tmp_path: Path) -> None:
    data: dict[str, Any] = copy.deepcopy(SMALL)
    for phase in ("precision_sweep", "transfer_sweep", "follow_up", "size_sweep"):
        del data[phase]
    long = with_a_long_stream(tmp_path / "long", 30_000.0)
    data["families"] = {
        "llama": [SMALL["families"]["mistral"][0] | {"name": "l8", "model": str(long)}]
    }
    data["family_sweep"]["models"] = [{"model": "l8", "layers": [0.5]}]
    plan = parse_plan(yaml.safe_dump(data | {"precision": "fp16"}), "plan.yaml")
    (tmp_path / "plan.yaml").write_text(yaml.safe_dump(dict(plan.written)))
    done = run("smoke", "plan.yaml", "--all", "--quiet", "--json", cwd=tmp_path)
    assert done.returncode == 0
    (row,) = json.loads(done.stdout)
    assert (row["model"], row["passed"], row["precision"]) == ("l8", True, "bf16")


def test_the_models_of_v3_are_all_checked_by_functions_that_are_deployed() -> None:
    from steersweep.study.away.apps import app_name, function_name, remote_functions

    plan = load_plan("v3")
    sweeps = sweeps_to_check(plan)
    assert [sweep.model.name for sweep in sweeps] == [*plan.models]
    assert {s.precision for s in sweeps} == {"fp16", "bf16"}
    assert {s.precision for s in sweeps_to_check(plan, "int4")} == {"int4"}
    deployed = {(f.app, f.name) for f in remote_functions(plan)}
    called = {(app_name(plan, s.step.phase), function_name(plan, s.step, s.model)) for s in sweeps}
    assert called <= deployed


@pytest.mark.parametrize(
    ("command", "said"),
    [
        ("smoke lab:qwen-7b --engine modal", "go with a plan and --all"),
        ("smoke lab:qwen-7b --out there", "go with a plan and --all"),
        ("smoke v3-lab --all --engine cloud", "--engine cloud: choose local, ray or modal"),
        ("smoke v3-lab --all --ray-address auto", "go with --engine ray"),
        ("smoke v3-lab --all --budget -1", "--budget -1.0: must be 0 or more USD"),
        ("smoke v3-lab --all --revision main", "--revision"),
        ("smoke v3-lab --all --precision fp8", "--precision fp8: choose one of auto, fp32"),
    ],
)
def test_options_that_do_not_go_together_are_refused(
    command: str, said: str, tmp_path: Path
) -> None:
    assert said in refused(*command.split(), cwd=tmp_path)
