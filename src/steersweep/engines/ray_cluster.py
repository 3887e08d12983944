"""Getting into a Ray cluster, and noticing that it is gone. Jobs are `ray.py`'s."""

from __future__ import annotations

import contextlib
import os
import secrets
import socket
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from steersweep.core.errors import SteersweepError
from steersweep.core.printing import first_line

_CHECK_EVERY = 5.0  # seconds
# Ray itself ends this process when the cluster's head has been silent for 60 s.
_GONE_AFTER = 30.0


@dataclass(frozen=True)
class Node:
    """A machine of the cluster, alive.

    Attributes:
        id: Ray's name of it.
        address: its network address.
        resources: how much it has of each, `CPU` and `GPU` among them.
    """

    id: str
    address: str
    resources: Mapping[str, float]

    @property
    def cpus(self) -> float:
        """Its CPUs."""
        return float(self.resources.get("CPU", 0))


class ClusterLost(SteersweepError):
    """The cluster went away under a run."""

    def __init__(self, why: object) -> None:
        super().__init__(
            f"the Ray cluster is gone ({first_line(why)}). Everything finished is kept; once the "
            f"cluster is there again, the same command continues"
        )


class Pulse:
    """Whether the head of a cluster still answers.

    Args:
        address: `HOST:PORT` of its control service.
    """

    def __init__(self, address: str) -> None:
        self.is_gone = False
        self._address = address
        self._last = self._answered = time.monotonic()

    def answers(self) -> bool:
        """Whether it answers at this moment."""
        return self._trouble() is None

    def check(self) -> None:
        """Look now and then.

        Raises:
            ClusterLost: it has not answered for a while.
        """
        now = time.monotonic()
        if now - self._last < _CHECK_EVERY:
            return
        self._last = now
        trouble = self._trouble()
        if trouble is not None and now - self._answered > _GONE_AFTER:
            self.is_gone = True
            raise ClusterLost(f"{self._address}: {trouble}")

    def _trouble(self) -> OSError | None:
        host, _, port = self._address.rpartition(":")
        try:
            socket.create_connection((host.strip("[]"), int(port)), timeout=3).close()
        except OSError as error:
            return error
        self._answered = time.monotonic()
        return None


def set_up_token(*, own_cluster: bool) -> None:
    """What this process has to say to a cluster to be let in.

    Ray would write a token into the user's home for a cluster of its own. It would stay there, and
    clusters that are started by hand later would ask for it. So such a cluster gets a token that
    ends with this process. A token that is there is used: Ray itself does not, given an address.
    """
    if "RAY_AUTH_MODE" in os.environ:
        return
    named = {"RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH"} & os.environ.keys()
    held = named or (Path.home() / ".ray" / "auth_token").is_file()
    if own_cluster and not held:
        os.environ["RAY_AUTH_TOKEN"] = secrets.token_hex(32)  # Ray begins to use it by itself
    if held and not own_cluster:
        os.environ["RAY_AUTH_MODE"] = "token"  # read when Ray is imported


@contextlib.contextmanager
def cluster_may_go() -> Iterator[None]:
    """Errors of a cluster that is gone, as `ClusterLost`; those of one actor pass."""
    from ray.exceptions import RayActorError, RayError, RayTaskError

    try:
        yield
    except (RayActorError, RayTaskError):
        raise
    except (RayError, ConnectionError) as error:
        raise ClusterLost(error) from error
