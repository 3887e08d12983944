"""Stops of a study's money and time, what its ledger counts, and cuts."""

from __future__ import annotations

import copy
import json
from pathlib import Path

import pytest

from helpers.studies import SMALL, Clock, comparable, small
from steersweep import InputError
from steersweep.budget.ledger import BudgetStop, Ledger, Limits
from steersweep.engines import engine
from steersweep.run.folder import RunFolder
from steersweep.study import costs
from steersweep.study.study import StudyOptions, run_study


@pytest.mark.slow
def test_a_budget_ends_a_phase_in_the_middle_and_more_money_goes_on(
    finished_study: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(engine, "time", Clock())
    dear = small(prices={"local": 3600}, budget={"total": 60})  # a dollar a second
    folder = tmp_path / "run"
    with pytest.raises(BudgetStop, match=r"[Rr]aise budget"):
        run_study(dear, folder)
    assert list(folder.glob("conditions/*.json"))
    assert Ledger(folder).spent() <= 61
    assert not (folder / "decisions" / "precision_sweep.json").exists()
    run_study(dear, folder, StudyOptions(budget=100_000))
    assert comparable(folder) == comparable(finished_study)


def test_a_running_job_stops_before_it_passes_a_stop(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The estimate was far too low."""
    from steersweep.budget.estimate import Estimate

    monkeypatch.setattr(engine, "time", Clock())
    monkeypatch.setattr(costs, "estimate", lambda *_a, **_o: Estimate(0.001, 0, 1, None, 0.000001))
    dear = small(prices={"local": 3600}, budget={"total": 3})
    with pytest.raises(BudgetStop, match="is reached"):
        run_study(dear, tmp_path / "run")
    assert 3 <= Ledger(tmp_path / "run").spent() <= 4


@pytest.mark.slow
def test_a_job_that_reaches_its_timeout_is_named_and_goes_on_when_run_again(
    finished_study: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "run"
    swept = copy.deepcopy(SMALL["family_sweep"])
    swept["models"][0]["timeout_s"] = 1
    plan = small(family_sweep=swept)
    with monkeypatch.context() as patched:
        patched.setattr(engine, "time", Clock())
        run_study(plan, folder, StudyOptions(until="family_sweep"))
    failures = json.loads((folder / "decisions" / "family_sweep.json").read_text())["failures"]
    assert [name for name, why in failures.items() if "timeout of 1 s" in why] == ["q7 family fp32"]
    swept["models"][0]["timeout_s"] = 100_000
    run_study(small(family_sweep=swept), folder, StudyOptions(accept={"family_sweep"}))
    assert comparable(folder) | {"findings": ""} == comparable(finished_study) | {"findings": ""}


def test_the_ledger_counts_what_a_kill_left_open(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path)
    limits = Limits(10, {"a": 4})

    def reserve(phase: str, usd: float) -> str:
        return ledger.reserve(phase, "job", usd=usd, seconds=1, limits=limits, time="now")

    first = reserve("a", 3)
    ledger.settle(first, usd=1, seconds=2, whole=True, time="now")
    reserve("a", 2)  # never settled
    assert ledger.spent() == 3
    with pytest.raises(BudgetStop, match="a stop of 4"):
        reserve("a", 1.5)
    with pytest.raises(BudgetStop, match="total stop of 10"):
        reserve("b", 7.5)
    with (tmp_path / "ledger.jsonl").open("a") as file:
        file.write('{"do": "reserve", "id": "9", "us')  # cut by a kill
    assert ledger.spent() == 3
    reserve("b", 5)
    assert ledger.spent() == 8
    assert ledger.timings("local") == [(2, 1)]
    assert ledger.timings("A10G") == []


def test_cuts_are_applied_only_when_asked_and_then_stay(tmp_path: Path) -> None:
    plan = small(cuts=[{"do": "fewer-prompts", "prompts": 2}])
    folder = tmp_path / "run"
    run_study(plan, folder, StudyOptions(until="family_sweep", apply_cuts=1))
    (results,) = folder.glob("results/v3_phase1*.json")
    assert json.loads(results.read_text())[0]["conditions"][0]["n_unique"] == 2
    run_study(plan, folder, StudyOptions(until="family_sweep"))
    assert RunFolder(folder).read_json(folder / "cuts.json") == {"applied": 1}
    with pytest.raises(InputError, match="has 1 cuts"):
        run_study(plan, folder, StudyOptions(apply_cuts=2))


def test_a_damaged_number_of_cuts_is_asked_for(tmp_path: Path) -> None:
    """No other file says how many there were; none is not a safe guess."""
    plan = small(cuts=[{"do": "fewer-prompts", "prompts": 2}])
    folder = tmp_path / "run"
    run_study(plan, folder, StudyOptions(until="family_sweep", apply_cuts=1))
    (folder / "cuts.json").write_text("{}")
    for _ in range(2):
        with pytest.raises(InputError, match=r"cuts.json: is damaged.*apply_cuts"):
            run_study(plan, folder, StudyOptions(until="family_sweep"))
    run_study(plan, folder, StudyOptions(until="family_sweep", apply_cuts=1))
    assert RunFolder(folder).read_json(folder / "cuts.json") == {"applied": 1}
