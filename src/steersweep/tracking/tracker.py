"""Telling a tracker about finished jobs, so that no trouble of it ever reaches the run."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from steersweep.core.errors import InputError
from steersweep.core.redaction import redact
from steersweep.run.folder import RunFolder

if TYPE_CHECKING:
    from steersweep.tracking.record import TrackedRun

TRACKERS = ("none", "wandb", "trackio")


class Tracker(Protocol):
    """A tracker, by what is needed of it."""

    name: str

    def record(self, run: TrackedRun, run_id: str) -> None:
        """Keep a run, in place of an earlier one of that id. Needs no network."""

    def send(self) -> None:
        """Begin to send what is kept to where the team looks; does not wait for it."""

    def wait(self, seconds: float) -> None:
        """Wait so long for what is being sent; raises what went wrong with it."""

    def arrived(self) -> list[str]:
        """Ids of all runs that are where the team looks."""


class Tracking:
    """Tells a tracker of runs, each once; `state.json` in the run folder says what it knows.

    Args:
        folder: the run folder.
        tracker: who is told.
        on_line: told of trouble, which never leaves this class.
    """

    def __init__(self, folder: Path, tracker: Tracker, on_line: Callable[[str], None]) -> None:
        self._tracker = tracker
        self._say = on_line
        self._store = RunFolder(folder, on_note=on_line)
        state = self._store.read_json(self._store.paths.tracking_state) or {}
        self._known: dict[str, dict[str, Any]] = state.get(tracker.name, {})

    def tell(self, runs: Sequence[TrackedRun]) -> int:
        """Record what is new or changed, and begin to send it; returns how many runs."""
        told = 0
        begun = self._begun()
        for run in runs:
            identity = run.run_id(begun)
            if self._known.get(identity, {}).get("digest") == run.digest:
                continue
            if self._tried(run.key, partial(self._tracker.record, run, identity)):
                self._known[identity] = {"run": run.key, "digest": run.digest, "sent": False}
                self._save()
                told += 1
        if self.unsent:
            self._tried("sending", self._tracker.send)
        self._note_sent(0)
        return told

    def finish(self, wait: float = 30.0) -> list[str]:
        """Wait a while for what is being sent; returns the runs that have not arrived."""
        if self.unsent:
            self._tried("sending", self._tracker.send)
        self._note_sent(wait)
        return self.unsent

    @property
    def unsent(self) -> list[str]:
        """Runs that are recorded here and have not arrived."""
        return [held["run"] for held in self._known.values() if not held["sent"]]

    def _note_sent(self, wait: float) -> None:
        self._tried("sending", lambda: self._tracker.wait(wait))
        arrived: list[str] = []
        self._tried("sending", lambda: arrived.extend(self._tracker.arrived()))
        new = {one for one in arrived if one in self._known and not self._known[one]["sent"]}
        for identity in new:
            self._known[identity]["sent"] = True
        if new:
            self._save()

    def _begun(self) -> str:
        reader = RunFolder(self._store.root, repairs=False)
        held = reader.read_json(reader.paths.run)
        if held is None:
            raise InputError(
                f"{self._store.root}: says nowhere when the run began ({reader.paths.run.name} is "
                f"gone or damaged); run the same command again to write it again"
            )
        return str(held["created"])

    def _save(self) -> None:
        held = self._store.read_json(self._store.paths.tracking_state) or {}
        known = held | {self._tracker.name: self._known}
        self._store.write_json(self._store.paths.tracking_state, known)

    def _tried(self, what: str, do: Callable[[], Any]) -> bool:
        try:
            do()
        except Exception as error:  # a tracker may fail in any way; the run goes on
            self._say(redact(f"{self._tracker.name}: {what}: {type(error).__name__}: {error}"))
            return False
        return True


def open_tracker(
    name: str, folder: Path, *, online: bool, entity: str | None = None
) -> Tracker | None:
    """A tracker for a run folder; None for `none`.

    Args:
        name: one of `TRACKERS`.
        folder: the run folder.
        online: send what is recorded, where the tracker has a place to send it to.
        entity: the account or team, where the tracker has such.

    Raises:
        InputError: no such tracker, or it is not installed.
    """
    if name not in TRACKERS:
        raise InputError(f"tracker {name}: choose from {', '.join(TRACKERS)}")
    if name == "none":
        return None
    if find_spec(name) is None:
        raise InputError(f"tracker {name}: not installed: pip install 'steersweep[{name}]'")
    if name == "wandb":
        from steersweep.tracking.wandb import WandbTracker

        return WandbTracker(folder, online=online, entity=entity)
    from steersweep.tracking.trackio import TrackioTracker

    return TrackioTracker(folder)
