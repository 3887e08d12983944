"""What the smoke test looks at in a loaded model; each look says whether it found trouble."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from functools import partial
from typing import Any

import torch
from torch import Tensor

from steersweep.catalog.models import model_shapes
from steersweep.core.errors import InputError
from steersweep.methods.dim import dim_directions
from steersweep.model.chat_model import ChatModel
from steersweep.prompts.prompts import load_extraction_set
from steersweep.run.direction import Direction
from steersweep.smoke.basics import cache, ending, padding, template, weights
from steersweep.smoke.passes import STRENGTH, PlainPasses, tolerance_of
from steersweep.steer.activations import residuals
from steersweep.steer.edit import Edit
from steersweep.steer.everywhere import ablation_sites_of
from steersweep.steer.parity import PROBES, TOLERANCES, compare_readers
from steersweep.steer.passes import run_edits
from steersweep.steer.regime_search import regime_of
from steersweep.steer.steering import Row, generate

_NEW_TOKENS = 24

Look = Callable[[ChatModel, PlainPasses], tuple[bool, str]]


def _layers(chat: ChatModel, _plain: PlainPasses) -> tuple[bool, str]:
    """As many layers as the catalog says this model has."""
    known = model_shapes().get(chat.source.location)
    if known is None:
        return False, f"{chat.n_layers}, the model is not in the catalog"
    expected = known["n_layers"], known["d_model"]
    same = expected == (chat.n_layers, chat.d_model)
    return (
        not same,
        f"{chat.n_layers} of width {chat.d_model}; catalog: {expected[0]}, {expected[1]}",
    )


def _extraction(chat: ChatModel, _plain: PlainPasses) -> tuple[bool, str]:
    """A direction at the middle layer: its shape, that it is finite, that it is not zero."""
    direction = _direction(chat)
    shape, length = tuple(direction.vector.shape), float(direction.vector.norm())
    wrong = shape != (chat.d_model,) or not abs(length - 1) < 1e-4 or not direction.raw_norm > 0
    return wrong, (
        f"layer {direction.layer}: shape {list(shape)}, difference {direction.raw_norm:.4g}, "
        f"residual stream {direction.residual_norm:.4g} long"
    )


def _readers(chat: ChatModel, _plain: PlainPasses) -> tuple[bool, str]:
    """Hooks, transformers and nnsight see the same numbers at the same sites."""
    found = compare_readers(chat)
    said = []
    for parity in found:
        if parity.error:
            said.append(f"{parity.reader} cannot read it ({parity.error})")
            continue
        where = "" if parity.site is None else f", apart from {parity.site} on"
        said.append(f"{parity.reader} {parity.difference:.1e} ({parity.n_sites} sites){where}")
    if not any(parity.reader == "nnsight" for parity in found):
        said.append("nnsight is not installed")
    limit = f"tolerance {found[0].tolerance:g}"
    return any(not parity.equal for parity in found), f"{'; '.join(said)}; {limit}"


def _steering(chat: ChatModel, plain: PlainPasses) -> tuple[bool, str]:
    """What reads activations sees a vector added after a layer there, not before, and to the end.

    transformers' own hidden states fail this: they may come from before the addition.
    """
    layer = (chat.n_layers - 1) // 2
    prompts = [chat.prompt_ids(text) for text in PROBES]
    unsteered = residuals(chat, prompts)[:, 0]
    push = plain.push

    def add(_layer: int, hidden: Tensor) -> Tensor:
        return hidden + push.to(hidden.device, hidden.dtype)

    with chat.layer_hooks(add, [layer]):
        steered = residuals(chat, prompts)[:, 0]
    size = float(unsteered[:, layer].abs().max())
    before = float((steered[:, :layer] - unsteered[:, :layer]).abs().max()) if layer else 0.0
    added = steered[:, layer] - unsteered[:, layer] - push.cpu().float()
    after = float((steered[:, -1] - unsteered[:, -1]).abs().max())
    tolerance = tolerance_of(chat) * size
    wrong = before > tolerance or float(added.abs().max()) > tolerance or after <= tolerance
    return wrong, (
        f"layers before {layer} change by {before:.1e}, its output differs from the push by "
        f"{float(added.abs().max()):.1e}, the last layer changes by {after:.3g}"
    )


def _rows(chat: ChatModel, plain: PlainPasses) -> tuple[bool, str]:
    """In a batch a row gets its own vector, at its own tokens; its padding and neighbours do not.

    And what hooks read before the addition stays what it was: nothing is edited in place.
    """
    regime = regime_of(chat)
    if not regime.shares:
        return False, "rows do not share a batch"
    short, long = (chat.prompt_ids(text) for text in PROBES)
    if not regime.pads:  # then rows of a batch are equally long
        count = min(len(short), len(long) - 1)
        short, long = short[-count:], long[: count + 1]
    step, half = plain.addition(), plain.addition(0.5)
    # All in one pass; and rows that share prompts, which resume from the unsteered streams.
    other = long[1:]
    if not regime.pads:
        long = long[:-1]
    together = [Row(short, step), Row(long, step), Row(other)]
    resumed = [Row(short, step), Row(long, step), Row(long, half)]
    found = dict.fromkeys(("padding", "its own tokens", "a neighbour"), 0.0)
    largest = 0.0
    for rows in (together, resumed):
        apart, size = _wrongly_added(chat, rows)
        padding = chat.pad([row.prompt_ids for row in rows]).attention_mask == 0
        largest = max(largest, size)
        for place, differences in (
            ("padding", apart[:2][padding[:2]]),
            ("its own tokens", apart[:2][~padding[:2]]),
            ("a neighbour", apart[2]),
        ):
            found[place] = max(found[place], float(differences.max()) if len(differences) else 0.0)
    limit = 20 * TOLERANCES[chat.dtype] * largest
    said = ", ".join(f"{place} {difference:.1e}" for place, difference in found.items())
    wrong = not max(found.values()) <= limit
    return wrong, f"differences from what a row should get: {said}; tolerance {limit:.1e}"


def _wrongly_added(chat: ChatModel, rows: list[Row]) -> tuple[Tensor, float]:
    """How far what each row gets is from its vector, `[row, position]`, and the largest state."""
    seen: dict[str, list[Tensor]] = {"before": [], "after": []}
    layer = rows[0].edit.start if rows[0].edit else 0

    def before(_layer: int, hidden: Tensor) -> None:
        seen["before"].append(hidden)

    def after(_layer: int, hidden: Tensor) -> None:
        seen["after"].append(hidden)

    with chat.layer_hooks(before, [layer]), chat.layer_hooks(after, [layer + 1], "resid_pre"):
        generate(chat, rows, max_new_tokens=1)
    # The first pass of all prompts has them unsteered, or all rows before the addition.
    prompts = [*dict.fromkeys(tuple(row.prompt_ids) for row in rows)]
    of_row = [prompts.index(tuple(row.prompt_ids)) for row in rows]
    clean = next(
        hidden[of_row] if len(hidden) == len(prompts) else hidden
        for hidden in seen["before"]
        if len(hidden) in (len(prompts), len(rows))
    ).float()
    steered = seen["after"][-1].float()
    mask = chat.pad([row.prompt_ids for row in rows]).attention_mask[:, :, None].float()
    push = torch.zeros((len(rows), 1, chat.d_model), device=steered.device)
    for index, row in enumerate(rows):
        if row.edit is not None and row.edit.added is not None:
            push[index] = row.edit.added
    # Some networks leave out positions whose logits nobody wants.
    missing = clean.shape[1] - steered.shape[1]
    differences = steered - (clean + push * mask)[:, missing:]
    apart: Tensor = torch.nn.functional.pad(differences.abs().amax(-1), (missing, 0))
    return apart, float(steered.abs().max())


@torch.inference_mode()
def _edits(chat: ChatModel, plain: PlainPasses) -> tuple[bool, str]:
    """The batches that score COSMIC's candidates equal plain hooks, one prompt and edit at a time.

    Both ablate the residual stream. Orthogonalising weights instead is not the same where norms
    follow the attention and the MLP, or where the embedding is tied.
    """
    prompts = [chat.prompt_ids(text) for text in PROBES]
    push, middle = plain.push.float(), (chat.n_layers - 1) // 2
    there: dict[str, Any] = {"start": middle, "stop": middle + 1, "site": "resid_pre"}
    edits = [
        Edit.everywhere(push),
        Edit.add(push, 1.0, **there),
        Edit.affine(push, -push, 0.0, **there),
    ]
    layers = range(chat.n_layers)
    worst = dict.fromkeys(("states", "logits"), 0.0)
    try:
        readings = list(run_edits(chat, prompts, edits, read_layers=layers, with_logits=True))
    except InputError as error:
        return False, f"COSMIC cannot be used: {error}"
    for reading in readings:
        for row, index in enumerate(reading.edits):
            for column, prompt in enumerate(reading.prompts):
                assert reading.logits is not None
                states, logits = _edited_alone(chat, prompts[prompt], edits[index])
                for name, fast, alone in (
                    ("states", reading.states[row, column], states),
                    ("logits", reading.logits[row, column][None], logits),
                ):
                    size = alone.float().abs().amax(-1, keepdim=True)
                    apart = ((fast.float() - alone.float()).abs() / size).nan_to_num(torch.inf)
                    worst[name] = max(worst[name], float(apart.max()))
    tolerance = tolerance_of(chat)
    said = ", ".join(f"{name} {difference:.1e}" for name, difference in worst.items())
    return not max(worst.values()) <= tolerance, f"{said}; tolerance {tolerance:g}"


def _edited_alone(chat: ChatModel, ids: list[int], edit: Edit) -> tuple[Tensor, Tensor]:
    """One prompt under one edit: states after each layer, `[layer, d_model]`, and its logits."""
    unit, added = (
        torch.zeros(chat.d_model) if part is None else part for part in (edit.removed, edit.added)
    )
    unit, added = (part.to(chat.device, chat.dtype) for part in (unit, added))
    states = torch.empty((chat.n_layers, chat.d_model), device=chat.device)

    def change(_layer: int, hidden: Tensor) -> Tensor:
        return hidden - (hidden @ unit)[..., None] * unit + added

    def read(layer: int, hidden: Tensor) -> None:
        states[layer - 1] = hidden[0, -1]

    with ExitStack() as stack:
        layers = range(*edit.span(chat.n_layers))
        stack.enter_context(chat.layer_hooks(change, layers, edit.site))
        stack.enter_context(chat.layer_hooks(read, range(1, chat.n_layers), "resid_pre"))
        if edit.all_writes:
            sites = ablation_sites_of(chat)
            ablate = partial(change, 0)
            stack.enter_context(sites.edited(chat, ablate, range(chat.n_layers)))
        stack.enter_context(chat.final_states(lambda final: read(chat.n_layers, final[:, None])))
        batch = chat.pad([ids])
        logits = chat.logits(batch.input_ids, batch.attention_mask, batch.position_ids)
    return states, logits[:, 0]


@torch.inference_mode()
def _greedy(chat: ChatModel, _plain: PlainPasses) -> tuple[bool, str]:
    """Greedy answers are the plain argmax: no penalty of the generation config, no cache fault.

    Where two tokens are as likely as the type can tell, either may be taken.
    """
    ids = chat.prompt_ids(PROBES[1])
    answer = generate(chat, [Row(ids)], max_new_tokens=_NEW_TOKENS)[0].token_ids
    shown = repr(chat.decode(answer))
    for step in range(_NEW_TOKENS):
        batch = chat.pad([[*ids, *answer[:step]]])
        logits = chat.logits(batch.input_ids, batch.attention_mask, batch.position_ids)[0, -1]
        best = float(logits.max())
        tie = tolerance_of(chat) * float(logits.abs().max())
        taken = [answer[step]] if step < len(answer) else sorted(chat.eos_ids)
        if max(float(logits[token]) for token in taken) < best - tie:
            return True, f"{shown}, apart from token {step} on"
        if step == len(answer):
            break
    return False, shown


def _generation(chat: ChatModel, _plain: PlainPasses) -> tuple[bool, str]:
    """One steered answer; logits that are not finite end it with an error."""
    direction = _direction(chat)
    assert direction.residual_norm is not None, "DIM measured it"
    push = Edit.add(direction.vector, STRENGTH * direction.residual_norm, direction.layer)
    ids = chat.prompt_ids(PROBES[1])
    answer = generate(chat, [Row(ids, push)], max_new_tokens=_NEW_TOKENS)[0]
    return False, f"{answer.text!r} (strength {STRENGTH})"


LOOKS: dict[str, Look] = {
    "template": template,
    "ending": ending,
    "weights": weights,
    "layers": _layers,
    "readers": _readers,
    "padding": padding,
    "cache": cache,
    "extraction": _extraction,
    "steering": _steering,
    "rows": _rows,
    "edits": _edits,
    "greedy": _greedy,
    "generation": _generation,
}


def _direction(chat: ChatModel) -> Direction:
    prompts = load_extraction_set("extract-dim-5")
    return dim_directions(chat, prompts, layers=[chat.n_layers // 2])[0]
