"""The first pass of a batch, over the prompts, without computing anything twice.

Below the first layer that is edited a row's activations are those of its prompt alone. So each
different prompt runs once without an edit, and the rows that begin to be edited at a layer resume
there. Rows of which only new tokens are edited take all of that pass. What all prompts begin with,
such as the template's words before the user's, runs once without an edit, and once for each edit.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from itertools import groupby
from typing import Any

import torch
from torch import Tensor

from steersweep.model.batch import Batch
from steersweep.model.chat_model import ChatModel
from steersweep.model.kv_cache import Source, can_be_filled, fill, fill_beginning, make_cache
from steersweep.steer.beginnings import (
    Beginning,
    is_worth_it,
    padding,
    run_prompts,
    shared_beginning,
)
from steersweep.steer.row_edits import RowEdits


def prefill(
    chat: ChatModel,
    batch: Batch,
    of_row: Sequence[int],
    clean_layers: Sequence[int],
    edits: RowEdits,
    cache: Any,
    *,
    resumes: bool = True,
    continues: bool = True,
) -> Tensor:
    """Run the prompts of all rows, edited; returns the logits after them, `[row, vocabulary]`.

    Args:
        chat: the model.
        batch: each different prompt once.
        of_row: which prompt of `batch` a row has.
        clean_layers: how many layers run as they do without an edit, by row, in rising order; see
            `Edit.clean_layers`.
        edits: of the rows.
        cache: an empty cache of the rows, to be filled.
        resumes: whether the model can resume from the streams after a layer; else every row runs
            from the bottom.
        continues: whether several tokens may follow what a cache holds.
    """
    n_layers, n_rows = chat.n_layers, len(clean_layers)
    whole = slice(0, n_rows)
    can_fill = resumes and can_be_filled(cache)
    shared = _shared(batch, edits, clean_layers) if can_fill and continues else 0
    if not (can_fill and (shared or _saves(chat, batch, clean_layers))):
        return _edited(chat, batch.rows(of_row), whole, edits, cache)

    clean = _Clean(chat, batch, clean_layers, shared)
    logits = []
    first = 0
    for count, group in groupby(clean_layers):
        rows = slice(first, first + len(list(group)))
        first = rows.stop
        prompts = torch.tensor(of_row[rows], device=chat.device)
        below = [(clean.cache, prompts)] * min(count, n_layers)
        above: list[Source] = []
        if count > n_layers:
            assert clean.logits is not None, "these rows need no other pass"
            logits.append(clean.logits[prompts])
        else:
            own = clean.new_cache()
            logits.append(_resumed(chat, batch, prompts, rows, edits, own, clean, count))
            above = [(own, slice(None))] * (n_layers - count)
        fill(cache, rows, n_rows, [*below, *above])
    return torch.cat(logits)


def _saves(chat: ChatModel, batch: Batch, clean_layers: Sequence[int]) -> bool:
    """Whether resuming runs fewer layers of prompts than running every row from the bottom."""
    shared = len(batch.input_ids) * min(max(clean_layers), chat.n_layers)
    own = sum(max(0, chat.n_layers - count) for count in clean_layers)
    return shared + own < len(clean_layers) * chat.n_layers


def _shared(batch: Batch, edits: RowEdits, clean_layers: Sequence[int]) -> int:
    """How many tokens all prompts begin with, if these are to run by themselves; else 0."""
    if edits.of_last_token:  # a beginning has a last token too
        return 0
    by_row = zip(batch.input_ids, batch.attention_mask.bool(), strict=True)
    shared = shared_beginning([ids[real].tolist() for ids, real in by_row])
    firsts, of_row = edits.each_once(slice(0, len(clean_layers)))
    worth = is_worth_it(shared, len(of_row) - len(firsts), passes=len({*clean_layers}))
    return shared if worth else 0


def _resumed(
    chat: ChatModel,
    batch: Batch,
    prompts: Tensor,
    rows: slice,
    edits: RowEdits,
    cache: Any,
    clean: _Clean,
    count: int,
) -> Tensor:
    """Logits of edited rows whose first layers, `count` of them, ran as those of their prompts."""
    batch = batch.rows(prompts)
    if not clean.shared:
        resume = clean.after[count][0][prompts] if count else None
        return _edited(chat, batch, rows, edits, cache, count, resume)
    begin = Beginning(batch, clean.shared)
    firsts, of_row = edits.each_once(rows)
    held = clean.new_cache()
    resume = clean.after[count][0].expand(len(firsts), -1, -1) if count else None
    _edited(chat, begin.copies(len(firsts)), firsts, edits, held, count, resume)
    below = [(clean.beginning, torch.zeros_like(of_row))] * count
    above = [(held, of_row)] * (chat.n_layers - count)
    fill_beginning(cache, [*below, *above], padding(batch))
    resume = clean.after[count][1][prompts] if count else None
    return _edited(chat, begin.rest, rows, edits, cache, count, resume)


def _edited(
    chat: ChatModel,
    batch: Batch,
    rows: slice | Tensor,
    edits: RowEdits,
    cache: Any,
    count: int = 0,
    resume: Tensor | None = None,
) -> Tensor:
    """Logits of edited rows; the first layers, `count` of them, are left out for what they gave."""
    with ExitStack() as stack:
        stack.enter_context(edits.to_prompts(rows, batch.attention_mask))
        first = 0
        if resume is not None:
            first = count - 1  # its output may be edited, although it does not run
            stack.enter_context(chat.only_layers(count, chat.n_layers))
            stack.enter_context(chat.layer_hooks(lambda _layer, _hidden: resume, [first]))
        stack.enter_context(edits.applied(first))
        logits = chat.logits(batch.input_ids, batch.attention_mask, batch.position_ids, cache=cache)
    return logits[:, 0]


class _Clean:
    """The pass of every prompt without an edit, as far up as some row needs it.

    Attributes:
        shared: tokens that all prompts begin with, and that run once; 0: all prompts run whole.
        beginning: a cache of these, of one row; None if they are not run here.
        after: residual streams after the first layers, by their number, where rows begin to be
            edited: `[prompt, position, d_model]`, or of the beginning, with one row, and the rest.
        logits: `[prompt, vocabulary]`; of no meaning if every row is edited, and None if all are
            edited from the bottom.
    """

    def __init__(
        self, chat: ChatModel, batch: Batch, clean_layers: Sequence[int], shared: int
    ) -> None:
        self._config = chat.model.config.get_text_config()
        self._width = batch.input_ids.shape[1]
        self.shared = shared
        self.after: dict[int, list[Tensor]] = {}
        self.cache = self.new_cache()
        self.logits: Tensor | None = None
        self.beginning: Any = None
        top = min(max(clean_layers), chat.n_layers)
        if not top:
            return

        def keep(layer: int, hidden: Tensor) -> None:
            self.after.setdefault(layer + 1, []).append(hidden)

        ends = {count - 1 for count in clean_layers if 0 < count <= chat.n_layers}
        with chat.only_layers(0, top), chat.layer_hooks(keep, ends):
            self.logits, self.beginning = run_prompts(chat, batch, self.cache, shared)

    def new_cache(self) -> Any:
        """An empty cache as wide as the prompts."""
        return make_cache(self._config, self._width)
