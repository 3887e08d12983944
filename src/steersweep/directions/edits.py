"""Forward passes of prompts under many edits of the residual stream at once; no decoding.

What scoring a candidate direction needs. Edits are rows of a batch. An edit at one layer leaves
everything below it as it was, so the clean residual streams are computed once and its pass resumes
from them; layers above the last one that is read are skipped.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from itertools import groupby

import torch
from torch import Tensor

from steersweep.chat_model import Batch, ChatModel
from steersweep.errors import NumericalError

# A difference of means that should be zero is not, by rounding: about 1e-17.
_NO_UNIT, _NO_OFFSET = 1e-4, 1e-12

# Few prompts of nearly one length, each under many edits, leave little padding.
PROMPTS_PER_BATCH = 16

_EPSILON = 1e-8  # keeps the unit vector of a zero-length direction finite, as in the official code


@dataclass(frozen=True, eq=False)
class Edit:
    """`x - (x . unit) unit + offset` at the input of a layer, at all positions.

    Attributes:
        layer: decoder layer whose input is edited; None: the input, the attention's output and the
            MLP's output of every layer.
        unit: direction to remove, `[d_model]`; zero to remove nothing.
        offset: what is added, `[d_model]`.
    """

    layer: int | None
    unit: Tensor
    offset: Tensor

    @property
    def changes_nothing(self) -> bool:
        """Whether it is too short to change an activation, as at layer 0 for template tokens."""
        return float(self.unit.norm()) < _NO_UNIT and float(self.offset.norm()) < _NO_OFFSET


def addition(layer: int, vector: Tensor) -> Edit:
    """Add `vector` `[d_model]` to the input of one layer."""
    return Edit(layer, torch.zeros_like(vector), vector)


def ablation(layer: int | None, vector: Tensor, reference: Tensor | None = None) -> Edit:
    """Remove the component along `vector` `[d_model]`.

    Args:
        layer: at the input of that layer; None: everywhere.
        vector: of any length.
        reference: put this activation's component in its place (the affine variant).
    """
    unit = vector / (vector.norm() + _EPSILON)
    offset = torch.zeros_like(unit) if reference is None else (reference @ unit) * unit
    return Edit(layer, unit, offset)


@dataclass(frozen=True, eq=False)
class Reading:
    """What some edits did to some prompts.

    States are residual streams at the last token after each layer asked for, `[..., layer,
    d_model]`; after the final norm for the model's last layer. Logits are those of the last token,
    `[..., vocabulary]`, None if not asked for.

    Attributes:
        edits: indices of the edits, in the order of the first axis.
        prompts: indices of the prompts, in the order of the next axis.
        states: `[edit, prompt, layer, d_model]`, float32.
        clean_states: the same without an edit, `[prompt, layer, d_model]`.
        logits: `[edit, prompt, vocabulary]`.
        clean_logits: the same without an edit, `[prompt, vocabulary]`.
    """

    edits: list[int]
    prompts: list[int]
    states: Tensor
    clean_states: Tensor
    logits: Tensor | None
    clean_logits: Tensor


@torch.inference_mode()
def run_edits(
    chat: ChatModel,
    prompts: Sequence[Sequence[int]],
    edits: Sequence[Edit],
    *,
    read_layers: Sequence[int] = (),
    with_logits: bool = False,
    read_before_edit: bool = False,
    max_rows: int = 256,
) -> Iterator[Reading]:
    """Run every prompt under every edit, in batches of prompts x edits.

    Args:
        chat: the model.
        prompts: token ids per prompt.
        edits: what to do to the residual stream, each for all prompts.
        read_layers: layers whose output to read.
        with_logits: whether to compute logits under the edits.
        read_before_edit: a layer's output is the next one's input; where that is edited, read it
            before the edit instead of after it.
        max_rows: prompts x edits per forward pass.
    """
    without = [index for index, edit in enumerate(edits) if edit.changes_nothing]
    by_layer = sorted({*range(len(edits))} - {*without}, key=lambda index: _start(edits[index]))
    for chosen, batch in _batches(chat, prompts, max_rows):
        passes = _Passes(
            chat, batch, tuple(read_layers), with_logits=with_logits, before=read_before_edit
        )
        passes.run_clean({_start(edits[index]) for index in by_layer})
        if without:
            yield passes.unchanged(without, chosen)
        for _, group in groupby(by_layer, key=lambda index: edits[index].layer):
            indices = list(group)
            step = max(1, max_rows // len(chosen))
            for start in range(0, len(indices), step):
                some = indices[start : start + step]
                if passes.shows(edits[some[0]]):
                    yield passes.run([edits[index] for index in some], some, chosen)
                else:
                    yield passes.unchanged(some, chosen)


@torch.inference_mode()
def clean_states(
    chat: ChatModel,
    prompts: Sequence[Sequence[int]],
    read_layers: Sequence[int],
    *,
    max_rows: int = 256,
) -> Tensor:
    """States without an edit, as `Reading.clean_states`: `[prompt, layer, d_model]`, float64, CPU.

    Raises:
        NumericalError: a state is NaN or infinite.
    """
    states = torch.empty((len(prompts), len(read_layers), chat.d_model), dtype=torch.float64)
    for chosen, batch in _batches(chat, prompts, max_rows):
        passes = _Passes(chat, batch, tuple(read_layers), with_logits=False, before=False)
        passes.run_clean(set())
        states[chosen] = passes.clean_states.double().cpu()
    if not bool(torch.isfinite(states).all()):
        raise NumericalError(
            f"{chat.source.model_id}: activations are NaN or infinite in {chat.precision}"
        )
    return states


def edited_logits(chat: ChatModel, prompts: Sequence[Sequence[int]], edit: Edit) -> Tensor:
    """Next-token logits under one edit, `[prompt, vocabulary]`, float64, on the CPU."""
    result = torch.empty((len(prompts), chat.vocab_size), dtype=torch.float64)
    for reading in run_edits(chat, prompts, [edit], with_logits=True):
        assert reading.logits is not None
        result[reading.prompts] = reading.logits[0].double().cpu()
    return result


def _batches(
    chat: ChatModel, prompts: Sequence[Sequence[int]], max_rows: int
) -> Iterator[tuple[list[int], Batch]]:
    """Indices of prompts that share a batch, and the batch; prompts of like length together."""
    by_length = sorted(range(len(prompts)), key=lambda index: len(prompts[index]))
    size = min(max_rows, PROMPTS_PER_BATCH)
    for first in range(0, len(prompts), size):
        chosen = by_length[first : first + size]
        yield chosen, chat.pad([prompts[index] for index in chosen])


class _Passes:
    """One batch of prompts: its clean pass, and passes under edits that resume from it."""

    def __init__(
        self,
        chat: ChatModel,
        batch: Batch,
        read_layers: tuple[int, ...],
        *,
        with_logits: bool,
        before: bool,
    ) -> None:
        self.chat = chat
        self.batch = batch
        self.read_layers = read_layers
        self.with_logits = with_logits
        self.before = before
        to_the_end = with_logits or chat.n_layers - 1 in read_layers
        # The first layer that need not run: the output of layer e is read as the input of e + 1.
        self.stop = chat.n_layers if to_the_end else max(read_layers) + 1
        self._clean_inputs: dict[int, Tensor] = {}
        self.clean_states = torch.empty(0)
        self.clean_logits = torch.empty(0)

    def run_clean(self, resume_at: set[int]) -> None:
        """Without an edit; keeps the inputs of the layers where passes will resume."""

        def keep(layer: int, hidden: Tensor) -> None:
            self._clean_inputs[layer] = hidden

        with self.chat.layer_hooks(keep, resume_at - {0}, "resid_pre"):
            self.clean_states, self.clean_logits = self._run(1, 0, self.chat.n_layers, None)

    def shows(self, edit: Edit) -> bool:
        """Whether anything that is read lies above the edit."""
        return _start(edit) <= self.stop

    def unchanged(self, indices: list[int], prompts: list[int]) -> Reading:
        """What edits that change nothing that is read leave: the clean pass."""
        n = len(indices)
        logits = self.clean_logits.expand(n, *self.clean_logits.shape)
        return Reading(
            indices,
            prompts,
            self.clean_states.expand(n, *self.clean_states.shape),
            self.clean_states,
            logits if self.with_logits else None,
            self.clean_logits,
        )

    def run(self, edits: Sequence[Edit], indices: list[int], prompts: list[int]) -> Reading:
        """One pass of all prompts under edits that share a layer."""
        start, n = _start(edits[0]), len(edits)
        states, logits = self._run(n, start, self.stop, _RowEdits(self.chat, edits))
        below = [index for index, layer in enumerate(self.read_layers) if layer + 1 < start]
        states = states.reshape(n, len(prompts), *states.shape[1:])
        states[:, :, below] = self.clean_states[:, below]
        return Reading(
            indices,
            prompts,
            states,
            self.clean_states,
            logits.reshape(n, len(prompts), -1) if self.with_logits else None,
            self.clean_logits,
        )

    def _run(
        self, copies: int, start: int, stop: int, edits: _RowEdits | None
    ) -> tuple[Tensor, Tensor]:
        """States `[row, layer, d_model]` and logits `[row, vocabulary]` of one forward pass."""
        chat, n_rows = self.chat, copies * len(self.batch.input_ids)
        read_at = {layer + 1: index for index, layer in enumerate(self.read_layers)}
        states = torch.empty((n_rows, len(self.read_layers), chat.d_model), device=chat.device)

        def at_input(layer: int, hidden: Tensor) -> Tensor | None:
            if layer < start:
                return None
            if layer == start and start > 0:
                hidden = self._clean_inputs[start].repeat(copies, 1, 1)
            edited = hidden if edits is None else edits.at_input(layer, hidden)
            if layer in read_at:
                states[:, read_at[layer]] = (hidden if self.before else edited)[:, -1].float()
            return edited

        def at_end(final: Tensor) -> None:
            if chat.n_layers in read_at:
                states[:, read_at[chat.n_layers]] = final.float()

        with ExitStack() as stack:
            stack.enter_context(chat.only_layers(start, stop))
            stack.enter_context(chat.layer_hooks(at_input, range(chat.n_layers), "resid_pre"))
            stack.enter_context(chat.final_states(at_end))
            if edits is not None and edits.everywhere:
                for site in ("attn_out", "mlp_out"):
                    hooks = chat.layer_hooks(edits.at_part, range(start, stop), site)
                    stack.enter_context(hooks)
            logits = chat.logits(
                self.batch.input_ids.repeat(copies, 1),
                self.batch.attention_mask.repeat(copies, 1),
                self.batch.position_ids.repeat(copies, 1),
            )
        return states, logits[:, 0]


class _RowEdits:
    """Edits of one layer spread over the rows of a batch: each edit's prompts follow one another.

    One product per edit with all its rows, not one per row.
    """

    def __init__(self, chat: ChatModel, edits: Sequence[Edit]) -> None:
        self.layer = edits[0].layer
        units = torch.stack([edit.unit for edit in edits])
        offsets = torch.stack([edit.offset for edit in edits])
        self._unit = units.to(chat.device, chat.dtype)[:, :, None]  # [edit, d_model, 1]
        self._offset = offsets.to(chat.device, chat.dtype)[:, None]  # [edit, 1, d_model]
        self._removes = bool(units.any())
        self._adds = bool(offsets.any())

    @property
    def everywhere(self) -> bool:
        return self.layer is None

    def at_input(self, layer: int, hidden: Tensor) -> Tensor:
        return self._apply(hidden) if self.layer in (None, layer) else hidden

    def at_part(self, _layer: int, output: Tensor) -> Tensor:
        return self._apply(output)

    def _apply(self, hidden: Tensor) -> Tensor:
        edited = hidden.reshape(len(self._unit), -1, hidden.shape[-1])  # [edit, row token, d_model]
        if self._removes:
            along = edited @ self._unit
            edited = torch.baddbmm(edited, along, self._unit.transpose(1, 2), alpha=-1)
        if self._adds:
            edited = edited + self._offset
        return edited.view_as(hidden)


def _start(edit: Edit) -> int:
    """First layer whose input an edit changes."""
    return 0 if edit.layer is None else edit.layer
