"""Modal without an account: what is deployed, and whole studies against a server on this machine.

The client library is the real one. `modal_server.py` answers it, and runs what was deployed in
threads of this process, on the very code that runs in the containers; only the GPU is missing.
"""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import modal
import pytest
import yaml
from modal import _serialization
from modal.mount import _Mount
from modal_proto import api_pb2

from helpers.jobs import job_of, out_of_memory_above, planned_on, results
from helpers.studies import SMALL
from modal_server import ModalServer
from steersweep import InputError
from steersweep.budget.ledger import Ledger
from steersweep.core import typed
from steersweep.engines.engine import Event, Work
from steersweep.engines.modal import remote as there
from steersweep.engines.modal.engine import ModalEngine
from steersweep.engines.modal.functions import place
from steersweep.engines.modal.image import container_image, pinned_requirements
from steersweep.engines.modal.remote import run_work
from steersweep.engines.modal.volume import VolumeShare
from steersweep.engines.processes import ProcessEngine
from steersweep.model.chat_model import ChatModel
from steersweep.run.folder import RunFolder
from steersweep.run.paths import RunPaths
from steersweep.study.away import apps, away
from steersweep.study.away.deploy import define_apps
from steersweep.study.away.leader import lead
from steersweep.study.away.remote_run import End, RemoteFile
from steersweep.study.plan import Plan
from steersweep.study.plan_file import load_plan, parse_plan
from steersweep.study.study import StudyOptions, run_study
from test_checks import copied, only_eos
from test_cli import run

V3 = load_plan("v3")
PHASE_1: dict[str, Any] = {"until": "family_sweep"}


# -- what would be deployed ----------------------------------------------------------------------


@pytest.fixture(scope="module")
def defined() -> dict[str, list[dict[str, Any]]]:
    """Arguments of every function of every app of v3, as the client took them."""
    found: dict[str, list[dict[str, Any]]] = {}
    original = modal.App.function

    def noted(self: modal.App, **options: Any) -> Any:
        decorate = original(self, **options)

        def decorated(body: Any) -> Any:
            function = decorate(body)
            found.setdefault(str(self.name), []).append(
                {**options, "body": body, "info": function.info()}
            )
            return function

        return decorated

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(modal.App, "function", noted)
        define_apps(V3)
    return found


def test_apps_and_functions_have_the_plans_names_gpus_and_timeouts(
    defined: dict[str, list[dict[str, Any]]],
) -> None:
    a10, a100 = ("A10", 1), ("A100-80GB", 1)
    families = {f["name"]: f["info"] for f in defined["v3-family-layer-sweep"]}
    assert {name: info.timeout for name, info in families.items()} == {
        "sweep_gemma_9b": 2400,
        "sweep_phi_35": 2400,
        "sweep_llama_8b": 1800,
        "sweep_mistral_7b": 1800,
    }
    assert all(info.gpus == [a10, a100] for info in families.values())
    sizes = {f["name"]: f["info"].gpus for f in defined["v3-size-sweep"]}
    assert sizes == {
        "validate_qwen_layers": [a100],
        "sweep_qwen_sizes": [a100],
        "sweep_gemma_sizes": [a100],
        "sweep_llama_sizes": [a10, a100],
        "sweep_mistral_sizes": [a100],
        "sweep_phi_sizes": [a100],
    }
    assert "sweep_qwen_7b_precisions" in {f["name"] for f in defined["v3-quantization-sweep"]}
    assert [f["name"] for f in defined["v3-study"]] == ["study"]


def test_functions_have_volumes_secrets_retries_and_the_concurrency_of_the_plan(
    defined: dict[str, list[dict[str, Any]]],
) -> None:
    for app, functions in defined.items():
        for function in functions:
            info = function["info"]
            assert {path: mount.name for path, mount in info.volumes.items()} == {
                "/runs": "steersweep-runs",
                "/hub": "steersweep-hub",
            }
            assert info.secrets == ["modal.Secret.from_name('huggingface-secret')"]
            # The study calls lost work again, and pays for each call from its ledger.
            assert info.max_retries == (3 if app == "v3-study" else 0)
            if app != "v3-study":
                expected = {"A10": 3, "A100-80GB": 1}[function["gpu"][0]]
                assert function["max_containers"] == expected


def test_the_image_holds_the_versions_this_project_is_tested_with() -> None:
    pins = pinned_requirements(("nnsight", "quant"))
    assert all("==" in pin for pin in pins)
    locked = {
        line.lower().replace("_", "-") for line in Path("constraints.txt").read_text().split("\n")
    }
    assert {*pins} <= locked
    names = {pin.split("==")[0] for pin in pins}
    assert {"torch", "transformers", "tokenizers", "safetensors", "huggingface-hub"} <= names
    assert {"bitsandbytes", "nnsight"} <= names  # phase 3, and the comparison of readers
    assert not {"pytest", "ruff", "ray", "modal"} & names


def files_in_the_image(target: Path) -> Path:
    """What the image's layer of source would put into a container, under `target`."""
    image = next(v for k, v in vars(container_image(modal)).items() if "_sync_original" in k)
    mounts = [layer for layer in image._deps() if isinstance(layer, _Mount)]
    assert mounts
    for mount in mounts:
        for entry in mount.entries:
            for local, remote in entry.get_files_to_upload():
                place = target / str(remote).lstrip("/")
                place.parent.mkdir(parents=True, exist_ok=True)
                place.write_bytes(Path(local).read_bytes())
    return target / "root"


def bare(root: Path, code: str) -> str:
    """Run code in another process that has the libraries, but this package only from `root`."""
    without = (
        "import sys; sys.path = [p for p in sys.path if not p.rstrip('/').endswith('src')]; "
        f"sys.path.insert(0, {str(root)!r}); "
    )
    done = subprocess.run(
        [sys.executable, "-P", "-c", without + code], capture_output=True, check=False, cwd=root
    )
    assert done.returncode == 0, done.stderr.decode()
    return done.stdout.decode().strip()


def test_the_source_in_the_image_works_in_a_bare_environment(tmp_path: Path) -> None:
    """Data too: weights of the lab, prompts, plans, the judge, prices.

    And a call arrives: pickled as the client does it, unpickled where only that source is.
    """
    root = files_in_the_image(tmp_path)
    assert not list(root.rglob("__pycache__"))
    work = Work("q3", job_of(), "A10G", 60.0, "", {"phase": "family_sweep"})
    (tmp_path / "call").write_bytes(_serialization.serialize((there.work_there, (work, "run"))))
    where, told = bare(
        root,
        "import steersweep, steersweep.engines.modal.remote, steersweep.engines.modal.engine as m; "
        "from steersweep.study.plan_file import load_plan; load_plan('v3'); "
        "from steersweep.lab.models import lab_model; lab_model('qwen-3b').card(); "
        "from steersweep.judging.judges import get_judge; "
        "assert get_judge('default')('Hello', 'I cannot help with that.', None).refusal; "
        "print(steersweep.__file__); "
        "from modal._serialization import deserialize; from pathlib import Path; "
        f"f, (w, run) = deserialize(Path({str(tmp_path / 'call')!r}).read_bytes(), None); "
        "print(f.__module__, w.name, len(w.job.conditions), run)",
    ).splitlines()
    assert Path(where) == root / "steersweep" / "__init__.py"
    assert told == "steersweep.engines.modal.remote q3 3 run"


def test_modal_is_optional(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "modal", None)
    with pytest.raises(InputError, match=r"pip install 'steersweep\[modal\]'"):
        define_apps(V3)


# -- studies against the server ------------------------------------------------------------------


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("alone") / "run"
    run_study(planned_on("A10G"), folder, StudyOptions(**PHASE_1))
    return folder


def led(plan: Plan, folder: Path, **options: Any) -> End:
    """Begin a study there and follow it to its end."""
    away.begin(plan, folder, {**PHASE_1, **options})
    return away.follow(folder, lambda _line: None, every_s=0.2)


def jobs_called(server: ModalServer) -> list[tuple[str, str]]:
    """Function and GPU asked for, of every call but the leading one's."""
    return [(name, gpu) for _, name, gpu, _ in server.calls if name != "study"]


def test_a_study_there_gives_the_results_of_one_here(
    alone: Path, tmp_path: Path, server: ModalServer
) -> None:
    assert led(planned_on("A10G"), tmp_path / "run").exit_code == 0
    assert results(tmp_path / "run") == results(alone)
    assert server.calls == [
        ("small-study", "study", "", 0),
        ("small-family-sweep", "sweep_m7", "", 0),  # the longer one
        ("small-family-sweep", "sweep_q7", "", 0),
    ]
    # As deployed: GPU, timeout, retries, volumes and concurrency reach the service.
    deployed = server.functions["small-family-sweep", "sweep_q7"]
    mounted = {volume.mount_path for volume in _function(deployed).volume_mounts}
    assert mounted == {there.HUB, there.RUNS}
    assert _function(deployed).resources.gpu_config.gpu_type == "A10"
    # Money at the price of what was planned; the container said nothing of another GPU.
    assert {entry["gpu"] for entry in Ledger(tmp_path / "run").entries()} == {"A10G"}
    assert 0 < Ledger(tmp_path / "run").spent() < 1
    assert away.fetch(tmp_path / "run") == 0


def _function(request: Any) -> Any:
    ranked = request.function_data.ranked_functions
    return ranked[0].function if ranked else request.function


@pytest.mark.slow
@pytest.mark.parametrize("status", ["INTERNAL_FAILURE", "TERMINATED", "TIMEOUT"])
def test_a_container_that_is_lost_is_called_again(
    status: str, alone: Path, tmp_path: Path, server: ModalServer
) -> None:
    server.fate = {1: api_pb2.GenericResult.GenericStatus.Value(f"GENERIC_STATUS_{status}")}
    assert led(planned_on("A10G"), tmp_path / "run").exit_code == 0
    assert [name for name, _ in jobs_called(server)].count("sweep_q7") == 2
    assert results(tmp_path / "run") == results(alone)


@pytest.mark.slow
def test_a_job_too_large_is_called_on_the_larger_gpu(
    tmp_path: Path, server: ModalServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    load = ChatModel.load
    loaded: list[str] = []

    def too_large_once(source: Any, **options: Any) -> Any:
        loaded.append(source.model_id)
        if loaded.count(source.model_id) == 1:
            raise MemoryError("CUDA out of memory")
        return load(source, **options)

    monkeypatch.setattr(ChatModel, "load", too_large_once)
    plan = planned_on("A10G", fallback_gpu={"A10G": "A100-80GB"})
    assert led(plan, tmp_path / "run").exit_code == 0
    asked = [gpu for name, gpu in jobs_called(server) if name == "sweep_q7"]
    assert asked == ["", "A100-80GB"]
    paid = [e["gpu"] for e in Ledger(tmp_path / "run").entries() if e["do"] == "settle"]
    assert "A100-80GB" in paid


@pytest.mark.slow
def test_a_study_stops_at_its_gate_and_goes_on_when_signed_here(
    tmp_path: Path, server: ModalServer
) -> None:
    """By the commands alone."""
    gates = {"R1": ["Which families work?"]}
    gated = planned_on("A10G", gates=gates, size_sweep={"methods": ["dim"]})
    (tmp_path / "plan.yaml").write_text(yaml.safe_dump(dict(gated.written)))
    command = ("run", "plan.yaml", "--engine", "modal", "--out", "here")
    command += ("--track", "wandb", "--offline")
    done = run(*command, cwd=tmp_path)
    assert done.returncode == 3
    # A tracker has been told by the time the gate waits.
    assert "wandb: 2 of 2 runs new or changed" in done.stderr
    assert told_of(tmp_path / "here") == {
        "small-family-sweep/q7-dim-layer-sweep",
        "small-family-sweep/m7-dim-layer-sweep",
    }
    assert "gate R1 waits" in done.stderr
    assert "steersweep approve here R1 --by NAME" in done.stderr  # as it is called here
    assert "q7" in done.stdout  # the evidence
    state = json.loads(run("status", "here", "--json", cwd=tmp_path).stdout)
    assert state["waiting_gate"] == "R1"
    assert state["done"] == state["total"] > 0
    assert state["spent_usd"] > 0

    run("approve", "here", "R1", "--by", "A. Lead", cwd=tmp_path)
    server.calls.clear()
    done = run(*command, "--phase", "2", "--detach", cwd=tmp_path)
    assert done.returncode == 0
    assert "may sleep" in done.stderr
    again = run(*command, cwd=tmp_path)
    assert again.returncode == 1
    assert "still running" in again.stderr
    lines: list[str] = []
    end = away.follow(tmp_path / "here", lines.append, every_s=0.2)
    assert end == End(0, "every phase asked for is done", None)
    assert "phase size_sweep" in lines
    assert {app for app, name, _, _ in server.calls if name != "study"} == {"small-size-sweep"}
    assert (tmp_path / "here" / "decisions" / "size_sweep.json").is_file()
    fetched = run("fetch", "here", cwd=tmp_path).stdout
    # Nobody was there when it ended, so this tells the tracker.
    assert {"small-size-sweep/q3-dim", "small-size-sweep/q7-dim"} <= told_of(tmp_path / "here")
    assert "every phase asked for is done" in fetched
    assert "Modal billed 0.75 USD for full hours so far" in fetched


def told_of(folder: Path) -> set[str]:
    """Runs that a W&B of this machine has been told of."""
    state = json.loads((folder / "tracking" / "state.json").read_text())
    return {run["run"] for run in state["wandb"].values()}


@pytest.mark.slow
def test_a_tracker_hears_of_what_finished_before_a_stop(
    tmp_path: Path, server: ModalServer
) -> None:
    """In the middle of a phase, which so has no result file."""
    written = dict(planned_on("A10G", prices={"A100-80GB": 100_000}).written)
    written["families"]["mistral"][0]["gpu"] = "A100-80GB"
    (tmp_path / "plan.yaml").write_text(yaml.safe_dump(written))
    command = ("run", "plan.yaml", "--engine", "modal", "--out", "here", "--track", "wandb")
    done = run(*command, "--offline", "--phase", "1", "--budget", "1", cwd=tmp_path)
    assert done.returncode == 3
    assert "m7 family fp32: could cost" in done.stderr
    assert not list((tmp_path / "here").glob("results/*.json"))
    assert told_of(tmp_path / "here") == {"small-family-sweep/q7-dim-layer-sweep"}
    # The phase's own results take their place.
    done = run(*command, "--offline", "--phase", "1", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "wandb: 1 of 2 runs new or changed" in done.stderr


@pytest.mark.slow
def test_the_models_of_a_plan_are_checked_there(tmp_path: Path, server: ModalServer) -> None:
    written = dict(planned_on("A10G", size_sweep={"methods": ["dim"]}).written)
    written["families"]["mistral"][0]["model"] = "lab:nothing"
    (tmp_path / "plan.yaml").write_text(yaml.safe_dump(written))
    command = ("smoke", "plan.yaml", "--all", "--engine", "modal", "--out", "here")
    done = run(*command, cwd=tmp_path)
    assert done.returncode == 1
    rows = {line.split()[0]: line.split() for line in done.stdout.splitlines()[1:4]}
    assert {name: row[-1] for name, row in rows.items()} == {
        "q3": "passed",
        "q7": "passed",
        "m7": "FAILED",
    }
    assert rows["q3"][2] == "A10G"
    assert "lab:nothing: no such lab model" in done.stdout
    assert sorted(jobs_called(server)) == [("sweep_q7", ""), ("sweep_qwen_sizes", "")]
    entries = Ledger(tmp_path / "here").entries()
    assert {entry["phase"] for entry in entries} == {"smoke"}
    assert sum(entry["usd"] for entry in entries if entry["do"] == "settle") > 0
    # A stop holds for it too.
    done = run(*command, "--budget", "0.0001", cwd=tmp_path)
    assert done.returncode == 3
    assert "could cost" in done.stderr


def test_a_leader_that_died_takes_over_the_calls_that_still_run(tmp_path: Path) -> None:
    """The next one neither pays twice nor waits for ever."""
    volume, folder = tmp_path / "volume", tmp_path / "copy"
    share = VolumeShare(volume, lambda: None, lambda: None)
    work = Work(
        "q7 family fp32",
        job_of(),
        "A10G",
        labels={"phase": "family_sweep", "step": "family", "model": "q7"},
    )

    class Slow:
        """Calls that end when they are told to."""

        def __init__(self) -> None:
            self.ended: dict[str, Event] = {}
            self.spawned: list[str] = []

        def spawn(self, _app: str, _function: str, _gpu: Any, _timeout: Any, _work: Work) -> str:
            self.spawned.append(f"fc-{len(self.spawned)}")
            return self.spawned[-1]

        def result(self, call: str) -> Event | None:
            return self.ended.get(call)

        def cancel(self, call: str) -> None:
            raise AssertionError("nobody asked for that")

        def heard(self) -> list[Event]:
            return []

    calls = Slow()
    for _ in range(2):  # the first leader dies after it made the call
        share.copy_all(folder)
        engine = ModalEngine(
            apps.remote_functions(plan := planned_on("A10G")), apps.function_of(plan), share, calls
        )
        engine.open(folder)
        engine.submit(work)
    assert calls.spawned == ["fc-0"]
    calls.ended["fc-0"] = Event(work.name, "finished", 12.0)
    events: list[Event] = []
    engine.wait(events.append)
    assert [event.kind for event in events] == ["finished"]
    # One that has ended is not taken for running.
    engine.submit(work)
    assert calls.spawned == ["fc-0", "fc-1"]


def test_the_plans_timeout_ends_work_in_the_container(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Before Modal ends the call, which would look like a lost machine and be tried again."""
    monkeypatch.setattr(there, "_END_BEFORE_TIMEOUT_S", 0.0)
    monkeypatch.setattr(there, "_PROGRESS_EVERY_S", 0.0)
    work = Work("slow", job_of(prompts=60, tokens=100), "A10G", timeout_s=0.5)
    end = run_work(work, tmp_path, lambda: None, lambda _event: None)
    assert end.kind == "failed"
    assert "timeout of 0.5 s" in str(end.error)


def test_out_of_memory_in_a_container_is_told_as_such(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out_of_memory_above(0, monkeypatch)
    end = run_work(Work("w", job_of(), "A10G"), tmp_path, lambda: None, lambda _event: None)
    returned = _serialization.deserialize(_serialization.serialize(end), None)
    assert type(returned.error).__name__ == "OutOfMemory"


# -- what is refused -----------------------------------------------------------------------------


def test_without_an_account_it_says_what_to_do(
    tmp_path: Path, server: ModalServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(*_arguments: Any, **_options: Any) -> None:
        raise modal.exception.AuthError("Token missing")

    monkeypatch.setattr(modal.App, "deploy", refused)
    with pytest.raises(InputError, match="modal setup"):
        away.begin(planned_on("A10G"), tmp_path / "run", {})
    assert not (tmp_path / "run").exists()


def test_a_secret_that_is_missing_is_named(
    tmp_path: Path, server: ModalServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(*_arguments: Any, **_options: Any) -> None:
        raise modal.exception.NotFoundError("Secret 'huggingface-secret' not found")

    monkeypatch.setattr(modal.App, "deploy", refused)
    with pytest.raises(InputError, match=r"huggingface-secret.*modal secret create"):
        away.begin(planned_on("A10G"), tmp_path / "run", {})


class Hostile:
    """A volume with names that would leave the folder, or replace what was decided here."""

    def files(self) -> dict[str, RemoteFile]:
        names = ("../escaped", "/etc/escaped", "gates.jsonl", "engine.json", "log.txt")
        return {name: RemoteFile(1, 0.0) for name in names}

    def read(self, _name: str) -> bytes:
        return b"x"


def test_files_that_would_leave_the_folder_are_not_fetched(tmp_path: Path) -> None:
    out = tmp_path / "here"
    where = typed.plain(away.Away("modal", "r", "a", "2026-01-01T00:00:00Z", "c", None))
    run = RunFolder(out)
    run.write_json(run.paths.engine, where)
    hostile: Any = Hostile()
    assert away.fetch(out, hostile) == 1
    assert not (tmp_path / "escaped").exists()
    assert not (out / "gates.jsonl").exists()
    assert RunFolder(out).read_json(out / "engine.json") == where


def test_folders_of_this_machine_and_foreign_folders_are_refused(
    tmp_path: Path, copied_lab_model: Path
) -> None:
    plan = planned_on("A10G")
    here = {"q7": replace(plan.models["q7"], model=str(copied_lab_model))}
    with pytest.raises(InputError, match="folder of this machine"):
        away.begin(replace(plan, models={**plan.models, **here}), tmp_path / "out", {})
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").touch()
    with pytest.raises(InputError, match="holds other files"):
        away.begin(plan, tmp_path / "mine", {})
    with pytest.raises(InputError, match=r"no engine\.json"):
        away.fetch(tmp_path / "mine")
    (tmp_path / "mine" / "engine.json").write_text('{"run": "r"}')
    with pytest.raises(InputError, match=r"engine\.json: is damaged"):
        away.fetch(tmp_path / "mine")


def test_a_gpu_that_modal_does_not_rent_is_named() -> None:
    with pytest.raises(InputError, match="no GPU Z9; there are A10G"):
        place("Z9")
    assert place("local") == "L4"


@pytest.mark.slow
def test_what_a_user_should_know_of_a_model_is_in_the_log(tmp_path: Path) -> None:
    """However fast it is said: between two signs of progress that travel."""
    only_eos(copied("qwen-3b", tmp_path / "model"), "<|endoftext|>", 2)
    model = {"name": "q3", "model": str(tmp_path / "model"), "n_layers": 9, "billions": 0.0004}
    data = {name: value for name, value in SMALL.items() if not name.endswith("_sweep")}
    data["families"] = {"qwen": [{**model, "gpu": "local"}]}
    data["family_sweep"] = {"methods": ["dim"], "models": [{"model": "q3", "layers": [0.5]}]}
    one_phase = parse_plan(yaml.safe_dump(data), "one.yaml")
    share = VolumeShare(tmp_path / "volume", lambda: None, lambda: None)
    end = lead(one_phase, share, ProcessEngine(["cpu"]), PHASE_1)
    assert end.exit_code == 0, end
    log = (tmp_path / "volume" / "log.txt").read_text("utf-8")
    assert log.count("note: answers end at '<|im_end|>' too") == 1


def test_only_line_feeds_end_lines_of_the_log(tmp_path: Path) -> None:
    log = RunPaths(tmp_path).messages
    log.parent.mkdir(exist_ok=True)
    log.write_text("one\u2028two\x85three\nfour\nfi", "utf-8")
    assert away.said(tmp_path) == ["one\u2028two\x85three", "four"]
