"""What affine edits put back: where harmless prompts are in a job's model."""

from __future__ import annotations

from torch import Tensor

from steersweep.model.chat_model import ChatModel
from steersweep.model.memory import RowLimit
from steersweep.steer.activations import harmless_mean
from steersweep.work.job import Job


class References:
    """Means of harmless extraction prompts at the edited site, computed when they are asked for.

    Args:
        chat: the model.
        job: whose prompts and site.
        rows: how many prompts fit in a pass.
    """

    def __init__(self, chat: ChatModel, job: Job, rows: RowLimit) -> None:
        self._chat, self._job, self._rows = chat, job, rows
        self._means: dict[tuple[str, int], Tensor] = {}

    def at(self, method: str | None, position: int, layer: int) -> Tensor:
        """The mean, `[d_model]`, float32.

        Args:
            method: whose prompts; the job's first where it has none of that method.
            position: of the prompt, from its end.
            layer: whose input or output it is, as the site says.
        """
        sets = self._job.extraction
        named = method if method is not None and method in sets else next(iter(sets))
        if (named, position) not in self._means:
            self._means[named, position] = self._rows.run(
                lambda rows: harmless_mean(
                    self._chat,
                    sets[named].harmless,
                    position=position,
                    site=self._job.edit.site,
                    max_rows=min(64, rows),
                )
            )
        return self._means[named, position][layer].float()
