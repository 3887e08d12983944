"""Makes the pictures of README and docs from real runs of the demo.

    python docs/figures.py [--runs build/figures]

Runs `steersweep demo` with DIM, and with DIM and COSMIC, into the folder given, and copies the
figures. A finished run there is used as it is. The picture of the report needs Chromium.
"""

from __future__ import annotations

import argparse
import shutil
import subprocess
import sys
from pathlib import Path

DOCS = Path(__file__).parent
MAPS = {
    "layer_strength_all.png": ("demo", "dim"),
    "methods_all.png": ("demo-dim-cosmic", "dim,cosmic"),
}


def picture(page: Path, target: Path) -> None:
    """The upper part of a report, as a browser shows it."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        path = shutil.which("chromium") or shutil.which("google-chrome")
        browser = playwright.chromium.launch(executable_path=path, args=["--no-sandbox"])
        tab = browser.new_page(viewport={"width": 1240, "height": 1000})
        tab.goto(page.resolve().as_uri())
        tab.wait_for_selector(".sample")
        tab.screenshot(path=target)
        browser.close()


def main() -> None:
    """Run, and copy."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=Path, default=Path("build/figures"))
    runs = parser.parse_args().runs
    for name, (folder_name, methods) in MAPS.items():
        folder = runs / folder_name
        command = [sys.executable, "-m", "steersweep.cli", "demo", "--out", str(folder)]
        subprocess.run([*command, "--methods", methods], check=True)
        shutil.copy(folder / "figures" / "layer_strength_all.png", DOCS / name)
    picture(runs / "demo-dim-cosmic" / "report.html", DOCS / "report.png")


if __name__ == "__main__":
    main()
