"""Figures, page and table from result objects, hostile responses among them."""

from __future__ import annotations

import io
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from steersweep.experiment.results import best_condition
from steersweep.experiment.runner import run_sweep
from steersweep.experiment.sweep import make_settings
from steersweep.report.figures import write_figures
from steersweep.report.html import write_report
from steersweep.report.terminal import print_verdicts

HOSTILE = '<script>alert("x")</script>\x1b[31m\u202e</td>'


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    settings = make_settings(
        ["lab:qwen-7b", "lab:phi-mini"],
        layers="0.3,0.6",
        strengths="0.1",
        multipliers="1000",
        max_prompts=3,
        max_new_tokens=8,
    )
    return run_sweep(settings, tmp_path_factory.mktemp("report") / "run").results


def test_figures_are_written_for_every_model_and_for_all(
    results: list[dict[str, Any]], tmp_path: Path
) -> None:
    paths = write_figures(tmp_path, results)
    assert [path.stem for path in paths] == [
        "layer_strength_lab-qwen-7b_dim",
        "layer_strength_lab-phi-mini_dim",
        "layer_strength_all",
    ]
    assert all(path.stat().st_size > 10_000 for path in paths)
    svg = paths[0].with_suffix(".svg").read_text()
    assert "<svg" in svg


def test_the_page_escapes_model_output_and_asks_nothing_of_the_network(
    results: list[dict[str, Any]], tmp_path: Path
) -> None:
    sample = results[0]["conditions"][0]["samples"][0]
    original = sample["response"]
    sample["response"] = HOSTILE
    try:
        write_figures(tmp_path, results)
        page = write_report(tmp_path / "report.html", results, tmp_path).read_text()
    finally:
        sample["response"] = original

    tags: list[tuple[str, dict[str, str | None]]] = []

    class Collector(HTMLParser):
        def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
            tags.append((tag, dict(attrs)))

    Collector().feed(page)
    assert not [tag for tag, _ in tags if tag in ("script", "link", "iframe")]
    sources = [attrs.get("src") or "" for tag, attrs in tags if tag == "img"]
    assert sources
    assert all(source.startswith("data:") for source in sources)
    assert not re.search(r"url\(|@import|https?://", page)
    assert "&lt;script&gt;" in page


def test_the_table_fits_a_small_terminal_and_names_every_model(
    results: list[dict[str, Any]],
) -> None:
    stream = io.StringIO()
    print_verdicts(results, Console(file=stream, width=80))
    table = stream.getvalue().split("\n\n")[0]
    assert "…" not in table
    for result in results:
        assert result["model"] in table
        assert result["verdict"]["outcome"] in table


def test_the_best_condition_prefers_coherent_then_whole_then_weak() -> None:
    def entry(coherent: float, garbled: float, strength: float) -> dict[str, Any]:
        return {
            "coherent_refusal_rate": coherent,
            "garbled_rate": garbled,
            "relative_strength": strength,
        }

    entries = [entry(0.5, 0.0, 1), entry(0.8, 0.2, 1), entry(0.8, 0.1, 2), entry(0.8, 0.1, 1)]
    assert best_condition(entries) is entries[3]
