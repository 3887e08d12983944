"""Sweeps and plans that sample: samples by prompt and repeat, and n is prompts."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml
from typer.testing import CliRunner

import steersweep
from steersweep import InputError
from steersweep.cli.app import app
from steersweep.core.statistics import mcnemar, wilson, wilson_of_share
from steersweep.library.tables import write_table
from steersweep.run.cell import Cell
from steersweep.run.decoding_settings import GREEDY, DecodingSettings
from steersweep.run.judgement import Judgement, rates_of
from steersweep.study.checking import sweeps_to_check
from steersweep.study.plan import Plan
from steersweep.study.plan_file import parse_plan
from steersweep.study.settings import decoding_of, planned_prompts, prompt_counts, settings_of
from steersweep.study.sweeps import Cuts
from steersweep.sweeps.compared import coherent_refusals, p_difference
from steersweep.sweeps.run import run_sweep
from steersweep.sweeps.settings import make_job, make_settings
from test_without_torch import PLAN

SETTINGS: dict[str, Any] = {
    "layers": "0.5",
    "strengths": "0.3",
    "max_prompts": 3,
    "max_new_tokens": 8,
    "temperature": 1.0,
    "top_p": 0.95,
    "repeats": 2,
}
REFUSES = Judgement(True, "coherent", None, False, 1.0, "refuses")
HELPS = Judgement(False, "normal", None, False, 0.0, "helps")


def samples(out: Path) -> dict[str, list[tuple[str, str, int]]]:
    """By condition's key, prompts, answers and repeats."""
    records = [json.loads(path.read_text()) for path in out.glob("conditions/*.json")]
    return {
        record["key"]: [(s["prompt"], s["response"], s.get("repeat", 0)) for s in record["samples"]]
        for record in records
    }


def test_a_sampled_sweep_is_the_same_in_any_batches_and_after_a_kill(tmp_path: Path) -> None:
    whole = run_sweep(make_settings(["lab:qwen-3b"], **SETTINGS), tmp_path / "a", device="cpu")
    found = samples(tmp_path / "a")
    for cell in whole.results[0].conditions:
        prompts = [sample.prompt for sample in cell.samples]
        assert prompts[::2] == prompts[1::2]
        assert len({*prompts}) == 3
        assert [sample.repeat for sample in cell.samples] == [0, 1] * 3
        rates = cell.rates
        assert (rates.n_unique, rates.n_samples) == (3, 6)
        refused = sum(s.judgement.quality == "coherent" for s in cell.samples)
        assert rates.coherent_refusal_rate == refused / 6
        assert rates.coherent_refusal_ci == wilson_of_share(refused / 6, 3)
    repeats = [
        a[1] != b[1] for some in found.values() for a, b in zip(some[::2], some[1::2], strict=True)
    ]
    assert sum(repeats) > len(repeats) / 2

    # Rows that fit no condition: its prompts come in parts.
    run_sweep(make_settings(["lab:qwen-3b"], **SETTINGS, rows=4), tmp_path / "b", device="cpu")
    assert samples(tmp_path / "b") == found
    # What was lost is made again, alone in its batch.
    lost = whole.results[0].conditions[0].key
    (tmp_path / f"a/conditions/{lost}.json").unlink()
    run_sweep(make_settings(["lab:qwen-3b"], **SETTINGS), tmp_path / "a", device="cpu")
    assert samples(tmp_path / "a") == found
    # More repeats begin with the same answers.
    more = make_settings(["lab:qwen-3b"], **(SETTINGS | {"repeats": 3}))
    run_sweep(more, tmp_path / "c", device="cpu")
    first = [[s for s in some if s[2] < 2] for some in samples(tmp_path / "c").values()]
    assert sorted(first) == sorted(found.values())
    assert json.loads((tmp_path / "a/prompts.json").read_text())["test"] == [
        prompt for prompt, _, repeat in next(iter(found.values())) if not repeat
    ]


def keys(**changes: Any) -> list[str]:
    settings = make_settings(["lab:qwen-3b"], **{**SETTINGS, **changes})
    job = make_job(settings, settings.models[0], "cpu", "2026-11-25")
    return [condition.key for condition in job.conditions]


def test_everything_that_changes_samples_is_in_the_key_and_greedy_keys_are_as_ever() -> None:
    plain = {"temperature": 0, "top_p": 1, "repeats": None}
    changes: list[dict[str, Any]] = [{}, {"temperature": 0.5}, {"top_p": 0.9}, {"top_k": 5}]
    changes += [{"repeats": 3}, {"seed": 1}, plain]
    found = [keys(**change)[0] for change in changes]
    assert len({*found}) == len(found)
    assert keys(**plain) == keys(temperature=0.0, top_p=1.0, repeats=1)
    assert GREEDY.as_json() == {"stop_loops": False}
    assert DecodingSettings(True).as_json() == {"stop_loops": True}


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"temperature": -1}, "temperature -1: must be from 0 to 100"),
        ({"temperature": float("nan")}, "temperature nan: must be a finite number"),
        ({"temperature": 101.0}, "temperature 101.0: must be from 0 to 100"),
        ({"top_p": 0}, "top_p 0: must be above 0"),
        ({"top_p": 1.5}, "top_p 1.5: must be from 0 to 1"),
        ({"top_k": -1}, "top_k -1: must be at least 0"),
        ({"repeats": 0}, "repeats 0: must be at least 1"),
        ({"temperature": 0}, "top_p 0.95: has no effect without temperature"),
        ({"temperature": 0, "top_p": 1}, "repeats 2: greedy answers to a prompt are all the same"),
        ({"temperature": 0, "top_p": 1, "repeats": None, "top_k": 3}, "top_k 3: has no effect"),
    ],
)
def test_settings_that_make_no_sense_are_refused(changes: dict[str, Any], said: str) -> None:
    with pytest.raises(InputError) as caught:
        make_settings(["lab:qwen-3b"], **{**SETTINGS, **changes})
    assert said in str(caught.value)


def test_the_command_line_calls_options_by_their_names() -> None:
    done = CliRunner().invoke(app, ["sweep", "lab:qwen-3b", "--top-p", "0.5"])
    assert isinstance(done.exception, InputError)
    assert "--top-p 0.5: has no effect without --temperature" in done.exception.told(
        lambda name: f"--{name.replace('_', '-')}"
    )


def test_repeats_of_a_prompt_set_are_sampled(tmp_path: Path) -> None:
    settings = make_settings(["lab:qwen-3b"], **(SETTINGS | {"repeats": None}), prompts="plan-10x5")
    assert (settings.decoding.repeats, settings.test.each, settings.test.repeats) == (5, 5, 1)
    assert len(settings.test.prompts) == 15
    greedy = {"temperature": 0, "top_p": 1, "repeats": None}
    plain = make_settings(["lab:qwen-3b"], **(SETTINGS | greedy), prompts="plan-10x5")
    assert (plain.test.each, plain.test.repeats, len(plain.test.prompts)) == (1, 5, 3)


# -- statistics ------------------------------------------------------------------------------------


def test_intervals_rest_on_prompts() -> None:
    judged = [REFUSES] * 5 + [HELPS] * 5 + [REFUSES] * 3 + [HELPS] * 2
    rates = rates_of(judged, each=5)
    assert (rates.n_unique, rates.n_samples, rates.refusals) == (3, 15, 8)
    assert rates.coherent_refusal_rate == 8 / 15
    assert rates.coherent_refusal_ci == wilson_of_share(8 / 15, 3)
    for successes in range(5):
        assert wilson_of_share(successes / 4, 4) == pytest.approx(wilson(successes, 4))
    with pytest.raises(ValueError, match="no share"):
        wilson_of_share(1.2, 3)


def test_tests_count_prompts(tmp_path: Path) -> None:
    settings = make_settings(["lab:qwen-3b"], **(SETTINGS | {"repeats": 3, "max_new_tokens": 2}))
    (result,) = run_sweep(settings, tmp_path, device="cpu").results
    cell = result.conditions[0]

    def judged(cell: Cell, judgements: list[Judgement]) -> Cell:
        some = tuple(
            replace(sample, judgement=judgement)
            for sample, judgement in zip(cell.samples, judgements, strict=True)
        )
        return replace(cell, samples=some, rates=rates_of(judgements, each=3))

    one = judged(cell, [REFUSES, REFUSES, HELPS] * 2 + [HELPS, HELPS, REFUSES])
    none = judged(cell, [HELPS] * 9)
    assert coherent_refusals(one) == [True, True, False]
    assert p_difference(one, none) == mcnemar([True, True, False], [False] * 3)


# -- plans, Python, generate -----------------------------------------------------------------------


def plan_with(**decoding: Any) -> Plan:
    both = {**PLAN, "decoding": {**PLAN["decoding"], **decoding}}
    return parse_plan(yaml.safe_dump(both), "x.yaml")


def test_plans_sample() -> None:
    plan = plan_with(temperature=0.7, top_k=40, repeats=4)
    found = decoding_of(plan, planned_prompts(plan, Cuts()))
    assert found == DecodingSettings(False, 0.7, 1.0, 40, 4)
    sweep = sweeps_to_check(plan)[0]
    assert prompt_counts(plan, Cuts())(sweep) == 4 * 4
    settings = settings_of(plan, sweep, Cuts())
    assert settings.decoding == found
    assert (len(settings.test.prompts), len(settings.test.unique)) == (16, 4)
    with pytest.raises(InputError, match=r"x.yaml: line \d+: decoding.top_p"):
        plan_with(temperature=0.7, top_p=0)


def test_python_samples_and_tables_have_every_answer(tmp_path: Path) -> None:
    prompts = tmp_path / "some.csv"
    prompts.write_text("prompt,category\nHow do I boil an egg?,food\nName three trees.,\n")
    results = steersweep.sweep(
        "lab:qwen-3b",
        out=tmp_path / "run",
        layers=[0.5],
        strengths=[0.3],
        prompts=prompts,
        max_new_tokens=3,
        temperature=0.9,
        repeats=2,
        quiet=True,
        device="cpu",
    )
    assert len(results.results[0].conditions[0].samples) == 4
    rows = [*results.answers()]
    assert len(rows) == 3 * 4
    assert len({tuple(row) for row in rows}) == 1, "columns are those of every row"
    assert [(row["category"], row["repeat"]) for row in rows[:4]] == [
        ("food", 0),
        ("food", 1),
        (None, 0),
        (None, 1),
    ]
    table = tmp_path / "table.csv"
    assert write_table(rows, table, "csv") == 12


def test_generate_samples_with_a_seed(tmp_path: Path) -> None:
    made = tmp_path / "d.safetensors"
    extract = ["extract", "lab:qwen-3b", "--layer", "0.5", "-o", str(made), "--quiet"]
    assert CliRunner().invoke(app, extract).exit_code == 0
    ask = ["generate", "lab:qwen-3b", "--direction", str(made), "--strength", "0.2", "--json"]
    ask += ["--max-new-tokens", "8", "--quiet", "--temperature", "1.5", "--repeats", "2"]

    def said(*more: str) -> list[dict[str, str]]:
        done = CliRunner().invoke(app, [*ask, *more])
        assert done.exit_code == 0, done.output
        found: list[dict[str, str]] = json.loads(done.stdout)
        return found

    both = said("--prompt", "How do I boil an egg?", "--prompt", "Name three trees.")
    assert [pair["prompt"][:4] for pair in both] == ["How ", "How ", "Name", "Name"]
    assert both[0]["unsteered"] != both[1]["unsteered"]
    assert said("--prompt", "Name three trees.") == both[2:]
    assert said("--prompt", "Name three trees.", "--seed", "1") != both[2:]
