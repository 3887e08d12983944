"""The report of a run: its page in a real browser, its figures, hostile text, two runs compared."""

from __future__ import annotations

import io
import json
import re
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import yaml
from rich.console import Console

from helpers.results import edited, steered
from helpers.results import samples as answers
from steersweep.core.digests import seal_text
from steersweep.core.errors import InputError
from steersweep.report import drawing, samples
from steersweep.report.comparison import compare_runs, write_comparison
from steersweep.report.figures.sizes import sizes_figure
from steersweep.report.figures.style import Looks
from steersweep.report.figures.style import drawing as drawing_style
from steersweep.report.html import write_report
from steersweep.report.terminal import print_comparison, print_verdicts
from steersweep.run.cell import SteeredCell
from steersweep.run.condition import Strength
from steersweep.run.folder import RunFolder
from steersweep.run.result import Result
from steersweep.run.result_files import read_result_file
from steersweep.study.rows import CurveRow, SizePoint
from steersweep.sweeps.compared import best_condition
from steersweep.sweeps.run import run_sweep
from steersweep.sweeps.settings import make_settings
from test_cli import refused, run

HOSTILE = (
    "</script><script>document.title='owned'</script><img src=x onerror=alert(1)>\x1b[31m\u202e"
)
LONG = "word " * 200_000


def reported(folder: Path, models: Sequence[str], **options: Any) -> Path:
    """A sweep of few short answers, with its report."""
    settings = make_settings([*models], max_prompts=4, max_new_tokens=12, **options)
    run_sweep(settings, folder)
    write_report(folder)
    return folder


@pytest.fixture(scope="module")
def swept(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A sweep of two models with two methods, three layers, two strengths."""
    return reported(
        tmp_path_factory.mktemp("report") / "run",
        ["lab:qwen-7b", "lab:phi-mini"],
        methods="dim,cosmic",
        layers="0.3,0.5,0.7",
        strengths="0.2,0.5",
        extraction="extract-dim-5",
    )


@pytest.fixture(scope="module")
def few(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A sweep of two models with little to draw."""
    folder = tmp_path_factory.mktemp("few") / "run"
    return reported(folder, ["lab:qwen-3b", "lab:phi-mini"], layers="0.5", strengths="0.2")


@pytest.fixture
def run_copy(swept: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(swept, tmp_path / "run"))


@pytest.fixture
def few_copy(few: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(few, tmp_path / "run"))


def results_file(folder: Path) -> Path:
    return next((folder / "results").glob("sweep_*.json"))


def results_of(folder: Path) -> list[Result]:
    return read_result_file(results_file(folder))


# -- the page ------------------------------------------------------------------------------------


@pytest.mark.parametrize("width", [1280, 768, 390])
def test_the_page_works_at_every_width_and_asks_nothing_of_anybody(
    swept: Path, tab: Any, width: int
) -> None:
    tab.set_viewport_size({"width": width, "height": 900})
    page = swept / "report.html"
    tab.goto(page.as_uri())
    tab.wait_for_selector(".sample")
    assert tab.problems == []
    assert tab.requested == [page.as_uri()]
    assert tab.evaluate("document.documentElement.scrollWidth") <= width
    for result in results_of(swept):
        assert result.model.removeprefix("lab:") in tab.text_content("main")
    # Every figure is there, labelled for those who do not see it, and not squeezed to nothing.
    boxes = tab.eval_on_selector_all(
        "figure svg", "all => all.map(one => [one.getAttribute('aria-label'), one.clientHeight])"
    )
    assert len(boxes) >= 5
    assert all(label and height > 80 for label, height in boxes)


def test_a_cell_leads_to_its_samples_and_its_file(swept: Path, tab: Any) -> None:
    tab.goto((swept / "report.html").as_uri())
    tab.wait_for_selector(".sample")
    condition = results_of(swept)[1].conditions[3]
    cell = tab.locator(f".map a[href$='.{condition.key}']").first
    assert cell.text_content() == f"{condition.rates.coherent_refusal_rate:.0%}"
    cell.focus()
    tab.keyboard.press("Enter")
    tab.wait_for_selector(".map a[aria-current]")
    shown = [text.text_content() for text in tab.locator(".sample .response").all()]
    assert shown == [sample.response or "(empty)" for sample in condition.samples]
    link = tab.get_attribute("#condition a", "href")
    assert json.loads((swept / link).read_text())["key"] == condition.key
    tab.select_option("select[name=quality]", "garbled")
    n_garbled = sum(sample.judgement.quality == "garbled" for sample in condition.samples)
    assert tab.locator(".sample").count() == n_garbled


def test_every_mark_that_answers_have_can_be_chosen(few_copy: Path) -> None:
    marks = ("no-answer", "<of one's own>")
    with edited(results_file(few_copy)) as results:
        for sample, mark in zip(results[0]["conditions"][0]["samples"], marks, strict=False):
            sample["failure_mode"] = mark
    page = write_report(few_copy).path.read_text("utf-8")
    choice = page.partition('<select name="mode">')[2].partition("</select>")[0]
    assert "<option>no-answer</option>" in choice
    assert "<option>&lt;of one&#39;s own&gt;</option>" in choice


def test_what_stands_in_the_way_of_the_report_is_named(few_copy: Path) -> None:
    figure = min((few_copy / "figures").glob("*.svg"))
    figure.unlink()
    figure.mkdir()
    with pytest.raises(InputError, match=rf"{figure.name}.*Is a directory"):
        write_report(few_copy)


def test_hostile_responses_stay_text(few_copy: Path, tab: Any) -> None:
    texts = (HOSTILE, LONG, "", "\ud800")
    with edited(results_file(few_copy)) as results:
        for sample, text in zip(results[0]["conditions"][0]["samples"], texts, strict=True):
            sample["response"] = sample["prompt"] = text
    page = write_report(few_copy).path
    tab.goto(page.as_uri())
    tab.wait_for_selector(".sample")
    tab.select_option(
        "select[name=condition]",
        label=tab.locator("select[name=condition] option").nth(2).text_content(),
    )
    first = tab.locator(".sample .response").first
    assert first.text_content() == HOSTILE.replace("\x1b", "\N{SYMBOL FOR ESCAPE}")
    assert "owned" not in tab.title()
    assert tab.locator("main img").count() == 0
    assert tab.problems == []
    assert tab.requested == [page.as_uri()]
    button = tab.get_by_role("button", name="show all 1,000,000 characters")
    assert len(tab.locator(".sample .response").nth(1).text_content()) < 4000
    button.click()
    assert len(tab.locator(".sample .response").nth(1).text_content()) == len(LONG)
    assert tab.evaluate("document.documentElement.scrollWidth") <= 1280


def test_the_content_policy_lets_no_other_script_run(swept: Path, tab: Any) -> None:
    page = swept / "planted.html"
    text = (swept / "report.html").read_text()
    page.write_text(text.replace("<main>", "<main><script>document.title='owned'</script>", 1))
    tab.goto(page.as_uri())
    tab.wait_for_selector(".sample")
    page.unlink()
    assert "owned" not in tab.title()
    assert "Content Security Policy" in " ".join(tab.problems)


def test_many_samples_lie_beside_the_page(
    few_copy: Path, tab: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    embedded = (few_copy / "report.html").stat().st_size
    monkeypatch.setattr(samples, "EMBED_UP_TO", 1000)
    report = write_report(few_copy)
    assert report.beside
    assert report.path.stat().st_size < embedded
    tab.goto(report.path.as_uri())
    tab.wait_for_selector(".sample")
    assert "report-samples" in tab.text_content("#samples")
    assert tab.problems == []
    assert all(url.startswith("file://") for url in tab.requested)
    tab.select_option("select[name=group]", "1")
    tab.locator("#sample-status", has_text="phi-mini").wait_for()
    shutil.rmtree(few_copy / "report-samples")
    tab.reload()
    tab.locator("#sample-status", has_text="is missing").wait_for()


def test_very_many_samples_of_a_model_are_browsed_in_parts(
    run_copy: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = write_report(run_copy).n_samples
    monkeypatch.setattr(samples, "EMBED_UP_TO", 0)
    monkeypatch.setattr(samples, "MOST_OF_GROUP", 30)
    report = write_report(run_copy)
    assert report.n_samples == whole
    held = {}
    for path in (run_copy / "report-samples").glob("*.js"):
        written = re.fullmatch(r"steersweepSamples\((\d+), (.*)\);\n", path.read_text(), re.DOTALL)
        assert written is not None
        held[written[1]] = [one["key"] for one in json.loads(written[2])["conditions"]]
    keys = [key for found in held.values() for key in found]
    assert len(keys) == len({*keys})
    page = report.path.read_text()
    links = re.findall(r'href="#c=(\d+)\.(\w+)"', page)
    assert len({group for group, _ in links}) > 2
    assert all(key in held[group] for group, key in links)
    assert ", part 2" in page


def test_a_run_sent_without_some_directions_has_a_report(run_copy: Path) -> None:
    folder = run_copy
    (entry, *_) = json.loads(results_file(folder).read_text())
    (folder / entry["conditions"][0]["direction_file"]).unlink()
    text = write_report(folder).path.read_text()
    assert f"Without {entry['model']}: direction files are missing" in text
    shutil.rmtree(folder / "directions")
    assert (
        "Are the directions of different layers alike?" not in write_report(folder).path.read_text()
    )


def test_a_damaged_result_file_is_named(few_copy: Path) -> None:
    path = results_file(few_copy)
    path.write_text(path.read_text()[:-40])
    assert path.name in refused("report", "run", cwd=few_copy.parent)
    assert "no steersweep run" in refused("report", ".", cwd=few_copy.parent)


# -- figures -------------------------------------------------------------------------------------


@pytest.fixture
def kept_figures(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[tuple[str, Any]]]:
    """Figures as they are saved, with their names."""
    from matplotlib import pyplot as plt

    kept: list[tuple[str, Any]] = []
    save = drawing.save

    def keep(figure: Any, stem: Path) -> Path:
        kept.append((stem.name, figure))
        return save(figure, stem)

    monkeypatch.setattr(drawing, "save", keep)
    monkeypatch.setattr(plt, "close", lambda _figure: None)
    yield kept
    monkeypatch.undo()
    plt.close("all")


def shown_texts(figure: Any) -> list[Any]:
    """Every text of a figure, and the tick labels that lie between the ends of an axis."""
    figure.canvas.draw()
    found = [*figure.texts]
    for legend in figure.legends:
        found += legend.get_texts()
    for axes in filter(lambda axes: axes.get_visible(), figure.axes):
        found += [axes.title, axes._left_title, axes._right_title, *axes.texts]
        found += axes.get_legend().get_texts() if axes.get_legend() else []
        for axis in (axes.xaxis, axes.yaxis):
            found += [axis.label, *tick_labels(axis)]
    return [text for text in found if text.get_visible() and text.get_text()]


def tick_labels(axis: Any) -> list[Any]:
    low, high = sorted(axis.get_view_interval())
    ticks = [tick for tick in axis.get_major_ticks() if low <= tick.get_loc() <= high]
    labels = [tick.label1 for tick in ticks if tick.label1.get_visible()]
    return [label for label in labels if label.get_text()]


@pytest.mark.slow
def test_nothing_in_a_figure_is_cut_or_overlaps(
    swept: Path, finished_study: Path, tmp_path: Path, kept_figures: list[tuple[str, Any]]
) -> None:
    studied = Path(shutil.copytree(finished_study, tmp_path / "run"))
    for folder in (swept, studied):
        write_report(folder)
    names = {name for name, _ in kept_figures}
    assert {
        "rate_by_depth", "rate_by_strength", "methods", "layer_cosines", "size_curves",
        "precision_cosines", "precision_rates", "transfers", "failure_modes", "layer_strength_all",
    } <= names  # fmt: skip
    for name, figure in kept_figures:
        width, height = figure.canvas.get_width_height()
        for text in shown_texts(figure):
            box = text.get_window_extent()
            within = box.x0 > -1 and box.y0 > -1 and box.x1 < width + 1 and box.y1 < height + 1
            assert within, (name, text.get_text())
        for axes in filter(lambda axes: axes.get_visible(), figure.axes):
            level = [label for label in tick_labels(axes.xaxis) if label.get_rotation() == 0]
            boxes = sorted((label.get_window_extent() for label in level), key=lambda box: box.x0)
            for left, right in pairwise(boxes):
                assert left.x1 <= right.x0 + 0.5, (name, axes.get_title(loc="left"))


def test_figures_are_files_in_both_formats(swept: Path) -> None:
    for path in (swept / "figures").glob("*.png"):
        assert path.stat().st_size > 5000
        assert "<svg" in path.with_suffix(".svg").read_text()


# -- two runs ------------------------------------------------------------------------------------


def test_a_run_and_its_copy_are_the_same(swept: Path, run_copy: Path) -> None:
    found = compare_runs(swept, run_copy)
    assert found.settings == found.facts == []
    assert found.only == (0, 0)
    assert len(found.conditions) == 2 * 2 * 3 * 2 + sum("@" in v.method for v in found.verdicts) * 2
    assert sum(row.n_texts for row in found.conditions) == 0
    assert {row.p_holm for row in found.conditions} == {1.0}


def test_what_changed_is_named(swept: Path, run_copy: Path, tab: Any, tmp_path: Path) -> None:
    with edited(results_file(run_copy)) as results:
        changed = results[0]["conditions"][2]
        for sample in changed["samples"]:
            sample |= {"response": "Sorry, no.", "refusal": True, "quality": "coherent"}
        changed["coherent_refusal_rate"] = 1.0
        results[0]["provenance"]["torch"] = "0.0"
        best = results[1]["verdict"]["best"]["key"]
        results[1]["conditions"].remove(
            next(entry for entry in results[1]["conditions"] if entry["key"] != best)
        )
    plan = RunFolder.existing(run_copy).plan | {"max_new_tokens": 7}
    (run_copy / "plan.yaml").write_bytes(seal_text("plan.yaml", yaml.safe_dump(plan)))

    found = compare_runs(swept, run_copy)
    assert found.only == (1, 0)
    assert [(c.name, c.second) for c in found.settings] == [("max_new_tokens", 7)]
    assert [(c.name, c.second) for c in found.facts] == [("torch", "0.0")]
    moved = next(row for row in found.conditions if row.keys[0] == changed["key"])
    assert moved.second == 1.0
    assert moved.n_texts == 4
    stream = io.StringIO()
    print_comparison(found, Console(file=stream, width=100))
    assert "settings: max_new_tokens: 12 -> 7" in stream.getvalue()
    page = write_comparison(found, tmp_path / "c.html")
    tab.goto(page.as_uri())
    assert tab.problems == []
    assert tab.requested == [page.as_uri()]
    assert "max_new_tokens" in tab.text_content("main")
    done = run("report", str(swept), "run", "--out", "c2.html", "--json", cwd=run_copy.parent)
    assert json.loads(done.stdout)["only"] == [1, 0]
    assert (run_copy.parent / "c2.html").exists()


def test_runs_without_results_cannot_be_compared(swept: Path, tmp_path: Path) -> None:
    empty = tmp_path / "empty"
    empty.mkdir()
    shutil.copy(swept / "plan.yaml", empty)
    with pytest.raises(InputError, match="no results yet"):
        compare_runs(swept, empty)
    assert "Nothing has finished yet" in write_report(empty).path.read_text()


# -- the terminal --------------------------------------------------------------------------------


def test_the_table_fits_a_small_terminal_and_names_every_model(swept: Path) -> None:
    stream = io.StringIO()
    results = [result for result in results_of(swept) if result.method == "dim"]
    print_verdicts(results, Console(file=stream, width=80))
    table = stream.getvalue().split("\n\n")[0]
    assert "…" not in table
    for result in results:
        assert result.model in table
        assert result.verdict.outcome in table


def test_the_best_condition_prefers_coherent_then_whole_then_weak() -> None:
    def condition(coherent: int, garbled: int, strength: float) -> SteeredCell:
        """Of ten answers."""
        rest = 10 - coherent - garbled
        kinds = ["coherent"] * coherent, ["garbled"] * garbled, ["normal"] * rest
        return steered(answers(*(kind for part in kinds for kind in part)), relative=strength)

    entries = [condition(5, 0, 1), condition(8, 2, 1), condition(8, 1, 2), condition(8, 1, 1)]
    assert best_condition(entries) is entries[3]


def test_a_size_curve_names_the_sizes_that_could_not_run() -> None:
    strength = Strength("relative", 0.3)
    point = SizePoint("q3", 0.5, (0.3, 0.7), "Wilson 95 %", 20, 4, 0.5, "partial", strength, 0.3)
    curve = CurveRow(
        family="qwen",
        method="dim",
        shape="rises over all, not monotone",
        largest="q14",
        missing=("q14",),
        points=(point, replace(point, model="q7")),
    )
    with drawing_style():
        figure = sizes_figure([curve], Looks(["qwen"]))
    title = " ".join(figure.axes[0].get_title(loc="left").split())
    assert title == "qwen DIM rises over all, not monotone not run: q14"
