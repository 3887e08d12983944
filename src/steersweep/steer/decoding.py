"""Decoding steps of a batch: a token in for every row, the next token's logits out.

On a CPU a step attends to the positions there are. On a GPU a step's many small kernels take longer
to launch than to run, so there its shapes stay the same: it attends over the whole cache, of which
what is not written yet is masked, and it is recorded once as a CUDA graph and replayed until rows
leave the batch. Knows nothing of what tokens mean.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from steersweep.core.precision_labels import is_quantized, logit_tolerance
from steersweep.core.printing import first_line
from steersweep.model.batch import Batch
from steersweep.model.chat_model import ChatModel
from steersweep.model.kv_cache import can_be_filled, held_by, keep_rows, put_back, write_at
from steersweep.model.memory import is_out_of_memory
from steersweep.steer.pair_masks import takes_pair_masks
from steersweep.steer.row_edits import RowEdits

# A recording takes about as long as this many steps, so fewer are not worth one.
_WORTH_RECORDING = 8
# Of the rows of a step, the share still answering at which the others leave: all keys and values
# are moved then.
_LEAVE_AT = 0.9
# Of the rows of a recorded step, the share still answering at which it is made smaller.
_SHRINK_AT = 0.75


class Decoder:
    """Steps with the shapes that the batch has.

    Args:
        chat: the model; `edits` are applied to it while steps are made.
        prompts: what the cache holds: the prompts of all rows, padded.
        cache: the keys and values of the rows after the prompts.
        edits: of the rows.
        n_steps: steps at most.
    """

    def __init__(
        self, chat: ChatModel, prompts: Batch, cache: Any, edits: RowEdits, n_steps: int
    ) -> None:
        rows, width = prompts.attention_mask.shape
        self._chat = chat
        self._cache = cache
        self._edits = edits
        self._length = width
        self._mask = prompts.attention_mask.new_ones((rows, width + n_steps))
        self._mask[:, :width] = prompts.attention_mask
        self._position = prompts.position_ids[:, -1:] + 1

    def step(self, tokens: Tensor) -> Tensor:
        """Append a token to every row, `[row]`; returns the next one's logits, `[row, vocabulary]`.

        They may be overwritten by the next step.
        """
        self._length += 1
        logits = self._chat.logits(
            tokens[:, None], self._mask[:, : self._length], self._position, cache=self._cache
        )
        self._position = self._position + 1
        return logits[:, 0]

    @staticmethod
    def is_worth_keeping(n_kept: int, n_rows: int) -> bool:
        """Whether dropping all but `n_kept` of the rows saves more than it costs."""
        return n_kept <= _LEAVE_AT * n_rows

    def keep(self, rows: Tensor) -> None:
        """Go on with some rows, `[kept row]` indices in rising order."""
        keep_rows(self._cache, rows)
        self._edits.keep_rows(rows)
        self._mask, self._position = self._mask[rows], self._position[rows]

    def state(self) -> dict[str, Tensor]:
        """All that later steps read, of a cache that `can_be_filled`; for `take_up`."""
        own = {"mask": self._mask, "position": self._position, "length": torch.tensor(self._length)}
        return own | held_by(self._cache)

    def take_up(self, state: Mapping[str, Tensor], rows: Tensor) -> None:
        """Go on from a state, instead of from the prompts.

        Args:
            state: of a decoder that was made as this one.
            rows: those that were left then, `[row]` indices in rising order.
        """
        put_back(self._cache, state)
        self._edits.keep_rows(rows)
        self._mask, self._position = state["mask"], state["position"]
        self._length = int(state["length"])


class FixedDecoder(Decoder):
    """Steps of the same shape every time, replayed from a recording on a GPU.

    Nothing a step reads moves while a recording is in use: tokens, positions, mask and the place
    in the cache are written where they lie.
    """

    def __init__(
        self, chat: ChatModel, prompts: Batch, cache: Any, edits: RowEdits, n_steps: int
    ) -> None:
        super().__init__(chat, prompts, cache, edits, n_steps)
        rows, width = prompts.attention_mask.shape
        self._steps_left = n_steps
        self._place = torch.tensor([width], device=chat.device)
        capacity = write_at(cache, self._place)
        hidden = torch.ones((rows, capacity), dtype=torch.bool, device=chat.device)
        hidden[:, :width] = prompts.attention_mask == 0
        self._hidden = torch.zeros(hidden.shape, dtype=chat.dtype, device=chat.device)
        self._hidden.masked_fill_(hidden, torch.finfo(chat.dtype).min)
        self._tokens = torch.zeros((rows, 1), dtype=torch.long, device=chat.device)
        self._pool: Any = None
        self._graph: Any = None
        self._former: Any = None
        self._forget()

    def step(self, tokens: Tensor) -> Tensor:
        """See `Decoder.step`."""
        self._tokens.copy_(tokens[:, None])
        self._hidden.index_fill_(1, self._place, 0)
        logits = self._run()
        self._position += 1
        self._place += 1
        self._steps_left -= 1
        return logits

    @staticmethod
    def is_worth_keeping(n_kept: int, n_rows: int) -> bool:
        """See `Decoder.is_worth_keeping`; a smaller step has to be recorded anew."""
        return n_kept <= _SHRINK_AT * n_rows

    def keep(self, rows: Tensor) -> None:
        """See `Decoder.keep`."""
        super().keep(rows)
        self._hidden, self._tokens = self._hidden[rows], self._tokens[rows]
        self._forget()

    def _forget(self) -> None:
        """What was recorded is of other rows."""
        # Kept until the next one is there: a pool of memory ends with its last recording.
        self._former, self._graph = self._graph or self._former, None
        self._recorded = torch.empty(0)
        self._warm = False

    def _forward(self) -> Tensor:
        mask = self._hidden[:, None, None]
        return self._chat.logits(self._tokens, mask, self._position, cache=self._cache)[:, 0]

    def _run(self) -> Tensor:
        if self._graph is None and not self._record():
            return self._forward()
        self._graph.replay()
        return self._recorded

    def _record(self) -> bool:
        """Whether this step can be replayed; the first of its shape runs as it is, as a warm-up."""
        if not self._chat.records_steps or self._steps_left < _WORTH_RECORDING:
            return False
        if not self._warm:
            self._warm = True
            return False
        # A step writes the same again if it is made twice, so it can be compared with itself.
        expected = None if self._chat.has_recorded else self._forward().clone()
        graph: Any = torch.cuda.CUDAGraph()
        self._pool = self._pool or torch.cuda.graph_pool_handle()
        try:
            with torch.cuda.graph(graph, pool=self._pool):
                self._recorded = self._forward()
            graph.replay()
            fault = "" if expected is None else self._difference(expected)
        except RuntimeError as error:
            if is_out_of_memory(error):
                raise
            # Something in this model asks the GPU for a number in the middle of a step.
            fault = first_line(error)
        if fault:
            self._chat.records_steps, self._chat.not_recorded = False, fault
            self._forget()
            return False
        self._chat.has_recorded = True
        self._graph, self._former = graph, None
        return True

    def _difference(self, expected: Tensor) -> str:
        """What is wrong with what a recording gave; empty if nothing is."""
        largest = float(expected.abs().max())
        apart = float((self._recorded - expected).abs().max()) / largest
        if apart <= logit_tolerance(self._chat.precision):
            return ""
        return f"a recorded step gives logits that differ by {apart:.1%}"


def decoder(chat: ChatModel, prompts: Batch, cache: Any, edits: RowEdits, n_steps: int) -> Decoder:
    """The kind of steps that suits a model and where it is; see `Decoder` for the arguments."""
    length = prompts.input_ids.shape[1] + n_steps
    fixed = (
        prefers_fixed(chat)
        and can_be_filled(cache)
        and length <= chat.attention_window
        and takes_pair_masks(chat)
    )
    return (FixedDecoder if fixed else Decoder)(chat, prompts, cache, edits, n_steps)


def prefers_fixed(chat: ChatModel) -> bool:
    """On a GPU, unless eight or four bits make a step wait for the GPU all the same."""
    return chat.device.type == "cuda" and not is_quantized(chat.precision)
