"""A report of 50,000 conditions: how long it takes to write, how large it is, how fast it opens.

Conditions are made by copying those of a real run under other names, so texts and shapes are real.

    python benchmarks/report_scale.py DIR [--conditions 50000] [--prompts 10]
"""

from __future__ import annotations

import argparse
import shutil
import tempfile
import time
from dataclasses import replace
from pathlib import Path

from steersweep.report.html import write_report
from steersweep.run.cell import SteeredCell
from steersweep.run.condition import Strength
from steersweep.run.folder import RunFolder
from steersweep.run.result import Best, Result
from steersweep.run.result_files import (
    SWEEP,
    read_result_file,
    replace_result_file,
    result_files,
)


def scaled(source: Path, target: Path, n_conditions: int, n_prompts: int) -> int:
    """Write a run folder of at least so many conditions, controls included; returns how many."""
    results = [result for path in result_files(source) for result in read_result_file(path)]
    run = RunFolder.open(target, RunFolder.existing(source).plan | {"kind": "sweep"})
    number, made = 0, list[Result]()
    while 250 * len(made) < n_conditions:
        for original in results:
            if original.label.is_swept:
                made.append(_enlarged(original, number, n_prompts))
                number += 1
    replace_result_file(run.paths.result(f"{SWEEP}_scaled"), made)
    return 250 * len(made)


def _enlarged(original: Result, number: int, n_prompts: int) -> Result:
    """A result of 25 layers and 5 strengths."""
    cells, random = (
        [
            _cell(held[(layer + strength) % len(held)], name, layer, strength, n_prompts)
            for layer in range(25)
            for strength in range(5)
        ]
        for name, held in (
            (f"{number:08d}a", original.conditions),
            (f"{number:08d}b", original.controls.random_directions),
        )
    )
    return replace(
        original,
        model=f"{original.model}-{number}",
        conditions=tuple(cells),
        controls=replace(
            original.controls, random_direction=random[7], random_directions=tuple(random)
        ),
        verdict=replace(original.verdict, best=Best.of(cells[7])),
    )


def _cell(held: SteeredCell, name: str, layer: int, strength: int, n_prompts: int) -> SteeredCell:
    relative = 0.1 * (strength + 1)
    return replace(
        held,
        key=f"{name}{layer:04d}{strength:04d}",
        layer_pct=layer / 25,
        strength=Strength("relative", relative),
        steering=replace(held.steering, layer_idx=layer, relative_strength=relative),
        samples=held.samples[:n_prompts],
    )


def opened(page: Path) -> tuple[float, int]:
    """Seconds until samples show in Chromium, and how many characters the page's text has."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as browsers:
        path = shutil.which("chromium") or shutil.which("google-chrome")
        browser = browsers.chromium.launch(executable_path=path, args=["--no-sandbox"])
        tab = browser.new_page()
        started = time.monotonic()
        tab.goto(page.resolve().as_uri())
        tab.wait_for_selector("#sample-list > *")
        tab.evaluate(
            "new Promise(done => requestAnimationFrame(() => requestAnimationFrame(done)))"
        )
        seconds = time.monotonic() - started
        length = tab.evaluate("document.body.textContent.length")
        browser.close()
    return seconds, int(length)


def main() -> None:
    """Print the figures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("run", type=Path, help="a run folder with results")
    parser.add_argument("--conditions", type=int, default=50_000)
    parser.add_argument("--prompts", type=int, default=10)
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name) / "run"
        n = scaled(asked.run, folder, asked.conditions, asked.prompts)
        started = time.monotonic()
        report = write_report(folder)
        print(f"{n} conditions, {report.n_samples} samples")
        print(f"written in {time.monotonic() - started:.1f} s")
        print(
            f"page: {report.path.stat().st_size / 1e6:.1f} MB, samples beside it: {report.beside}"
        )
        beside = sum(path.stat().st_size for path in folder.glob("report-samples/*"))
        print(f"beside it: {beside / 1e6:.1f} MB")
        print(f"opens in {opened(report.path)[0]:.2f} s")


if __name__ == "__main__":
    main()
