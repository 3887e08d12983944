"""The function that leads a study on Modal: it works on a copy of the run folder.

A volume with open files cannot be reloaded, so the study publishes what it changes.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from steersweep.core import typed
from steersweep.core.errors import SteersweepError
from steersweep.core.journal import append_text
from steersweep.core.printing import safe_name
from steersweep.engines.engine import Engine
from steersweep.engines.modal import remote
from steersweep.engines.modal.engine import ModalCalls, ModalEngine
from steersweep.engines.modal.volume import VolumeShare
from steersweep.run.paths import RunPaths
from steersweep.run.result_files import replace_result_file
from steersweep.study.away.apps import function_of, remote_functions
from steersweep.study.away.remote_run import End
from steersweep.study.checking import check_models, must_pass
from steersweep.study.listeners import Ended
from steersweep.study.plan import Plan
from steersweep.study.plan_file import parse_plan
from steersweep.study.status import must_be_complete
from steersweep.study.study import StudyOptions, run_study
from steersweep.work.job import Progress


def study_there(plan_text: str, run: str, options: Mapping[str, Any]) -> dict[str, Any]:
    """The function of the study's app: lead a study to its end or next gate; returns its `End`.

    Called again after its machine was taken away, it goes on with what the volume holds, and takes
    over the jobs that still run.
    """
    import modal

    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    plan = parse_plan(plan_text, "the plan")
    volume = modal.Volume.from_name(remote.RUNS_VOLUME)
    share = VolumeShare(Path(remote.RUNS) / run, volume.commit, volume.reload)
    engine = ModalEngine(remote_functions(plan), function_of(plan), share, ModalCalls(run))
    return dict(typed.plain(lead(plan, share, engine, options)))  # as plain data, to travel


def lead(plan: Plan, share: VolumeShare, engine: Engine, options: Mapping[str, Any]) -> End:
    """Run a study on an engine in a copy of its folder; see `study_there`.

    Args:
        plan: what to run.
        share: the run folder on the volume.
        engine: where jobs run.
        options: fields of `StudyOptions`; `shown_as`: what messages call the folder; and where the
            models are only to be checked, `check`: in which precision, None for each one's own.
    """
    options = dict(options)
    shown_as = options.pop("shown_as", "DIR")
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch) / "run"
        share.copy_all(folder)

        def say(line: str) -> None:
            append_text(RunPaths(folder).messages, line.replace(str(folder), shown_as))
            share.publish(folder)

        try:
            message = _lead(plan, folder, options, engine, say)
        except SteersweepError as error:
            message = str(error).replace(str(folder), shown_as)
            say(message)
            return End(error.exit_code, message, getattr(error, "phase", None))
        finally:
            share.publish(folder)
    return End(0, message, None)


def _lead(
    plan: Plan, folder: Path, options: dict[str, Any], engine: Engine, say: Callable[[str], None]
) -> str:
    """Run the study, or check its models alone; what there is to say at the end."""

    def warn(progress: Progress) -> None:
        if progress.warning:
            say(f"{progress.job}: note: {progress.warning}")

    def keep(ended: Ended) -> None:
        """For the tracker at home, which is told of a phase that has not ended too."""
        step = ended.sweep.step
        path = RunPaths(folder).finished_job(
            step.results.format(family=safe_name(ended.sweep.model.family)), str(ended.sweep)
        )
        if ended.folder:
            return  # a verification's, which has a result file of its own
        if ended.results and not (ended.earlier and path.is_file()):
            replace_result_file(path, ended.results)

    if "check" in options:
        precision = options.pop("check")
        chosen = StudyOptions(**options)
        found = check_models(
            plan,
            folder,
            chosen,
            precision=precision,
            engine=engine,
            on_progress=warn,
            on_line=say,
        )
        must_pass(found)
        return "every model passed"
    chosen = StudyOptions(**options)
    run_study(plan, folder, chosen, engine=engine, on_progress=warn, on_job=keep, on_line=say)
    must_be_complete(folder, chosen.until)
    return "every phase asked for is done"
