"""The checks of every model of a plan, where the models will run, before a study is paid for.

They are jobs like others: on an engine, with money reserved in the ledger of the study's folder. A
study that begins there afterwards finds them made.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from steersweep.budget.ledger import SMOKE, Ledger, PaidJob
from steersweep.core.errors import InputError, SteersweepError, setting
from steersweep.engines.engine import Engine
from steersweep.engines.local import local_engine
from steersweep.model.precision import PRECISIONS
from steersweep.run.condition import LayerChoice
from steersweep.run.folder import RunFolder
from steersweep.study.costs import estimate
from steersweep.study.jobs import CHECKED_PROMPTS, check_name
from steersweep.study.listeners import Listeners
from steersweep.study.phases.registry import phases_of
from steersweep.study.plan import Plan
from steersweep.study.study import StudyOptions, jobs_of, opened
from steersweep.study.sweeps import Cuts, Step, Sweep
from steersweep.work.job import OnProgress
from steersweep.work.overflow import runs_in


@dataclass(frozen=True)
class Checked:
    """What the checks of a model came to.

    Attributes:
        model: the plan's name of the model.
        model_id: what the plan calls it elsewhere.
        precision: what it ran in.
        gpu: kind of GPU it ran on; empty where it did not.
        passed: whether every check did.
        why: what is wrong; empty where nothing is.
        seconds: the job took; None where it did not run.
        usd: it cost.
    """

    model: str
    model_id: str
    precision: str
    gpu: str
    passed: bool
    why: str
    seconds: float | None
    usd: float | None


class ChecksFailed(SteersweepError):
    """A model of the plan failed a check or could not be loaded; the others were checked."""


def check_models(
    plan: Plan,
    out: Path,
    options: StudyOptions | None = None,
    *,
    precision: str | None = None,
    engine: Engine | None = None,
    on_progress: OnProgress = lambda _progress: None,
    on_line: Callable[[str], None] = lambda _line: None,
    on_note: Callable[[str], None] | None = None,
) -> list[Checked]:
    """Make every check of every model that a plan may run; what each came to is kept in `out`.

    Args:
        plan: the plan.
        out: the run folder, new or of the same plan.
        options: stops, and changes to accept.
        precision: all models in this one; None: each in its own.
        engine: where models run; None: this machine.
        on_progress: told of progress within a job.
        on_line: told what a person should read.
        on_note: told what results mislead without; None: as `on_line`.

    Raises:
        BudgetStop: the next job could pass a stop, or the running one reached it.
        InputError: settings differ from the run's.
    """
    options = options or StudyOptions()
    engine = engine or local_engine()
    sweeps = sweeps_to_check(plan, precision)
    with opened(plan, out, options, engine, on_line=on_line, on_note=on_note or on_line) as store:
        listeners = Listeners(on_progress=on_progress, on_line=on_line)
        jobs = jobs_of(plan, store, options, engine, listeners, cuts=Cuts())
        store.write_json(store.paths.smoke, {"models": []})  # until these have ended
        failures = jobs.check(sweeps)
        paid = {row.job: row for row in Ledger(out).jobs() if row.phase == SMOKE}
        found = [_checked(store, sweep, failures, paid.get(check_name(sweep))) for sweep in sweeps]
        store.write_json(store.paths.smoke, {"models": [asdict(row) for row in found]})
    return found


def must_pass(found: Sequence[Checked]) -> None:
    """See that every model passed.

    Raises:
        ChecksFailed: one did not.
    """
    failed = [row.model for row in found if not row.passed]
    if failed:
        raise ChecksFailed(f"{len(failed)} of {len(found)} models failed: {', '.join(failed)}")


def checked(out: Path) -> list[Checked]:
    """What the last checks of a plan's models in a run folder came to; empty: there were none."""
    store = RunFolder(out, repairs=False)
    held = store.read_json(store.paths.smoke) or {"models": []}
    return [Checked(**row) for row in held["models"]]


def sweeps_to_check(plan: Plan, precision: str | None = None) -> list[Sweep]:
    """A small sweep of each model that some phase may run, in the plan's order.

    Raises:
        InputError: no such precision.
    """
    if precision is not None and precision not in PRECISIONS:
        raise InputError(
            f"{setting('precision')} {precision}: choose one of auto, {', '.join(PRECISIONS)}"
        )
    steps: dict[str, Step] = {}
    for phase in phases_of(plan):
        for step, model, _ in phase.may_call(plan):
            steps.setdefault(model.name, step)
    return [
        Sweep(
            steps[name],
            model,
            tuple(plan.prompts.extraction)[:1],
            (LayerChoice("0.5"),),
            (plan.strength,),
            model.precision if precision is None else precision,
        )
        for name, model in plan.models.items()
        if name in steps
    ]


def expected(plan: Plan, precision: str | None = None) -> tuple[float, float]:
    """Seconds and USD that the checks take on the planned GPUs, by the estimate."""
    found = [estimate(plan, s, CHECKED_PROMPTS) for s in sweeps_to_check(plan, precision)]
    return sum(one.seconds for one in found), sum(one.usd for one in found)


def _checked(
    store: RunFolder, sweep: Sweep, failures: dict[str, str], paid: PaidJob | None
) -> Checked:
    name, held = check_name(sweep), store.read_json(store.paths.models) or {}
    fingerprint = held.get(f"model:{sweep.model.name}")
    precision = sweep.precision
    if fingerprint is not None:
        precision = runs_in(precision, fingerprint, store)
    return Checked(
        sweep.model.name,
        sweep.model.model,
        precision,
        "" if paid is None else paid.gpu,
        name not in failures,
        failures.get(name, ""),
        None if paid is None else paid.seconds,
        None if paid is None else paid.usd,
    )
