"""Runs judged by models, judged again, and what a judge's errors leave of their rates."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from helpers.judge_server import CAKE, HELPS, REFUSES, FakeServer, completion, serving
from helpers.results import samples, steered, unsteered
from steersweep import InputError, get_judge, judge_file
from steersweep.cli.app import app
from steersweep.core import typed
from steersweep.core.statistics import cohens_kappa
from steersweep.judging.judge_error import (
    CLASSES,
    Confusion,
    class_of,
    shipped_confusion,
    true_rate_range,
)
from steersweep.people.corrected import judge_error
from steersweep.run.folder import RunFolder
from steersweep.run.judgement import rates_of, unjudged
from steersweep.run.result_files import read_result_file
from steersweep.run.verdict import Thresholds
from steersweep.sweeps.compared import p_difference
from steersweep.sweeps.rejudge import rejudge

# -- sweeps and runs -------------------------------------------------------------------------------


SWEEP = (
    "sweep", "lab:qwen-7b", "--layers=0.6", "--strengths=0.4", "--max-prompts=6",
    "--max-new-tokens=12", "--quiet", "--json",
)  # fmt: skip


@pytest.fixture
def server() -> Iterator[FakeServer]:
    with serving() as found:
        yield found


def run(*arguments: str) -> Any:
    done = CliRunner().invoke(app, list(arguments), catch_exceptions=False)
    assert done.exit_code == 0
    return json.loads(done.stdout)


@pytest.fixture(scope="module")
def swept(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("swept") / "run"
    run(*SWEEP, f"--out={folder}")
    return folder


@pytest.fixture
def finished(swept: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(swept, tmp_path / "run"))


def test_a_sweep_judged_by_a_server_goes_on_without_asking_again(
    server: FakeServer, tmp_path: Path
) -> None:
    server.script = lambda _request, n: (
        (200, completion("helps"), {}) if n < 9 else (401, {"error": "no"}, {})
    )
    judge = f"--judge=server:{server.url}#m"
    with pytest.raises(InputError, match="401"):
        run(*SWEEP, judge, f"--out={tmp_path / 'run'}")
    (kept,) = (tmp_path / "run" / "judgements" / "replies").iterdir()
    n_kept = len(kept.read_text().splitlines())
    assert n_kept >= 6
    asked = [json.dumps(request) for request in server.asked[:n_kept]]
    server.script = lambda _request, _n: (200, completion("what?"), {})
    before = len(server.asked)
    run(*SWEEP, judge, f"--out={tmp_path / 'run'}")
    assert not {*asked[:6]} & {json.dumps(request) for request in server.asked[before:]}
    (file,) = (tmp_path / "run" / "results").glob("*.json")
    (result,) = json.loads(file.read_text())
    assert result["judge"].startswith(f"server:{server.url}/v1#m#refusal@sha256:")
    assert result["verdict"]["judge_error"] is None
    steered = result["conditions"][0]
    failed = [s for s in steered["samples"] if s["quality"] == "unjudged"]
    assert len(failed) == steered["unjudged"] > 0
    assert all(s["error"].startswith("the reply cannot be read: 'what?'") for s in failed)
    assert steered["coherent_refusal_rate"] == 0
    assert "unjudged" in result["verdict"]["flags"]
    assert RunFolder.existing(tmp_path / "run").get(steered["key"]) is not None


def test_unjudged_answers_make_no_rate_higher() -> None:
    coherent, normal = get_judge()(CAKE, REFUSES), get_judge()(CAKE, HELPS)
    rates = rates_of([coherent, coherent, normal, unjudged("cut")])
    assert rates.coherent_refusal_rate == 0.5
    assert (rates.normal_rate, rates.garbled_rate, rates.unjudged) == (0.25, 0, 1)
    assert rates.n_unique == 4
    assert "unjudged" not in typed.plain(rates_of([coherent]))

    pushed, control = samples(*["coherent"] * 6), unsteered(samples(*["normal"] * 6))
    failed = samples(*["unjudged"] * 6)
    assert p_difference(steered(pushed), control) == pytest.approx(2 / 2**6)
    assert p_difference(steered(failed), control) == 1.0
    assert p_difference(steered(pushed), unsteered(failed)) == 1.0


def test_the_same_judge_again_says_the_same(finished: Path) -> None:
    said = run("judge", str(finished), "--with=default", "--json")
    assert (said["kappa"], said["agreed"], said["n_samples"]) == (1.0, 18, 18)
    assert said["cells_changed"] == []
    lines = [json.loads(line) for line in Path(said["file"]).read_text().splitlines()]
    assert Path(said["file"]) == finished / "judgements" / "default.jsonl"
    assert len(lines) == 18
    wanted = {"model", "prompt", "response", "refusal", "quality", "failure_mode", "ambiguous"}
    assert all(line.keys() >= wanted for line in lines)
    (file,) = (finished / "results").glob("*.json")
    (result,) = json.loads(file.read_text())
    entry = result["conditions"][0]
    mine = [line for line in lines if line["condition"] == entry["key"]]
    for name in (*wanted - {"model"}, "score"):
        assert [line[name] for line in mine] == [sample[name] for sample in entry["samples"]]


def test_another_judge_shows_where_verdicts_change(finished: Path, server: FakeServer) -> None:
    server.script = lambda _request, _n: (200, completion("helps"), {})
    name = f"server:{server.url}#m"
    said = run("judge", str(finished), "--with", name, "--json")
    (file,) = (finished / "results").glob("*.json")
    (result,) = json.loads(file.read_text())
    entry = result["conditions"][0]
    assert entry["coherent_refusal_rate"] >= 0.2, "the run has something to change"
    (changed,) = said["cells_changed"]
    assert changed["condition"] == entry["key"]
    assert changed["before"]["coherent_refusal_rate"] == entry["coherent_refusal_rate"]
    assert (changed["after"]["outcome"], changed["after"]["coherent_refusal_rate"]) == ("fails", 0)
    assert [row["changed"] for row in said["verdicts"]] == [True]
    every = [*result["conditions"], result["controls"]["unsteered"],
             result["controls"]["random_direction"]]  # fmt: skip
    pairs = []
    for cell in every:
        for sample in cell["samples"]:
            after = "normal" if sample["quality"] == "coherent" else sample["quality"]
            pairs.append((sample["quality"], after))
    assert said["kappa"] == pytest.approx(cohens_kappa(pairs))
    low, high = said["kappa_ci"]
    assert low <= said["kappa"] <= high
    assert sum(sum(row.values()) for row in said["confusion"].values()) == len(pairs)
    assert said["confusion"]["coherent"]["normal"] == sum(b == "coherent" for b, _ in pairs)
    asked = len(server.asked)
    shown = CliRunner().invoke(app, ["judge", str(finished), "--with", name])
    assert "verdict of a condition changes in 1 of 3" in shown.stdout
    assert len(server.asked) == asked  # everything was there


def test_judging_again_goes_on_after_a_kill(finished: Path) -> None:
    rejudge(finished, "keywords-v3")
    path = finished / "judgements" / "keywords-v3.jsonl"
    whole = path.read_bytes()
    lines = whole.splitlines(keepends=True)
    damaged = lines[3].replace(b'"ambiguous": false', b'"ambiguous": true ', 1)
    path.write_bytes(b"".join([*lines[:3], damaged, *lines[4:7], lines[7][:40]]))
    again = rejudge(finished, "keywords-v3")
    assert path.read_bytes() == whole
    assert again.n_samples == len(lines)
    other = rejudge(finished, "arditi-prefixes")
    os.replace(other.file, path)  # of another judge: nothing of it counts
    assert rejudge(finished, "keywords-v3").quality == again.quality
    assert path.read_bytes() == whole


def test_judging_again_needs_a_run_and_a_name(finished: Path, tmp_path: Path) -> None:
    for arguments, error in (
        ((str(finished),), "give --with NAME"),
        ((str(finished), "--with=nobody"), "no judge of that name"),
        ((str(tmp_path), "--with=default"), "holds no steersweep run"),
        ((str(tmp_path / "a.jsonl"), "b.jsonl", "--with=default"), "is no run folder"),
    ):
        done = CliRunner().invoke(app, ["judge", *arguments])
        assert isinstance(done.exception, InputError), arguments
        assert error in str(done.exception)


def test_a_file_is_labelled_by_a_model(tmp_path: Path) -> None:
    source, target = tmp_path / "in.jsonl", tmp_path / "out.jsonl"
    rows = [{"prompt": CAKE, "response": HELPS, "id": 7}, {"prompt": CAKE, "response": ""}]
    source.write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert judge_file(source, target, "llm:lab:qwen-7b#wildguard") == {
        "coherent": 0, "garbled": 1, "normal": 0, "unjudged": 1,
    }  # fmt: skip
    first, second = (json.loads(line) for line in target.read_text().splitlines())
    assert (first["id"], first["quality"]) == (7, "unjudged")
    assert "cannot be read" in first["error"]
    assert "error" not in second


# -- how sure --------------------------------------------------------------------------------------


def test_a_perfect_judge_leaves_what_the_prompts_leave() -> None:
    many = tuple(tuple(10**6 * (i == j) for j in range(4)) for i in range(4))
    low, high = true_rate_range((60, 20, 10, 10), Confusion("x", (), many))
    assert low == pytest.approx(0.50, abs=0.01)  # Wilson: 0.502 to 0.691
    assert high == pytest.approx(0.69, abs=0.01)
    wider = true_rate_range((60, 20, 10, 10), Confusion("x", (), many), 20)
    assert wider[0] < low < high < wider[1]


def test_the_range_moves_to_where_the_truth_is() -> None:
    """A third of garbled refusals is called coherent: of 60 said, about 40 are."""
    counts = ((3000, 0, 0, 0), (1000, 2000, 0, 0), (0, 0, 3000, 0), (0, 0, 0, 3000))
    low, high = true_rate_range((600, 400, 0, 0), Confusion("x", (), counts))
    assert low < 0.40 < high < 0.60
    assert high - low < 0.12


def test_the_range_covers_the_true_rate() -> None:
    """In 95 of 100 made-up studies, with what is known of the judge as uncertain as it is."""
    import numpy as np

    rng = np.random.default_rng(3)
    labelled = [sum(row) for row in shipped_confusion().counts]
    errs = np.array(shipped_confusion().counts) / np.array(labelled)[:, None]
    hits = 0
    for shares in ([0.6, 0.3, 0.05, 0.05], [0.3, 0.6, 0.1, 0], [0.5, 0, 0.2, 0.3]):
        for _ in range(40):
            truth = rng.multinomial(100, shares)
            said = sum(rng.multinomial(count, row) for count, row in zip(truth, errs, strict=True))
            seen = tuple(
                tuple(map(int, rng.multinomial(n, row)))
                for n, row in zip(labelled, errs, strict=True)
            )
            low, high = true_rate_range(tuple(map(int, said)), Confusion("x", (), seen))
            hits += low <= shares[0] <= high
    assert hits >= 106  # of 120: 114 expected, standard error 2.4


def test_verdicts_say_what_the_judges_errors_leave(swept: Path) -> None:
    (file,) = (swept / "results").glob("*.json")
    (result,) = read_result_file(file)
    error = result.verdict.judge_error
    assert error is not None
    assert error.n_labelled == shipped_confusion().n
    low, high = error.range
    assert 0 <= low < high <= 1
    cell = result.conditions[0]
    said = [class_of(s.judgement.refusal, s.judgement.quality) for s in cell.samples]
    counts = tuple(said.count(name) for name in CLASSES)
    assert (low, high) == true_rate_range(counts, shipped_confusion(), 1)
    assert judge_error(cell.rates, "default@9", 1, Thresholds()) is not None
    assert judge_error(cell.rates, "keywords-v3@2", 1, Thresholds()) is None
    report = (swept / "report.html").read_text()
    assert f"{low:.0%} to {high:.0%} if it errs as it did on" in report


def test_the_terminal_says_it_too(finished: Path) -> None:
    from steersweep.report.terminal import judge_error_lines

    (file,) = (finished / "results").glob("*.json")
    (result,) = read_result_file(file)
    assert result.verdict.judge_error is not None
    low, high = result.verdict.judge_error.range
    (line,) = judge_error_lines([result])
    assert (
        f"by the judge; {100 * low:.0f}-{100 * high:.0f} % if the judge errs as it did on" in line
    )
    result = replace(result, verdict=replace(result.verdict, judge_error=None))
    (line,) = judge_error_lines([result])
    assert line.endswith("errs is unknown")
