"""Residual-stream activations of prompts, read with hooks.

transformers' `output_hidden_states` is not used: its last entry lies after the final norm, and in
version 5 it may miss a steering hook.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Literal

import torch
from torch import Tensor

from steersweep.core.errors import InputError, setting
from steersweep.model.chat_model import ChatModel, not_finite
from steersweep.steer.packing import Layout, layouts
from steersweep.steer.parity import read_with_nnsight
from steersweep.steer.regime_search import regime_of

ReadSite = Literal["resid_post", "resid_pre"]
Backend = Literal["hooks", "nnsight"]
OnShare = Callable[[float], None]

_PROMPTS = 64  # in a pass of which only means are kept


def residuals(
    chat: ChatModel,
    prompts: Sequence[Sequence[int]],
    *,
    positions: Sequence[int] = (-1,),
    site: ReadSite = "resid_post",
    max_rows: int = 64,
    backend: Backend = "hooks",
    on_share: OnShare = lambda _share: None,
) -> Tensor:
    """The residual stream at every layer and the given positions, one forward pass per batch.

    Args:
        chat: the model.
        prompts: token ids per prompt, as from `ChatModel.prompt_ids`.
        positions: negative positions counted from the end of the prompt; -1 is its last token.
        site: after each layer (`resid_post`) or before it (`resid_pre`).
        max_rows: prompts per forward pass.
        backend: what reads: this package's hooks, or nnsight where it is installed.
        on_share: told of the share of prompts that is done, 0 to 1.

    Returns:
        float32 on the CPU, `[prompt, position, layer, d_model]`.

    Raises:
        InputError: no prompts, a prompt shorter than a position asked for, or no such backend.
        NumericalError: an activation is NaN or infinite.
    """
    _check_positions(prompts, positions)
    as_backend(backend)
    index = torch.tensor(positions, device=chat.device)
    result = torch.empty((len(prompts), len(positions), chat.n_layers, chat.d_model))
    done = 0
    for some in regime_of(chat).groups([len(ids) for ids in prompts], max_rows):
        chunk = [prompts[number] for number in some]
        # On a GPU it goes to the CPU once and not at every layer: that would wait for each.
        part = torch.empty((len(some), *result.shape[1:]), device=chat.device)

        def read(layer: int, hidden: Tensor, part: Tensor = part) -> None:
            # Left padding puts every prompt's last token at the end of the batch.
            part[:, :, layer] = hidden[:, index % hidden.shape[1]].float()

        if backend == "nnsight":
            sites = read_with_nnsight(chat, chunk)
            post = [sites[f"layer {layer}"] for layer in range(chat.n_layers)]
            states = post if site == "resid_post" else [sites["embeddings"], *post[:-1]]
            for layer, hidden in enumerate(states):
                read(layer, hidden)
        else:
            batch = chat.pad(chunk)
            width = batch.input_ids.shape[1]
            # Nobody asks for logits; but some networks leave out positions that get none.
            with (
                chat.layer_hooks(read, range(chat.n_layers), site),
                chat.head_input(lambda hidden: hidden[:1, :1]),
            ):
                chat.logits(batch.input_ids, batch.attention_mask, batch.position_ids, keep=width)
        part = part.cpu()
        _check_finite(chat, part)
        result[some] = part
        done += len(some)
        on_share(done / len(prompts))
    return result


def harmless_mean(
    chat: ChatModel,
    prompts: Sequence[str],
    *,
    position: int,
    site: ReadSite,
    max_rows: int = 64,
) -> Tensor:
    """Mean residual stream of prompts at a position, `[layer, d_model]`, float64, on the CPU.

    What affine edits put back (`Edit.affine`).

    Raises:
        InputError: a prompt cannot be put to the model, or is shorter than the position.
        NumericalError: see `residuals`.
    """
    ids = chat.renderer.ids_of(prompts, "harmless prompt")
    states = residuals(chat, ids, positions=(position,), site=site, max_rows=max_rows)
    return states[:, 0].double().mean(0)


@dataclass(frozen=True, eq=False)
class MeanResiduals:
    """Means over prompts, in float64.

    Attributes:
        at: at the positions and the site asked for, `[position, layer, d_model]`.
        last: at the last token after each layer, `[layer, d_model]`; of the last layer after the
            final norm.
        last_unit: the same of states that were given length 1 first.
        norms: mean length of `resid_post` at the last token, `[layer]`.
    """

    at: Tensor
    last: Tensor
    last_unit: Tensor
    norms: Tensor


def mean_residuals(
    chat: ChatModel,
    prompts: Sequence[Sequence[int]],
    *,
    positions: Sequence[int],
    site: ReadSite = "resid_post",
    on_share: OnShare = lambda _share: None,
) -> MeanResiduals:
    """Means of the residual streams of prompts; `positions` must end with -1.

    Only sums are kept, so many prompts and positions of a large model fit. `on_share` is told of
    the share of prompts that is done, 0 to 1.
    """
    _check_positions(prompts, positions)
    at = torch.zeros((len(positions), chat.n_layers, chat.d_model), dtype=torch.float64)
    last = torch.zeros(at.shape[1:], dtype=torch.float64)
    last_unit = torch.zeros_like(last)
    norms = torch.zeros(chat.n_layers, dtype=torch.float64)
    # A layer's input is what the one below it gives; the last one is read after the final norm.
    below = 1 if site == "resid_pre" else 0

    def add_last(layer: int, states: Tensor) -> None:
        states = states.float().cpu().double()
        last[layer] += states.sum(0)
        last_unit[layer] += (states / (states.norm(dim=-1, keepdim=True) + 1e-8)).sum(0)

    def add_norms(layer: int, states: Tensor) -> None:
        norms[layer] += states.float().cpu().double().norm(dim=-1).sum()

    done = 0
    for layout in layouts(chat, prompts, _PROMPTS):
        places = layout.places(positions)

        def at_layer(
            layer: int, hidden: Tensor, layout: Layout = layout, places: Tensor = places
        ) -> None:
            states = hidden[layout.row[:, None], places]
            at[:, layer] += states.float().cpu().double().sum(0)
            if 0 <= layer - below < chat.n_layers - 1:
                add_last(layer - below, states[:, -1])
            if layer >= below:
                add_norms(layer - below, states[:, -1])

        def after_last(layer: int, hidden: Tensor, layout: Layout = layout) -> None:
            add_norms(layer, layout.at_ends(hidden)[0])

        def at_end(hidden: Tensor, layout: Layout = layout) -> Tensor:
            add_last(chat.n_layers - 1, layout.at_ends(hidden)[0])
            return hidden[:1, :1]  # nobody asks for logits

        batch = layout.batch
        width = batch.input_ids.shape[1]
        with (
            chat.layer_hooks(at_layer, range(chat.n_layers), site),
            chat.layer_hooks(after_last, range(chat.n_layers)[-below:] if below else ()),
            chat.head_input(at_end),
        ):
            chat.logits(batch.input_ids, batch.attention_mask, batch.position_ids, keep=width)
        done += len(layout.prompts)
        on_share(done / len(prompts))
    for sums in (at, last):
        _check_finite(chat, sums)
    n = len(prompts)
    return MeanResiduals(at / n, last / n, last_unit / n, norms / n)


def _check_positions(prompts: Sequence[Sequence[int]], positions: Sequence[int]) -> None:
    if not prompts:
        raise InputError("no prompts to extract activations from")
    if any(position >= 0 for position in positions):
        raise InputError("positions count from the end of the prompt: -1, -2, ...")
    shortest = min(len(ids) for ids in prompts)
    if shortest < -min(positions):
        raise InputError(f"position {min(positions)} asked for, but a prompt has {shortest} tokens")


def as_backend(name: str) -> Backend:
    """What reads activations, by its name.

    Raises:
        InputError: no such backend, or it is not installed.
    """
    if name == "hooks":
        return "hooks"
    if name != "nnsight":
        raise InputError(f"{setting('backend')} {name}: choose hooks or nnsight")
    if find_spec("nnsight") is None:
        raise InputError(
            f"{setting('backend')} nnsight: not installed: pip install 'steersweep[nnsight]'"
        )
    return "nnsight"


def _check_finite(chat: ChatModel, activations: Tensor) -> None:
    """Of `[..., layer, d_model]`."""
    finite = torch.isfinite(activations).all(dim=-1).reshape(-1, chat.n_layers).all(0)
    if bool(finite.all()):
        return
    layer = int((~finite).nonzero()[0])
    raise not_finite(chat, layer)
