"""What prompts begin with alike is run once: the chat template's words before the user's.

Keys and values of a shared beginning are computed in one row, and stand then in every row's cache
as if they had been computed there. Rows are padded on the left, so in a row with padding they stand
so many places further on; what of them lies beyond the beginning's width runs again with the rest.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from steersweep.model.batch import Batch
from steersweep.model.chat_model import ChatModel
from steersweep.model.kv_cache import fill_beginning, make_cache

_WORTH_IT = 128  # tokens that need not be run, from which one more pass pays


def shared_beginning(prompts: Sequence[Sequence[int]]) -> int:
    """With how many tokens all prompts begin alike; the last token of none is counted."""
    rows = [tuple(prompt) for prompt in prompts]
    first, last = min(rows), max(rows)
    most = min(map(len, rows)) - 1
    return next((i for i in range(most) if first[i] != last[i]), most)


def is_worth_it(shared: int, rows: int, passes: int = 1) -> bool:
    """Whether to run a beginning by itself.

    Args:
        shared: its tokens.
        rows: that need not run it then.
        passes: that it takes.
    """
    return shared * rows >= _WORTH_IT * passes


class Beginning:
    """The shared beginning of the prompts of a batch.

    Args:
        batch: the prompts.
        width: tokens that all of them begin with.

    Attributes:
        rest: the batch's columns after the beginning; the mask is of all columns.
    """

    def __init__(self, batch: Batch, width: int) -> None:
        self.rest = Batch(
            batch.input_ids[:, width:], batch.attention_mask, batch.position_ids[:, width:]
        )
        first = int(padding(batch)[0])
        place = slice(first, first + width)  # in the first row: it is the same in all
        self._one = Batch(
            batch.input_ids[:1, place],
            batch.attention_mask[:1, place],
            batch.position_ids[:1, place],
        )

    def copies(self, count: int) -> Batch:
        """The beginning in so many rows."""
        return self._one.rows(torch.zeros(count, dtype=torch.long))


def run_prompts(chat: ChatModel, batch: Batch, cache: Any, shared: int = 0) -> tuple[Tensor, Any]:
    """Logits after the prompts of a batch, `[row, vocabulary]`, and the cache of their beginning.

    Hooks at layers see the beginning's pass first, with one row, then that of the rest. Where
    `shared` is 0 there is one pass, and no cache of a beginning.

    Args:
        chat: the model, one that takes several tokens after what a cache holds.
        batch: the prompts.
        cache: an empty one, of our own kind.
        shared: tokens that all prompts begin with.
    """
    if not shared:
        found = chat.logits(batch.input_ids, batch.attention_mask, batch.position_ids, cache=cache)
        return found[:, 0], None
    begin = Beginning(batch, shared)
    held = make_cache(chat.model.config.get_text_config(), shared)
    one = begin.copies(1)
    chat.logits(one.input_ids, one.attention_mask, one.position_ids, cache=held)
    of_row = torch.zeros(len(batch.input_ids), dtype=torch.long, device=chat.device)
    fill_beginning(cache, [(held, of_row)] * chat.n_layers, padding(batch))
    rest = begin.rest
    found = chat.logits(rest.input_ids, rest.attention_mask, rest.position_ids, cache=cache)
    return found[:, 0], held


def padding(batch: Batch) -> Tensor:
    """How many tokens of padding each row begins with, `[row]`."""
    return batch.attention_mask.shape[1] - batch.attention_mask.sum(-1)
