"""A Ray cluster: an existing one, or one on this machine.

Kinds of GPU are custom resources (`ray start --resources '{"A10G": 1}'`) or Ray's own accelerator
types. A job is one Ray task; what it reports comes back through a queue.
"""

from __future__ import annotations

import contextlib
import os
import tempfile
import uuid
from collections import deque
from dataclasses import replace
from pathlib import Path
from typing import Any

from steersweep.catalog.gpus import LOCAL
from steersweep.core.errors import InputError, SteersweepError, setting
from steersweep.core.printing import first_line
from steersweep.engines.engine import (
    Cancelled,
    Event,
    OnEvent,
    Work,
    carry_out,
    sparingly,
)
from steersweep.engines.ray_cluster import Node, Pulse, cluster_may_go, set_up_token
from steersweep.engines.share import Mirror, SameFolder, Share, StorageAway
from steersweep.engines.versions import differences, versions

_LOOK_EVERY = 0.2  # seconds
_ACCELERATOR = "accelerator_type:"


class RayEngine:
    """Runs jobs as tasks of a Ray cluster.

    Args:
        address: of a cluster, or None to start one on this machine.
        storage: where results travel if the machines do not share the run folder: a path that all
            of them see, or an fsspec URL. None: they all see the run folder at its own path.
        cpus: CPUs a job takes that is planned for no GPU; None: all of a machine.
    """

    def __init__(
        self, address: str | None = None, storage: str | None = None, cpus: int | None = None
    ) -> None:
        self._address = address
        self._storage = storage
        self._cpus = cpus
        self._share: Share = SameFolder() if storage is None else Mirror(storage)
        self._tasks: dict[str, Any] = {}
        self._seconds: dict[str, float] = {}
        self._done: dict[str, int] = {}  # conditions of each that the run folder has
        self._cancelled: set[str] = set()
        self._ours = False
        self._folder = Path()
        self._pulse = Pulse("")
        self._waiting: deque[Work] = deque()
        self._known_nodes: list[Node] = []

    def open(self, folder: Path) -> None:
        """Connect, and see that every machine of the cluster can run work for `folder`."""
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
        os.environ.setdefault("RAY_ENABLE_UV_RUN_RUNTIME_ENV", "0")
        set_up_token(own_cluster=self._address is None)
        try:
            import ray
        except ImportError as error:
            raise InputError(
                f"{setting('engine')} ray: Ray is not installed: pip install 'steersweep[ray]'"
            ) from error
        if not ray.is_initialized():
            self._connect(ray)
        self._folder = folder.resolve()
        with cluster_may_go():
            self._pulse = Pulse(str(ray.get_runtime_context().gcs_address))
            self._check_machines(ray)
            self._queue = _new_queue()
        # A mistake in its name should show at once.
        first = self._share if self._storage is None else Mirror(self._storage, waits=())
        first.publish(self._folder)

    def close(self) -> None:
        """Cancel what runs; end the cluster if this engine started it."""
        import ray

        if self._pulse.is_gone:
            return  # calls would wait for an answer
        for name in list(self._tasks):
            self.cancel(name)
        with contextlib.suppress(ray.exceptions.RayError, ConnectionError):
            self._queue.shutdown()
        if self._ours:
            ray.shutdown()

    def kind(self, gpu: str) -> str:
        """As planned."""
        return gpu

    def capacity(self, kind: str) -> int | None:
        """GPUs of the kind in the cluster; for work without a GPU, as many as its CPUs allow."""
        if kind == LOCAL:
            return max(1, int(sum(node.cpus // self._cpus_of(kind) for node in self._nodes())))
        found = int(sum(node.resources.get(kind, 0) for node in self._nodes()))
        found = found or int(
            sum(
                node.resources.get("GPU", 0)
                for node in self._nodes()
                if any(name in node.resources for name in _accelerator_names(kind))
            )
        )
        if found:
            return found
        names = {name for node in self._nodes() for name in node.resources}
        usual = ("CPU", "GPU", "memory", "object_store_memory")
        others = sorted(
            name.removeprefix(_ACCELERATOR)
            for name in names
            if name not in usual and not name.startswith("node:")
        )
        raise InputError(
            f"{setting('engine')} ray: the cluster has no {kind}; it has "
            f"{', '.join(others) or 'only CPUs'}. "
            f"Start a machine that has one with: ray start --resources '{{\"{kind}\": 1}}'"
        )

    def device(self, kind: str) -> str:
        """The GPU Ray gives a task, where the cluster has GPUs; else the CPU."""
        has_gpus = any(node.resources.get("GPU") for node in self._nodes())
        return "cuda" if has_gpus and kind != LOCAL else "cpu"

    def submit(self, work: Work) -> None:
        """Hand it to Ray, which runs it when there is a place; in `wait` if Ray is away now."""
        self._waiting.append(work)
        self._hand_over()

    def _hand_over(self) -> None:
        while self._waiting and self._pulse.answers():  # the call would wait for ever
            self._submit(self._waiting.popleft())

    def _submit(self, work: Work) -> None:
        import ray

        custom = any(work.gpu in node.resources for node in self._nodes())
        options: dict[str, Any] = {"num_cpus": self._cpus_of(work.gpu), "max_retries": 0}
        if work.gpu != LOCAL:
            accelerators = [
                name
                for node in self._nodes()
                for name in _accelerator_names(work.gpu)
                if name in node.resources
            ]
            options["resources"] = {work.gpu: 1} if custom else {accelerators[0]: 0.001}
            if self.device(work.gpu) == "cuda":
                options["num_gpus"] = 1
        task = ray.remote(_run_on_ray).options(**options)
        self._cancelled.discard(work.name)
        self._seconds[work.name], self._done[work.name] = 0.0, 0
        self._tasks[work.name] = task.remote(work, str(self._folder), self._storage, self._queue)

    def cancel(self, name: str) -> None:
        """End its worker; what it saved is whole."""
        import ray

        self._waiting = deque(work for work in self._waiting if work.name != name)
        if name in self._tasks and not self._pulse.is_gone:
            self._cancelled.add(name)
            with contextlib.suppress(ray.exceptions.RayError, ConnectionError):
                ray.cancel(self._tasks[name], force=True)

    def wait(self, on_event: OnEvent) -> None:
        """Hand over what the tasks reported, and which of them died.

        Raises:
            ClusterLost: nothing can run any more; the run can be continued.
        """
        from ray.exceptions import RayActorError
        from ray.util.queue import Empty

        self._hand_over()

        try:
            with cluster_may_go():
                event: Event = self._queue.get(timeout=_LOOK_EVERY)
        except RayActorError as error:
            for event in self._without_queue(error):
                self._share.refresh(self._folder)
                on_event(event)
            return
        except Empty:
            self._pulse.check()
            # Only when all that was said is heard does a task without an end count as dead.
            with cluster_may_go():
                dead = self._dead()
            for event in dead:
                del self._tasks[event.work]
                self._share.refresh(self._folder)
                on_event(event)
            return
        if event.work not in self._tasks:
            return
        self._seconds[event.work] = event.seconds
        done = -1 if event.progress is None else event.progress.done
        if event.is_end or done > self._done.get(event.work, 0):
            self._done[event.work] = done
            self._share.refresh(self._folder)
        if event.is_end:
            del self._tasks[event.work]
        on_event(event)

    def _without_queue(self, error: Exception) -> list[Event]:
        """The machine with the queue is gone: another queue, and work that waits to be run again.

        Nobody would hear what the running tasks have to say, so they are ended.
        """
        for name in list(self._tasks):
            self.cancel(name)
        with cluster_may_go():
            self._queue = _new_queue()
        why = f"the machine with the event queue was lost: {first_line(error)}"
        found = []
        for name in list(self._tasks):
            del self._tasks[name]
            found.append(Event(name, "lost", self._seconds[name], error=_error(name, why)))
        return found

    def _dead(self) -> list[Event]:
        import ray

        ended, _ = ray.wait(list(self._tasks.values()), timeout=0) if self._tasks else ([], [])
        found = []
        for name, task in list(self._tasks.items()):
            if task not in ended:
                continue
            try:
                ray.get(task)
            except ray.exceptions.RayTaskError as error:  # raised by our code around the job
                away = isinstance(error.cause, StorageAway)
                why = str(error).strip().splitlines()[-1]
                end = Event(name, "lost" if away else "failed", self._seconds[name])
                found.append(replace(end, error=_error(name, str(error.cause) if away else why)))
            except ray.exceptions.RayError as error:
                reason = first_line(error)
                if name in self._cancelled:
                    told = Cancelled(f"{name} was cancelled")
                    found.append(Event(name, "failed", self._seconds[name], error=told))
                else:
                    lost = _error(name, f"the worker was lost: {reason}")
                    found.append(Event(name, "lost", self._seconds[name], error=lost))
        return found

    def _connect(self, ray: Any) -> None:
        import steersweep

        options: dict[str, Any] = {"log_to_driver": False, "logging_level": "ERROR"}
        if self._address is None:
            # Without an address Ray would join whatever cluster was last started on this machine.
            options |= {"address": "local", "include_dashboard": False}
        else:
            # The machines of a cluster need the libraries, but get this very version of the code.
            package = Path(steersweep.__file__).parent
            options["address"] = self._address
            options["runtime_env"] = {"py_modules": [str(package)]}
        try:
            ray.init(**options)
        except (ConnectionError, ValueError, RuntimeError, ray.exceptions.RayError) as error:
            raise InputError(
                f"{setting('ray_address')} {self._address}: no Ray cluster answers there: "
                f"{first_line(error)}. A cluster that was started with a token needs the same "
                f"token here: RAY_AUTH_MODE=token and ~/.ray/auth_token or RAY_AUTH_TOKEN"
            ) from error
        self._ours = True

    def _check_machines(self, ray: Any) -> None:
        """Every machine must import the code, have the same versions of what results depend on, and
        see the run folder, unless storage is given.
        """
        from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

        probe = self._folder / f".probe-{uuid.uuid4().hex}"
        probe.touch()
        looks = ray.remote(_sees)
        try:
            answers = {
                node.address: looks.options(
                    num_cpus=0,
                    max_retries=0,
                    scheduling_strategy=NodeAffinitySchedulingStrategy(node.id, soft=False),
                ).remote(str(probe))
                for node in self._nodes()
            }
            for address, answer in answers.items():
                try:
                    sees, there = ray.get(answer)
                except ray.exceptions.RayError as error:
                    why = str(error).strip().splitlines()[-1]
                    raise InputError(
                        f"{setting('engine')} ray: {address} cannot run steersweep: {why}. Install "
                        f"the libraries there: pip install 'steersweep[ray]'"
                    ) from error
                if different := differences(there, versions()):
                    raise InputError(
                        f"{setting('engine')} ray: {address} has other versions than this "
                        f"machine: {'; '.join(different)}. Results would depend on where a job "
                        f"runs; install the same versions everywhere (constraints.txt)"
                    )
                if not sees and self._storage is None:
                    raise InputError(
                        f"{setting('out')} {self._folder}: {address} does not see this folder; use "
                        f"a shared one, or {setting('ray_storage')} with a path or URL that every "
                        f"machine reaches"
                    )
        finally:
            probe.unlink()

    def _nodes(self) -> list[Node]:
        import ray

        if self._pulse.answers():  # the call would wait for ever
            with cluster_may_go():
                self._known_nodes = [
                    Node(node["NodeID"], node["NodeManagerAddress"], node["Resources"])
                    for node in ray.nodes()
                    if node["Alive"]
                ]
        return self._known_nodes

    def _cpus_of(self, kind: str) -> int:
        if kind != LOCAL:
            return 1
        return self._cpus or max(1, int(min(node.cpus for node in self._nodes())))


def _run_on_ray(work: Work, folder: str, storage: str | None, queue: Any) -> None:
    """A Ray task: one piece of work, in the run folder or in a copy of it."""
    import ray
    import torch

    # As many threads as CPUs were asked for; a worker begins with one.
    torch.set_num_threads(int(ray.get_runtime_context().get_assigned_resources().get("CPU", 1)))
    if storage is None:
        carry_out(work, Path(folder), sparingly(queue.put))
        return
    share = Mirror(storage)
    with tempfile.TemporaryDirectory() as scratch:
        share.refresh(Path(scratch))

        def tell(event: Event) -> None:
            share.publish(Path(scratch))
            queue.put(event)

        carry_out(work, Path(scratch), sparingly(tell))


def _sees(path: str) -> tuple[bool, dict[str, str]]:
    """Run on every machine: whether it sees a file, and its versions of the libraries.

    Importing this module is half of the test.
    """
    return Path(path).exists(), versions()


def _new_queue() -> Any:
    """A queue of events, on this very machine if the cluster reaches as far."""
    import ray
    from ray.util.queue import Queue
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    here = ray.get_runtime_context().get_node_id()
    place = NodeAffinitySchedulingStrategy(here, soft=True)
    return Queue(actor_options={"num_cpus": 0, "scheduling_strategy": place})


def _error(name: str, reason: str) -> SteersweepError:
    return SteersweepError(f"{name}: {reason}")


def _accelerator_names(kind: str) -> list[str]:
    """What Ray may call a kind of GPU: `A100-80GB` is its `A100-80G` or plain `A100`."""
    names = (kind, kind.removesuffix("B"), kind.split("-", maxsplit=1)[0])
    return [f"{_ACCELERATOR}{name}" for name in dict.fromkeys(names)]
