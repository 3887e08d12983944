"""Effects of steering in runs: at once or later, killed, damaged, priced, and shown."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Sequence
from dataclasses import replace
from importlib import resources
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml
from typer.testing import CliRunner

from helpers.results import result, samples, steered, unsteered
from steersweep import InputError, SweepResults, compare_prices, measure_effects
from steersweep.cli.app import app
from steersweep.core import typed
from steersweep.core.errors import NumericalError, SteersweepError
from steersweep.effects.divergence import Divergence
from steersweep.effects.text import TextLoss
from steersweep.report.prices import price_lines
from steersweep.report.ways import way_lines
from steersweep.run.cell import SteeredCell
from steersweep.run.effect import Sizes
from steersweep.run.judgement import Quality
from steersweep.run.price import DivergenceEffect, Effects
from steersweep.run.result import Controls, Result
from steersweep.run.verdict import Thresholds
from steersweep.study.costs import estimate
from steersweep.study.phases.families import Families
from steersweep.study.phases.phase import Ahead
from steersweep.study.plan import Plan
from steersweep.study.plan_file import parse_plan
from steersweep.study.study import run_study
from steersweep.study.sweeps import Cuts
from steersweep.sweeps.effect_settings import SAMPLE, WHOLE, make_effects
from steersweep.sweeps.measure import Measure, measure_run
from steersweep.sweeps.priced import breaks_from, equal_cells, front, refuses_as_often
from steersweep.sweeps.run import run_sweep
from steersweep.sweeps.settings import SweepSettings, make_settings
from steersweep.sweeps.ways import compare_ways
from steersweep.work.asked_effects import AskedEffects

FEW = Sizes(
    harmful=3,
    borderline=3,
    answer_tokens=4,
    own_answers=3,
    own_answer_tokens=4,
    texts=2,
    chat_texts=2,
    text_tokens=6,
    questions=4,
)


def few(names: str = "all") -> AskedEffects:
    """Effects that look at little."""
    return replace(make_effects(names), sizes=FEW)


def settings(effects: AskedEffects, **changes: Any) -> SweepSettings:
    options: dict[str, Any] = {
        "methods": "dim,pca",
        "layers": "0.3,0.6",
        "strengths": "0.3",
        "max_prompts": 6,
        "max_new_tokens": 6,
        "effects": effects,
    }
    return make_settings(["lab:qwen-3b"], **(options | changes))


@pytest.fixture(scope="module")
def at_once(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A sweep with every effect."""
    folder = tmp_path_factory.mktemp("at-once") / "run"
    run_sweep(settings(few()), folder, device="cpu")
    return folder


@pytest.fixture
def copied(at_once: Path, tmp_path: Path) -> Path:
    """The same, to be changed."""
    return Path(shutil.copytree(at_once, tmp_path / "run"))


def effect_files(folder: Path, name: str = "") -> dict[str, Any]:
    """What effects are, by file, whenever they were measured."""
    held = {
        path.name: json.loads(path.read_text()) for path in folder.glob(f"effects/{name}*.json")
    }
    return {name: (facts["rests_on"], facts["measured"]) for name, facts in held.items()}


def counted(monkeypatch: pytest.MonkeyPatch, kind: type, fail_at: int = 0) -> list[int]:
    """How many edits each call of an effect measures; a call may fail as if Ctrl+C were pressed."""
    calls: list[int] = []
    original = kind.measure

    def measure(self: Any, chat: Any, edits: Sequence[Any], given: Any) -> Any:
        calls.append(len(edits))
        if len(calls) == fail_at:
            raise KeyboardInterrupt
        return original(self, chat, edits, given)

    monkeypatch.setattr(kind, "measure", measure)
    return calls


# -- in a run --------------------------------------------------------------------------------------


def test_every_condition_and_control_has_every_effect(at_once: Path) -> None:
    found = SweepResults.of(at_once)
    for one in found.results:
        controls = one.controls
        assert controls.unsteered is not None
        assert controls.random_direction is not None
        cells = [*one.conditions, *controls.random_directions, controls.random_direction]
        for cell in (controls.unsteered, *cells):
            effects = cell.effects
            assert effects is not None
            assert effects.harmful_kept is not None
            assert effects.borderline is not None
            assert effects.divergence is not None
            assert effects.text is not None
            assert effects.text.in_template is not None
            assert effects.choices is not None
            assert (effects.harmful_kept.n, effects.divergence.n) == (3, 3)
            assert (effects.text.n, effects.choices.n) == (2, 4)
            steers = cell is not controls.unsteered
            assert (effects.text.change is not None) == steers
            assert (effects.divergence.nats_per_token > 1e-3) == steers
            assert (at_once / effects.text.file).is_file()
    # Two methods at two layers, a random direction at each, and no steering.
    assert len(effect_files(at_once, "text")) == 2 * 2 + 2 + 1


def test_methods_of_a_run_are_ways_to_steer(at_once: Path) -> None:
    (found,) = compare_ways([at_once])
    assert found.n_answers == 3
    first, second = found.ways
    results = {result.method: result for result in SweepResults.of(at_once).results}
    for way in (first, second):
        priced = results[way.method].priced
        assert priced is not None
        assert priced.among_methods is not None
        assert way.cheapest is not None
        assert way.cheapest.key == priced.among_methods.key
        assert way.dearer == priced.among_methods.dearer
        assert way.random is not None
    assert second.dearer is not None
    text = "\n".join(way_lines([found]))
    assert f"  {first.method.upper()}  " in text
    assert "; the cheapest; layer" in text
    with pytest.raises(InputError, match="holds no steersweep run"):
        compare_ways([at_once, at_once / "nowhere"])


def test_ways_are_compared_from_python_as_by_the_command(at_once: Path) -> None:
    asked = ["prices", str(at_once)]
    shown, told = (CliRunner().invoke(app, [*asked, *more]) for more in ([], ["--json"]))
    found = compare_prices(str(at_once))
    assert f"{found}\n" == shown.stdout
    (model,) = compare_prices([at_once, str(at_once)]).models
    plain = json.loads(json.dumps(typed.plain(model.without_samples())))
    assert [plain] == json.loads(told.stdout)["models"]
    with pytest.raises(InputError, match="folders: name at least one run folder"):
        compare_prices([])


def test_effects_measured_later_are_those_measured_at_once(at_once: Path, tmp_path: Path) -> None:
    plain = run_sweep(settings(few("none")), tmp_path / "run", device="cpu")
    assert not effect_files(plain.folder)
    before = {path: path.read_bytes() for path in plain.folder.glob("conditions/*")}
    assert {p.name for p in before} == {p.name for p in at_once.glob("conditions/*")}
    later = measure_run(plain.folder, Measure(few(), {}, "cpu"))
    assert effect_files(plain.folder) == effect_files(at_once)
    assert {path: path.read_bytes() for path in before} == before
    there = SweepResults.of(at_once).results
    assert [one.priced for one in later] == [one.priced for one in there]
    assert [one.best.effects for one in later] == [one.best.effects for one in there]
    assert SweepResults.of(plain.folder).results == later
    # The same sweep, without a word of effects, keeps them.
    again = run_sweep(settings(few("none")), plain.folder, device="cpu")
    assert [one.best.effects for one in again.results] == [one.best.effects for one in later]


def test_a_run_that_was_stopped_measures_only_what_is_missing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = settings(few("text"), rows=6)  # so few rows that each edit is a batch of its own
    with monkeypatch.context() as patch:
        calls = counted(patch, TextLoss, fail_at=4)
        with pytest.raises(KeyboardInterrupt):
            run_sweep(asked, tmp_path / "run", device="cpu")
        assert calls == [1, 1, 1, 1]
    kept = effect_files(tmp_path / "run")
    assert len(kept) == 3
    calls = counted(monkeypatch, TextLoss)
    run_sweep(asked, tmp_path / "run", device="cpu")
    assert calls == [1] * 4
    whole = effect_files(tmp_path / "run")
    assert {name: whole[name] for name in kept} == kept
    assert len(whole) == 7


def test_a_damaged_effect_is_set_aside_and_measured_again(
    copied: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = effect_files(copied)
    broken = sorted(copied.glob("effects/divergence-*"))[2]
    broken.write_bytes(broken.read_bytes().replace(b'"values"', b'"valuez"'))
    calls = counted(monkeypatch, Divergence)
    notes: list[str] = []
    run_sweep(settings(few()), copied, device="cpu", on_note=notes.append)
    assert calls == [7]  # its whole batch, so that the numbers are the same
    assert effect_files(copied) == whole
    assert broken.with_name(f"{broken.name}.damaged").exists()
    assert any(broken.name in note and "made again" in note for note in notes)


def test_the_command_leaves_what_is_damaged_in_the_run_as_it_is(copied: Path) -> None:
    record = sorted(copied.glob("conditions/*"))[0]
    direction = sorted(copied.glob("directions/*"))[0]
    for path, what in ((record, "run the same sweep"), (direction, "the same command is the swe")):
        whole = path.read_bytes()
        path.write_bytes(whole[:-40] + b"x" * 40)
        for file in copied.glob("effects/text-*"):
            file.unlink()
        with pytest.raises(SteersweepError, match=rf"{path.name}: is damaged.*{what}"):
            measure_run(copied, Measure(few("text"), {}, "cpu"))
        assert path.read_bytes() == whole[:-40] + b"x" * 40
        path.write_bytes(whole)
    assert not [*copied.rglob("*.damaged")]


@pytest.mark.slow
def test_another_effect_is_added_without_measuring_the_others(
    copied: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for path in copied.glob("effects/text-*"):
        path.unlink()
    others = counted(monkeypatch, Divergence)
    run_sweep(settings(few()), copied, device="cpu")
    assert not others
    assert len(effect_files(copied, "text")) == 7


@pytest.mark.slow
def test_other_data_are_other_effects(copied: Path, tmp_path: Path) -> None:
    file = tmp_path / "mine.txt"
    file.write_text("The river rose in the night. By noon the bridge was gone.\n")
    before = effect_files(copied)
    asked = replace(make_effects("text", text=str(file)), sizes=FEW)
    found = measure_run(copied, Measure(asked, {}, "cpu"))
    assert len(effect_files(copied, "text")) == 14
    assert before.items() <= effect_files(copied).items()
    effects = found[0].best.effects
    assert effects is not None
    assert effects.text is not None
    assert effects.text.n == 1
    assert effects.divergence is not None


@pytest.mark.slow
def test_sampled_answers_count_prompts(tmp_path: Path) -> None:
    asked = settings(
        few("divergence"), layers="0.6", methods="dim", max_prompts=2, temperature=1.0, repeats=3
    )
    (found,) = run_sweep(asked, tmp_path / "run", device="cpu").results
    assert found.best.effects is not None
    assert found.best.effects.divergence is not None
    assert found.best.effects.divergence.n == 2
    assert found.priced is not None
    (file, *_) = sorted((tmp_path / "run").glob("effects/divergence-*"))
    (measured,) = json.loads(file.read_text())["measured"]
    assert len({*measured["items"]}) == 2
    before = effect_files(tmp_path / "run")
    measure_run(tmp_path / "run", Measure(few("divergence"), {}, "cpu"))
    assert effect_files(tmp_path / "run") == before


def test_where_numbers_overflow_there_is_no_effect_and_the_reason(
    copied: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for path in copied.glob("effects/text-*"):
        path.unlink()
    original = TextLoss.measure

    def overflows(self: TextLoss, chat: Any, edits: Sequence[Any], given: Any) -> Any:
        if any(edit is not None and edit.start == 5 for edit in edits):
            raise NumericalError("activations are NaN")
        return original(self, chat, edits, given)

    monkeypatch.setattr(TextLoss, "measure", overflows)
    found = measure_run(copied, Measure(few("text"), {}, "cpu"))
    texts = {c.layer: c.effects and c.effects.text for c in found[0].conditions}
    assert (texts[2] is None, texts[5] is None) == (False, True)
    why = [json.loads(p.read_text())["why"] for p in copied.glob("effects/text-*")]
    assert why.count("activations are NaN") == 3
    # What failed is known, and is not tried again.
    monkeypatch.setattr(TextLoss, "measure", None)
    assert measure_run(copied, Measure(few("text"), {}, "cpu")) == found


def test_an_effect_of_ones_own(copied: Path, tmp_path: Path) -> None:
    file = tmp_path / "mine.py"
    file.write_text(
        "from steersweep.run.effect import Measured\n"
        "class Longest:\n"
        "    name = 'longest'\n"
        "    def measure(self, chat, edits, given):\n"
        "        values = [float(edit is not None) for edit in edits]\n"
        "        made = [Measured('longest', 'share', 'x', ('a',), (v,), (1,)) for v in values]\n"
        "        return [(one,) for one in made]\n"
    )
    found = measure_run(copied, Measure(few(f"{file}:Longest"), {}, "cpu"))
    effects = found[0].best.effects
    assert effects is not None
    assert effects.others is not None
    own = effects.others["longest"]
    assert (own.value, own.unit, own.n) == (1.0, "share", 1)
    assert own.change is not None
    assert own.change.value == 1.0
    assert any("longest 1" in line for line in price_lines(found))


# -- the command, from Python, and what is shown --------------------------------------------------


@pytest.mark.slow
def test_the_command_measures_shows_prices_and_writes_the_report(copied: Path) -> None:
    shutil.rmtree(copied / "effects")
    (copied / "effects.json").unlink()
    asked = ["effects", str(copied), "--effects", "divergence", "--quiet", "--json"]
    done = CliRunner().invoke(app, asked)
    assert done.exit_code == 0, done.output
    found = json.loads(done.stdout)["effects"]
    assert len(found) == 2 * (1 + 2 + 2)
    assert all(one["effects"]["divergence"]["n"] == 6 for one in found)
    assert any(one["refuses_as_often"] for one in found)
    results = SweepResults.of(copied).results
    schema = resources.files("steersweep.run") / "result.schema.json"
    (file,) = copied.glob("results/*.json")
    written = json.loads(file.read_text())
    jsonschema.Draft202012Validator(json.loads(schema.read_text())).validate(written)
    said = "\n".join(price_lines(results))
    assert "nats from itself" in said
    assert "random direction there" in said
    assert "methods where they refuse as often" in said
    page = (copied / "report.html").read_text()
    assert "What it costs" in page
    for name in ("price_front", "price_map", "price_methods"):
        assert (copied / "figures" / f"{name}.png").is_file()
        assert f'href="#{name}"' in page


def test_from_python_with_the_model_in_memory(copied: Path) -> None:
    with pytest.raises(InputError, match="no such model in the run; there are lab:qwen-3b"):
        measure_effects(copied, effects="text", models={"another": "lab:qwen-3b"}, quiet=True)
    with pytest.raises(InputError, match=r"weights in .* are not those of this run"):
        measure_effects(
            copied, effects="text", models={"lab:qwen-3b": "lab:qwen-7b"}, device="cpu", quiet=True
        )
    found = measure_effects(copied, effects=["text"], device="cpu", quiet=True)
    (first, *_) = [row for row in found.rows() if row["role"] == "steered"]
    assert first["text"] > 0
    assert first["text_change"] is not None
    assert first["refuses_as_often"] in (True, False)


def test_a_run_without_effects_says_nothing_of_them() -> None:
    assert not [*price_lines([result([steered(samples("coherent"))])])]


# -- in plans --------------------------------------------------------------------------------------

TINY: dict[str, Any] = {
    "name": "tiny",
    "prompts": {"test": "benign-120", "max": 3, "extraction": {"dim": "extract-dim-5"}},
    "decoding": {"max_new_tokens": 6},
    "precision": "fp32",
    "strength": {"relative": 0.3},
    "families": {
        "qwen": [
            {"name": "q3", "model": "lab:qwen-3b", "n_layers": 9, "billions": 4e-4, "gpu": "local"}
        ]
    },
    "family_sweep": {"methods": ["dim"], "models": [{"model": "q3", "layers": [0.5]}]},
    "thresholds": {"works": 0.6, "partial": 0.2},
}


def tiny(**effects: Any) -> Plan:
    data = TINY | ({"effects": effects} if effects else {})
    return parse_plan(yaml.safe_dump(data), "tiny.yaml")


@pytest.mark.slow
def test_a_study_that_has_finished_takes_effects_on(tmp_path: Path) -> None:
    run_study(tiny(), tmp_path / "run")
    before = {path: path.read_bytes() for path in (tmp_path / "run").glob("conditions/*")}
    lines: list[str] = []
    run_study(tiny(measure=["divergence"]), tmp_path / "run", on_line=lines.append)
    assert {path: path.read_bytes() for path in before} == before
    (found,) = SweepResults.of(tmp_path / "run").results
    assert found.best.effects is not None
    assert found.best.effects.divergence is not None
    assert found.priced is not None
    # The command finds a study's models too.
    (again,) = measure_run(tmp_path / "run", Measure(few("text"), {}, "cpu"))
    assert again.best.effects is not None
    assert again.best.effects.text is not None
    assert again.best.effects.divergence == found.best.effects.divergence


def test_effects_are_part_of_a_plans_estimate() -> None:
    plans = tiny(), tiny(measure=["divergence", "text", "choices", "harmful", "borderline"])
    seconds = []
    for plan in plans:
        first = next(iter(Families().ahead(Ahead(plan, Cuts(), lambda _sweep: (0.0, 0.0)))))
        seconds.append(estimate(plan, first.sweep, 120).seconds)
    assert seconds[0] < seconds[1]


@pytest.mark.parametrize(
    ("effects", "message"),
    [
        (
            {"measure": ["nonsense"]},
            r"tiny.yaml: line \d+: effects.measure.0: no effect 'nonsense'",
        ),
        (
            {"measure": ["text"], "choices": "a.csv"},
            r"line \d+: effects.choices: is for the effect",
        ),
        ({"measure": ["text"], "items": "some"}, r"line \d+: effects.items"),
        ({"text": "a.txt"}, r"line \d+: effects: "),
    ],
)
def test_what_a_plan_cannot_ask_for(effects: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        tiny(**effects)


# -- settings --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("ask", "message"),
    [
        (lambda: make_effects("text,nonsense"), "effect 'nonsense': choose from divergence, text"),
        (lambda: make_effects("none,text"), "give none alone"),
        (lambda: make_effects("text,"), "without empty items"),
        (lambda: make_effects("choices", text="a.txt"), "text 'a.txt': is for the effect text"),
        (lambda: make_effects("text", choices="a.csv"), "choices 'a.csv': is for the effect ch"),
        (lambda: make_effects("all", items="some"), "effect_items 'some': choose from sample, all"),
        (lambda: make_effects("text", text="gone.txt"), r"gone\.txt"),
    ],
)
def test_what_cannot_be_asked_for(ask: Callable[[], Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        ask()


def test_names_are_in_one_order_and_sets_are_whole_if_asked() -> None:
    asked = make_effects("borderline, text")
    assert asked.names == ("text", "borderline")
    assert asked == make_effects("text,borderline", items=SAMPLE)
    assert make_effects("all", items="all").sizes == WHOLE
    assert not make_effects("none")


# -- equal refusal and price -----------------------------------------------------------------------


def cell(rate: int, price: float | None, *, layer: int, garbled: bool = False) -> SteeredCell:
    """A cell of forty prompts, so many of which are refused."""
    rest: Quality = "garbled" if garbled else "normal"
    answers = samples(*["coherent"] * rate, *[rest] * (40 - rate))
    made = steered(answers, key=f"{layer}", layer=layer)
    if price is None:
        return made
    found = DivergenceEffect(
        nats_per_token=price, n=3, interval=(price, price), spread=0.0, file="x"
    )
    return replace(made, effects=Effects(divergence=found))


def test_cells_of_equal_refusal_are_ranked_by_price() -> None:
    best = cell(34, 0.9, layer=1)
    near, far = cell(32, 0.2, layer=2), cell(10, 0.1, layer=3)
    unknown = cell(34, None, layer=4)
    assert refuses_as_often(near, best)
    assert refuses_as_often(unknown, best)
    assert not refuses_as_often(far, best)
    found = equal_cells([best, near, far, unknown], best, Thresholds())
    assert [c.key for c in found] == ["2", "1"]
    strict = Thresholds(works=0.85)  # which the second, at 80 %, does not reach
    assert [c.key for c in equal_cells([best, near], best, strict)] == ["1"]
    elsewhere = steered(samples(*["coherent"] * 20), key="5")
    assert not refuses_as_often(elsewhere, best)


def test_the_front_leaves_out_what_costs_more_for_no_more() -> None:
    cells = [cell(10, 0.1, layer=1), cell(9, 0.2, layer=2), cell(30, 0.5, layer=3)]
    cells += [cell(30, 0.7, layer=4), cell(40, None, layer=5), cell(35, 2.0, layer=6)]
    assert [c.layer for c in front(cells)] == [1, 3, 6]


def flags_of(best_price: float, random: Sequence[SteeredCell]) -> tuple[str, ...]:
    from steersweep.sweeps.priced import _priced

    found: Result = result([cell(34, best_price, layer=1)], control=unsteered(samples("normal")))
    controls = Controls(found.controls.unsteered, None, tuple(random))
    return _priced(replace(found, controls=controls)).verdict.flags


def test_a_price_like_that_of_a_broken_model_is_flagged() -> None:
    broken, whole = cell(0, 1.5, layer=2, garbled=True), cell(0, 0.4, layer=3)
    assert breaks_from([broken, whole]) == 1.5
    assert breaks_from([whole]) is None
    assert "as-far-as-broken" in flags_of(1.6, [broken, whole])
    assert "as-far-as-broken" not in flags_of(1.4, [broken, whole])
    assert "as-far-as-broken" not in flags_of(1.6, [whole])
