"""How many rows a batch may have, so that something is saved every minute."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import torch

from steersweep.budget.shapes import ModelShape
from steersweep.model.chat_model import ChatModel
from steersweep.steer.found import known, note
from steersweep.steer.steering import Row, StepInfo, generate
from steersweep.work.expected import PROMPT_TOKENS, machine_of
from steersweep.work.job import Job

_SECONDS = 45.0  # of a batch that cannot be kept as it stands: what a kill can cost
_WORTH_WAITING = 1.5  # times what a single row takes
# Of a batch that can be kept: the share of its time that a step takes whatever its rows are; the
# seconds it may take all the same; and bytes of keys and values, which are written to disk.
_FIXED, _LONG, _MOST_KEPT = 0.06, 150.0, 400_000_000
_WARMING_UP = 0.3  # seconds of a first pass
MANY = 16  # rows of a step that is timed beside one of a single row
_STEPS = 4
# A machine whose processors give less of their time than this to what is timed is busy: what is
# timed then is not kept.
_QUIET = 0.6


@dataclass(frozen=True)
class Steps:
    """Seconds of a decoding step of one row, and of `many`, of so many `rows`."""

    one: float
    many: float
    rows: int


def rows_in_time(
    job: Job,
    shape: ModelShape,
    device: str,
    *,
    tokens: int,
    seconds: float,
    steps: Steps | None = None,
    stands: bool = False,
) -> int:
    """Rows that are answered and judged in less than a minute together.

    Where a single row takes about as long, they are as many as take half as long again. Where a
    batch can be kept as it stands, they are as many as make good use of a step.

    Args:
        job: the job.
        shape: of its model.
        device: where it runs.
        tokens: of a pass that was timed.
        seconds: that pass took.
        steps: timed ones; None: from what estimates say of the machine, as much slower as the pass
            was.
        stands: whether a batch can be kept as it stands.
    """
    machine = machine_of(device)
    slower = seconds / (machine.tokens(shape, job.precision, tokens) + _WARMING_UP)
    new_tokens = max(condition.max_new_tokens for condition in job.conditions)
    context = PROMPT_TOKENS + new_tokens / 2
    timed = steps or Steps(
        slower * machine.step(shape, job.precision, 1, context),
        slower * machine.step(shape, job.precision, MANY, context),
        MANY,
    )
    one = timed.one
    of_row = new_tokens * max(0.0, timed.many - one) / (timed.rows - 1)
    of_row += slower * machine.scored(shape, job.precision, new_tokens)
    first = new_tokens * one + slower * machine.scored(shape, job.precision, new_tokens)
    # A step reads all weights, whatever the rows: fewer than these would save hardly any time.
    within = max(_SECONDS, _WORTH_WAITING * first)
    rows = 1 + int((within - first) / of_row)
    if not stands:
        return rows
    useful = int(min(first / _FIXED, _LONG) / of_row)
    kept = _MOST_KEPT // shape.cache(job.precision, PROMPT_TOKENS + new_tokens)
    return max(rows, min(useful, kept))


def step_seconds(
    chat: ChatModel, prompts: Sequence[Sequence[int]], many: int = MANY
) -> Steps | None:
    """Seconds of decoding steps on a CPU, by an earlier run of this user's if there was one.

    None where answers end before anything can be timed, where there is a single row, and on a GPU,
    whose first steps are not those that follow. What was timed beside other programs is not kept.

    Args:
        chat: the model.
        prompts: token ids of prompts to answer.
        many: rows of the larger batch.
    """
    if many < 2 or chat.device.type != "cpu":
        return None
    threads = torch.get_num_threads()
    name = f"steps-{many}-{max(map(len, prompts)).bit_length()}-{threads}"
    found: Steps | None = known(chat, name, Steps)
    if found is None:
        wall, spent = time.monotonic(), time.process_time()
        found = _timed(chat, prompts, many)
        wall, spent = time.monotonic() - wall, time.process_time() - spent
        if found is not None and spent >= _QUIET * threads * wall:
            note(chat, name, found)
    return found


def _timed(chat: ChatModel, prompts: Sequence[Sequence[int]], many: int) -> Steps | None:
    """Seconds of steps of one row and of many, the quickest of a few."""
    found = []
    for n in (1, many):
        marks: list[float] = []

        def mark(step: StepInfo, marks: list[float] = marks, n: int = n) -> None:
            if step.rows == n:
                marks.append(time.monotonic())

        rows = [Row(prompts[index % len(prompts)]) for index in range(n)]
        generate(chat, rows, max_new_tokens=_STEPS + 1, max_rows=n, on_step=mark)
        if len(marks) < 2:
            return None
        found.append(min(after - before for before, after in pairwise(marks)))
    one, several = found
    return Steps(one, several, many)


class Clock:
    """How long work takes here, as far as it can be told from a busy moment.

    Rows of a batch are settled once for a run, so what others do to the machine meanwhile may not
    make much of a difference: at most twice the time that processors spent.
    """

    def __init__(self, device: str) -> None:
        self._on_cpu = device == "cpu"
        self._wall, self._spent = time.monotonic(), time.process_time()

    def seconds(self) -> float:
        """Since the clock was made."""
        wall = time.monotonic() - self._wall
        if not self._on_cpu:
            return wall
        return min(wall, 2 * (time.process_time() - self._spent) / torch.get_num_threads())
