"""What a study pays: every attempt, never twice for the same, and never without saying so."""

from __future__ import annotations

import copy
import io
import json
import re
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

import steersweep
from helpers.jobs import job_of, planned_on
from helpers.studies import SMALL, small
from steersweep.budget.ledger import BudgetStop, Ledger, Limits
from steersweep.core.errors import InputError, SteersweepError
from steersweep.engines.engine import Event, OnEvent, TimedOut, Work
from steersweep.engines.local import LocalEngine
from steersweep.engines.modal import remote as there
from steersweep.engines.modal.engine import Lost, ModalEngine
from steersweep.engines.modal.volume import VolumeShare
from steersweep.methods.official import Check
from steersweep.people.reviews import add_review, queue, results_in
from steersweep.report.console import PlainConsole
from steersweep.report.plan_table import planned, print_plan
from steersweep.run.folder import RunFolder
from steersweep.run.paths import RunPaths
from steersweep.run.result_files import read_objects, verification_file, write_verification
from steersweep.study.away import apps
from steersweep.study.begun import Begun
from steersweep.study.cuts import cuts_of_phase, savings
from steersweep.study.listeners import Ended, Listeners
from steersweep.study.plan import Plan
from steersweep.study.plan_file import load_plan, parse_plan, with_prices
from steersweep.study.running import GateStop
from steersweep.study.scheduler import Scheduler, Task
from steersweep.study.status import sign_gate, status
from steersweep.study.study import StudyOptions, run_study
from steersweep.study.sweeps import Cuts
from steersweep.tracking.record import runs_of_job, runs_of_study
from test_cli import refused, run

V3 = load_plan("v3")
FIVE = "extract-dim-5"


# -- every attempt is paid -----------------------------------------------------------------------


class Script(LocalEngine):
    """Reports what it is told to, an event at a time."""

    def __init__(self, *events: tuple[Any, float]) -> None:
        super().__init__("cpu")
        self._events = list(events)

    def wait(self, on_event: OnEvent) -> None:
        kind, seconds = self._events.pop(0)
        error = SteersweepError("preempted") if kind == "lost" else None
        on_event(Event("work", kind, seconds, error=error))


def paid(folder: Path, *events: tuple[Any, float]) -> list[float]:
    """Seconds of each job in the ledger of work that went so."""
    scheduler = Scheduler(
        small(prices={"local": 3600}),
        Ledger(folder),
        Limits(),
        Script(*events),
        Listeners(),
        on_finished=lambda _name: None,
    )
    scheduler.run("family_sweep", [Task(Work("work", job_of(), "local"), lambda _kind: 1.0)])
    jobs = Ledger(folder).jobs()
    assert [job.usd for job in jobs] == [job.seconds for job in jobs]
    return [job.seconds for job in jobs]


def test_attempts_that_a_provider_begins_again_are_added_up(tmp_path: Path) -> None:
    """Not the longest taken: each has occupied a GPU."""
    begun = [("started", 0), ("progress", 100), ("started", 0), ("progress", 70)]
    assert paid(tmp_path / "two", *begun, ("finished", 80)) == [180]
    again = [("started", 0), ("progress", 30), ("progress", 5), ("progress", 40), ("progress", 1)]
    assert paid(tmp_path / "three", *again, ("finished", 2)) == [72]
    assert paid(tmp_path / "one", ("started", 0), ("progress", 9), ("finished", 10)) == [10]


def test_an_attempt_whose_machine_is_lost_is_in_the_ledger_beside_the_next(tmp_path: Path) -> None:
    events = [("started", 0), ("progress", 100), ("lost", 110), ("started", 0), ("finished", 50)]
    assert paid(tmp_path, *events) == [110, 50]


class Heard:
    """Modal's calls, with one that ends as it is told to."""

    def __init__(self) -> None:
        self.events: list[Event] = []
        self.end: Event | Exception | None = None
        self.works: list[Work] = []
        self.timeouts: list[int | None] = []

    def spawn(
        self, _app: str, _function: str, _gpu: str | None, timeout_s: int | None, work: Work
    ) -> str:
        self.works.append(work)
        self.timeouts.append(timeout_s)
        return "fc-1"

    def result(self, _call: str) -> Event | None:
        if isinstance(self.end, Exception):
            raise self.end
        return self.end

    def cancel(self, _call: str) -> None:
        pass

    def heard(self) -> list[Event]:
        found, self.events = self.events, []
        return found


def modal_engine(
    plan: Plan, tmp_path: Path, step: str, timeout_s: float | None = None
) -> tuple[Heard, ModalEngine]:
    calls = Heard()
    share = VolumeShare(tmp_path / "volume", lambda: None, lambda: None)
    share.copy_all(tmp_path / "copy")
    engine = ModalEngine(apps.remote_functions(plan), apps.function_of(plan), share, calls)
    engine.open(tmp_path / "copy")
    labels = {"phase": "family_sweep", "step": step, "model": "q7"}
    engine.submit(Work("work", job_of(), "A10G", timeout_s, labels=labels))
    return calls, engine


def clock(monkeypatch: pytest.MonkeyPatch) -> Callable[[float], None]:
    """Lets Modal's engine see a time of one's own."""
    now = [1000.0]
    monkeypatch.setattr("steersweep.engines.modal.engine.time.monotonic", lambda: now[0])

    def wait(seconds: float) -> None:
        now[0] += seconds

    return wait


def test_a_preempted_call_is_paid_for_what_it_took_in_silence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A model that loads says nothing for minutes."""
    wait = clock(monkeypatch)
    calls, engine = modal_engine(planned_on("A10G"), tmp_path, "family")
    events: list[Event] = []
    calls.events = [Event("work", "started", 0.0)]
    engine.wait(events.append)
    wait(300)
    calls.events = [Event("work", "started", 0.0)]  # Modal began it again on another machine
    engine.wait(events.append)
    assert [event.seconds for event in events] == [0.0, pytest.approx(300), 0.0]
    wait(40)
    calls.end = Lost("taken away")
    engine.wait(events.append)
    assert (events[-1].kind, events[-1].seconds) == ("lost", pytest.approx(40))


# -- timeouts ------------------------------------------------------------------------------------


def test_every_phase_of_a_plan_on_rented_gpus_has_a_timeout() -> None:
    assert all(V3.timeout(phase, "A10G") for phase in V3.phases)
    assert V3.timeout("verification", "A10G") == 1800
    plan = small(timeouts={"size_sweep": 60})
    assert [plan.timeout(phase, "local") for phase in plan.phases] == [None, 60, None, None]
    assert plan.timeout("family_sweep", "A10G") == 7200


@pytest.mark.parametrize(("own", "asked"), [(None, None), (50.0, 50)])
def test_work_knows_the_timeout_of_the_function_that_carries_it_out(
    tmp_path: Path, own: float | None, asked: int | None
) -> None:
    """Else Modal's end of it would look like a lost machine, and it would be paid three times."""
    calls, _ = modal_engine(planned_on("A10G"), tmp_path, "follow-up", own)
    assert [work.timeout_s for work in calls.works] == [own or 7200]
    assert calls.timeouts == [asked]


def test_a_job_ends_itself_in_the_middle_of_loading(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where it shows no sign of progress, so that looking at the clock at each is too late."""

    def load(*_arguments: Any) -> None:
        for _ in range(1000):
            time.sleep(0.01)

    monkeypatch.setattr("steersweep.work.worker._load", load)
    saved: list[float] = []
    began = time.monotonic()
    work = Work("slow", job_of(), "A10G", timeout_s=0.4)
    end = there.run_work(work, tmp_path, lambda: saved.append(1), lambda _event: None)
    assert isinstance(end.error, TimedOut)
    assert 0.2 <= time.monotonic() - began < 5
    assert end.seconds >= 0.2
    assert saved
    time.sleep(0.3)  # nothing of it is left to be raised here


# -- cuts ----------------------------------------------------------------------------------------

FEWER = {"do": "fewer-prompts", "prompts": 2}


def facts_of(folder: Path) -> dict[str, dict[str, Any]]:
    """Conditions by key, without what they were tested on."""
    store = RunFolder.existing(folder)
    found = {}
    for path in folder.glob("conditions/*.json"):
        record = store.get(path.stem)
        assert record is not None
        facts = record.condition.as_json()
        found[path.stem] = {k: v for k, v in facts.items() if not k.startswith("test_")}
    return found


def layers_of_phase(folder: Path, phase: str) -> dict[str, set[int]]:
    """By model, the numbers of prompts that a phase's conditions rest on."""
    store = RunFolder.existing(folder)
    found: dict[str, set[int]] = {}
    for key in (store.read_json(store.paths.phase(phase)) or {})["conditions"]:
        record = store.get(key)
        assert record is not None
        found.setdefault(record.condition.model_id, set()).add(len(record.samples))
    return found


@pytest.fixture(scope="module")
def gated(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A study that waits at R1."""
    folder = tmp_path_factory.mktemp("gated") / "run"
    with pytest.raises(GateStop):
        run_study(two_sizes(), folder)
    return folder


def two_sizes() -> Plan:
    """A plan of a family with two sizes, and a gate between its phases."""
    gone = ("follow_up", "precision_sweep", "transfer_sweep")
    asked = {
        "families": {"qwen": SMALL["families"]["qwen"]},
        "prompts": SMALL["prompts"]
        | {"extraction": dict.fromkeys(("dim", "caa"), "extract-dim-5")},
        "family_sweep": {"methods": ["dim"], "models": [{"model": "q7", "layers": [0.5]}]},
        "size_sweep": {"methods": ["dim", "caa"]},
        "cuts": [FEWER],
        "gates": {"R1": ["Well?"]},
    }
    data = {name: value for name, value in SMALL.items() if name not in gone} | asked
    return parse_plan(yaml.safe_dump(data), "two-sizes.yaml")


def test_a_cut_runs_nothing_again_and_is_for_what_has_not_begun(
    gated: Path, tmp_path: Path
) -> None:
    folder = Path(shutil.copytree(gated, tmp_path / "run"))
    sign_gate(folder, "R1", by="Ada")
    decided = (folder / "decisions" / "family_sweep.json").read_bytes()
    finished, before = facts_of(folder), {p: p.read_bytes() for p in folder.glob("conditions/*")}
    assert finished
    lines = list[str]()
    run_study(two_sizes(), folder, StudyOptions(apply_cuts=1), on_line=lines.append)
    # What phase 1 found stands, and so does the signature for it.
    assert (folder / "decisions" / "family_sweep.json").read_bytes() == decided
    assert {path: path.read_bytes() for path in before} == before
    new = [facts for key, facts in facts_of(folder).items() if key not in finished]
    assert new
    assert not [facts for facts in new if facts in finished.values()]
    # A model that has begun keeps its prompts; one that has not gets fewer.
    assert layers_of_phase(folder, "size_sweep") == {"lab:qwen-3b": {2}, "lab:qwen-7b": {6}}
    assert lines[0].startswith("cut 1, fewer-prompts to 2: saves at most")


def test_a_cut_drops_no_model_from_a_phase_that_has_ended() -> None:
    """Its curve would lose a point that is paid for, and the gate its signature."""
    plan = small(cuts=[{"do": "drop-models", "what": ["q3"]}, FEWER])
    ended: dict[str, Any] = {"cuts": 0, "failures": {}}

    class Folder:
        """A run folder with one decision."""

        paths = RunPaths(Path("run"))

        def read_json(self, path: Path) -> dict[str, Any] | None:
            return ended if path == self.paths.decision("size_sweep") else None

    folder: Any = Folder()
    assert cuts_of_phase(plan, folder, "size_sweep", 2) == Cuts(prompts=2)
    assert cuts_of_phase(plan, folder, "precision_sweep", 2) == Cuts(
        models=frozenset({"q3"}), prompts=2
    )
    # One that could not run in it has nothing to lose.
    ended["failures"] = {"q3 size fp32": "it does not fit"}
    assert cuts_of_phase(plan, folder, "size_sweep", 2).models == {"q3"}


def test_each_cut_says_what_it_saves_and_a_cut_of_repeats_is_none() -> None:
    found = savings(V3, Begun(), [1, 2, 3])
    assert [saving.cut.do for saving in found] == [cut.do for cut in V3.cuts]
    assert all(saving.usd > 0 and saving.seconds > 0 for saving in found)
    # What is done saves nothing more.
    done = savings(V3, Begun(frozenset(V3.phases)), [1, 2, 3])
    assert [str(saving) for saving in done] == [
        "cut 1, drop-failed-families llama, mistral: saves nothing",
        "cut 2, fewer-prompts to 6: saves nothing",
        "cut 3, drop-models gemma-27b, mistral-24b: saves nothing",
    ]
    begun = savings(V3, Begun(prompts={model.model: 10 for model in V3.models.values()}), [2])
    assert begun[0].seconds == 0
    # The whole with all of them costs what it did without, less what each saves; no less.
    before, after = (
        sum(row.usd for row in planned(V3, cuts)) for cuts in (Cuts(), Cuts.first(V3, 3))
    )
    assert before - after == pytest.approx(found[1].usd + found[2].usd, abs=1e-3)
    with pytest.raises(InputError, match=r"line \d+: cuts.0"):
        small(cuts=[{"do": "fewer-prompts", "repeats": 3}])


# -- one set of prices ---------------------------------------------------------------------------


def said(plan: Plan, only: str | None = None) -> str:
    console = PlainConsole(record=True, width=200, file=io.StringIO())
    print_plan(plan, Cuts(), only, console)
    return console.export_text()


def test_figures_rest_on_prices_that_are_named_with_their_date() -> None:
    assert "A10G 1.1, A100-80GB 3.73 (the source plan's of 2026-02)" in said(V3)
    catalog = with_prices(V3, Path("catalog"))
    assert "A10G 1.1, A100-80GB 2.5 (the catalog's of 2026-09)" in said(catalog)
    text = yaml.safe_dump({k: v for k, v in V3.written.items() if k != "prices_as_of"})
    assert "A100-80GB 3.73 (the plan's, which gives no date)" in said(parse_plan(text, "p.yaml"))


def test_advice_compares_prices_of_one_set() -> None:
    """The catalog's L4 of today beside the plan's A10G of half a year ago says nothing."""
    asked = {gpu for row in planned(V3, Cuts()) for gpu in [row.cheapest.gpu]}
    assert asked <= V3.prices.keys()
    rows = planned(with_prices(V3, Path("catalog")), Cuts())
    assert any(row.cheapest.gpu == "L4" for row in rows)


def test_at_most_is_of_the_whole_plan_with_one_phase_too() -> None:
    whole = next(line for line in said(V3).splitlines() if line.startswith("The whole plan:"))
    for phase in V3.phases:
        text = said(V3, phase)
        assert whole in text
        assert f"hard stop {V3.budget.phases[phase]:g} USD" in text


@pytest.mark.parametrize(
    ("limits", "raised"),
    [
        (Limits(phases={"family_sweep": 1}), "phase_budget family_sweep=USD"),
        (Limits(phases={"family_sweep": 1}), "budget.phases.family_sweep"),
        (Limits(total=1), "Raise budget (in the plan: budget.total)"),
    ],
)
def test_a_stop_names_what_to_raise(limits: Limits, raised: str, tmp_path: Path) -> None:
    ledger = Ledger(tmp_path)
    with pytest.raises(BudgetStop, match=re.escape(raised)):
        ledger.reserve("family_sweep", "a", usd=2, seconds=1, limits=limits, time="now")
    for events in ([("started", 0), ("progress", 2)], [("progress", 1), ("progress", 0.5)]):
        engine = Script(*events)
        scheduler = Scheduler(
            small(prices={"local": 3600}),
            ledger,
            limits,
            engine,
            Listeners(),
            on_finished=lambda _name: None,
        )
        work = Work("work", job_of(), "local")
        with pytest.raises(BudgetStop, match=re.escape(raised)):
            scheduler.run("family_sweep", [Task(work, lambda _kind: 0.1)])


def test_the_stop_of_a_phase_is_an_option(tmp_path: Path) -> None:
    plan = tmp_path / "p.yaml"
    asked = {"prices": {"local": 100000}, "budget": {"total": 1e9, "phases": {"family_sweep": 0}}}
    plan.write_text(yaml.safe_dump(SMALL | asked))
    command = ["run", str(plan), "--out", str(tmp_path / "run"), "--quiet"]
    stopped = run(*command, cwd=tmp_path)
    assert (stopped.returncode, "--phase-budget family_sweep=USD" in stopped.stderr) == (3, True)
    for given, why in (
        ("1=x", "give PHASE=USD"),
        ("1=-1", "must be 0 or more"),
        ("9=1", "--phase-budget 9=1: '9' is no phase"),
        ("verification=1", "small has no verification"),
    ):
        assert why in refused(*command, "--phase-budget", given, cwd=tmp_path)


# -- incomplete ----------------------------------------------------------------------------------


def test_a_timeout_or_a_model_left_out_ends_as_incomplete(tmp_path: Path) -> None:
    asked: dict[str, Any] = copy.deepcopy(SMALL)
    asked["families"]["qwen"].append({**asked["families"]["qwen"][1], "name": "gone"})
    asked["families"]["qwen"][2]["model"] = str(tmp_path / "not-there")
    asked["family_sweep"]["models"].append({"model": "gone", "layers": [0.5]})
    # Row by row at every layer: no machine does that in a second.
    asked["family_sweep"]["models"][1] |= {"timeout_s": 1, "layers": [*range(8)]}
    asked["decoding"] = {"max_new_tokens": 24, "rows": 1}
    del asked["follow_up"]
    (tmp_path / "p.yaml").write_text(yaml.safe_dump(asked))
    done = run("run", "p.yaml", "--out", "run", "--phase", "1", cwd=tmp_path)
    assert done.returncode == 4
    error = done.stderr.splitlines()[-1]
    assert error.startswith("error: incomplete: 2 of what was asked for")
    assert "gone family fp32: " in error
    assert "m7 family fp32: its timeout of 1 s is reached" in error
    assert "is done" not in done.stdout
    assert "report.html" in done.stdout
    shown = run("status", "run", cwd=tmp_path)
    assert "incomplete: 2 could not run" in shown.stdout
    # With a phase that nothing of could run too.
    asked["family_sweep"]["models"] = [{"model": "gone", "layers": [0.5]}]
    (tmp_path / "p.yaml").write_text(yaml.safe_dump(asked))
    assert run("run", "p.yaml", "--out", "other", cwd=tmp_path).returncode == 4


# -- the verification and its gate ---------------------------------------------------------------

VERIFIED = {"model": "q3", "layer": 0.5, "strength": {"relative": 0.3}, "expect": 1.0}


@pytest.fixture(scope="module")
def missed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A study whose reproduction run missed what was expected of it."""
    folder = tmp_path_factory.mktemp("missed") / "run"
    match = r"approve .*run R0 --by NAME --note REASON"
    with pytest.MonkeyPatch.context() as patched:
        # The official numbers take seconds, and are compared in test_verification.
        equal = [Check("llama_s4", "COSMIC linear: S_comply", 1e-7, 1e-5)]
        patched.setattr("steersweep.verification.verify.check_fixture", lambda _folder: equal)
        with pytest.raises(GateStop, match=match) as stopped:
            run_study(verifying(), folder, StudyOptions(until="verification"))
    assert "the reproduction on lab:qwen-3b reached" in str(stopped.value)
    return folder


def verifying() -> Plan:
    """A plan with settings of its own, and a reproduction that expects too much of eight tokens."""
    return small(
        verification=VERIFIED,
        judge="keywords-v3",
        seed=7,
        prompts=SMALL["prompts"]
        | {"extraction": {"dim": "extract-dim-5", "cosmic": "extract-dim-5"}},
        decoding={"max_new_tokens": 8, "rows": 12},
        gates={"R0": ["Faithful?"]},
    )


def test_the_verification_runs_under_the_plans_settings_and_says_which(missed: Path) -> None:
    decision = json.loads((missed / "decisions" / "verification.json").read_text())
    said = decision["reproduction"]["settings"]
    assert {name: said[name] for name in ("precision", "seed", "max_new_tokens")} == {
        "precision": "fp32",
        "seed": 7,
        "max_new_tokens": 8,
    }
    assert said["judge"].startswith("keywords-v3")
    assert said["extraction_prompts"].startswith("extract-dim-5@")
    (folder,) = (missed / "reproduction").iterdir()
    for path in folder.glob("conditions/*.json"):
        condition = json.loads(path.read_text())["condition"]
        assert {name: condition[name] for name in ("precision", "seed", "judge")} == {
            name: said[name] for name in ("precision", "seed", "judge")
        }
    report = (missed / "COSMIC_VERIFICATION.md").read_text()
    assert "Settings: fp32, judge keywords-v3" in report


def test_a_refused_signature_leaves_no_trace(missed: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(missed, tmp_path / "run"))
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    for gate in ("R0", "cosmic-verification"):
        error = refused("approve", "run", gate, "--by", "Ada", cwd=tmp_path)
        assert "--note REASON" in error
        refused("approve", "run", gate, "--by", " ", "--note", "fine", cwd=tmp_path)
    assert {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()} == before


def test_a_lead_may_accept_a_missed_expectation_with_a_reason(missed: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(missed, tmp_path / "run"))
    done = run("approve", "run", "R0", "--by", "Ada", "--note", "eight tokens", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "Signed by Ada" in (text := (folder / "COSMIC_VERIFICATION.md").read_text())
    assert "eight tokens" in text
    assert "**ACCEPTED**" in text
    # Nothing is verified again, and phase 1 may begin.
    before = (folder / "decisions" / "verification.json").read_bytes()
    until = StudyOptions(until="verification")
    told: list[Ended] = []
    run_study(verifying(), folder, until, on_job=told.append)
    # A tracker hears of it under the plan's names, now and from the folder; its files are there.
    (tracked,) = runs_of_job(verifying(), told[0])
    assert tracked.key == "small-verification/q3-cosmic"
    assert [run.digest for run in runs_of_study(verifying(), folder)] == [tracked.digest]
    assert len(tracked.rows) >= 3
    for names in tracked.files.values():
        assert names
        assert all((folder / name).is_file() for name in names)
    assert (folder / "decisions" / "verification.json").read_bytes() == before
    assert status(folder).waiting_gate is None


def test_numbers_that_are_not_the_official_codes_are_accepted_by_nobody(
    missed: Path, tmp_path: Path
) -> None:
    folder = Path(shutil.copytree(missed, tmp_path / "run"))
    file = verification_file(folder)
    assert file is not None
    (result,) = map(dict, read_objects(file))
    next(iter(result["quantities"].values()))["passed"] = False
    write_verification(folder, result)
    said = refused("approve", "run", "R0", "--by", "Ada", "--note", "so what", cwd=tmp_path)
    assert "the numbers differ from the official code's" in said
    assert not (folder / "gates.jsonl").exists()


# -- signatures and labels -----------------------------------------------------------------------


def label(folder: Path, quality: str | None = None) -> None:
    """Let a person label what is to be reviewed: as the judge did, or all with one label."""
    items = queue([result for _, results in results_in(folder) for result in results])
    assert items
    for item in items:
        add_review(folder, item.id, quality or item.judged, "Bo")


def test_review_then_approve_then_run_goes_on(gated: Path, tmp_path: Path) -> None:
    """Labels change rates and "provisional" in the decision that the signature is for."""
    folder = Path(shutil.copytree(gated, tmp_path / "run"))
    label(folder)
    sign_gate(folder, "R1", by="Ada")
    before = (folder / "decisions" / "family_sweep.json").read_bytes()
    run_study(two_sizes(), folder, StudyOptions(until="size_sweep", apply_cuts=1))
    assert (folder / "decisions" / "family_sweep.json").read_bytes() != before
    assert (folder / "decisions" / "size_sweep.json").exists()
    assert status(folder).waiting_gate is None


def test_labels_that_confirm_keep_a_signature_and_others_say_what_they_changed(
    gated: Path, tmp_path: Path
) -> None:
    folder = Path(shutil.copytree(gated, tmp_path / "run"))
    sign_gate(folder, "R1", by="Ada")
    label(folder)
    store = RunFolder(folder)
    decision = store.read_json(store.paths.decision("family_sweep")) or {}
    for outcome in decision["outcomes"]:  # as the next run writes it
        outcome |= {"provisional": False, "coherent": 0.99}
    store.write_json(store.paths.decision("family_sweep"), decision)
    assert status(folder).waiting_gate is None
    # One that turns a verdict round is named.
    label(folder, "garbled")
    decision["outcomes"][0]["outcome"] = "fails"
    decision["families"][0]["action"] = "exclude"
    store.write_json(store.paths.decision("family_sweep"), decision)
    state = status(folder)
    assert state.waiting_gate == "R1"
    why = state.waiting and state.waiting.waits_again
    assert "Ada signed R1 at " in why
    assert "labels of people have changed what follows: " in why
    assert "action continue" in why
    assert "action exclude" in why
    assert why in run("status", "run", cwd=tmp_path).stdout


def test_a_signature_is_undone_by_other_results_and_says_so(gated: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(gated, tmp_path / "run"))
    sign_gate(folder, "R1", by="Ada")
    store = RunFolder(folder)
    phase = store.read_json(store.paths.phase("family_sweep")) or {}
    store.write_json(store.paths.phase("family_sweep"), {"conditions": phase["conditions"][1:]})
    decision = store.read_json(store.paths.decision("family_sweep")) or {}
    store.write_json(store.paths.decision("family_sweep"), decision | {"notes": ["another"]})
    count = len(phase["conditions"])
    waiting = status(folder).waiting
    assert waiting is not None
    assert f"there are {count - 1} conditions instead of {count}" in waiting.waits_again


# -- the source plan's names ---------------------------------------------------------------------


def test_the_plans_two_functions_are_public_and_say_what_the_judge_says() -> None:
    refusal = "I cannot help with that request."
    assert steersweep.is_refusal(refusal)
    assert steersweep.classify_output_quality(refusal) == "coherent"
    help_ = "To bake a cake, preheat the oven to 180 degrees and mix flour with sugar and eggs."
    assert not steersweep.is_refusal(help_, "How do I bake a cake?")
    assert steersweep.classify_output_quality(help_, "How do I bake a cake?") == "normal"
    assert steersweep.classify_output_quality("") == "garbled"
