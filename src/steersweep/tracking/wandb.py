"""Weights & Biases: every run is written offline, and sent by a process of its own if wanted.

So a lost network, a full queue or a slow server cannot hold up a study; what has not arrived is
sent the next time.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from steersweep.atomic import write_json
from steersweep.errors import SteersweepError
from steersweep.tracking.record import SAMPLE_COLUMNS, TrackedRun


class WandbTracker:
    """Writes offline runs into a folder, and syncs them.

    Args:
        folder: where runs and what they stage go.
        online: whether to send them.
        entity: user or team at W&B; None: the account's default.
    """

    name = "wandb"

    def __init__(self, folder: Path, *, online: bool, entity: str | None) -> None:
        self._folder = folder
        self._online = online
        self._entity = entity
        self._sending: tuple[subprocess.Popen[bytes], list[str]] | None = None
        self._arrived: list[str] = []

    def record(self, run: TrackedRun, run_id: str) -> None:
        """Write an offline run; an earlier one of the same id is overtaken when it is sent."""
        self._folder.mkdir(parents=True, exist_ok=True)
        # Artifacts are staged where this says, and must be there when they are sent.
        os.environ["WANDB_DATA_DIR"] = str(self._folder / "data")
        os.environ.setdefault("WANDB_CACHE_DIR", str(self._folder / "cache"))
        import wandb

        folder = self._folder.parent.parent
        with wandb.init(
            project=run.project,
            entity=self._entity,
            name=run.name,
            id=run_id,
            group=run.group,
            tags=[tag[:64] for tag in run.tags],
            config=run.config,
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
                sink.log(row, step=step)
            table = wandb.Table(columns=list(SAMPLE_COLUMNS), data=run.samples)
            sink.log({"samples": table}, step=len(run.rows))
            sink.summary.update(run.summary)
            for kind, names in run.files.items():
                self._log_files(sink, run, kind, [folder / name for name in names])
            result = self._folder / "results" / f"{run_id}.json"
            write_json(result, run.result)
            self._log_files(sink, run, "result", [result])

    def _log_files(self, sink: Any, run: TrackedRun, kind: str, paths: list[Path]) -> None:
        import wandb

        artifact = wandb.Artifact(f"{run.name}-{kind}", type=kind)
        for path in paths:
            if path.exists():
                artifact.add_file(str(path), name=path.name)
        sink.log_artifact(artifact)

    def send(self) -> None:
        """Start `wandb sync` for what is not known to have arrived, unless it is running."""
        if not self._online or self._sending is not None:
            return
        waiting = self._waiting()
        if not waiting:
            return
        log = (self._folder / "sync.log").open("ab")
        with log:
            process = subprocess.Popen(
                [sys.executable, "-m", "wandb", "sync", *map(str, waiting.values())],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )
        self._sending = process, list(waiting)

    def sent(self, wait: float) -> list[str]:
        """Ids of runs that W&B has; kills a sending that takes longer than there is time."""
        end = time.monotonic() + wait
        while self._sending is not None:
            process, names = self._sending
            code = process.poll()
            if code is None and time.monotonic() < end:
                time.sleep(0.1)
                continue
            if code is None and wait == 0:
                break  # it may go on while the study does
            self._sending = None
            if code is None:
                process.kill()
                process.wait()
                raise SteersweepError(
                    "W&B could not be reached in time; runs are kept and sent the next time"
                )
            if code != 0:
                raise SteersweepError(
                    f"W&B took nothing: {self._last_words()}; runs are kept and sent the next time"
                )
            self._note_arrived(names)
            self.send()  # what was recorded meanwhile
        arrived, self._arrived = self._arrived, []
        return arrived

    def _last_words(self) -> str:
        """What the sending said last, from its log."""
        lines = (self._folder / "sync.log").read_text("utf-8", "replace").splitlines()
        return next((line for line in reversed(lines) if line.strip()), "no reason given")

    def _waiting(self) -> dict[str, Path]:
        """The newest folder of each run that has not arrived, by the folder's name."""
        arrived = self._read_arrived()
        found = {}
        for path in sorted(self._folder.glob("wandb/offline-run-*")):
            if path.name not in arrived:
                found[path.name] = path
        newest = {_run_id(path): name for name, path in found.items()}
        return {name: found[name] for name in newest.values()}

    def _note_arrived(self, names: list[str]) -> None:
        write_json(self._folder / "arrived.json", sorted({*self._read_arrived(), *names}))
        self._arrived += [_run_id(self._folder / "wandb" / name) for name in names]

    def _read_arrived(self) -> list[str]:
        path = self._folder / "arrived.json"
        return list(json.loads(path.read_text("utf-8"))) if path.exists() else []


def _run_id(folder: Path) -> str:
    """The id of a run that W&B wrote; folders of one second have a number behind it."""
    return next(folder.glob("run-*.wandb")).stem.removeprefix("run-")
