"""trackio: a tracker on this machine, without an account; `trackio show` displays it."""

from __future__ import annotations

import contextlib
import io
from pathlib import Path

from steersweep.core import typed
from steersweep.core.atomic import write_json
from steersweep.core.printing import safe_name
from steersweep.run.paths import RunPaths
from steersweep.tracking.record import SAMPLE_COLUMNS, TrackedRun


class TrackioTracker:
    """Writes to trackio's own database; TRACKIO_DIR says where that is.

    Args:
        folder: the run folder, for files to be kept.
    """

    name = "trackio"

    def __init__(self, folder: Path) -> None:
        self._paths = RunPaths(folder)
        self._arrived: list[str] = []

    def record(self, run: TrackedRun, run_id: str) -> None:
        """Write a run, in place of an earlier one of its name."""
        import trackio
        from trackio.sqlite_storage import SQLiteStorage

        quiet = io.StringIO()
        with contextlib.redirect_stdout(quiet), contextlib.redirect_stderr(quiet):
            if run.name in SQLiteStorage.get_runs(run.project):
                SQLiteStorage.delete_run(run.project, run.name)
            sink = trackio.init(
                project=run.project,
                name=run.name,
                group=run.group,
                config={**typed.plain(run.config), "tags": list(run.tags), "run_id": run_id},
                auto_log_gpu=False,
                auto_log_cpu=False,
                embed=False,
            )
            for step, row in enumerate(run.rows):
                sink.log(typed.plain(row), step=step)
            table = trackio.Table(columns=list(SAMPLE_COLUMNS), data=run.table)
            sink.log({"samples": table, **run.summary}, step=len(run.rows))
            result = self._paths.tracked_result(run_id)
            write_json(result, run.result)
            for kind, names in (
                *run.files.items(),
                ("result", [self._paths.name_of(result)]),
            ):
                artifact = trackio.Artifact(safe_name(f"{run.name}-{kind}"), type=kind)
                paths = [self._paths.named(name) for name in names]
                paths = [path for path in paths if path.exists()]
                for path in paths:
                    artifact.add_file(str(path), name=path.name)
                if paths:
                    trackio.log_artifact(artifact)
            trackio.finish()  # type: ignore[no-untyped-call]
        self._arrived.append(run_id)

    def send(self) -> None:
        """Nothing: what is recorded has arrived."""

    def wait(self, seconds: float) -> None:
        """There is nothing to wait for."""

    def arrived(self) -> list[str]:
        """Ids of what was recorded: it is where it belongs."""
        return self._arrived
