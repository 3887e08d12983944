"""The first pass of a batch, over the prompts, without computing anything twice.

Below the first layer that is edited a row's activations are those of its prompt alone. So each
different prompt runs once without an edit, and the rows that begin to be edited at a layer resume
there. Rows of which only new tokens are edited take all of that pass.
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
from steersweep.model.kv_cache import Source, can_be_filled, fill, make_cache
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
    """
    n_layers, n_rows = chat.n_layers, len(clean_layers)
    if not (resumes and can_be_filled(cache) and _saves(chat, batch, clean_layers)):
        return _edited(chat, batch.rows(of_row), slice(0, n_rows), edits, cache)

    clean = _Clean(chat, batch, clean_layers)
    logits = []
    first = 0
    for count, group in groupby(clean_layers):
        rows = slice(first, first + len(list(group)))
        first = rows.stop
        prompts = torch.tensor(of_row[rows], device=chat.device)
        below = [(clean.cache, prompts)] * min(count, n_layers)
        above: list[Source] = []
        if count > n_layers:
            logits.append(clean.logits[prompts])
        else:
            own = clean.new_cache()
            resume = (count, clean.after[count][prompts]) if count else None
            logits.append(_edited(chat, batch.rows(prompts), rows, edits, own, resume))
            above = [(own, slice(None))] * (n_layers - count)
        fill(cache, rows, n_rows, [*below, *above])
    return torch.cat(logits)


def _saves(chat: ChatModel, batch: Batch, clean_layers: Sequence[int]) -> bool:
    """Whether resuming runs fewer layers of prompts than running every row from the bottom."""
    shared = len(batch.input_ids) * min(max(clean_layers), chat.n_layers)
    own = sum(max(0, chat.n_layers - count) for count in clean_layers)
    return shared + own < len(clean_layers) * chat.n_layers


def _edited(
    chat: ChatModel,
    batch: Batch,
    rows: slice,
    edits: RowEdits,
    cache: Any,
    resume: tuple[int, Tensor] | None = None,
) -> Tensor:
    """Logits of edited rows; `resume`: how many layers to leave out, and the streams after them."""
    with ExitStack() as stack:
        stack.enter_context(edits.to_prompts(rows, batch.attention_mask))
        first = 0
        if resume is not None:
            count, clean = resume
            first = count - 1  # its output may be edited, although it does not run
            stack.enter_context(chat.only_layers(count, chat.n_layers))
            stack.enter_context(chat.layer_hooks(lambda _layer, _hidden: clean, [first]))
        stack.enter_context(edits.applied(first))
        logits = chat.logits(batch.input_ids, batch.attention_mask, batch.position_ids, cache=cache)
    return logits[:, 0]


class _Clean:
    """The pass of every prompt without an edit, as far up as some row needs it.

    Attributes:
        after: residual streams after the first layers, by their number, where rows begin to be
            edited, `[prompt, position, d_model]`.
        logits: `[prompt, vocabulary]`; of no meaning if every row is edited.
    """

    def __init__(self, chat: ChatModel, batch: Batch, clean_layers: Sequence[int]) -> None:
        self._config = chat.model.config.get_text_config()
        self._width = batch.input_ids.shape[1]
        self.after: dict[int, Tensor] = {}
        self.cache = self.new_cache()
        top = min(max(clean_layers), chat.n_layers)

        def keep(layer: int, hidden: Tensor) -> None:
            self.after[layer + 1] = hidden

        ends = {count - 1 for count in clean_layers if 0 < count <= chat.n_layers}
        with chat.only_layers(0, top), chat.layer_hooks(keep, ends):
            self.logits = chat.logits(
                batch.input_ids, batch.attention_mask, batch.position_ids, cache=self.cache
            )[:, 0]

    def new_cache(self) -> Any:
        """An empty cache as wide as the prompts."""
        return make_cache(self._config, self._width)
