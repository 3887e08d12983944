"""Modal: what would be deployed, and a study led as it is there, on folders instead of volumes.

Without an account nothing can be sent. The client library defines the apps for real; the calls of
functions run here in threads, on the very code that runs in the containers.
"""

from __future__ import annotations

import inspect
import json
import subprocess
import sys
import threading
import time
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import modal
import pytest
from modal import _serialization
from modal.mount import _Mount

from steersweep import InputError, SteersweepError, worker
from steersweep.cloud import apps, away
from steersweep.cloud import remote as there
from steersweep.cloud.away import RemoteFile
from steersweep.cloud.engine import Lost, ModalEngine
from steersweep.cloud.remote import VolumeShare, lead, run_work
from steersweep.engines.engine import Event, Work
from steersweep.experiment.budget import Ledger
from steersweep.experiment.plan import Plan, load_plan
from steersweep.experiment.study import StudyOptions, run_study
from steersweep.store import RunStore
from test_engines import job_of, out_of_memory_above, planned_on
from test_study import comparable

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
        apps.define_apps(V3)
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
            assert info.secrets == [
                "modal.Secret.from_name('huggingface-secret')",
                "modal.Secret.from_name('wandb-secret')",
            ]
            assert info.max_retries >= 2
            if app != "v3-study":
                expected = {"A10": 3, "A100-80GB": 1}[function["gpu"][0]]
                assert function["max_containers"] == expected


def test_the_image_holds_the_versions_this_project_is_tested_with() -> None:
    pins = apps.pinned_requirements()
    assert all("==" in pin for pin in pins)
    locked = {
        line.lower().replace("_", "-") for line in Path("constraints.txt").read_text().split("\n")
    }
    assert {*pins} <= locked
    names = {pin.split("==")[0] for pin in pins}
    assert {"torch", "transformers", "tokenizers", "safetensors", "huggingface-hub"} <= names
    assert not {"pytest", "ruff", "ray", "modal"} & names


def files_in_the_image(target: Path) -> Path:
    """What the image's layer of source would put into a container, under `target`."""
    image = next(v for k, v in vars(apps._image(modal)).items() if "_sync_original" in k)
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
    """Data too: weights of the lab, prompts, plans, the judge, prices."""
    root = files_in_the_image(tmp_path)
    assert not list(root.rglob("__pycache__"))
    where = bare(
        root,
        "import steersweep, steersweep.cloud.remote, steersweep.cloud.engine as m; "
        "from steersweep.experiment.plan import load_plan; load_plan('v3'); "
        "from steersweep.lab.models import lab_model; lab_model('qwen-3b').card(); "
        "from steersweep.judging.judge import get_judge; "
        "assert get_judge('default')('Hello', 'I cannot help with that.', None).refusal; "
        "print(steersweep.__file__)",
    )
    assert Path(where) == root / "steersweep" / "__init__.py"


def test_a_function_and_its_work_arrive_in_a_container(tmp_path: Path) -> None:
    """Pickled as the client does it, unpickled where only the image's source is."""
    root = files_in_the_image(tmp_path)
    work = Work("q3", job_of(), "A10G", 60.0, "", {"phase": "family_sweep"})
    (tmp_path / "call").write_bytes(_serialization.serialize((there.work_there, (work, "run"))))
    told = bare(
        root,
        "from modal._serialization import deserialize; from pathlib import Path; "
        f"f, (w, run) = deserialize(Path({str(tmp_path / 'call')!r}).read_bytes(), None); "
        "print(f.__module__, w.name, len(w.job.conditions), run)",
    )
    assert told == "steersweep.cloud.remote q3 3 run"


def test_modal_is_optional(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "modal", None)
    with pytest.raises(InputError, match=r"pip install 'steersweep\[modal\]'"):
        apps.define_apps(V3)


def test_the_client_offers_what_the_engine_calls() -> None:
    """Names and parameters used on objects that only exist with an account."""
    assert {"gpu", "timeout"} <= {*inspect.signature(modal.Function.with_options).parameters}
    assert "timeout" in inspect.signature(modal.FunctionCall.get).parameters
    assert "terminate_containers" in inspect.signature(modal.FunctionCall.cancel).parameters
    assert {"block", "partition"} <= {*inspect.signature(modal.Queue.get_many).parameters}
    assert "partition" in inspect.signature(modal.Queue.put).parameters
    for name in ("listdir", "read_file", "batch_upload", "commit", "reload"):
        assert hasattr(modal.Volume, name)
    for name in (
        "OutputExpiredError",
        "FunctionTimeoutError",
        "TimeoutError",
        "ConnectionError",
        "ServiceError",
        "InternalError",
        "AuthError",
        "NotFoundError",
    ):
        assert issubclass(getattr(modal.exception, name), modal.exception.Error)


# -- a study as it is led there ------------------------------------------------------------------


class Cloud:
    """Functions in threads, volumes as folders. What the code does with them is the real thing."""

    def __init__(self, volume: Path, fate: Mapping[int, str] | None = None) -> None:
        self.volume = volume
        self.calls: list[dict[str, Any]] = []
        self.ends: dict[str, Event | Exception] = {}
        self.commits = 0
        self.fate = dict(fate or {})  # what happens to the n-th call instead
        self._heard: list[Event] = []
        self._stop: set[str] = set()
        self._one_at_a_time = threading.Lock()

    def commit(self) -> None:
        self.commits += 1

    def share(self) -> VolumeShare:
        return VolumeShare(self.volume, self.commit, lambda: None)

    def spawn(
        self, app: str, function: str, gpu: str | None, timeout_s: int | None, work: Work
    ) -> str:
        call = f"fc-{len(self.calls)}"
        reserved = Ledger(self.volume).entries()
        assert reserved, "a call before its reservation is on the volume"
        self.calls.append(
            {"app": app, "function": function, "gpu": gpu, "timeout": timeout_s, "work": work.name}
        )
        fate = self.fate.get(len(self.calls) - 1)
        if fate == "lost":
            self.ends[call] = Lost("preempted")
        elif fate != "hangs":
            threading.Thread(target=self._run, args=(call, work), daemon=True).start()
        return call

    def _run(self, call: str, work: Work) -> None:
        def tell(event: Event) -> None:
            if call in self._stop:
                raise KeyboardInterrupt
            self._heard.append(event)

        try:
            with self._one_at_a_time:  # containers do not share a process; threads do
                if call not in self._stop:
                    self.ends[call] = run_work(work, self.volume, self.commit, tell)
        except BaseException as error:
            self.ends[call] = Lost(str(error))

    def result(self, call: str) -> Event | None:
        end = self.ends.get(call)
        if isinstance(end, Exception):
            raise end
        return end

    def cancel(self, call: str) -> None:
        self._stop.add(call)
        self.ends.setdefault(call, Lost("cancelled"))

    def heard(self) -> list[Event]:
        heard, self._heard = self._heard, []
        return heard


class OnCpu(ModalEngine):
    """The engine, but the containers have no GPU here."""

    def device(self, kind: str) -> str:
        return "cpu"


@pytest.fixture(autouse=True)
def hurry(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("steersweep.cloud.engine._LOOK_EVERY_S", 0.05)


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("alone") / "run"
    run_study(planned_on("A10G"), folder, StudyOptions(**PHASE_1))
    return folder


def led(cloud: Cloud, plan: Plan, **options: Any) -> dict[str, Any]:
    return lead(plan, cloud.share(), OnCpu(plan, cloud.share(), cloud), {**PHASE_1, **options})


def results(folder: Path) -> dict[str, Any]:
    return {name: found for name, found in comparable(folder).items() if name.startswith("v3_")}


def test_a_study_led_there_gives_the_results_of_one_here(alone: Path, tmp_path: Path) -> None:
    cloud = Cloud(tmp_path)
    assert led(cloud, planned_on("A10G"))["exit_code"] == 0
    assert results(tmp_path) == results(alone)
    assert [(c["app"], c["function"], c["gpu"], c["timeout"]) for c in cloud.calls] == [
        ("small-family-sweep", "sweep_q7", None, None),
        ("small-family-sweep", "sweep_m7", None, None),
    ]
    assert cloud.commits >= len(list(tmp_path.glob("conditions/*.json"))) // 2
    assert "phase family_sweep" in (tmp_path / there.LOG).read_text()
    # Money at the price of what was planned; the container said nothing of another GPU.
    assert {e["gpu"] for e in Ledger(tmp_path).entries()} == {"A10G"}
    assert 0 < Ledger(tmp_path).spent() < 1


def test_a_container_that_is_lost_is_called_again(alone: Path, tmp_path: Path) -> None:
    cloud = Cloud(tmp_path, fate={0: "lost"})
    assert led(cloud, planned_on("A10G"))["exit_code"] == 0
    assert [c["function"] for c in cloud.calls].count("sweep_q7") == 2
    assert results(tmp_path) == results(alone)


def test_a_job_too_large_is_called_on_the_larger_gpu(
    alone: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    load = worker.ChatModel.load
    loaded: list[str] = []

    def too_large_once(source: Any, **options: Any) -> Any:
        loaded.append(source.model_id)
        if loaded.count(source.model_id) == 1:
            raise MemoryError("CUDA out of memory")
        return load(source, **options)

    monkeypatch.setattr(worker.ChatModel, "load", too_large_once)
    cloud = Cloud(tmp_path)
    plan = planned_on("A10G", fallback_gpu={"A10G": "A100-80GB"})
    assert led(cloud, plan)["exit_code"] == 0
    assert [c["gpu"] for c in cloud.calls if c["function"] == "sweep_q7"] == [None, "A100-80GB"]


def test_a_leader_that_died_takes_over_the_calls_that_still_run(
    alone: Path, tmp_path: Path
) -> None:
    cloud = Cloud(tmp_path, fate={0: "hangs"})
    plan = planned_on("A10G")

    class Dies(OnCpu):
        def wait(self, on_event: Any) -> None:
            super().wait(on_event)
            if cloud.ends:
                raise KeyboardInterrupt  # nothing is tidied up

        def close(self) -> None:
            pass

        def cancel(self, name: str) -> None:
            pass

    with pytest.raises(KeyboardInterrupt):
        lead(plan, cloud.share(), Dies(plan, cloud.share(), cloud), PHASE_1)
    assert len(cloud.calls) == 2

    def finish() -> None:
        time.sleep(1)
        work = Work("q7 family fp32", _job_of_first_call(plan, tmp_path), "A10G")
        cloud.ends["fc-0"] = run_work(work, tmp_path, cloud.commit, lambda _event: None)

    threading.Thread(target=finish).start()
    assert led(cloud, plan)["exit_code"] == 0
    assert len(cloud.calls) == 2  # none again
    assert results(tmp_path) == results(alone)


def _job_of_first_call(plan: Plan, folder: Path) -> Any:
    from steersweep.experiment import phases
    from steersweep.experiment.phases import Cuts
    from steersweep.experiment.sweep import make_job

    settings = phases.settings_of(plan, phases.family_sweeps(plan)[0], Cuts())
    return make_job(settings, settings.models[0], "cpu")


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


# -- seen from the machine it was begun on -------------------------------------------------------


class Remote:
    """The other side of `away`: a folder as volume, and a leader in a thread."""

    def __init__(self, volume: Path) -> None:
        self.cloud = Cloud(volume)
        self.ends: dict[str, dict[str, Any]] = {}
        self.began: list[Mapping[str, Any]] = []

    def begin(self, plan: Plan, options: Mapping[str, Any]) -> str:
        call = f"study-{len(self.began)}"
        self.began.append(options)

        def run() -> None:
            engine = OnCpu(plan, self.cloud.share(), self.cloud)
            self.ends[call] = lead(plan, self.cloud.share(), engine, options)

        threading.Thread(target=run, daemon=True).start()
        return call

    def outcome(self, call: str) -> dict[str, Any] | None:
        return self.ends.get(call)

    def files(self) -> dict[str, RemoteFile]:
        root = self.cloud.volume
        return {
            path.relative_to(root).as_posix(): RemoteFile(path.stat().st_size, path.stat().st_mtime)
            for path in root.rglob("*")
            if path.is_file()
        }

    def read(self, name: str) -> bytes:
        return (self.cloud.volume / name).read_bytes()

    def write(self, files: Mapping[str, bytes]) -> None:
        for name, content in files.items():
            (self.cloud.volume / name).write_bytes(content)

    def billed(self, since: str) -> float | None:
        return None


@pytest.fixture
def remote(tmp_path: Path) -> Remote:
    (tmp_path / "volume").mkdir()
    return Remote(tmp_path / "volume")


def test_a_study_away_stops_at_its_gate_and_goes_on_when_signed_here(
    tmp_path: Path, remote: Remote
) -> None:
    from steersweep.experiment.status import sign_gate, status

    plan = planned_on("A10G", gates={"R1": ["Which families work?"]})
    out = tmp_path / "here"
    away.begin(plan, out, {}, remote)
    with pytest.raises(SteersweepError, match="still running"):
        away.begin(plan, out, {}, remote)
    lines: list[str] = []
    end = away.follow(out, lines.append, remote, every_s=0.1)
    assert end["exit_code"] == 3
    assert end["phase"] == "family_sweep"
    assert "phase family_sweep" in lines
    assert any("gate R1 waits" in line for line in lines)
    state = status(out)
    assert state["waiting_gate"] == "R1"
    assert state["done"] == state["total"] > 0
    assert state["spent_usd"] > 0

    sign_gate(out, "R1", by="A. Lead")
    calls = len(remote.cloud.calls)
    away.begin(plan, out, {"until": "size_sweep"}, remote)
    end = away.follow(out, lines.append, remote, every_s=0.1)
    assert end == {"exit_code": 0, "message": "every phase asked for is done", "phase": None}
    assert {call["app"] for call in remote.cloud.calls[calls:]} == {"small-size-sweep"}
    assert (out / "decisions" / "size_sweep.json").is_file()
    assert away.fetch(out, remote) == 0  # all is here


def test_files_that_would_leave_the_folder_are_not_fetched(tmp_path: Path, remote: Remote) -> None:
    out = tmp_path / "here"
    RunStore(out).put_current(
        away.ENGINE_FILE,
        {"run": "r", "call": "c", "study_app": "a", "began": "2026-01-01T00:00:00Z"},
    )

    class Hostile(Remote):
        def files(self) -> dict[str, RemoteFile]:
            names = ("../escaped", "/etc/escaped", "gates.jsonl", "engine.json", "log.txt")
            return {name: RemoteFile(1, 0.0) for name in names}

        def read(self, name: str) -> bytes:
            return b"x"

    assert away.fetch(out, Hostile(tmp_path / "volume")) == 1
    assert not (tmp_path / "escaped").exists()
    assert not (out / "gates.jsonl").exists()
    assert json.loads((out / "engine.json").read_text())["run"] == "r"


def test_folders_of_this_machine_and_foreign_folders_are_refused(
    tmp_path: Path, remote: Remote, copied_lab_model: Path
) -> None:
    plan = planned_on("A10G")
    here = {"q7": replace(plan.models["q7"], model=str(copied_lab_model))}
    plan = Plan(plan.data, {**plan.models, **here})
    with pytest.raises(InputError, match="folder of this machine"):
        away.begin(plan, tmp_path / "out", {}, remote)
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").touch()
    with pytest.raises(InputError, match="holds other files"):
        away.begin(planned_on("A10G"), tmp_path / "mine", {}, remote)
    with pytest.raises(InputError, match=r"no engine\.json"):
        away.fetch(tmp_path / "mine", remote)
