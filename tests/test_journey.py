"""`docs/running-on-modal.md` from its first command to the last, against the stand-in service.

The commands are the page's own, in its order; what the page says of each is what must happen.
"""

from __future__ import annotations

import json
import re
import shlex
from pathlib import Path

import pytest

from modal_server import ModalServer
from steersweep.budget.ledger import Ledger
from steersweep.cli import results as results_commands
from steersweep.methods.official import built_in_fixtures
from steersweep.people.gates import signatures
from steersweep.people.reviews import Item, add_review
from steersweep.report.plan_table import planned
from steersweep.study import plan_file
from steersweep.study.checking import expected
from steersweep.study.plan import Plan
from steersweep.study.plan_file import load_plan
from steersweep.study.sweeps import Cuts
from steersweep.tracking.record import runs_of_study
from test_cli import run

PAGE = Path(__file__).parent.parent / "docs" / "running-on-modal.md"
PLAN = "v3-120"  # that the page runs

# The page's plan with miniatures and short answers: its name, gates, apps and phases stay.
SMALL = """
extends: v3
name: v3-120
prompts: {max: 4, extraction: {cosmic: extract-dim-5}}
decoding: {max_new_tokens: 16, rows: 64}
precision: fp32
strength: {relative: 0.3}
modal: {apps: null}
tracking: {projects: null}
families:
  qwen:
    - {name: qwen-3b, model: "lab:qwen-3b", n_layers: 9, billions: 0.0004, gpu: A10G}
    - {name: qwen-7b, model: "lab:qwen-7b", n_layers: 7, billions: 0.0007, gpu: A10G}
  mistral:
    - {name: mistral-7b, model: "lab:mistral-7b", n_layers: 8, billions: 0.0007, gpu: A10G}
  gemma: null
  llama: null
  phi: null
verification: {model: qwen-3b, layer: 0.5, strength: {relative: 0.3}, expect: 0.0}
family_sweep:
  methods: [dim]
  models: [{model: mistral-7b, layers: [0.5]}]
follow_up: null
fallback: null
size_sweep: {methods: [dim], validation: {layers: [0.5]}}
precision_sweep: {precisions: [fp32, int8], sizes: null, also: null}
thresholds: {works: 0.1, partial: 0.05}
dropped: null
cuts: null
"""


@pytest.fixture
def page_plan(monkeypatch: pytest.MonkeyPatch) -> None:
    """The page's plan is a small one, its verification compares with one fixture."""
    shipped = plan_file._shipped
    monkeypatch.setattr(
        plan_file, "_shipped", lambda name: SMALL if name == PLAN else shipped(name)
    )
    fixture = built_in_fixtures() / "llama_s4"
    monkeypatch.setattr("steersweep.methods.official.built_in_fixtures", lambda: fixture)


@pytest.fixture
def reviewed(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Samples that a person labelled, as the judge did."""
    labelled: list[str] = []

    def label(folder: Path, items: list[Item], _port: int, *, blind: bool, browser: bool) -> None:
        for item in items:
            if item.id not in labelled:
                add_review(folder, item.id, item.judged, "Your Name")
                labelled.append(item.id)

    monkeypatch.setattr(results_commands, "_serve_review", label)
    return labelled


def commands() -> list[tuple[list[str], str]]:
    """Every command of the page's journey, with what the page says of it."""
    journey = PAGE.read_text().split("## From zero")[1].split("## What is deployed")[0]
    blocks = re.findall(r"```sh\n(.*?)```", journey, flags=re.S)
    lines = "".join(blocks).splitlines()
    found = []
    for line in lines:
        command, _, said = line.partition(" #")
        found.append((shlex.split(command), said.strip()))
    return found


@pytest.mark.slow
def test_the_page_is_walked_from_the_first_command_to_the_last(
    tmp_path: Path, server: ModalServer, page_plan: None, reviewed: list[str]
) -> None:
    before = [words for words, _ in commands() if words[0] != "steersweep"]
    assert [words[:2] for words in before] == [
        ["pip", "install"],
        ["modal", "setup"],
        ["modal", "secret"],
    ]
    folder, stops = tmp_path / "study", []
    for words, said in commands():
        if words[0] != "steersweep":
            continue
        done = run(*words[1:], cwd=tmp_path)
        gate = re.search(r"stops at (R\d)", said)
        assert done.returncode == (3 if gate else 0), (words, done.stderr)
        if gate:
            stops.append(gate[1])
            assert f"gate {gate[1]} waits" in done.stderr
            assert f"steersweep approve study {gate[1]} --by NAME" in done.stderr
            state = json.loads(run("status", "study", "--json", cwd=tmp_path).stdout)
            assert state["waiting_gate"] == gate[1]
            assert state["waits_again"] is None
            assert not state["incomplete"]
        if words[1] == "smoke":
            assert "3 of 3 models passed" in done.stdout
        if words[1] == "fetch":
            assert "every phase asked for is done" in done.stdout
            assert "Modal billed" in done.stdout
    assert stops == ["R0", "R1", "R2", "R3"]
    assert [entry["gate"] for entry in signatures(folder) if entry["gate"][0] == "R"] == stops
    assert reviewed
    assert "Signed by Your Name" in (folder / "COSMIC_VERIFICATION.md").read_text()
    findings = (folder / "FINDINGS_LOG.md").read_text()
    for title in ("COSMIC verification", "Phase 1", "Phase 2", "Phase 3", "Final analysis"):
        assert findings.count(f"## {title}") >= 1
    assert (folder / "report.html").is_file()
    state = json.loads(run("status", "study", "--json", cwd=tmp_path).stdout)
    assert (state["phase"], state["done"]) == ("finished", state["total"])
    phases = list(dict.fromkeys(entry["phase"] for entry in Ledger(folder).entries()))
    assert phases == ["smoke", "verification", "family_sweep", "size_sweep", "precision_sweep"]
    # A tracker can be told of every phase, with files that are there.
    tracked = {run.key: run for run in runs_of_study(load_plan(PLAN), folder)}
    assert {
        "v3-120-verification/qwen-3b-cosmic",
        "v3-120-family-sweep/mistral-7b-dim-layer-sweep",
        "v3-120-size-sweep/qwen-7b-dim",
        "v3-120-precision-sweep/qwen-7b-int8",
    } <= {*tracked}
    for told in tracked.values():
        names = [name for held in told.files.values() for name in held]
        assert names
        assert all((folder / name).is_file() for name in names), told.key
    # Every function that was called is of an app that the page's plan has.
    assert {app for app, _, _, _ in server.calls} == {
        "v3-120-study",
        "v3-120-verification",
        "v3-120-family-sweep",
        "v3-120-size-sweep",
        "v3-120-precision-sweep",
    }


def test_what_the_page_says_of_money_is_the_products_own_estimate() -> None:
    def figures(plan: Plan) -> list[str]:
        rows = planned(plan, Cuts())
        least = sum(row.usd for row in rows if not row.note)
        return [f"{sum(row.usd for row in rows):.2f}", f"{least:.2f}"]

    text = PAGE.read_text()
    more, source = figures(load_plan(PLAN)), figures(load_plan("v3"))
    assert f"`steersweep plan v3-120` says at most {more[0]} USD" in text
    assert f"and at least {more[1]}, at the" in text
    assert f"`v3` with its ten prompts {source[0]} and {source[1]}." in text
    assert f"pass its checks? about {expected(load_plan(PLAN))[1]:.0f} USD" in text
    budget = re.findall(r"--budget (\d+)", text)
    assert {*budget} == {"15"}
    assert float(more[0]) < 15
