"""Phases: what a plan says ahead of time, how phases are named, and that a new one is one file."""

from __future__ import annotations

import copy
import json
import shutil
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import yaml

from steersweep import InputError
from steersweep.cli import studies
from steersweep.model.find import find_model
from steersweep.people import gates as people_gates
from steersweep.run.condition import LayerChoice
from steersweep.study.ahead import look_ahead
from steersweep.study.away.apps import remote_functions
from steersweep.study.phases import registry, transfer
from steersweep.study.phases.families import FAMILIES
from steersweep.study.phases.fields import defined, mapping
from steersweep.study.phases.phase import Ahead, Expected, Mention, Phase, methods_mentioned
from steersweep.study.phases.precisions import PRECISIONS
from steersweep.study.phases.registry import all_phases, phase_called, phases_of
from steersweep.study.phases.sizes import SIZES
from steersweep.study.phases.transfer import TRANSFER
from steersweep.study.plan import Plan, PlannedModel, layer_choice
from steersweep.study.plan_file import load_plan, parse_plan
from steersweep.study.running import GateStop, Running
from steersweep.study.settings import settings_of
from steersweep.study.status import decided, status
from steersweep.study.study import StudyOptions, run_study
from steersweep.study.sweeps import Cuts, Step, Sweep
from steersweep.sweeps.settings import make_job
from steersweep.tracking.record import runs_of_study

V3, LAB = load_plan("v3"), load_plan("v3-lab")


def few_prompts(plan: Plan) -> Plan:
    return replace(plan, prompts=replace(plan.prompts, at_most=1))


@pytest.fixture(scope="module")
def v3_here(tmp_path_factory: pytest.TempPathFactory) -> Plan:
    """`v3` with a miniature of as many layers in place of each model: jobs read no weights."""
    folder = tmp_path_factory.mktemp("models")
    models = {}
    for name, model in V3.models.items():
        here = folder / str(model.n_layers)
        if not here.exists():
            shutil.copytree(find_model("lab:qwen-3b").location, here)
            config = json.loads((here / "config.json").read_text())
            config = {k: v for k, v in config.items() if k != "layer_types"}
            config["num_hidden_layers"] = model.n_layers
            (here / "config.json").write_text(json.dumps(config))
        models[name] = replace(model, model=str(here))
    return replace(few_prompts(V3), models=models, precision="fp32")


def counted_and_made(plan: Plan, sweep: Sweep) -> tuple[int, int]:
    """Conditions that a sweep says it has, and those of the job it becomes."""
    settings = settings_of(plan, sweep, Cuts())
    job = make_job(settings, settings.models[0], "cpu", "2026-11-25")
    return sweep.n_conditions, len(job.conditions)


@pytest.mark.parametrize("shipped", ["v3", "v3-lab"])
def test_every_sweep_counts_the_conditions_of_the_job_it_becomes(
    shipped: str, v3_here: Plan
) -> None:
    plan = v3_here if shipped == "v3" else few_prompts(LAB)
    sweeps = [expected.sweep for expected in look_ahead(plan, Cuts())]
    assert {sweep.step.phase for sweep in sweeps} == {*plan.phases}
    assert any(sweep.borrowed for sweep in sweeps)
    for sweep in sweeps:
        counted, made = counted_and_made(plan, sweep)
        assert counted == made, str(sweep)


def test_a_transfer_with_two_borrowed_directions_has_five_conditions() -> None:
    plan = parse_plan(
        yaml.safe_dump({**LAB.written, "transfer_sweep": {**TRANSFER_OF_THREE}}, sort_keys=False),
        "x.yaml",
    )
    sweeps = [e.sweep for e in look_ahead(plan, Cuts()) if e.sweep.step.phase == TRANSFER.name]
    assert [len(sweep.borrowed) for sweep in sweeps] == [2, 2, 2]
    # Unsteered, its own direction, a random one, and the two others'.
    assert [counted_and_made(few_prompts(plan), sweep) for sweep in sweeps] == [(5, 5)] * 3


TRANSFER_OF_THREE = {"methods": ["dim"], "among": ["qwen-7b", "gemma-9b", "llama-8b"]}


def test_at_most_has_every_phase_and_at_least_what_no_result_can_prevent() -> None:
    expected = look_ahead(V3, Cuts())
    steps = Counter(str(e.sweep.step) for e in expected)
    assert steps == {
        "0": 1,
        "1": 4,
        "1 follow-up": 4,
        "1 fallback": 1,
        "2 validation": 3,
        "2": 13,
        "3": 12,  # three sizes of a family and a model of another, each in three precisions
    }
    sure = Counter(str(e.sweep.step) for e in expected if not e.when)
    # The four families' sweeps, and the sizes of the one that was confirmed before.
    assert sure == {"0": 1, "1": 4, "2 validation": 3, "2": 4}
    assert {
        e.sweep.model.family for e in expected if not e.when and e.sweep.step == SIZES.size
    } == {"qwen"}
    # The dearest choice for phase 3: the largest sizes of a family of four, and of another family.
    third = {e.sweep.model.name for e in expected if e.sweep.step.phase == PRECISIONS.name}
    assert third == {"qwen-7b", "qwen-14b", "qwen-32b", "gemma-27b"}
    lab = look_ahead(LAB, Cuts())
    transfers = [e for e in lab if e.sweep.step.phase == TRANSFER.name]
    assert [len(e.sweep.borrowed) for e in transfers] == [4] * 5
    assert all(not e.when for e in transfers)


def test_a_model_that_is_cut_is_not_expected_after_phase_1() -> None:
    cut = look_ahead(V3, Cuts(models=frozenset({"qwen-32b"})))
    assert "qwen-32b" not in {e.sweep.model.name for e in cut}
    cut = look_ahead(LAB, Cuts(models=frozenset({"gemma-9b"})))
    assert {e.sweep.step.phase for e in cut if e.sweep.model.name == "gemma-9b"} == {"family_sweep"}
    transfers = [e.sweep for e in cut if e.sweep.step.phase == TRANSFER.name]
    assert [len(sweep.borrowed) for sweep in transfers] == [3] * 4


def test_a_family_that_was_cut_is_in_no_transfer_unless_it_works() -> None:
    families = [
        {"family": "llama", "action": "exclude"},
        {"family": "mistral", "action": "continue"},
        {"family": "phi", "action": "exclude"},
    ]
    cuts = Cuts(families=frozenset({"llama", "mistral"}), models=frozenset({"gemma-9b"}))
    study: Any = SimpleNamespace(plan=LAB, cuts=cuts)
    assert transfer._cut(study, families) == {"gemma-9b", "llama-3b", "llama-8b"}


def test_phases_are_called_the_same_in_plan_and_in_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    class Begun(Exception):
        """The study would run now, until the phase it is given."""

    def begin(_plan: Plan, _out: Path, options: StudyOptions, *_: object) -> None:
        raise Begun(options.until)

    monkeypatch.setattr(studies, "_run_here", begin)
    for phase in all_phases():
        for text in (phase.number, phase.name):
            studies.plan("v3-lab", phase=text, as_json=True)
            rows = json.loads(capsys.readouterr().out)["sweeps"]
            assert {row["phase"].split()[0] for row in rows} == {phase.number}
            with pytest.raises(Begun, match=phase.name):
                studies.run("v3-lab", tmp_path / "run", phase=text)
    for command in (studies.plan, lambda name, phase: studies.run(name, tmp_path, phase=phase)):
        with pytest.raises(InputError, match=r"--phase 5: '5' is no phase.*4 \(transfer_sweep\)"):
            command("v3-lab", phase="5")
        with pytest.raises(InputError, match="v3 has no transfer_sweep"):
            command("v3", phase="4")


def test_every_step_has_one_result_file_and_no_two_phases_share_one() -> None:
    for phase in all_phases():
        for step in phase.steps:
            file = step.results.format(family="gemma") + "_20261125T000000Z.json"
            found = registry.step_of_file(file)
            assert found is not None
            assert (found.phase, found.run) == (phase.name, step.run)


# -- a phase of one's own, as CONTRIBUTING says --------------------------------------------------


@dataclass(frozen=True)
class Again:
    """What the phase runs: a model once more, with which methods, from which layer."""

    model: str
    methods: tuple[str, ...]
    layer: LayerChoice


class AgainPhase(Phase):
    """A model of phase 1 at a layer of its own."""

    name = "again_sweep"
    number = "5"
    title = "Phase 5: once more"
    gate = "R5"
    step = Step(
        name,
        number,
        "again",
        results="v3_phase5_again",
        run="{model}-{method}-again",
        function="again_{model}",
    )
    steps = (step,)
    fields = {  # noqa: RUF012
        "again_sweep": mapping(
            {"model": defined("text"), "methods": defined("methods"), "layer": defined("layer")}
        )
    }

    def read(self, data: Mapping[str, Any]) -> Again:
        section = data[self.name]
        return Again(section["model"], tuple(section["methods"]), layer_choice(section["layer"]))

    def mentions(self, plan: Plan) -> Iterator[Mention]:
        section = plan.section(Again)
        yield Mention("model", [self.name, "model"], section.model)
        yield from methods_mentioned([self.name], section.methods)

    def may_call(self, plan: Plan) -> Iterator[tuple[Step, PlannedModel, int | None]]:
        yield self.step, plan.models[plan.section(Again).model], None

    def ahead(self, ahead: Ahead) -> Iterator[Expected]:
        yield Expected(self.sweep(ahead.plan))

    def sweep(self, plan: Plan) -> Sweep:
        section = plan.section(Again)
        model = plan.models[section.model]
        layers, strengths = (section.layer,), (plan.strength,)
        return Sweep(self.step, model, section.methods, layers, strengths, plan.precision)

    def run(self, study: Running) -> dict[str, Any]:
        results = study.jobs.run(self.name, [self.sweep(study.plan)])
        study.write_results(self.step, results)
        outcomes = study.outcomes(results)
        return {"outcomes": outcomes, "notes": ["once more"]}

    def findings(self, decision: Mapping[str, Any]) -> Iterator[str]:
        yield from (f"- {line}" for line in self.lines(decision))

    def lines(self, decision: Mapping[str, Any]) -> Iterator[str]:
        for row in decision["outcomes"]:
            yield f"{row['model']} again: {row['coherent']:.0%} coherent"


TINY: dict[str, Any] = {
    "name": "tiny",
    "prompts": {"test": "benign-120", "max": 2, "extraction": {"dim": "extract-dim-5"}},
    "decoding": {"max_new_tokens": 8},
    "precision": "fp32",
    "strength": {"relative": 0.3},
    "families": {
        "qwen": [
            {"name": "q3", "model": "lab:qwen-3b", "n_layers": 9, "billions": 4e-4, "gpu": "local"}
        ]
    },
    "family_sweep": {"methods": ["dim"], "models": [{"model": "q3", "layers": [0.5]}]},
    "again_sweep": {"methods": ["dim"], "model": "q3", "layer": 0.4},
    "thresholds": {"works": 0.6, "partial": 0.2},
    "gates": {"R5": ["Was it worth it?"]},
    "tracking": {"projects": {"again_sweep": "once-more"}},
    "budget": {"total": 1, "phases": {"again_sweep": 1}},
}


def tiny(**changes: Any) -> Plan:
    data = copy.deepcopy(TINY) | changes
    return parse_plan(yaml.safe_dump(data), "tiny.yaml")


@pytest.fixture
def again(monkeypatch: pytest.MonkeyPatch) -> AgainPhase:
    """The line in the registry."""
    phase = AgainPhase()
    monkeypatch.setattr(registry, "PHASES", [*registry.PHASES, phase])
    return phase


def test_without_its_line_in_the_registry_a_phase_is_no_field_of_a_plan() -> None:
    with pytest.raises(InputError, match="again_sweep"):
        tiny()


def test_a_phase_of_one_file_is_planned_run_gated_shown_and_tracked(
    tmp_path: Path, again: AgainPhase
) -> None:
    plan, folder = tiny(), tmp_path / "run"
    assert [phase.name for phase in phases_of(plan)] == [FAMILIES.name, again.name]
    assert phase_called("5") is again
    with pytest.raises(InputError, match=r"tiny.yaml: line \d+: again_sweep.model: no model q9"):
        tiny(again_sweep={**TINY["again_sweep"], "model": "q9"})
    with pytest.raises(InputError, match=r"tiny.yaml: line \d+: again_sweep.layer: -1 is not"):
        tiny(again_sweep={**TINY["again_sweep"], "layer": -1})
    assert [str(e.sweep.step) for e in look_ahead(plan, Cuts())] == ["1", "5"]
    rented = tiny(families={"qwen": [{**TINY["families"]["qwen"][0], "gpu": "A10G"}]})
    assert "again_q3" in {function.name for function in remote_functions(rented)}

    with pytest.raises(GateStop, match="gate R5 waits for a person after again_sweep"):
        run_study(plan, folder)
    assert status(folder).waiting_gate == "R5"
    evidence = folder / "decisions" / "again_sweep.json"
    people_gates.sign(folder, "R5", by="Ada", note="", evidence=evidence, time="2026-11-25")
    run_study(plan, folder)
    found = decided(folder)
    assert found["again_sweep"]["outcomes"][0]["layer_idx"] == 3
    assert found["final"]["notes"][-1] == "once more"
    findings = (folder / "FINDINGS_LOG.md").read_text()
    assert "## Phase 5: once more" in findings
    assert "- q3 again: " in findings
    (results,) = folder.glob("results/v3_phase5_again_*.json")
    assert {result["phase"] for result in json.loads(results.read_text())} == {"5"}
    runs = {run.name: run.project for run in runs_of_study(plan, folder)}
    assert runs["q3-dim-again"] == "once-more"
