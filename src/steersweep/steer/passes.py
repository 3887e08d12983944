"""Forward passes of prompts under many edits of the residual stream at once; no decoding.

What scoring a candidate direction needs. Edits are rows of a batch. An edit leaves everything below
its first layer as it was, so the clean residual streams are computed once and its pass resumes from
them; layers above the last one that is read are skipped. `Edit.everywhere` also edits what layers
write, which only these passes do, with the same arithmetic (`RowEdits`).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence, Set
from contextlib import ExitStack
from dataclasses import dataclass
from functools import cached_property, partial
from itertools import groupby

import torch
from torch import Tensor

from steersweep.core.errors import InputError, NumericalError
from steersweep.model.batch import at_positions
from steersweep.model.chat_model import ChatModel
from steersweep.steer.edit import Edit
from steersweep.steer.everywhere import ablation_sites_of
from steersweep.steer.packing import Layout, layouts
from steersweep.steer.regime_search import regime_of
from steersweep.steer.row_edits import RowEdits

# Prompts in a batch, each under every edit.
_FEWEST_PROMPTS, _MOST_PROMPTS = 16, 64


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
        logits: `[edit, prompt, vocabulary]`.
    """

    edits: list[int]
    prompts: list[int]
    states: Tensor
    logits: Tensor | None


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
        edits: what to do to the residual stream, each for all prompts, at all their tokens (or at
            new tokens only: then nothing happens to a prompt).
        read_layers: layers whose output to read.
        with_logits: whether to compute logits under the edits.
        read_before_edit: a layer's output is the next one's input; where that is edited
            (`resid_pre`), read it before the edit instead of after it.
        max_rows: prompts x edits per forward pass.

    Raises:
        InputError: an edit does not fit the model, or is of last tokens only; it is of all that
            layers write, and something would be left in this architecture; or prompts of it cannot
            be run right.
    """
    stop = _stop(chat, read_layers, with_logits)
    for edit in edits:
        _check(chat, edit)
    unseen = [
        index
        for index, edit in enumerate(edits)
        if edit.clean_layers(chat.n_layers) > chat.n_layers or edit.start > stop
    ]

    def place(index: int) -> tuple[int, bool]:
        return edits[index].start, edits[index].all_writes

    by_layer = sorted({*range(len(edits))} - {*unseen}, key=place)
    for layout in _layouts(chat, prompts, max_rows, len(edits)):
        passes = _Passes(
            chat,
            layout,
            tuple(read_layers),
            with_logits=with_logits,
            before=read_before_edit,
            resume_at={edits[index].start for index in by_layer},
            read_clean=bool(unseen),
        )
        if unseen:
            yield passes.unchanged(unseen)
        for _, group in groupby(by_layer, key=place):
            indices = list(group)
            step = max(1, max_rows // len(layout.prompts))
            for start in range(0, len(indices), step):
                some = indices[start : start + step]
                yield passes.run([edits[index] for index in some], some)


@torch.inference_mode()
def clean_states(
    chat: ChatModel,
    prompts: Sequence[Sequence[int]],
    read_layers: Sequence[int],
    *,
    max_rows: int = 256,
) -> Tensor:
    """States without an edit, as `Reading.states`: `[prompt, layer, d_model]`, float64, CPU.

    Raises:
        NumericalError: a state is NaN or infinite.
    """
    states = torch.empty((len(prompts), len(read_layers), chat.d_model), dtype=torch.float64)
    for layout in _layouts(chat, prompts, max_rows):
        passes = _Passes(chat, layout, tuple(read_layers))
        states[layout.prompts] = passes.clean.states.double().cpu()
    if not bool(torch.isfinite(states).all()):
        raise NumericalError(
            f"{chat.source.model_id}: activations are NaN or infinite in {chat.precision}"
        )
    return states


@torch.inference_mode()
def clean_logits(
    chat: ChatModel, prompts: Sequence[Sequence[int]], *, max_rows: int = 256
) -> Tensor:
    """Next-token logits without an edit, `[prompt, vocabulary]`, as `Reading.logits`."""
    result = torch.empty((len(prompts), chat.vocab_size), dtype=chat.dtype, device=chat.device)
    for layout in _layouts(chat, prompts, max_rows):
        logits = _Passes(chat, layout, (), with_logits=True).clean.logits
        assert logits is not None
        result[layout.prompts] = logits
    return result


def edited_logits(chat: ChatModel, prompts: Sequence[Sequence[int]], edit: Edit) -> Tensor:
    """Next-token logits under one edit, `[prompt, vocabulary]`, float64, on the CPU."""
    result = torch.empty((len(prompts), chat.vocab_size), dtype=torch.float64)
    for reading in run_edits(chat, prompts, [edit], with_logits=True):
        assert reading.logits is not None
        result[reading.prompts] = reading.logits[0].double().cpu()
    return result


def _layouts(
    chat: ChatModel, prompts: Sequence[Sequence[int]], max_rows: int, n_edits: int = 1
) -> Iterator[Layout]:
    """Prompts in batches: many where there are few edits, since each runs under every one."""
    size = min(_MOST_PROMPTS, max(_FEWEST_PROMPTS, max_rows // max(1, n_edits)))
    return layouts(chat, prompts, min(max_rows, size))


@dataclass(frozen=True, eq=False)
class _Clean:
    """A pass without an edit: `[prompt, layer, d_model]`, `[prompt, vocabulary]`, and the residual
    streams before the layers where passes resume."""

    states: Tensor
    logits: Tensor | None
    inputs: dict[int, Tensor]


class _Passes:
    """One batch of prompts: its clean pass, made if it is needed, and passes that resume from it.

    Args:
        chat: the model.
        layout: the prompts.
        read_layers: layers whose output to read.
        with_logits: whether to compute logits.
        before: read a layer's output before the edit of the next one's input.
        resume_at: layers at whose input passes begin.
        read_clean: whether the clean pass is read too, not only resumed from.
    """

    def __init__(
        self,
        chat: ChatModel,
        layout: Layout,
        read_layers: tuple[int, ...],
        *,
        with_logits: bool = False,
        before: bool = False,
        resume_at: Set[int] = frozenset(),
        read_clean: bool = True,
    ) -> None:
        self.chat = chat
        self.layout = layout
        self.read_layers = read_layers
        self.with_logits = with_logits
        self.before = before
        self.resume_at = resume_at - {0}
        self.read_clean = read_clean
        self.stop = _stop(chat, read_layers, with_logits)
        self.regime = regime_of(chat)

    @cached_property
    def clean(self) -> _Clean:
        """Without an edit, as far up as it is read or resumed from."""
        inputs: dict[int, Tensor] = {}

        def keep(layer: int, hidden: Tensor) -> None:
            inputs[layer] = hidden

        with self.chat.layer_hooks(keep, self.resume_at, "resid_pre"):
            stop = self.stop if self.read_clean else max(self.resume_at)
            states, logits = self._run(1, 0, stop, None)
        return _Clean(states[0], None if logits is None else logits[0], inputs)

    def unchanged(self, indices: list[int]) -> Reading:
        """What edits that change nothing that is read leave: the clean pass."""
        n, clean = len(indices), self.clean
        logits = None if clean.logits is None else clean.logits.expand(n, *clean.logits.shape)
        states = clean.states.expand(n, *clean.states.shape)
        return Reading(indices, self.layout.prompts, states, logits)

    def run(self, edits: Sequence[Edit], indices: list[int]) -> Reading:
        """One pass of all prompts under edits with the same first layer."""
        start, n = edits[0].start, len(edits)
        states, logits = self._run(n, start, self.stop, RowEdits(self.chat, edits))
        below = [index for index, layer in enumerate(self.read_layers) if layer + 1 < start]
        if below:
            states[:, :, below] = self.clean.states[:, below]
        return Reading(indices, self.layout.prompts, states, logits)

    def _run(
        self, copies: int, start: int, stop: int, edits: RowEdits | None
    ) -> tuple[Tensor, Tensor | None]:
        """States and logits of a forward pass through layers `[start, stop)`, as in `Reading`."""
        chat, layout = self.chat, self.layout
        resumes = self.regime.resumes
        clean = self.clean.inputs if start > 0 and resumes else {}
        read_at = {layer + 1: index for index, layer in enumerate(self.read_layers)}
        states = torch.empty(
            (copies, len(layout.prompts), len(self.read_layers), chat.d_model), device=chat.device
        )
        to_the_end = stop == chat.n_layers
        with_logits = self.with_logits and to_the_end

        def at_input(layer: int, hidden: Tensor) -> Tensor | None:
            if layer < start:
                return None
            if layer == start and start > 0 and resumes:
                hidden = clean[start].repeat(copies, 1, 1)
            edited = hidden if edits is None else edits.edited("resid_pre", layer, hidden)
            if layer in read_at:
                seen = hidden if self.before else edited
                states[:, :, read_at[layer]] = layout.at_ends(seen).float()
            return edited

        def at_end(final: Tensor) -> Tensor:
            if to_the_end and chat.n_layers in read_at:
                states[:, :, read_at[chat.n_layers]] = layout.at_ends(final).float()
            return at_positions(final, layout.ends) if with_logits else final[:1, :1]

        with ExitStack() as stack:
            if resumes:
                stack.enter_context(chat.only_layers(start, stop))
            stack.enter_context(chat.layer_hooks(at_input, range(chat.n_layers), "resid_pre"))
            stack.enter_context(chat.head_input(at_end))
            if start < stop == self.stop and self.regime.narrows:
                # Of the last layer only the ends of prompts are read, after its MLP. Hooks on an
                # MLP's output come after this one and see all positions.
                stack.enter_context(chat.mlp_at(stop - 1, layout.ends))
            if edits is not None:
                stack.enter_context(edits.to_prompts())
                stack.enter_context(edits.applied(start, sites=["resid_post"]))
                if edits.all_writes:
                    sites = ablation_sites_of(chat)
                    edit = partial(edits.edited, "writes", 0)
                    stack.enter_context(sites.edited(chat, edit, range(start, stop)))
            batch = layout.copies(copies)
            logits = chat.logits(
                batch.input_ids,
                batch.attention_mask,
                batch.position_ids,
                keep=batch.input_ids.shape[1],
            )
        return states, layout.at_ends(logits) if with_logits else None


def _stop(chat: ChatModel, read_layers: Sequence[int], with_logits: bool) -> int:
    """The first layer that need not run: the output of layer e is read as the input of e + 1."""
    return chat.n_layers if with_logits else max(read_layers) + 1


def _check(chat: ChatModel, edit: Edit) -> None:
    edit.check_fits(chat.source.model_id, chat.n_layers, chat.d_model)
    if edit.positions == "last":
        raise InputError(
            "an edit of the prompt's last token only is for generation; scores of prompts take "
            "edits of all their tokens"
        )
