"""What a job has prepared so far, kept in the run folder until the job has ended.

A run that is killed in its tenth minute of reading activations or scoring candidates goes on there.
What is had again in a moment is not kept.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from steersweep.methods.method import Tensors
from steersweep.run.condition import content_key
from steersweep.run.folder import RunFolder
from steersweep.work.job import Job

if TYPE_CHECKING:
    from steersweep.work.standing import StandingFile

WORTH_KEEPING = 10.0  # seconds of work


class Preparation:
    """What is kept of one job.

    Args:
        job: the job.
        store: its run folder.
        now: a clock, in seconds.
    """

    def __init__(
        self, job: Job, store: RunFolder, now: Callable[[], float] = time.monotonic
    ) -> None:
        self._store = store
        self._job = job
        self._now = now
        self._saved = now()
        self._standing: StandingFile | None = None

    def _key(self, name: str, rests_on: object) -> str:
        first = self._job.conditions[0]
        return content_key([name, first.model_fingerprint, first.precision, rests_on])

    def tensors(self, name: str, rests_on: object, make: Callable[[], Tensors]) -> Tensors:
        """CPU tensors that were kept under a name, else what `make` gives, kept if it took long.

        Args:
            name: of them.
            rests_on: all that they depend on beside model and precision, as plain data.
            make: computes them.
        """
        path = self._store.paths.kept(self._prefix, self._key(name, rests_on), "safetensors")
        held = self._store.tensors(path)
        if held is not None:
            import torch

            return {key: torch.from_numpy(array) for key, array in held.items()}
        started = self._now()
        made = make()
        if self._now() - started >= WORTH_KEEPING:
            self._store.put_tensors(
                path, lambda: {key: tensor.contiguous().numpy() for key, tensor in made.items()}
            )
        return made

    def facts(self, name: str, rests_on: object) -> dict[str, Any] | None:
        """Plain data that was kept under a name, or None."""
        return self._store.read_json(self._facts_path(name, rests_on))

    def keep_facts(self, name: str, rests_on: object, facts: Mapping[str, Any]) -> None:
        """Keep plain data under a name, in place of what was there."""
        self._store.write_json(self._facts_path(name, rests_on), facts)

    def drop_facts(self, name: str, rests_on: object) -> None:
        """What was kept under a name is not asked for again."""
        self._facts_path(name, rests_on).unlink(missing_ok=True)

    def keep_now_and_then(self, name: str, rests_on: object, facts: Mapping[str, Any]) -> None:
        """The same, where something was worth keeping since the last time."""
        if self._now() - self._saved >= WORTH_KEEPING:
            self.keep_facts(name, rests_on, facts)
            self._saved = self._now()

    def standing(self, rests_on: object) -> StandingFile:
        """Where a batch that takes long is kept as it stands; one at a time."""
        from steersweep.work.standing import StandingFile

        if self._standing is not None:
            self._standing.forget()  # its answers were saved before others were asked
        path = self._store.paths.kept(self._prefix, self._key("batch", rests_on), "safetensors")
        self._standing = StandingFile(self._store, path, self._now)
        return self._standing

    def forget(self) -> None:
        """The job has ended, and nothing of this is asked for again."""
        for path in self._store.paths.all_kept(self._prefix):
            path.unlink(missing_ok=True)

    @property
    def _prefix(self) -> str:
        first = self._job.conditions[0]
        return content_key([first.model_fingerprint, first.precision, first.test_rendered])[:12]

    def _facts_path(self, name: str, rests_on: object) -> Any:
        return self._store.paths.kept(self._prefix, self._key(name, rests_on), "json")
