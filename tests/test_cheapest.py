"""A search that chooses the cheapest cell of those that refuse as often as its best."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from steersweep.cli.app import app
from steersweep.prompts.prompts import load_test_set
from steersweep.report.found import lines
from steersweep.run.result_files import read_result_file, result_files
from steersweep.run.searched import Searched, read_searched
from steersweep.run.verdict import Thresholds
from steersweep.search.search import Cell, Choice, Outcome, Search, Seen, Span
from steersweep.sweeps.cheapest import Pick, pick
from steersweep.sweeps.find import run_find
from steersweep.sweeps.find_settings import make_find_settings
from steersweep.work import measuring

Said = tuple[Path, Any]  # a run folder, and what the command said

R, N = Outcome.REFUSES, Outcome.OTHER
BEST, NEAR, WEAK, DEAR = (Cell("dim", layer, 5) for layer in range(4))
PRICES = {BEST: 2.0, NEAR: 1.0, WEAK: 0.5, DEAR: 3.0}
# Of 40 discovery prompts, in blocks of four.
RATES = {BEST: 4, NEAR: 4, WEAK: 1, DEAR: 4}


def answers(cell: Cell, stop: int) -> list[Outcome]:
    """Every fourth prompt is refused for each point of a cell's rate; the first four always are."""
    return [R if prompt < 4 or prompt % 4 < RATES[cell] else N for prompt in range(stop)]


class Asked:
    """A race that has ended: the best answered 40 prompts, others 8."""

    def __init__(self, budget: float = float("inf"), whole: int = 40, few: int = 8) -> None:
        self.spans: list[Span] = []
        self.search = Search(self.ask, {"dim": range(4)}, rounds=(4, 8, 16, whole), budget=budget)
        for cell in RATES:
            seen = Seen(whole=answers(cell, whole if cell == BEST else few), raced=True)
            self.search.seen[cell] = seen

    def ask(self, spans: Sequence[Span], *, short: bool) -> Mapping[Cell, Sequence[Outcome]]:
        assert not short
        self.spans += spans
        return {span.cell: answers(span.cell, span.stop)[span.start :] for span in spans}

    def pick(self, prices: Mapping[Cell, float] = PRICES) -> Pick:
        choice = Choice(BEST, self.search.seen, {}, self.search.rounds)

        def prices_of(cells: Sequence[Cell]) -> dict[Cell, float]:
            return {cell: prices[cell] for cell in cells if cell in prices}

        return pick(self.search, choice, prices_of, Thresholds())


def test_the_cheapest_of_equal_refusal_is_chosen_on_all_prompts_of_the_best() -> None:
    asked = Asked()
    found = asked.pick()
    assert found == Pick(NEAR, PRICES, 2, [NEAR])
    # Cheaper cells answer on, in the rounds of the search, until it is clear; dearer ones do not.
    assert [(s.cell, s.start, s.stop) for s in asked.spans] == [
        (NEAR, 8, 16),
        (WEAK, 8, 16),
        (NEAR, 16, 40),
    ]


def test_a_cell_that_is_clearly_worse_already_is_not_priced() -> None:
    asked = Asked(few=40)
    assert asked.pick() == Pick(NEAR, {c: PRICES[c] for c in (BEST, NEAR, DEAR)}, 1, [NEAR])
    assert asked.spans == []


def test_what_has_no_price_is_left_out() -> None:
    assert Asked().pick({BEST: 2.0, WEAK: 0.5}) == Pick(BEST, {BEST: 2.0, WEAK: 0.5}, 1, [])
    # Where numbers overflow in the best one, any is cheaper.
    assert Asked().pick({NEAR: 1.0, DEAR: 3.0}).equal == [NEAR, DEAR]


def test_where_the_budget_ends_cells_that_lack_answers_are_left_out() -> None:
    asked = Asked(budget=16)
    assert asked.pick() == Pick(BEST, PRICES, 2, [])
    assert [span.stop for span in asked.spans] == [16, 16]
    complete = Asked(budget=0)
    complete.search.seen[NEAR] = Seen(whole=answers(NEAR, 40), raced=True)
    assert complete.pick().cell == NEAR


def test_with_few_prompts_the_outcome_must_be_no_worse() -> None:
    """Four of eight against five: the interval of the difference holds 0, but it works no more."""
    asked = Asked(whole=8)
    for cell, rate in {BEST: 5, NEAR: 4, WEAK: 5}.items():
        asked.search.seen[cell] = Seen(whole=[R] * rate + [N] * (8 - rate), raced=True)
    assert asked.pick().equal == [WEAK]


def test_where_the_best_fails_nothing_is_compared() -> None:
    asked = Asked()
    asked.search.seen[BEST] = Seen(whole=[R] * 7 + [N] * 33, raced=True)
    assert asked.pick() == Pick(BEST)


# -- a model; a fast test of it is in test_search.py -----------------------------------------------


@pytest.fixture(scope="module")
def prompts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("prompts") / "forty.txt"
    file.write_text("\n".join(load_test_set("benign-120").first(40).prompts))
    return file


def find(prompts: Path, folder: Path, *, cheapest: bool) -> None:
    settings = make_find_settings(
        "lab:qwen-3b",
        layers="4,5",
        max_new_tokens=24,
        prompts=str(prompts),
        cheapest=cheapest,
    )
    run_find(settings, folder, device="cpu")


@pytest.fixture(scope="module")
def searched(prompts: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A search that chose what refuses most."""
    folder = tmp_path_factory.mktemp("cheapest") / "run"
    find(prompts, folder, cheapest=False)
    return folder


@pytest.fixture(scope="module")
def said(prompts: Path, searched: Path, tmp_path_factory: pytest.TempPathFactory) -> Said:
    """The same asked for the cheapest afterwards, by command."""
    folder = tmp_path_factory.mktemp("cheapest") / "run"
    shutil.copytree(searched, folder)
    command = "find lab:qwen-3b --layers 4,5 --max-new-tokens 24 --quiet --device cpu --cheapest"
    command += f" --prompts {prompts} --out {folder} --json"
    done = CliRunner().invoke(app, command.split())
    assert done.exit_code == 0, done.output
    return folder, json.loads(done.stdout)


@pytest.fixture(scope="module")
def cheapest(said: Said) -> Path:
    return said[0]


def held(folder: Path) -> Searched:
    found = read_searched(folder / "search.json")
    assert found is not None
    return found


@pytest.mark.slow
def test_a_search_that_has_ended_is_asked_for_the_cheapest(searched: Path, cheapest: Path) -> None:
    before, found = held(searched), held(cheapest)
    assert before.cheapest is None
    assert {cell.price for cell in before.confirmed} == {None}
    of_best = found.cheapest
    assert of_best is not None
    assert (of_best.best_layer, of_best.best_strength) == (before.layer, before.strength)
    assert (found.layer, found.strength) != (before.layer, before.strength)
    assert of_best.equal >= 1
    priced = {cell.price for cell in found.cells} - {None}
    assert len(priced) == of_best.compared
    # On other answers the chosen cell is the cheaper one still.
    chosen = found.confirmed_as("chosen")
    assert chosen.price is not None
    assert of_best.best_price is not None
    assert of_best.best_dearer is not None
    assert chosen.price.n == 20
    difference = of_best.best_price.nats_per_token - chosen.price.nats_per_token
    assert of_best.best_dearer.value == pytest.approx(difference)
    assert 0 < of_best.best_dearer.low < difference < of_best.best_dearer.high
    assert {c.what for c in found.confirmed if c.price is None} == {"unsteered"}
    # The result has the same price, and is on the confirmation prompts.
    (result,) = read_result_file(result_files(cheapest)[-1])
    assert result.best.effects is not None
    assert result.best.effects.divergence == chosen.price
    assert result.controls.random_direction is not None
    random = found.confirmed_as("random direction").price
    assert random is not None
    assert result.controls.random_direction.price == random.nats_per_token


@pytest.mark.slow
def test_no_answer_is_generated_again_for_it(searched: Path, cheapest: Path) -> None:
    for file in (searched / "conditions").iterdir():
        assert (cheapest / "conditions" / file.name).read_bytes() == file.read_bytes()


@pytest.mark.slow
def test_one_that_was_stopped_comes_to_the_same_end(
    prompts: Path, searched: Path, cheapest: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "run"
    shutil.copytree(searched, folder)
    save, left = measuring.save_effect, [4]

    def stopped(*args: Any, **options: Any) -> None:
        left[0] -= 1
        if left[0] < 0:
            raise KeyboardInterrupt
        save(*args, **options)

    with monkeypatch.context() as until:
        until.setattr(measuring, "save_effect", stopped)
        with pytest.raises(KeyboardInterrupt):
            find(prompts, folder, cheapest=True)
    assert len([*folder.glob("effects/*")]) == 4
    find(prompts, folder, cheapest=True)
    assert (folder / "search.json").read_bytes() == (cheapest / "search.json").read_bytes()
    # Without the option the cell that refuses most is chosen again.
    find(prompts, folder, cheapest=False)
    assert (folder / "search.json").read_bytes() == (searched / "search.json").read_bytes()


@pytest.mark.slow
def test_it_says_what_the_best_would_have_cost(said: Said) -> None:
    folder, in_short = said
    found = held(folder)
    of_best = found.cheapest
    assert of_best is not None
    assert of_best.best_price is not None
    assert in_short["cheapest"]["best_price"]["nats_per_token"] == of_best.best_price.nats_per_token
    assert in_short["price"]["n"] == 20
    text = "\n".join(lines(found))
    assert "refuses as often for the least at layer 5 of 9" in text
    assert f"compared the price of {of_best.compared} cells" in text
    assert f"that one: dim, layer {of_best.best_layer} at {of_best.best_strength:g}: " in text
    assert f"it refused {of_best.best_refuses} of the 20 discovery prompts, the chosen" in text
    best_itself = replace(of_best, equal=0, best_dearer=None)
    text = "\n".join(lines(replace(found, cheapest=best_itself)))
    assert "refuses most at layer 5 of 9" in text
    assert "that one:" not in text
    fails = replace(best_itself, compared=0, cheaper=0)
    assert "no cheaper one was looked for" in "\n".join(lines(replace(found, cheapest=fails)))
