"""Requests that come one by one, answered together: whoever asks waits, and a batch is made."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from typing import Generic, TypeVar

_Asked = TypeVar("_Asked")
_Answer = TypeVar("_Answer")

# Answers to requests, in order; an exception in place of one is raised where that one is awaited.
Answering = Callable[[Sequence[_Asked]], Sequence[_Answer | Exception]]


class Collector(Generic[_Asked, _Answer]):
    """Answers requests in batches, in a thread of its own.

    A batch is answered as soon as no other request has come for `quiet` seconds, or `most` have.
    Those that come meanwhile wait for the next one.

    Args:
        answer: answers a batch; one at a time is asked for.
        most: requests in a batch at most.
        quiet: seconds to wait for another request.
    """

    def __init__(self, answer: Answering[_Asked, _Answer], *, most: int, quiet: float) -> None:
        self._answer = answer
        self._most = most
        self._quiet = quiet
        self._waiting: queue.SimpleQueue[tuple[_Asked, Future[_Answer]] | None]
        self._waiting = queue.SimpleQueue()
        # Nobody waits for it at the end of the program.
        self._thread = threading.Thread(target=self._work, name="steersweep-batches", daemon=True)
        self._thread.start()

    def ask(self, asked: _Asked) -> Future[_Answer]:
        """A future of the answer; one that is cancelled before its batch begins is left out."""
        future: Future[_Answer] = Future()
        self._waiting.put((asked, future))
        return future

    def close(self) -> None:
        """Answer what was asked so far, then end."""
        self._waiting.put(None)
        self._thread.join()

    def _work(self) -> None:
        open_ = True
        while open_:
            batch, open_ = self._next_batch()
            batch = [(asked, future) for asked, future in batch if _is_wanted(future)]
            if batch:
                self._answer_all(batch)

    def _next_batch(self) -> tuple[list[tuple[_Asked, Future[_Answer]]], bool]:
        """The requests of a batch, and whether more may come."""
        batch: list[tuple[_Asked, Future[_Answer]]] = []
        while len(batch) < self._most:
            try:
                item = self._waiting.get(timeout=self._quiet if batch else None)
            except queue.Empty:
                break
            if item is None:
                return batch, False
            batch.append(item)
        return batch, True

    def _answer_all(self, batch: Sequence[tuple[_Asked, Future[_Answer]]]) -> None:
        answers: Sequence[_Answer | Exception]
        try:
            answers = self._answer([asked for asked, _ in batch])
        except Exception as error:  # of the whole batch: each of its requests is told
            answers = [error] * len(batch)
        for (_, future), answer in zip(batch, answers, strict=True):
            if isinstance(answer, Exception):
                future.set_exception(answer)
            else:
                future.set_result(answer)


def _is_wanted(future: Future[_Answer]) -> bool:
    return future.set_running_or_notify_cancel()
