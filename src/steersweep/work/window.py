"""Finds where a job's texts begin to break, for a job whose strengths follow from that."""

from __future__ import annotations

from steersweep.run.folder import RunFolder
from steersweep.search.search import ROUNDS, Search
from steersweep.work.asking import Asking
from steersweep.work.bench import Bench
from steersweep.work.job import Job, window_file

_ROUNDS = 4  # of a bisection of twelve strengths


def find_window(bench: Bench, job: Job, store: RunFolder, likely: int) -> int:
    """Bisect the strengths at each layer of a job with short answers; keep where texts break.

    The first few test prompts show it. What is kept says which of the job's conditions are in the
    window, here and wherever the job is looked at; see `left_out`.

    Args:
        bench: the model with its directions.
        job: that asks for a window.
        store: its run folder.
        likely: answers of the job besides, for the time left.

    Returns:
        How many answers it took.
    """
    few = ROUNDS[0]
    layers = {c.layer for c in job.conditions if c.layer is not None}
    rows = len(job.test.prompts) + few * _ROUNDS * len(layers) * len(job.extraction)
    asking = Asking(bench, job, store, lambda _count: None, likely + rows)
    asking.answers([asking.unsteered])
    places = asking.places
    search = Search(
        lambda spans, *, short: asking.ask(spans, job.test.part, short=short),
        places,
        rounds=(min(few, len(job.test.unique)),),
    )
    search.bisect(places)
    breaks = {f"{method} {layer}": rung for (method, layer), rung in search.breaks.items()}
    store.write_once(window_file(job, store.paths), {"breaks": breaks})
    return sum(asking.rows.values())
