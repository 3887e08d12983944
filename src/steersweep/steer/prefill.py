"""The first pass of a batch, over the prompts, without computing anything twice.

Below the first layer that is steered a row's activations are those of its unsteered prompt. So each
different prompt runs once unsteered, and the rows that start to be steered at a layer resume there.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from itertools import groupby
from typing import Any

import torch
from torch import Tensor

from steersweep.model.chat_model import Batch, ChatModel
from steersweep.model.kv_cache import Source, can_be_filled, fill, make_cache
from steersweep.steer.additions import Additions


def prefill(
    chat: ChatModel,
    batch: Batch,
    of_row: Sequence[int],
    starts: Sequence[int],
    additions: Additions,
    cache: Any,
    *,
    resumes: bool = True,
) -> Tensor:
    """Run the prompts of all rows, steered; returns the logits after them, `[row, vocabulary]`.

    Args:
        chat: the model.
        batch: each different prompt once.
        of_row: which prompt of `batch` a row has.
        starts: first layer whose output is steered, by row, in rising order; `n_layers` for rows
            that are not steered.
        additions: what is added.
        cache: an empty cache of the rows, to be filled.
        resumes: whether the model can resume from the streams after a layer; else every row runs
            from the bottom.
    """
    if not (resumes and can_be_filled(cache) and _saves(chat, batch, starts)):
        return _steered(chat, batch.rows(of_row), slice(0, len(starts)), additions, cache)

    clean = _Clean(chat, batch, starts)
    logits = []
    first = 0
    for start, group in groupby(starts):
        rows = slice(first, first + len(list(group)))
        first = rows.stop
        prompts = torch.tensor(of_row[rows], device=chat.device)
        below = [(clean.cache, prompts)] * min(start + 1, chat.n_layers)
        above: list[Source] = []
        if start == chat.n_layers:
            logits.append(clean.logits[prompts])
        else:
            own = clean.new_cache()
            resume = start, clean.after[start][prompts]
            logits.append(_steered(chat, batch.rows(prompts), rows, additions, own, resume))
            above = [(own, slice(None))] * (chat.n_layers - start - 1)
        fill(cache, rows, len(starts), [*below, *above])
    return torch.cat(logits)


def _saves(chat: ChatModel, batch: Batch, starts: Sequence[int]) -> bool:
    """Whether resuming runs fewer layers of prompts than running every row from the bottom."""
    shared = len(batch.input_ids) * min(max(starts) + 1, chat.n_layers)
    own = sum(max(0, chat.n_layers - start - 1) for start in starts)
    return shared + own < len(starts) * chat.n_layers


def _steered(
    chat: ChatModel,
    batch: Batch,
    rows: slice,
    additions: Additions,
    cache: Any,
    resume: tuple[int, Tensor] | None = None,
) -> Tensor:
    """Logits of steered rows; `resume`: a layer, and the unsteered streams after it."""
    with ExitStack() as stack:
        if resume is not None:
            start, clean = resume
            stack.enter_context(chat.only_layers(start + 1, chat.n_layers))
            stack.enter_context(chat.layer_hooks(lambda _layer, _hidden: clean, [start]))
        stack.enter_context(additions.applied(chat))
        stack.enter_context(additions.to_prompts(rows, batch.attention_mask))
        logits = chat.logits(batch.input_ids, batch.attention_mask, batch.position_ids, cache=cache)
    return logits[:, 0]


class _Clean:
    """The unsteered pass of every prompt, as far up as some row needs it.

    Attributes:
        after: residual streams after the layers where rows start to be steered, `[prompt, position,
            d_model]`.
        logits: `[prompt, vocabulary]`; of no meaning if every row is steered.
    """

    def __init__(self, chat: ChatModel, batch: Batch, starts: Sequence[int]) -> None:
        self._config = chat.model.config.get_text_config()
        self._width = batch.input_ids.shape[1]
        self.after: dict[int, Tensor] = {}
        self.cache = self.new_cache()
        top = min(max(starts) + 1, chat.n_layers)

        def keep(layer: int, hidden: Tensor) -> None:
            self.after[layer] = hidden

        with (
            chat.only_layers(0, top),
            chat.layer_hooks(keep, {start for start in starts if start < chat.n_layers}),
        ):
            self.logits = chat.logits(
                batch.input_ids, batch.attention_mask, batch.position_ids, cache=self.cache
            )[:, 0]

    def new_cache(self) -> Any:
        """An empty cache as wide as the prompts."""
        return make_cache(self._config, self._width)
