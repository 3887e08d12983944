"""The search for the best cell: its race, the search on full grids, and its confirmation."""

from __future__ import annotations

import json
import math
import shutil
import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import typer.testing
from hypothesis import given
from hypothesis import strategies as st
from scipy.integrate import quad

from conftest import rest_slow
from helpers.studies import small
from steersweep import InputError
from steersweep.cli.app import app
from steersweep.report.found import in_short, lines
from steersweep.run.folder import RunFolder
from steersweep.run.result_files import read_result_file, result_files
from steersweep.run.searched import read_searched
from steersweep.search.race import beaten, log_evidence
from steersweep.search.search import ROUNDS, STRENGTHS, Cell, Outcome, Search, Span, spread
from steersweep.search.window import window_strengths
from steersweep.study.status import status
from steersweep.study.study import StudyOptions, run_study
from steersweep.sweeps.find import run_find
from steersweep.sweeps.find_settings import make_find_settings

sys.path.insert(0, str(Path(__file__).parents[1] / "benchmarks"))
import find as replay  # the benchmark's grids

R, B, N = Outcome.REFUSES, Outcome.BROKEN, Outcome.OTHER


# -- the race --------------------------------------------------------------------------------------


@given(st.integers(0, 60), st.integers(0, 60))
def test_evidence_is_the_mean_over_all_probabilities_above_one_half(won: int, lost: int) -> None:
    value, _ = quad(lambda p: 2 * (2 * p) ** won * (2 * (1 - p)) ** lost, 0.5, 1)
    assert math.exp(log_evidence(won, lost)) == pytest.approx(value, rel=1e-5)


def test_equals_are_rarely_called_beaten_however_often_one_looks() -> None:
    generator = np.random.default_rng(0)
    false = 0
    for _ in range(150):
        answers = generator.random((4, 80)) < 0.5
        looks = [
            beaten({i: [*answers[i, :n]] for i in range(4)}, error=0.1) for n in range(8, 81, 8)
        ]
        false += any(0 in found for found in looks)
    assert false <= 15


def test_a_cell_that_loses_ten_prompts_to_none_is_beaten() -> None:
    results = {"good": [True] * 12, "bad": [False] * 12, "new": [True] * 3}
    assert beaten(results, error=0.05) == {"bad": "good"}
    assert beaten({"good": [True] * 4, "bad": [False] * 4}, error=0.05) == {}


# -- the search ------------------------------------------------------------------------------------


def landscape(cell: Cell) -> tuple[float, int]:
    """Share refused and the rung from which texts break: a peak at layer 5, rung 6."""
    breaks = 4 + cell.layer // 2 + 1
    rate = 0.9 * math.exp(-(((cell.rung - 6) / 1.5) ** 2) - ((cell.layer - 5) / 2.5) ** 2)
    return rate, breaks


def asking(seed: int, log: list[tuple[int, int, bool]] | None = None) -> replay.Any:
    thresholds = np.random.default_rng(seed).random(ROUNDS[-1])

    def ask(spans: Sequence[Span], *, short: bool) -> Mapping[Cell, Sequence[Outcome]]:
        found = {}
        for span in spans:
            rate, breaks = landscape(span.cell)
            some = thresholds[span.start : span.stop]
            broken = span.cell.rung >= breaks
            found[span.cell] = [B if broken else R if rate > t else N for t in some]
            if log is not None:
                log.append((span.start, span.stop - span.start, short))
        return found

    return ask


def test_the_peak_is_found_and_what_breaks_is_known() -> None:
    found = Search(asking(1), {"dim": range(10)}).run()
    assert (found.best.layer, found.best.rung) == (5, 6)
    for (_, layer), first in found.breaks.items():
        assert first == landscape(Cell("dim", layer, 0))[1]


def test_the_same_answers_lead_to_the_same_search() -> None:
    one, other = (
        Search(asking(3), {"dim": range(12), "cosmic": range(3, 12)}).run() for _ in range(2)
    )
    assert one == other
    assert [*one.seen] == [*other.seen]


@pytest.mark.parametrize("budget", [120.0, 200.0, 300.0])
def test_a_budget_is_kept_and_prompts_are_asked_in_order(budget: float) -> None:
    log: list[tuple[int, int, bool]] = []
    search = Search(asking(2, log), {"dim": range(24)}, budget=budget)
    found = search.run()
    first = sum(n * (0.5 if short else 1.0) for start, n, short in log if (start, n) == (0, 4))
    assert search.spent <= max(budget, first)
    for seen in found.seen.values():
        assert len(seen.whole) in (0, *ROUNDS)


def test_layers_are_spread_evenly() -> None:
    assert spread(range(24), 7) == (1, 5, 8, 12, 15, 18, 22)
    assert spread(range(5), 7) == (0, 1, 2, 3, 4)


@pytest.mark.parametrize("name", ["phi-mini", "qwen-coder-0.5b", "mistral-7b"])
def test_on_a_full_grid_the_choice_is_within_five_points_of_the_best(name: str) -> None:
    grid = replay.Grid.load(name)
    lost, ratio = replay.regrets(grid, 30)
    assert (lost <= 0.05 + 1e-9).mean() >= 0.9
    assert np.median(ratio) >= 15


def test_the_interval_of_the_confirmed_cell_holds_as_often_as_it_says() -> None:
    confirmed, _ = replay.coverage(replay.Grid.load("qwen-coder-0.5b"), 200)
    assert 0.91 <= confirmed <= 0.99
    # Where nothing works, the best of many cells was lucky.
    confirmed, naive = replay.coverage(replay.Grid.load("smollm2-135m"), 200)
    assert naive < 0.9 < confirmed


# -- a model ---------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def found_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("find") / "run"
    settings = make_find_settings("lab:qwen-3b", max_new_tokens=24, budget_rows=250)
    run_find(settings, folder, device="cpu")
    return folder


def test_a_model_is_searched_and_confirmed_on_other_prompts(found_folder: Path) -> None:
    found = read_searched(found_folder / "search.json")
    assert found is not None
    assert found.found
    assert found.discovery == found.confirmation == 60
    chosen, unsteered = found.confirmed_as("chosen"), found.confirmed_as("unsteered")
    assert chosen.rate > 0.5 > unsteered.rate
    settings = make_find_settings("lab:qwen-3b")
    assert not {*settings.discovery.prompts} & {*settings.confirmation.prompts}
    for file in (found_folder / "conditions").glob("*.json"):
        record = json.loads(file.read_text())
        prompts = {sample["prompt"] for sample in record["samples"]}
        confirms = prompts <= {*settings.confirmation.prompts}
        assert confirms or prompts <= {*settings.discovery.prompts}
        if confirms:
            assert len(prompts) == 60
    text = "\n".join(lines(found))
    assert f"layer {found.layer} of {found.n_layers}" in text
    assert "prompts that the search never" in text


def test_a_continued_search_asks_nothing_again(
    found_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = (found_folder / "search.json").read_bytes()
    files = {file: file.stat().st_mtime_ns for file in (found_folder / "conditions").iterdir()}
    monkeypatch.setattr(
        "steersweep.work.answering.generate", lambda *_args, **_options: pytest.fail("asked again")
    )
    settings = make_find_settings("lab:qwen-3b", max_new_tokens=24, budget_rows=250)
    run_find(settings, found_folder, device="cpu")
    assert (found_folder / "search.json").read_bytes() == before
    assert {f: f.stat().st_mtime_ns for f in (found_folder / "conditions").iterdir()} == files


def test_a_search_that_has_ended_prices_its_cells(found_folder: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(found_folder, tmp_path / "run"))
    settings = make_find_settings("lab:qwen-3b", max_new_tokens=24, budget_rows=250, cheapest=True)
    run_find(settings, folder, device="cpu")
    before, found = (read_searched(one / "search.json") for one in (found_folder, folder))
    assert before is not None
    assert found is not None
    cheapest = found.cheapest
    assert cheapest is not None
    assert (cheapest.best_layer, cheapest.best_strength) == (before.layer, before.strength)
    assert sum(cell.price is not None for cell in found.cells) == cheapest.compared
    # The budget is spent: only cells that had answered as much as the best came into question.
    assert found.cost.search_rows == before.cost.search_rows
    chosen, random = found.confirmed_as("chosen"), found.confirmed_as("random direction")
    assert chosen.price is not None
    assert random.price is not None
    (result,) = read_result_file(result_files(folder)[-1])
    assert result.best.effects is not None
    assert result.best.effects.divergence == chosen.price
    assert f"{chosen.price.nats_per_token:.2g} nats" in "\n".join(lines(found))
    assert in_short(found)["price"]["n"] == 20


def test_where_nothing_is_found_it_says_where_it_looked(found_folder: Path) -> None:
    found = read_searched(found_folder / "search.json")
    assert found is not None
    nothing = replace(found, found=False, window=None)
    text = "\n".join(lines(nothing))
    assert "no window" in text
    assert "looked for at layers 0 to 8 with pushes from 0.02 to 1 of the residual norm" in text
    assert "texts begin to break at" in text
    assert in_short(nothing)["window"] is None


def test_a_killed_search_goes_on_to_the_same_end(
    found_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = make_find_settings("lab:qwen-3b", max_new_tokens=24, budget_rows=250)
    put, left = RunFolder.put, [25]

    def killed(self: RunFolder, record: replay.Any) -> None:
        left[0] -= 1
        if left[0] < 0:
            raise KeyboardInterrupt
        put(self, record)

    with monkeypatch.context() as until:
        until.setattr(RunFolder, "put", killed)
        with pytest.raises(KeyboardInterrupt):
            run_find(settings, tmp_path / "run", device="cpu")
    assert not (tmp_path / "run" / "search.json").exists()
    run_find(settings, tmp_path / "run", device="cpu")
    ends = [(folder / "search.json").read_bytes() for folder in (tmp_path / "run", found_folder)]
    assert ends[0] == ends[1]


def test_one_layer_few_prompts_and_short_answers_are_searched_too(tmp_path: Path) -> None:
    prompts = tmp_path / "prompts.txt"
    prompts.write_text("\n".join(f"What is {i} plus {i + 3}?" for i in range(24)))
    command = "find lab:phi-mini --layers 3 --max-new-tokens 10 --quiet --device cpu".split()
    command += ["--prompts", str(prompts), "--out", str(tmp_path / "run"), "--minutes", "0.0001"]
    done = typer.testing.CliRunner().invoke(app, [*command, "--operation", "affine"])
    assert done.exit_code == 0, done.output
    found = read_searched(tmp_path / "run" / "search.json")
    assert found is not None
    assert found.confirmation == found.discovery == 12
    assert [*found.rounds] == [4]
    assert (tmp_path / "run" / "figures" / "search.png").exists()
    # A direction that is lost is found again.
    for file in (tmp_path / "run" / "directions").iterdir():
        file.unlink()
    again = typer.testing.CliRunner().invoke(app, [*command, "--operation", "affine"])
    assert again.exit_code == 0, again.output


def test_methods_without_a_direction_at_a_layer_are_left_out_there(tmp_path: Path) -> None:
    """COSMIC's candidates do not differ at layer 0 of this model, DIM's do."""
    settings = make_find_settings(
        "lab:qwen-3b", methods="cosmic,dim", layers="0", max_new_tokens=12, max_prompts=16
    )
    found = run_find(settings, tmp_path / "run", device="cpu").searched
    assert {cell.method for cell in found.cells} == {"dim"}
    assert found.confirmed_as("random direction").n == 8


def test_what_cannot_be_searched_is_refused() -> None:
    with pytest.raises(InputError, match="remove has no strength"):
        make_find_settings("lab:qwen-3b", operation="remove")
    with pytest.raises(InputError, match="a search needs 16"):
        make_find_settings("lab:qwen-3b", max_prompts=10)


def test_the_ladder_reaches_from_a_nudge_to_destruction() -> None:
    ratios = [b / a for a, b in pairwise(STRENGTHS)]
    assert STRENGTHS[0] == 0.02
    assert STRENGTHS[-1] == 1.0
    assert max(ratios) / min(ratios) < 1.01


# -- windows ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("breaks", "rungs"),
    [
        ((6, 8, 7), (3, 4, 5, 6, 7)),
        ((7, 12), (4, 6, 8, 9, 11)),
        ((12,), (9, 10, 11)),
        ((0, 1), (0,)),
        ((2,), (0, 1)),
    ],
)
def test_a_window_reaches_from_three_below_the_first_break_to_below_the_last(
    breaks: tuple[int, ...], rungs: tuple[int, ...]
) -> None:
    assert window_strengths(breaks) == tuple(STRENGTHS[rung] for rung in rungs)


def tried(folder: Path) -> set[float]:
    """Relative strengths of the conditions in a run's results."""
    found = [r for file in result_files(folder) for r in read_result_file(file)]
    return {round(c.steering.relative_strength, 4) for r in found for c in r.conditions}


def test_a_sweep_without_strengths_tries_those_of_the_window(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    command = ["sweep", "lab:qwen-3b", "--layers", "0.4,0.6", "--max-prompts", "8", "--quiet"]
    command += ["--max-new-tokens", "20", "--device", "cpu", "--out", str(tmp_path / "run")]
    done = typer.testing.CliRunner().invoke(app, command)
    assert done.exit_code == 0, done.output
    assert "note: lab:qwen-3b: texts begin to break at" in done.output
    (held,) = (tmp_path / "run" / "extraction").glob("window-*.json")
    breaks = json.loads(held.read_text())["breaks"]
    assert len(breaks) == 2
    assert tried(tmp_path / "run") == {*window_strengths(breaks.values())}
    files = {file: file.stat().st_mtime_ns for file in tmp_path.glob("run/conditions/*")}
    monkeypatch.setattr(
        "steersweep.work.answering.generate", lambda *_args, **_options: pytest.fail("asked again")
    )
    again = typer.testing.CliRunner().invoke(app, command)
    assert again.exit_code == 0, again.output
    assert {file: file.stat().st_mtime_ns for file in files} == files


@pytest.mark.parametrize("where", rest_slow(["follow_up", "strength"]))
def test_a_study_may_look_for_strengths(where: str, tmp_path: Path) -> None:
    changes: dict[str, replay.Any] = {"strength": "find"}
    if where == "follow_up":  # whatever comes out of phase 1, it is partial
        changes = {
            "follow_up": {"layers": [0.5], "strengths": "find"},
            "thresholds": {"works": 0.99, "partial": 0.0},
        }
    changes["family_sweep"] = {"methods": ["dim"], "models": [{"model": "m7", "layers": [0.5]}]}
    plan = small(**changes)
    run_study(plan, tmp_path / "run", StudyOptions(until="family_sweep"))
    assert len(tried(tmp_path / "run")) >= 2
    windows = [*(tmp_path / "run" / "extraction").glob("window-*.json")]
    assert len(windows) == 1
    standing = status(tmp_path / "run")
    assert standing.done == standing.total
