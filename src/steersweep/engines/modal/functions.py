"""Functions that Modal runs for an engine: where each is, on which GPU, and how it is deployed."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from steersweep.catalog.gpus import LOCAL, gpu_catalog
from steersweep.core.errors import InputError, setting
from steersweep.engines.modal import remote
from steersweep.engines.modal.image import container_image

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


class Deployment:
    """Makes apps on Modal; nothing is sent before an app is deployed.

    Args:
        plan: name of the plan; groups the account's billing report.
        secrets: names of Modal's secrets that functions are given.

    Raises:
        InputError: Modal is not installed.
    """

    def __init__(self, plan: str, secrets: Sequence[str]) -> None:
        self._modal = modal = import_modal()
        self._tags = {"steersweep-plan": plan}
        volumes = {
            remote.RUNS: modal.Volume.from_name(remote.RUNS_VOLUME, create_if_missing=True),
            remote.HUB: modal.Volume.from_name(remote.HUB_VOLUME, create_if_missing=True),
        }
        self._shared: dict[str, Any] = {
            "image": container_image(modal),
            "volumes": volumes,
            "secrets": [modal.Secret.from_name(name) for name in secrets],
            "serialized": True,
        }

    def app(self, name: str) -> Any:
        """A new `modal.App`."""
        return self._modal.App(name, tags=self._tags, include_source=False)

    def add_work(self, app: Any, function: RemoteFunction) -> None:
        """Let an app have a function that carries out work on a GPU."""
        app.function(
            name=function.name,
            gpu=[modal_gpu(kind) for kind in function.gpus],
            timeout=function.timeout_s,
            max_containers=function.max_containers,
            retries=0,  # the scheduler does that, and pays each attempt from the ledger
            **self._shared,
        )(remote.work_there)

    def add_leader(self, app: Any, name: str, leader: Callable[..., Any], timeout_s: int) -> None:
        """Let an app have a function that leads others, without a GPU."""
        app.function(
            name=name,
            cpu=1.0,
            memory=4096,
            timeout=timeout_s,
            retries=self._modal.Retries(max_retries=3, initial_delay=10.0),
            **self._shared,
        )(leader)


def place(gpu: str) -> str:
    """The kind of GPU for work planned for `gpu`: the cheapest for what was planned for none.

    Raises:
        InputError: Modal rents no such GPU.
    """
    if gpu == LOCAL:
        return min(gpu_catalog(), key=lambda kind: gpu_catalog()[kind]["usd_per_hour"])
    if gpu not in gpu_catalog():
        kinds = ", ".join(gpu_catalog())
        raise InputError(f"{setting('engine')} modal: no GPU {gpu}; there are {kinds}")
    return gpu


def modal_gpu(kind: str) -> str:
    """What Modal calls a kind of GPU."""
    return _MODAL_GPUS.get(kind, kind)


def import_modal() -> Any:
    """The client library.

    Raises:
        InputError: it is not installed.
    """
    try:
        import modal
    except ImportError as error:
        raise InputError(
            f"{setting('engine')} modal: Modal is not installed: pip install 'steersweep[modal]', "
            "then `modal setup`"
        ) from error
    return modal


def gpu_memory(kind: str) -> float:
    """Memory of a kind of GPU, in GB."""
    return gpu_catalog()[kind]["memory_gb"]
