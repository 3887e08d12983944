"""Where fp16 overflows on a model: its job runs in bf16 instead, and whoever reads it knows why."""

from __future__ import annotations

from dataclasses import replace

from steersweep.core.errors import NumericalError
from steersweep.core.precision_labels import running_as, runs_as
from steersweep.run.folder import RunFolder
from steersweep.work.job import Job, unfinished

FROM, TO = "fp16", "bf16"


def note_overflow(job: Job, store: RunFolder, error: NumericalError) -> None:
    """Keep that a job's model overflowed, for every job of it in this run folder."""
    path = store.paths.overflow(job.conditions[0].model_fingerprint)
    store.write_once(path, {"precision": FROM, "instead": TO, "why": str(error)})


def share_overflow(model_fingerprint: str, known: RunFolder, other: RunFolder) -> None:
    """Let another run folder know that a model overflows, if this one does."""
    held = known.read_json(known.paths.overflow(model_fingerprint))
    if held is not None:
        facts = {name: held[name] for name in ("precision", "instead", "why")}
        other.write_once(other.paths.overflow(model_fingerprint), facts)


def runs_in(precision: str, model_fingerprint: str, store: RunFolder) -> str:
    """The precision that a model really runs in here where one is asked for."""
    if runs_as(precision) != FROM:
        return precision
    held = store.read_json(store.paths.overflow(model_fingerprint))
    return precision if held is None else running_as(precision, TO)


def as_it_runs(job: Job, store: RunFolder) -> Job:
    """The job, in bf16 where its model has overflowed in fp16 in this run folder.

    Conditions of one job are all in one precision, so what it had finished in fp16 before is not
    used. A job that had finished as a whole is: a stronger push of another job that overflows says
    nothing against it.
    """
    if runs_as(job.precision) != FROM:
        return job
    held = store.read_json(store.paths.overflow(job.conditions[0].model_fingerprint))
    if held is None or not unfinished(job, store):
        return job
    instead = running_as(job.precision, TO)
    return replace(
        job,
        precision=instead,
        reference=instead if job.reference == job.precision else job.reference,
        conditions=tuple(replace(condition, precision=instead) for condition in job.conditions),
        instead_of=f"ran in {TO}, since in {FROM}: {held['why']}",
    )
