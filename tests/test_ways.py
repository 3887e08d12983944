"""Ways to steer a model, from several run folders, compared by price at equal refusal.

A fast test of it is in test_effects_runs.py.
"""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from steersweep import InputError, compare_prices
from steersweep.cli.app import app
from steersweep.report.ways import names_of_ways, way_lines
from steersweep.run.effect import Sizes
from steersweep.sweeps.effect_settings import make_effects
from steersweep.sweeps.run import run_sweep
from steersweep.sweeps.settings import make_settings
from steersweep.sweeps.ways import compare_ways

pytestmark = pytest.mark.slow

FEW = replace(make_effects("divergence"), sizes=Sizes(own_answers=5, own_answer_tokens=4))


def swept(folder: Path, **changes: Any) -> Path:
    options: dict[str, Any] = {
        "layers": "0.5",
        "strengths": "0.24",
        "max_prompts": 6,
        "max_new_tokens": 20,
        "effects": FEW,
    }
    run_sweep(make_settings(["lab:qwen-3b"], **(options | changes)), folder, device="cpu")
    return folder


@pytest.fixture(scope="module")
def to_end(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return swept(tmp_path_factory.mktemp("ways") / "to-end", methods="dim,pca")


@pytest.fixture(scope="module")
def one_layer(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("ways") / "one"
    return swept(folder, span="one", strengths="0.05,0.5")


def by_answer(folder: Path, key: str) -> list[tuple[float, int]]:
    """Value and tokens of each answer that the price of a condition is taken over."""
    record = json.loads((folder / "conditions" / f"{key}.json").read_text())
    direction = Path(record["result"]["direction_file"]).stem
    for file in folder.glob("effects/*.json"):
        held = json.loads(file.read_text())
        edit = held["rests_on"]["edit"]
        if edit and (edit["direction"], edit["multiplier"]) == (
            direction,
            record["result"]["multiplier"],
        ):
            measured = held["measured"][0]
            return [*zip(measured["values"], measured["weights"], strict=True)]
    raise AssertionError(f"no price of {key}")


def test_ways_are_compared_on_the_same_answers(to_end: Path, one_layer: Path) -> None:
    (found,) = compare_ways([to_end, one_layer, to_end])
    assert (found.n_prompts, found.n_answers) == (6, 5)
    names = names_of_ways(found.ways)
    assert sorted(names) == ["DIM, one layer", "DIM, to the end", "PCA, to the end"]
    ways = dict(zip(names, found.ways, strict=True))
    assert [ways[name].n_cells for name in sorted(names)] == [2, 1, 1]
    # A push of one layer refuses nothing here.
    assert [way.cheapest is None for way in found.ways] == [False, False, True]
    first, second, last = found.ways
    assert first.dearer is None
    assert last.dearer is None
    assert second.dearer is not None
    assert first.cheapest is not None
    assert second.cheapest is not None
    pairs = [by_answer(to_end, way.cheapest.key) for way in (first, second) if way.cheapest]
    totals = [sum(value * weight for value, weight in of_way) for of_way in pairs]
    tokens = sum(weight for _, weight in pairs[0])
    assert second.dearer.value == pytest.approx((totals[1] - totals[0]) / tokens)
    assert second.dearer.low < second.dearer.value < second.dearer.high
    assert first.random is not None
    text = "\n".join(way_lines([found]))
    assert f"{names[0]}  " in text
    assert "the cheapest; layer 4" in text
    assert "no cell refuses as often" in text


def test_the_command_draws_it(to_end: Path, one_layer: Path, tmp_path: Path) -> None:
    asked = ["prices", str(to_end), str(one_layer), "--figure", str(tmp_path / "ways.svg")]
    done = CliRunner().invoke(app, [*asked, "--json"])
    assert done.exit_code == 0, done.output
    (model,) = json.loads(done.stdout)["models"]
    assert len(model["ways"]) == 3
    assert "response" not in done.stdout
    assert {path.name for path in tmp_path.iterdir()} == {"ways.svg", "ways.png"}
    drawn = (tmp_path / "ways.png").read_bytes()
    again = compare_prices([to_end, one_layer]).draw(tmp_path / "again.png")
    assert again.read_bytes() == drawn


def test_what_cannot_be_compared(one_layer: Path, to_end: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"one: .*steered in one way; give run folders of other"):
        compare_ways([one_layer])
    with pytest.raises(InputError, match="holds no steersweep run"):
        compare_ways([to_end, tmp_path])


def test_runs_on_other_answers_are_refused(to_end: Path, tmp_path: Path) -> None:
    other = swept(tmp_path / "other", max_new_tokens=8, span="one")
    with pytest.raises(InputError, match=r"to-end, .*other: .* \(max_new_tokens differ\)"):
        compare_ways([to_end, other])
    longer = replace(FEW, sizes=Sizes(own_answers=5, own_answer_tokens=6))
    elsewhere = swept(tmp_path / "longer", site="resid_pre", effects=longer)
    with pytest.raises(InputError, match="with the same effect items"):
        compare_ways([to_end, elsewhere])
    plain = swept(tmp_path / "plain", span="one", effects=make_effects("none"))
    with pytest.raises(InputError, match=r"plain: no price was measured there; measure the effect"):
        compare_ways([to_end, plain])
