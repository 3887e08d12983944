"""What a model allows of rows that share a batch."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from steersweep.model.chat_model import ChatModel
from steersweep.model.kv_cache import make_cache


@dataclass(frozen=True)
class Regime:
    """What a model allows.

    Attributes:
        buffered: attention's keys and values may lie in buffers of their final length.
        pads: prompts of different lengths may share a batch.
        leaves: finished rows may leave the batch; else they stay in it and are ignored.
        shares: rows may share a batch at all.
        resumes: a pass may begin at any layer, from residual streams computed before.
        continues: several tokens at once may follow what a cache holds.
        narrows: the last MLP may run at some positions only.
    """

    buffered: bool = True
    pads: bool = True
    leaves: bool = True
    shares: bool = True
    resumes: bool = True
    continues: bool = True
    narrows: bool = True

    def groups(self, lengths: Sequence[int], size: int) -> Iterator[list[int]]:
        """Indices of sequences of these lengths in batches of at most `size`.

        In their order where prompts may be padded; else those of equal length together.
        """
        together: dict[int, list[int]] = {}
        for index, length in enumerate(lengths):
            together.setdefault(0 if self.pads else length, []).append(index)
        size = size if self.shares else 1
        for indices in together.values():
            for first in range(0, len(indices), size):
                yield indices[first : first + size]

    def cache(self, chat: ChatModel, capacity: int) -> Any:
        """An empty cache for `capacity` positions per row."""
        config = chat.model.config.get_text_config()
        return make_cache(config, capacity, buffered=self.buffered)
