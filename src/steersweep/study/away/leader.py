"""The function that leads a study on Modal: it works on a copy of the run folder.

A volume with open files cannot be reloaded, so the study publishes what it changes.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from steersweep.core.errors import SteersweepError
from steersweep.core.journal import append_text
from steersweep.engines.engine import Engine
from steersweep.engines.modal import remote
from steersweep.engines.modal.engine import ModalCalls, ModalEngine
from steersweep.engines.modal.volume import VolumeShare
from steersweep.run.paths import RunPaths
from steersweep.study.away.apps import function_of, remote_functions
from steersweep.study.plan import Plan
from steersweep.study.plan_file import parse_plan
from steersweep.study.status import must_be_complete
from steersweep.study.study import StudyOptions, run_study
from steersweep.work.job import Progress


def study_there(plan_text: str, run: str, options: Mapping[str, Any]) -> dict[str, Any]:
    """The function of the study's app: lead a study to its end or next gate; returns the outcome.

    Called again after its machine was taken away, it goes on with what the volume holds, and takes
    over the jobs that still run.
    """
    import modal

    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    plan = parse_plan(plan_text, "the plan")
    volume = modal.Volume.from_name(remote.RUNS_VOLUME)
    share = VolumeShare(Path(remote.RUNS) / run, volume.commit, volume.reload)
    engine = ModalEngine(remote_functions(plan), function_of(plan), share, ModalCalls(run))
    return lead(plan, share, engine, options)


def lead(
    plan: Plan, share: VolumeShare, engine: Engine, options: Mapping[str, Any]
) -> dict[str, Any]:
    """Run a study on an engine in a copy of its folder; see `study_there`.

    Args:
        plan: what to run.
        share: the run folder on the volume.
        engine: where jobs run.
        options: fields of `StudyOptions`, and `shown_as`: what messages call the folder.
    """
    options = dict(options)
    shown_as = options.pop("shown_as", "DIR")
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch) / "run"
        share.copy_all(folder)

        def say(line: str) -> None:
            append_text(RunPaths(folder).messages, line.replace(str(folder), shown_as))
            share.publish(folder)

        def warn(progress: Progress) -> None:
            if progress.warning:
                say(f"{progress.job}: note: {progress.warning}")

        try:
            run_study(
                plan,
                folder,
                StudyOptions(**options),
                engine=engine,
                on_progress=warn,
                on_line=say,
            )
            must_be_complete(folder, options.get("until"))
        except SteersweepError as error:
            message = str(error).replace(str(folder), shown_as)
            say(message)
            phase = getattr(error, "phase", None)
            return {"exit_code": error.exit_code, "message": message, "phase": phase}
        finally:
            share.publish(folder)
    return {"exit_code": 0, "message": "every phase asked for is done", "phase": None}
