"""Finds where a job's texts begin to break, for a job whose strengths follow from that."""

from __future__ import annotations

from dataclasses import replace

from steersweep.prompts.prompts import TestSet
from steersweep.run.folder import RunFolder
from steersweep.search.search import ROUNDS, Search
from steersweep.work.asking import Asking
from steersweep.work.bench import Bench
from steersweep.work.job import Job, window_file

_ROUNDS = 4  # of a bisection of twelve strengths


def find_window(bench: Bench, job: Job, store: RunFolder) -> None:
    """Bisect the strengths at each layer of a job with short answers; keep where texts break.

    The first few test prompts show it. What is kept says which of the job's conditions are in the
    window, here and wherever the job is looked at; see `left_out`.
    """
    layers = sorted({c.layer for c in job.conditions if c.layer is not None})
    few = ROUNDS[0]
    rows = len(job.test.prompts) + few * _ROUNDS * len(layers) * len(job.extraction)
    asking = Asking(bench, job, store, lambda _count: None, rows)

    def some(start: int, stop: int) -> TestSet:
        test = job.test
        return replace(test, name=f"{test.name}[{start}:{stop}]", prompts=test.prompts[start:stop])

    found = [layer for layer in asking.layers if layer in layers]
    search = Search(
        lambda cells, start, stop, *, short: asking.ask(cells, some(start, stop), short=short),
        [*job.extraction],
        found,
        rounds=(min(few, len(job.test.prompts)),),
    )
    search.bisect(found)
    breaks = {f"{method} {layer}": rung for (method, layer), rung in search.breaks.items()}
    store.write_once(window_file(job, store.paths), {"breaks": breaks})
