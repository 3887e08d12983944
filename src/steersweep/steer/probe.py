"""Rows of a model as plain passes have them, and as batches of a regime do.

A few prompts, steered in different ways, run alone and without a cache; the same rows then run
together, and passes leave out what they may. Each look says how far its logits are from those
alone.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from steersweep.core.errors import NumericalError, SteersweepError
from steersweep.core.precision_labels import logit_tolerance, runs_as
from steersweep.model.batch import Batch
from steersweep.model.chat_model import ChatModel, not_finite
from steersweep.model.kv_cache import can_be_filled, fill, keeps_states
from steersweep.model.memory import is_out_of_memory
from steersweep.steer.decoding import decoder
from steersweep.steer.edit import Edit, clean_layers
from steersweep.steer.prefill import prefill
from steersweep.steer.regime import Regime
from steersweep.steer.row_edits import RowEdits

_SHORT = 3
_LONG = 16
# Longer than windows of models made for tests, and than what a state of a layer forgets.
_LONG_ENOUGH = 40
_STEPS = 2  # tokens after the prompts
_STRENGTH = 0.5  # of the residual stream's length


def ordinary_tokens(chat: ChatModel, count: int) -> tuple[int, ...]:
    """Token ids from all over the vocabulary that stand for nothing special, always the same."""
    special: set[Any] = {*chat.eos_ids, chat.pad_id}
    special |= set(getattr(chat.tokenizer, "all_special_ids", ()))
    for config in (chat.model.config, chat.model.config.get_text_config()):
        # Where an image goes, say.
        names = (name for name in vars(config) if "token" in name)
        special |= {value for name in names if isinstance(value := getattr(config, name), int)}
    usable = [token for token in range(chat.vocab_size) if token not in special]
    step = max(1, len(usable) // (count + 1))
    # Back and forth, so that neighbours are not alike.
    return tuple(usable[(index * 7 % count) * step % len(usable)] for index in range(count))


@dataclass(frozen=True)
class _Case:
    """A row: tokens of its prompt, and what is added to the stream.

    A spare one is there so that a batch of one length has three rows, of which one can leave.
    """

    ids: tuple[int, ...]
    edit: Edit | None = None
    is_spare: bool = False


class Probe:
    """Rows with different prompts and additions, and the logits they have alone.

    Args:
        chat: the model.

    Attributes:
        lengths: of the residual stream before or after each layer, in a short text.
        continues: whether several tokens at once could follow a cache, in the last regime tried.

    Raises:
        SteersweepError: its layers do not hand on one residual stream.
        NumericalError: activations or logits are no numbers.
    """

    def __init__(self, chat: ChatModel) -> None:
        self._chat = chat
        n, middle = chat.n_layers, chat.n_layers // 2
        count = _longest(chat)
        tokens = ordinary_tokens(chat, count + _SHORT + _STEPS)
        long, short = tokens[:count], tokens[count:-_STEPS]
        self._next = tokens[-_STEPS:]
        self.lengths: dict[int, float] = {}
        self.continues = False
        self._known: dict[int, Tensor] = {}
        unsteered = self._check_stream(short)
        noise = torch.randn((2, chat.d_model), generator=torch.Generator().manual_seed(0))
        noise = noise / noise.norm(dim=-1, keepdim=True) * _STRENGTH
        low, high = (self.lengths[layer] for layer in (0, middle))
        cases = [
            _Case(short, Edit.add(noise[0], low, 0, max(1, middle))),
            _Case(long, Edit.add(noise[1], low, 0), is_spare=True),
            _Case(short, Edit.add(noise[0], high, middle), is_spare=True),
            _Case(long, Edit.add(noise[1], high, middle, site="resid_pre")),
            _Case(long),
            _Case(short),
        ]
        # In rising order of the first edited layer, as batches are.
        self._cases = sorted(cases, key=lambda case: clean_layers(case.edit, n))
        self._unsteered = len(cases) - 1
        self._known[self._unsteered] = unsteered
        for index, case in enumerate(self._cases):
            if not case.is_spare:
                self._alone(index)

    def _alone(self, index: int) -> Tensor:
        """What `_plain` gives for a case."""
        if index not in self._known:
            self._known[index] = self._plain(self._cases[index])
        logits, chat = self._known[index], self._chat
        if runs_as(chat.precision) == "fp16" and not bool(torch.isfinite(logits).all()):
            raise NumericalError(
                f"{chat.source.model_id}: logits are NaN or infinite in {chat.precision}; float16 "
                f"overflows on this model, use bf16"
            )
        return logits

    def _check_stream(self, ids: tuple[int, ...]) -> Tensor:
        """A layer takes and gives one residual stream, `[row, position, d_model]`.

        Returns:
            What `_plain` gives for this prompt.
        """
        chat, shapes, run = self._chat, set(), []
        expected = (1, len(ids) + _STEPS, chat.d_model)

        def look(layer: int, hidden: Tensor) -> None:
            run.append(layer)
            shapes.add(tuple(hidden.shape))
            self.lengths[layer] = float(hidden.float().norm(dim=-1).mean())

        with (
            chat.layer_hooks(look, range(chat.n_layers), "resid_pre"),
            chat.layer_hooks(look, range(chat.n_layers)),
        ):
            logits = self._plain(_Case(ids))
        broken = [layer for layer, length in self.lengths.items() if not math.isfinite(length)]
        if broken:
            raise not_finite(chat, min(broken))
        if sorted(run) != sorted([*range(chat.n_layers)] * 2):
            unlike = [layer for layer in range(chat.n_layers) if run.count(layer) != 2]
            raise SteersweepError(
                f"layers {', '.join(map(str, unlike))} do not run once for a text alone"
            )
        if shapes != {expected}:
            shown = ", ".join(str(list(shape)) for shape in sorted(shapes - {expected}))
            raise SteersweepError(
                f"its layers do not hand on one residual stream of {list(expected)}"
                + (f", but {shown}" if shown else "")
            )
        return logits

    def _plain(self, case: _Case) -> Tensor:
        """Logits after the prompt and after each next token, `[step, vocabulary]`.

        By the plainest pass: one text, no mask, no positions, no cache. Tokens do not see what
        follows them; in a network where they do, no batch with a cache gives these numbers.
        """
        tokens = torch.tensor([[*case.ids, *self._next]], device=self._chat.device)
        handles = [] if case.edit is None else self._plainly_added(case.edit)
        try:
            with self._chat.head_input(_at_steps):
                logits: Tensor = self._chat.model(input_ids=tokens, use_cache=False).logits
        finally:
            for handle in handles:
                handle.remove()
        return logits[0, -_STEPS - 1 :].float()

    def _plainly_added(self, edit: Edit) -> list[Any]:
        """Handles of one hook on each layer of an addition."""
        push = torch.as_tensor(edit.added).to(self._chat.device, self._chat.dtype)

        def before(_module: Any, args: Any, kwargs: Any) -> Any:
            if not args:
                return args, {**kwargs, "hidden_states": kwargs["hidden_states"] + push}
            return (args[0] + push, *args[1:]), kwargs

        def after(_module: Any, _inputs: Any, output: Any) -> Any:
            is_tuple = isinstance(output, tuple)
            return (output[0] + push, *output[1:]) if is_tuple else output + push

        layers = self._chat.layers[slice(*edit.span(self._chat.n_layers))]
        if edit.site == "resid_pre":
            return [layer.register_forward_pre_hook(before, with_kwargs=True) for layer in layers]
        return [layer.register_forward_hook(after) for layer in layers]

    def difference(self, regime: Regime) -> float:
        """How far logits are from those alone when rows run in a regime; infinite if not finite."""
        # After other rows, since a model may keep something of an earlier call.
        self.continues = self.works(lambda: self._continued(regime))
        differences: list[float] = []
        rows = [i for i, case in enumerate(self._cases) if not (regime.pads and case.is_spare)]
        for group in regime.groups([len(self._cases[row].ids) for row in rows], len(rows)):
            differences += self._of_group(regime, [rows[place] for place in group])
        return self._summary(differences)

    def _summary(self, differences: Sequence[float]) -> float:
        # With few bits a token may go to other experts, so the middle one counts there.
        ordered = sorted(differences)
        return (
            ordered[-1] if runs_as(self._chat.precision) == "fp32" else ordered[len(ordered) // 2]
        )

    def _of_group(self, regime: Regime, group: list[int]) -> list[float]:
        """Rows in one batch, of which the second leaves after the prompts."""
        chat = self._chat
        cases = [self._cases[index] for index in group]
        prompts = list(dict.fromkeys(case.ids for case in cases))
        of_row = [prompts.index(case.ids) for case in cases]
        batch = chat.pad(prompts)
        cache = regime.cache(chat, batch.input_ids.shape[1] + _STEPS)
        edits = RowEdits(chat, [case.edit for case in cases])
        clean = [clean_layers(case.edit, chat.n_layers) for case in cases]
        logits = prefill(chat, batch, of_row, clean, edits, cache, resumes=regime.resumes)
        found = [_apart(row, self._alone(i)[0]) for row, i in zip(logits, group, strict=True)]
        if regime.pads:  # and as passes without a cache have it
            bare = chat.logits(batch.input_ids, batch.attention_mask, batch.position_ids)[:, 0]
            found += [
                _apart(bare[of_row[row]], self._alone(index)[0])
                for row, index in enumerate(group)
                if self._cases[index].edit is None
            ]
        decoding = decoder(chat, batch.rows(of_row), cache, edits, _STEPS)
        with edits.applied():
            for step, token in enumerate(self._next, start=1):
                if regime.leaves and step == 1 and len(group) > 1:
                    kept = [row for row in range(len(group)) if row != 1]
                    decoding.keep(torch.tensor(kept, device=chat.device))
                    group = [group[row] for row in kept]
                logits = decoding.step(torch.tensor([token] * len(group), device=chat.device))
                found += [
                    _apart(row, self._alone(i)[step]) for row, i in zip(logits, group, strict=True)
                ]
        return found

    def works(self, look: Callable[[], Sequence[float]]) -> bool:
        """Whether what a look finds is rounding, and it can be made at all."""
        try:
            return self._summary(look()) <= logit_tolerance(self._chat.precision)
        except Exception as error:
            if is_out_of_memory(error):
                raise
            return False

    def resumed(self) -> list[float]:
        """From the input of a middle layer on, after a pass that ends there."""
        chat, case, alone = self._chat, self._cases[self._unsteered], self._alone(self._unsteered)
        middle = chat.n_layers // 2
        batch = chat.pad([case.ids])
        held: list[Tensor] = []

        def run() -> Tensor:
            """Logits of the last position; every layer is given all of them."""
            with chat.head_input(lambda states: states[:, -1:].contiguous()):
                return _run(chat, batch)[0, -1]

        with (
            chat.only_layers(0, middle),
            chat.layer_hooks(lambda _layer, hidden: held.append(hidden), [middle], "resid_pre"),
        ):
            run()
        with (
            chat.only_layers(middle, chat.n_layers),
            chat.layer_hooks(lambda _layer, _hidden: held[0], [middle], "resid_pre"),
        ):
            return [_apart(run(), alone[0])]

    def _continued(self, regime: Regime) -> list[float]:
        """Two tokens at once after a cache that was filled from another one.

        Where caches cannot be filled, a step after the prompt, which says nothing.
        """
        chat, case, alone = self._chat, self._cases[self._unsteered], self._alone(self._unsteered)
        held, cache = (regime.cache(chat, len(case.ids) + _STEPS) for _ in range(2))
        whole = chat.pad([[*case.ids, *self._next]])

        def run(cache: Any, first: int, stop: int, keep: int) -> Tensor:
            here = slice(first, stop)
            return chat.logits(
                whole.input_ids[:, here],
                whole.attention_mask[:, :stop],
                whole.position_ids[:, here],
                cache=cache,
                keep=keep,
            )[0]

        count = len(case.ids)
        run(held, 0, count, 1)
        if not can_be_filled(cache):
            run(held, count, count + 1, 1)
            return [torch.inf]
        fill(cache, slice(0, 1), 1, [(held, slice(None))] * chat.n_layers)
        logits = run(cache, count, count + _STEPS, _STEPS)
        return [_apart(row, expected) for row, expected in zip(logits, alone[1:], strict=True)]

    def narrowed(self) -> list[float]:
        """The last layer's MLP at two positions, of a batch that is there twice."""
        chat, case, alone = self._chat, self._cases[self._unsteered], self._alone(self._unsteered)
        batch = chat.pad([[*case.ids, *self._next]]).rows([0, 0])
        steps = [0, _STEPS]
        ends = torch.tensor([[len(case.ids) - 1 + step for step in steps]], device=chat.device)
        with chat.mlp_at(chat.n_layers - 1, ends), chat.head_input(_at_steps):
            narrow = _run(chat, batch)[:, -_STEPS - 1 :]
        return [_apart(row[step], alone[step]) for row in narrow for step in steps]


def _longest(chat: ChatModel) -> int:
    """Tokens of the long prompt: more where a short one could not show all that a layer does."""
    config = chat.model.config.get_text_config()
    is_plain = chat.attention_window > _LONG_ENOUGH and not keeps_states(config)
    return _LONG if is_plain else _LONG_ENOUGH


def _at_steps(states: Tensor) -> Tensor:
    """The final states that predict the next tokens, and the one after them."""
    return states[:, -_STEPS - 1 :].contiguous()


def _run(chat: ChatModel, batch: Batch) -> Tensor:
    """Logits at all positions, `[row, position, vocabulary]`."""
    return chat.logits(
        batch.input_ids,
        batch.attention_mask,
        batch.position_ids,
        keep=batch.input_ids.shape[1],
    )


def _apart(found: Tensor, expected: Tensor) -> float:
    """Relative difference of logits, what they all share left out; infinite if not finite."""
    found, expected = (row.float() - row.float().mean() for row in (found, expected))
    apart = (found - expected).norm() / expected.norm().clamp(min=1e-9)
    return float(apart.nan_to_num(nan=torch.inf))
