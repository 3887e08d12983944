"""What is deployed to Modal: an app per phase with the source plan's function names, and a study.

Functions are defined from a plan, so they are serialized; what they call is imported in the
container, where this package lies as source beside the pinned libraries.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from importlib import metadata
from pathlib import Path
from typing import Any

import steersweep
from steersweep.catalog.gpus import LOCAL, gpu_catalog
from steersweep.core.errors import InputError
from steersweep.engines.modal import remote
from steersweep.study import phases
from steersweep.study.plan import Plan

DEFAULT_TIMEOUT_S = 2 * 3600
STUDY_TIMEOUT_S = 24 * 3600
STUDY_FUNCTION = "study"

# Modal's name where it is not the catalog's.
_MODAL_GPUS = {"A10G": "A10"}


@dataclass(frozen=True)
class RemoteFunction:
    """A function of one of the apps, before Modal knows it.

    Attributes:
        app: name of its app.
        name: its own name, such as `sweep_gemma_9b`.
        gpus: kinds of GPU in the catalog's names; the second where the first is not to be had.
        timeout_s: after which Modal ends a call.
        max_containers: calls that run at the same time, or None.
    """

    app: str
    name: str
    gpus: tuple[str, ...]
    timeout_s: int
    max_containers: int | None


def remote_functions(plan: Plan) -> list[RemoteFunction]:
    """Every function a plan may call, whatever its decisions will be."""
    timeouts = {
        sweep.model.name: sweep.timeout_s
        for sweep in phases.family_sweeps(plan)
        if sweep.timeout_s is not None
    }
    found: dict[tuple[str, str], RemoteFunction] = {}
    for phase, step, model in _called(plan):
        gpu = place(plan.models[model].gpu)
        key = app_name(plan, phase), function_name(plan, step, model)
        held = found.get(key)
        if held is not None and _memory(held.gpus[0]) >= _memory(gpu):
            continue
        larger = plan.fallback_gpu(gpu)
        timeout = timeouts.get(model) if phase == "family_sweep" else None
        found[key] = RemoteFunction(
            *key,
            gpus=(gpu,) if larger is None else (gpu, larger),
            timeout_s=timeout or DEFAULT_TIMEOUT_S,
            max_containers=plan.concurrency(gpu),
        )
    return list(found.values())


def _called(plan: Plan) -> Iterator[tuple[str, str, str]]:
    """Phase, step and model of every call that a plan could make."""
    if check := plan.data.get("verification"):
        yield "verification", "verification", check["model"]
    for row in plan.data["family_sweep"]["models"]:
        yield "family_sweep", "family", row["model"]
    if fallback := plan.data.get("fallback"):
        yield "family_sweep", "fallback", fallback["model"]
    if sizes := plan.data.get("size_sweep"):
        validated = sizes.get("validation", {}).get("families", [])
        for model in plan.models.values():
            yield "size_sweep", "size", model.name
            if model.family in validated:
                yield "size_sweep", "validation", model.name
    if "precision_sweep" in plan.data:
        for name in plan.models:
            yield "precision_sweep", "precision", name
    for name in plan.data.get("transfer_sweep", {}).get("among", []):
        yield "transfer_sweep", "transfer", name


def app_name(plan: Plan, phase: str) -> str:
    """Name of the app of a phase: the plan's, or one made from plan and phase."""
    named = plan.data.get("modal", {}).get("apps", {})
    return str(named.get(phase, f"{plan.name}-{phase.replace('_', '-')}"))


def study_app_name(plan: Plan) -> str:
    """Name of the app whose one function leads the study."""
    return f"{plan.name}-study"


def function_name(plan: Plan, step: str, model: str) -> str:
    """Name of the function that runs a step of a model, as in the source plan."""
    family = _slug(plan.models[model].family)
    name = plan.data.get("modal", {}).get("names", {}).get(model, _slug(model))
    special = {
        "verification": f"verify_{name}",
        "validation": f"validate_{family}_layers",
        "size": f"sweep_{family}_sizes",
        "precision": f"sweep_{name}_precisions",
        "transfer": f"transfer_to_{name}",
    }
    return special.get(step, f"sweep_{name}")


def place(gpu: str) -> str:
    """The kind of GPU for work planned for `gpu`: the cheapest for what was planned for none.

    Raises:
        InputError: Modal rents no such GPU.
    """
    if gpu == LOCAL:
        return min(gpu_catalog(), key=lambda kind: gpu_catalog()[kind]["usd_per_hour"])
    if gpu not in gpu_catalog():
        raise InputError(f"--engine modal: no GPU {gpu}; there are {', '.join(gpu_catalog())}")
    return gpu


def modal_gpu(kind: str) -> str:
    """What Modal calls a kind of GPU."""
    return _MODAL_GPUS.get(kind, kind)


def define_apps(plan: Plan) -> dict[str, Any]:
    """The `modal.App`s of a plan by name, ready to be deployed; nothing is sent.

    Raises:
        InputError: Modal is not installed.
    """
    modal = import_modal()
    image = _image(modal)
    volumes = {
        remote.RUNS: modal.Volume.from_name(remote.RUNS_VOLUME, create_if_missing=True),
        remote.HUB: modal.Volume.from_name(remote.HUB_VOLUME, create_if_missing=True),
    }
    names = plan.data.get("modal", {}).get("secrets", [])
    shared: dict[str, Any] = {
        "image": image,
        "volumes": volumes,
        "secrets": [modal.Secret.from_name(name) for name in names],
        "serialized": True,
    }
    apps: dict[str, Any] = {}
    for function in remote_functions(plan):
        app = apps.setdefault(function.app, _app(modal, plan, function.app))
        app.function(
            name=function.name,
            gpu=[modal_gpu(kind) for kind in function.gpus],
            timeout=function.timeout_s,
            max_containers=function.max_containers,
            # Of machines that are taken away. Work itself never raises.
            retries=modal.Retries(max_retries=2, initial_delay=10.0),
            **shared,
        )(remote.work_there)
    name = study_app_name(plan)
    apps[name] = _app(modal, plan, name)
    apps[name].function(
        name=STUDY_FUNCTION,
        cpu=1.0,
        memory=4096,
        timeout=STUDY_TIMEOUT_S,
        retries=modal.Retries(max_retries=3, initial_delay=10.0),
        **shared,
    )(remote.study_there)
    return apps


def import_modal() -> Any:
    """The client library.

    Raises:
        InputError: it is not installed.
    """
    try:
        import modal
    except ImportError as error:
        raise InputError(
            "--engine modal: Modal is not installed: pip install 'steersweep[modal]', then "
            "`modal setup`"
        ) from error
    return modal


def _app(modal: Any, plan: Plan, name: str) -> Any:
    # Tags group the account's billing report.
    return modal.App(name, tags={"steersweep-plan": plan.name}, include_source=False)


def _image(modal: Any) -> Any:
    """The libraries this project is tested with, and this package as source."""
    return (
        modal.Image.debian_slim(python_version=f"{sys.version_info.major}.{sys.version_info.minor}")
        .pip_install(*pinned_requirements(("nnsight", "quant")))
        .env({"HF_HOME": remote.HUB, "TOKENIZERS_PARALLELISM": "false"})
        .add_local_python_source("steersweep", ignore=["**/__pycache__"])  # with its data
    )


@cache
def pinned_requirements(extras: tuple[str, ...] = ()) -> tuple[str, ...]:
    """What an installation of this package with extras brings, in the versions it is tested with.

    Modal brings its own client into every container.

    Raises:
        InputError: the list of versions is not there.
    """
    pins = _locked_versions()
    found: dict[str, str] = {}
    waiting = [("steersweep", extras)]
    while waiting:
        name, wanted = waiting.pop()
        for requirement in metadata.requires(name) or []:
            required, wanted_here = _parsed(requirement, wanted)
            # What is not in the list comes with what is, in a version that this one chooses.
            if required in pins and required not in found and wanted_here:
                found[required] = pins[required]
                waiting.append((required, ()))
    return tuple(
        sorted(f"{name}=={version}" if version else name for name, version in found.items())
    )


def _parsed(requirement: str, extras: tuple[str, ...]) -> tuple[str, bool]:
    """Name of a requirement, and whether it is wanted on Linux with these extras."""
    from packaging.requirements import Requirement

    parsed = Requirement(requirement)
    environment = {"sys_platform": "linux", "platform_system": "Linux", "os_name": "posix"}
    name = parsed.name.lower().replace("_", "-")
    if parsed.marker is None:
        return name, True
    wanted = any(parsed.marker.evaluate({**environment, "extra": extra}) for extra in ("", *extras))
    return name, wanted


def _locked_versions() -> Mapping[str, str]:
    """The versions in `constraints.txt`, which lies in the package, or above it in a checkout."""
    package = Path(steersweep.__file__).parent
    for file in (package / "constraints.txt", package.parents[1] / "constraints.txt"):
        if file.is_file():
            lines = (line.strip() for line in file.read_text("utf-8").splitlines())
            pairs = (line.split("==") for line in lines if line and not line.startswith("#"))
            return {name.lower().replace("_", "-"): version for name, version in pairs}
    raise InputError("constraints.txt: not found in the package; install steersweep again")


def _slug(name: str) -> str:
    return re.sub(r"[^a-z0-9]+", "_", name.lower()).strip("_")


def _memory(kind: str) -> float:
    return gpu_catalog()[kind]["memory_gb"]
