"""Weights & Biases: every run is written offline, and sent by a process of its own if wanted.

So a lost network, a full queue or a slow server cannot hold up a study; what has not arrived is
sent the next time.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from steersweep.core import typed
from steersweep.core.atomic import write_json
from steersweep.core.errors import SteersweepError
from steersweep.core.printing import safe_name
from steersweep.run.paths import RunPaths
from steersweep.tracking.record import SAMPLE_COLUMNS, TrackedRun


class WandbTracker:
    """Writes offline runs into a folder, and syncs them.

    Args:
        folder: the run folder.
        online: whether to send them.
        entity: user or team at W&B; None: the account's default.
    """

    name = "wandb"

    def __init__(self, folder: Path, *, online: bool, entity: str | None) -> None:
        self._paths = RunPaths(folder)
        self._folder = self._paths.wandb
        self._online = online
        self._entity = entity
        self._sending: tuple[subprocess.Popen[bytes], list[Path]] | None = None

    def record(self, run: TrackedRun, run_id: str) -> None:
        """Write an offline run; an earlier one of the same id is overtaken when it is sent."""
        self._folder.mkdir(parents=True, exist_ok=True)
        # Artifacts are staged where this says, and must be there when they are sent.
        os.environ["WANDB_DATA_DIR"] = str(self._folder / "data")
        os.environ.setdefault("WANDB_CACHE_DIR", str(self._folder / "cache"))
        import wandb

        with wandb.init(
            project=run.project,
            entity=self._entity,
            name=run.name,
            id=run_id,
            group=run.group,
            tags=[tag[:64] for tag in run.tags],
            config=typed.plain(run.config),
            dir=str(self._folder),
            mode="offline",
            reinit="finish_previous",
            settings=wandb.Settings(
                console="off",
                silent=True,
                disable_git=True,
                x_disable_stats=True,
                x_disable_meta=True,
            ),
        ) as sink:
            for step, row in enumerate(run.rows):
                sink.log(typed.plain(row), step=step)
            table = wandb.Table(columns=list(SAMPLE_COLUMNS), data=run.table)
            sink.log({"samples": table}, step=len(run.rows))
            sink.summary.update(run.summary)
            for kind, names in run.files.items():
                self._log_files(sink, run, kind, [self._paths.named(name) for name in names])
            result = self._paths.tracked_result(run_id)
            write_json(result, run.result)
            self._log_files(sink, run, "result", [result])

    def _log_files(self, sink: Any, run: TrackedRun, kind: str, paths: list[Path]) -> None:
        import wandb

        artifact = wandb.Artifact(safe_name(f"{run.name}-{kind}"), type=kind)
        for path in paths:
            if path.exists():
                artifact.add_file(str(path), name=path.name)
        sink.log_artifact(artifact)

    def send(self) -> None:
        """Start `wandb sync` for what is not known to have arrived, unless it is running."""
        if not self._online or self._sending is not None:
            return
        waiting = [path for path in self._newest().values() if not _arrived(path)]
        if not waiting:
            return
        log = (self._folder / "sync.log").open("ab")
        with log:
            process = subprocess.Popen(
                [sys.executable, "-m", "wandb", "sync", *map(str, waiting)],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                # Its own logs belong to the run, not to where the user happens to be.
                env={**os.environ, "WANDB_DIR": str(self._folder.absolute())},
            )
        self._sending = process, waiting

    def wait(self, seconds: float) -> None:
        """Wait for what is being sent; a sending that takes longer is killed, unless 0."""
        end = time.monotonic() + seconds
        while self._sending is not None:
            process, folders = self._sending
            code = process.poll()
            if code is None and time.monotonic() < end:
                time.sleep(0.1)
                continue
            if code is None and seconds == 0:
                break  # it may go on while the study does
            self._sending = None
            if code is None:
                process.kill()
                process.wait()
                raise SteersweepError(
                    "W&B could not be reached in time; runs are kept and sent the next time"
                )
            # The exit code is 0 for most failures too: only the mark in a run's folder tells.
            kept = sum(not _arrived(path) for path in folders)
            if kept:
                raise SteersweepError(
                    f"W&B did not take {kept} of {len(folders)} runs: {self._last_words()}; "
                    "they are kept and sent the next time"
                )
            self.send()  # what was recorded meanwhile

    def arrived(self) -> list[str]:
        """Ids of runs that W&B has confirmed."""
        return [run_id for run_id, path in self._newest().items() if _arrived(path)]

    def _last_words(self) -> str:
        """What the sending said last, from its log."""
        lines = (self._folder / "sync.log").read_text("utf-8", "replace").splitlines()
        return next((line for line in reversed(lines) if line.strip()), "no reason given")

    def _newest(self) -> dict[str, Path]:
        """The folder written last of each run, by the run's id."""
        return {
            _run_id(path): path for path in sorted(self._paths.wandb_runs.glob("offline-run-*"))
        }


def _run_id(folder: Path) -> str:
    """The id of a run that W&B wrote; folders of one second have a number behind it."""
    return next(folder.glob("run-*.wandb")).stem.removeprefix("run-")


def _arrived(folder: Path) -> bool:
    """Whether W&B has confirmed a run: `wandb sync` then leaves a mark beside its file."""
    return any(folder.glob("run-*.wandb.synced"))
