"""How rows of a model may share a batch, found out by looking at the model itself.

What an architecture's cache, padding and layers allow is not read from its name. A few rows,
steered in different ways, run both ways: as plain passes of one prompt at a time, without a cache,
and as this package runs them. The fastest way that gives the plain numbers is taken; a model for
which none does is refused before anything is computed with it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar, cast

import torch
from torch import Tensor

from steersweep.core.errors import InputError, NumericalError, SteersweepError
from steersweep.core.precision_labels import logit_tolerance, runs_as
from steersweep.core.printing import first_line
from steersweep.model.batch import Batch, at_positions
from steersweep.model.chat_model import ChatModel, not_finite
from steersweep.model.kv_cache import can_be_filled, fill, keeps_states, make_cache
from steersweep.model.memory import is_out_of_memory
from steersweep.steer.decoding import decoder
from steersweep.steer.edit import Edit, clean_layers
from steersweep.steer.prefill import prefill
from steersweep.steer.row_edits import RowEdits

T = TypeVar("T")

_SHORTEST = 3
_LONGEST = 40  # longer than the windows of models made for tests
_STEPS = 2  # tokens after the prompts
_STRENGTH = 0.5  # of the residual stream's length


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


# The fastest first.
_REGIMES = (
    Regime(),
    Regime(resumes=False),
    Regime(buffered=False, resumes=False),
    Regime(pads=False, resumes=False),
    Regime(buffered=False, pads=False, resumes=False),
    Regime(buffered=False, pads=False, leaves=False, resumes=False),
    Regime(buffered=False, pads=False, leaves=False, shares=False, resumes=False),
)


def regime_of(chat: ChatModel) -> Regime:
    """What a model allows; found out once.

    Raises:
        InputError: no way to run rows gives the numbers of plain passes.
    """
    return looked_once(chat, "regime", _looked)


def looked_once(chat: ChatModel, kept: str, look: Callable[[ChatModel], T | InputError]) -> T:
    """What a look at a model gives, kept in an attribute of it.

    Args:
        chat: the model.
        kept: name of the attribute, None before.
        look: what looks, without hooks of others.

    Raises:
        InputError: what the look gave, each time.
    """
    found = getattr(chat, kept)
    if found is None:
        with torch.inference_mode(), chat.unhooked():
            found = look(chat)
        setattr(chat, kept, found)
    if isinstance(found, InputError):
        raise found
    return cast(T, found)


def _looked(chat: ChatModel) -> Regime | InputError:
    name = type(chat.model).__name__
    refused = f"{chat.source.model_id}: steered rows cannot be run right in a {name}: "
    try:
        probe = _Probe(chat)
        recurrent = keeps_states(chat.model.config.get_text_config())
    except NumericalError:
        raise
    except SteersweepError as error:
        return InputError(refused + str(error))
    except Exception as error:  # a network says in many ways that it wants other inputs
        if is_out_of_memory(error):
            raise
        return InputError(f"{refused}a plain pass fails ({first_line(error)})")
    reason = ""
    for regime in _REGIMES:
        if recurrent and regime.pads:
            continue
        try:
            difference = probe.difference(regime)
        except Exception as error:
            if is_out_of_memory(error):
                raise
            reason = reason or first_line(error)
            continue
        if difference <= logit_tolerance(chat.precision):
            return probe.with_passes(regime)
        reason = f"their logits differ from one prompt's alone by {difference:.1%}"
    return InputError(refused + reason)


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
    """A row: tokens of its prompt, and what is added to the stream."""

    ids: tuple[int, ...]
    edit: Edit | None = None


class _Probe:
    """Rows with different prompts and additions, and the logits they have alone."""

    def __init__(self, chat: ChatModel) -> None:
        self._chat = chat
        n, middle = chat.n_layers, chat.n_layers // 2
        tokens = ordinary_tokens(chat, _LONGEST + _SHORTEST + _STEPS)
        long, short = tokens[:_LONGEST], tokens[_LONGEST:-_STEPS]
        self._next = tokens[-_STEPS:]
        self.lengths: dict[int, float] = {}
        self._check_stream(short)
        noise = torch.randn((2, chat.d_model), generator=torch.Generator().manual_seed(0))
        noise = noise / noise.norm(dim=-1, keepdim=True) * _STRENGTH
        # In rising order of the first edited layer, as batches are. Three of each length, since
        # those that may not be padded share a batch with their like only.
        low, high = (self.lengths[layer] for layer in (0, middle))
        self._cases = [
            _Case(short, Edit.add(noise[0], low, 0)),
            _Case(long, Edit.add(noise[1], low, 0, max(1, middle))),
            _Case(short, Edit.add(noise[1], high, middle, site="resid_pre")),
            _Case(long, Edit.add(noise[0], high, middle)),
            _Case(long),
            _Case(short),
        ]
        self._cases.sort(key=lambda case: clean_layers(case.edit, n))
        self._alone = [self._plain(case) for case in self._cases]
        if runs_as(chat.precision) == "fp16" and not all(
            bool(torch.isfinite(logits).all()) for logits in self._alone
        ):
            raise NumericalError(
                f"{chat.source.model_id}: logits are NaN or infinite in {chat.precision}; float16 "
                f"overflows on this model, use bf16"
            )

    def _check_stream(self, ids: Sequence[int]) -> None:
        """A layer takes and gives one residual stream, `[row, position, d_model]`."""
        chat, shapes, run = self._chat, set(), []
        expected = (1, len(ids), chat.d_model)

        def look(layer: int, hidden: Tensor) -> None:
            run.append(layer)
            shapes.add(tuple(hidden.shape))
            self.lengths[layer] = float(hidden.float().norm(dim=-1).mean())

        with (
            chat.layer_hooks(look, range(chat.n_layers), "resid_pre"),
            chat.layer_hooks(look, range(chat.n_layers)),
        ):
            self._logits(ids)
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

    def _logits(self, ids: Sequence[int]) -> Tensor:
        """The plainest pass: one prompt, no mask, no positions, no cache; `[vocabulary]`."""
        tokens = torch.tensor([list(ids)], device=self._chat.device)
        logits: Tensor = self._chat.model(input_ids=tokens, use_cache=False).logits
        return logits[0, -1].float()

    def _plain(self, case: _Case) -> Tensor:
        """Logits after the prompt and after each next token, `[step, vocabulary]`."""
        handles = [] if case.edit is None else self._plainly_added(case.edit)
        try:
            steps = [self._logits([*case.ids, *self._next[:n]]) for n in range(_STEPS + 1)]
            return torch.stack(steps)
        finally:
            for handle in handles:
                handle.remove()

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
        differences: list[float] = []
        # Twice, since a model may keep something of an earlier call; the second time counts.
        for _turn in range(2):
            differences = []
            lengths = [len(case.ids) for case in self._cases]
            for group in regime.groups(lengths, len(self._cases)):
                differences += self._of_group(regime, group)
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
        found = [_apart(row, self._alone[i][0]) for row, i in zip(logits, group, strict=True)]
        if regime.pads:  # and as passes without a cache have it
            bare = chat.logits(batch.input_ids, batch.attention_mask, batch.position_ids)[:, 0]
            found += [
                _apart(bare[of_row[row]], self._alone[index][0])
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
                    _apart(row, self._alone[i][step]) for row, i in zip(logits, group, strict=True)
                ]
        return found

    def with_passes(self, regime: Regime) -> Regime:
        """What passes of prompts may leave out, added to a regime that is right for rows."""
        found = {
            name: self._works(look, regime)
            for name, look in (
                ("resumes", self._resumed),
                ("continues", self._continued),
                ("narrows", self._narrowed),
            )
        }
        return Regime(
            regime.buffered,
            regime.pads,
            regime.leaves,
            regime.shares,
            resumes=found["resumes"],
            continues=regime.buffered and regime.pads and found["continues"],
            narrows=found["narrows"],
        )

    def _works(self, look: Any, regime: Regime) -> bool:
        try:
            return self._summary(look(regime)) <= logit_tolerance(self._chat.precision)
        except Exception as error:
            if is_out_of_memory(error):
                raise
            return False

    @property
    def _unsteered(self) -> tuple[_Case, Tensor]:
        return self._cases[-1], self._alone[-1]

    def _resumed(self, _regime: Regime) -> list[float]:
        """From the input of a middle layer on, after a pass that ends there."""
        chat, (case, alone) = self._chat, self._unsteered
        middle = chat.n_layers // 2
        batch = chat.pad([case.ids])
        held: list[Tensor] = []
        with (
            chat.only_layers(0, middle),
            chat.layer_hooks(lambda _layer, hidden: held.append(hidden), [middle], "resid_pre"),
        ):
            _run(chat, batch)
        with (
            chat.only_layers(middle, chat.n_layers),
            chat.layer_hooks(lambda _layer, _hidden: held[0], [middle], "resid_pre"),
        ):
            return [_apart(_run(chat, batch)[0, -1], alone[0])]

    def _continued(self, regime: Regime) -> list[float]:
        """Two tokens at once after a cache that was filled from another one."""
        chat, (case, alone) = self._chat, self._unsteered
        batch = chat.pad([case.ids])
        held, cache = (regime.cache(chat, len(case.ids) + _STEPS) for _ in range(2))
        if not can_be_filled(cache):
            return [torch.inf]
        chat.logits(batch.input_ids, batch.attention_mask, batch.position_ids, cache=held)
        fill(cache, slice(0, 1), 1, [(held, slice(None))] * chat.n_layers)
        whole = chat.pad([[*case.ids, *self._next]])
        logits = chat.logits(
            whole.input_ids[:, -_STEPS:],
            whole.attention_mask,
            whole.position_ids[:, -_STEPS:],
            cache=cache,
            keep=_STEPS,
        )[0]
        return [_apart(row, expected) for row, expected in zip(logits, alone[1:], strict=True)]

    def _narrowed(self, _regime: Regime) -> list[float]:
        """The last layer's MLP at two positions, of a batch that is there twice."""
        chat, (case, _) = self._chat, self._unsteered
        ends = torch.tensor([[0, len(case.ids) - 1]], device=chat.device)
        batch = chat.pad([case.ids]).rows([0, 0])
        whole = _run(chat, batch)
        with chat.mlp_at(chat.n_layers - 1, ends):
            narrow = _run(chat, batch)
        pairs = zip(
            *(at_positions(part, ends).flatten(0, 1) for part in (narrow, whole)), strict=True
        )
        return [_apart(one, other) for one, other in pairs]


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
