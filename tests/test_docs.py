"""The documentation: it builds, its links lead somewhere, its commands and plans exist."""

from __future__ import annotations

import json
import re
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import typer

from steersweep.cli import app
from steersweep.core import typed
from steersweep.run.paths import RunPaths
from steersweep.run.result_files import SWEEP
from steersweep.study.phases.registry import all_phases
from steersweep.study.plan_checks import plan_schema
from steersweep.study.plan_file import parse_plan
from steersweep.sweeps.effect_settings import make_effects
from steersweep.sweeps.find_settings import RESULTS
from steersweep.sweeps.run import run_sweep
from steersweep.sweeps.settings import make_settings

ROOT = Path(__file__).parent.parent
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]


def test_the_site_builds_without_a_warning(tmp_path: Path) -> None:
    pytest.importorskip("sphinx")
    command = ["-W", "--keep-going", "-q", "-b", "html", "-d", tmp_path / "cache"]
    done = subprocess.run(
        [sys.executable, "-m", "sphinx", *command, ROOT / "docs", tmp_path / "site"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "ten minutes" in (tmp_path / "site" / "index.html").read_text()
    pages = "".join(path.read_text() for path in (tmp_path / "site").glob("*.html"))
    loaded = re.findall(r'<(?:script|img|link)[^>]+(?:src|href)="(https?:[^"]+)', pages)
    assert not loaded  # nothing comes from elsewhere


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.name))
def test_links_lead_somewhere(page: Path) -> None:
    text = re.sub(r"```.*?```", "", page.read_text(), flags=re.S)
    links = re.findall(r"\]\(([^)#\s]+)", text)
    missing = [link for link in links if "://" not in link and not (page.parent / link).exists()]
    assert not missing


def command_lines(page: Path) -> list[list[str]]:
    blocks = re.findall(r"```sh\n(.*?)```", page.read_text(), flags=re.S)
    lines = "\n".join(blocks).replace("\\\n", " ").splitlines()
    found = []
    for line in lines:
        words = shlex.split(line.split("  #")[0].split(" | ")[0], comments=True)
        if words[:1] == ["steersweep"]:
            found.append(words[1:])
    return found


def test_every_command_and_option_that_is_shown_exists() -> None:
    root: Any = typer.main.get_command(app)
    shown = [(page.name, words) for page in PAGES for words in command_lines(page)]
    assert len(shown) > 30
    for name, words in shown:
        command, rest = root, list(words)
        while hasattr(command, "commands"):
            assert rest, (name, words)
            assert rest[0] in command.commands, (name, words)
            command = command.commands[rest.pop(0)]
        known = {
            option for param in command.params for option in (*param.opts, *param.secondary_opts)
        }
        unknown = [w for w in rest if re.match(r"--?[a-z]", w) and w.split("=")[0] not in known]
        assert not unknown, (name, words)


def test_the_plan_reference_is_whole_and_its_example_loads() -> None:
    text = (ROOT / "docs" / "plans.md").read_text()
    for number, block in enumerate(re.findall(r"```yaml\n(.*?)```", text, flags=re.S)):
        parse_plan(block, f"example {number}")
    fields: set[str] = set()

    def collect(node: Any) -> None:
        if isinstance(node, dict):
            properties = node.get("properties", {})
            fields.update(properties)
            for child in [*properties.values(), *(v for k, v in node.items() if k != "properties")]:
                collect(child)
        elif isinstance(node, list):
            for child in node:
                collect(child)

    collect(plan_schema()["properties"])
    phases = {phase.name for phase in all_phases()}
    unnamed = [
        field
        for field in fields | phases
        if not re.search(rf"[`.\s]{re.escape(field)}[`.,:\s]", text)
    ]
    assert not unnamed


def files_of_a_run() -> set[str]:
    """The name of each kind of file in a run folder."""
    paths = RunPaths(Path())
    known = {
        name: getattr(paths, name)
        for name, kind in vars(RunPaths).items()
        if isinstance(kind, property) and not name.startswith("is_")
    }
    own = ("results", "tracking", "wandb_runs", "finished_jobs", "lock", "fetched")
    steps = [step.results.format(family="qwen") for phase in all_phases() for step in phase.steps]
    files = [
        *(path for name, path in known.items() if name not in own),
        paths.condition("k"),
        paths.direction("k"),
        paths.scores("dim", "r", "m", "fp32"),
        paths.checks("m", "fp32", 0),
        paths.overflow("m"),
        paths.window("k"),
        paths.effect("text", "k"),
        paths.comparison(0),
        paths.activations(0),
        paths.traceback("q7 family"),
        *(paths.result(f"{kind}_20260101T000000Z") for kind in (SWEEP, RESULTS, *steps)),
        paths.phase("family_sweep"),
        paths.failures("family_sweep"),
        paths.decision("final"),
        paths.reproduction("q7-16"),
        paths.judgements("default"),
        paths.tracked_result("r"),
        paths.finished_job("v3_phase1_family_sweep", "q7 family fp32"),
    ]
    return {paths.name_of(path) for path in files}


def test_results_md_names_every_file_of_a_run_and_no_other() -> None:
    text = (ROOT / "docs" / "results.md").read_text()
    table = text.split("| file | holds |")[1].split("\n\n")[0]
    first = [line.split(" | ")[0] for line in table.splitlines()[2:]]
    named = [name for cell in first for name in re.findall(r"`([^`]+)`", cell)]
    assert len(named) > 30
    fixed = ("FINDINGS_LOG.md", "COSMIC_VERIFICATION.md")
    patterns = {
        name: name if name in fixed else re.sub("(?<![A-Za-z])[A-Z]{3,}", "[^/]+", name)
        for name in named
    }
    files = files_of_a_run()
    assert not [n for n, p in patterns.items() if not any(re.fullmatch(p, f) for f in files)]
    assert not [f for f in files if not any(re.fullmatch(p, f) for p in patterns.values())]


def test_results_md_names_fields_that_results_have(tmp_path: Path) -> None:
    text = (ROOT / "docs" / "results.md").read_text()
    table = text.split("| field | meaning |")[1].split("\n\n")[0]
    cells = [re.findall(r"`([^`]+)`", line.split(" | ")[0]) for line in table.splitlines()[2:]]
    names = [name for cell in cells for name in cell if name != "@"]
    assert len(names) > 20
    options = {"layers": "0.5", "strengths": "0.3", "max_prompts": 2, "max_new_tokens": 4}
    effects = make_effects("divergence")
    settings = make_settings(["lab:qwen-3b"], methods="dim,cosmic", effects=effects, **options)
    results = run_sweep(settings, tmp_path / "run", device="cpu").results
    text = json.dumps(typed.plain(results))
    # Of edits, machines, conversations and sampling that this run has not.
    elsewhere = {"reference", "moved_from", "asked", "repeat"}
    assert {name.split(".")[-1] for name in names} >= elsewhere
    missing = [name for name in names if f'"{name.split(".")[-1]}":' not in text]
    assert {name.split(".")[-1] for name in missing} == elsewhere
