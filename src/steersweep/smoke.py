"""The smoke test: before an expensive run, is everything about this model as it should be?"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Iterator
from dataclasses import asdict, dataclass, field
from typing import Any

import torch
from torch import Tensor

from steersweep.activations import residuals
from steersweep.catalog.models import model_shapes
from steersweep.chat_model import ChatModel
from steersweep.directions.dim import dim_directions
from steersweep.errors import SteersweepError
from steersweep.kv_cache import make_cache
from steersweep.memory import first_line
from steersweep.parity import PROBES, TOLERANCES, compare_readers
from steersweep.prompts.prompts import load_extraction_set
from steersweep.steering import Intervention, Row, generate

_STRENGTH = 0.3  # of the residual norm
_NEW_TOKENS = 24
_INT8 = 0.05
# Lengths at which attention kernels have gone wrong under left padding: 1 over a multiple of 32.
_PADDED_TO = (1, 33)


@dataclass(frozen=True)
class Check:
    """One thing looked at: its name, whether it is as it should be, and what was seen."""

    name: str
    passed: bool
    seen: str


@dataclass
class Smoke:
    """What a smoke test found.

    Attributes:
        model_id: the model.
        facts: precision, device, layers, width, seconds, memory: for people.
        checks: in the order they were made.
    """

    model_id: str
    facts: dict[str, Any] = field(default_factory=dict)
    checks: list[Check] = field(default_factory=list)

    @property
    def passed(self) -> bool:
        """Whether every check did."""
        return all(check.passed for check in self.checks)

    def as_json(self) -> dict[str, Any]:
        """Plain data."""
        return {"passed": self.passed, **asdict(self)}


def smoke(
    model: str,
    *,
    precision: str = "auto",
    device: str = "auto",
    revision: str | None = None,
    trust_remote_code: bool = False,
    on_check: Callable[[Check], None] = lambda _check: None,
) -> Smoke:
    """Load a model and look at everything that has misled people before.

    A check that cannot be made because an earlier one shows why is left out; an error within a
    check fails that check and no other.

    Args:
        model: a hub id, a local folder or `lab:NAME`.
        precision: see `ChatModel.load`.
        device: see `ChatModel.load`.
        revision: see `ChatModel.load`.
        trust_remote_code: see `ChatModel.load`.
        on_check: told of each check as it is made.
    """
    found = Smoke(model)
    started = time.monotonic()

    def note(check: Check) -> None:
        found.checks.append(check)
        on_check(check)

    try:
        chat = ChatModel.load(
            model,
            precision=precision,
            device=device,
            revision=revision,
            trust_remote_code=trust_remote_code,
        )
    except SteersweepError as error:
        note(Check("load", False, str(error)))
        return found
    found.facts = _facts(chat, time.monotonic() - started)
    note(Check("load", True, f"{found.facts['load_seconds']} s, {found.facts['weights_gb']} GB"))
    check_model(chat, note)
    found.facts["seconds"] = round(time.monotonic() - started, 1)
    return found


def check_model(
    chat: ChatModel, note: Callable[[Check], None], only: Collection[str] | None = None
) -> None:
    """Every check of a loaded model, or those in `only`; see `smoke`."""
    for name, look in _LOOKS.items():
        if only is not None and name not in only:
            continue
        try:
            trouble, seen = look(chat)
        except Exception as error:  # whatever it is, it is what the check found
            trouble, seen = True, f"{type(error).__name__}: {first_line(error)}"
        note(Check(name, not trouble, seen))


def _facts(chat: ChatModel, load_seconds: float) -> dict[str, Any]:
    return {
        "family": chat.family,
        "architecture": type(chat.model).__name__,
        "precision": chat.precision,
        "device": str(chat.device),
        "n_layers": chat.n_layers,
        "d_model": chat.d_model,
        "weights_gb": round(chat.model.get_memory_footprint() / 1e9, 3),
        "load_seconds": round(load_seconds, 1),
    }


Look = Callable[[ChatModel], tuple[bool, str]]


def _template(chat: ChatModel) -> tuple[bool, str]:
    """One BOS at most, and the rendered prompt with its special tokens for a person to see."""
    ids = chat.prompt_ids(PROBES[0])
    shown = "".join(chat.tokenizer.convert_ids_to_tokens(ids))
    bos = chat.tokenizer.bos_token_id
    doubled = bos is not None and ids.count(bos) > 1
    return doubled, f"{'two BOS tokens: ' if doubled else ''}{shown!r}"


def _ending(chat: ChatModel) -> tuple[bool, str]:
    """The token that the template puts after an answer must end generation."""
    ending = answer_ending(chat)
    names = ", ".join(map(repr, chat.tokenizer.convert_ids_to_tokens(sorted(chat.eos_ids))))
    if not chat.eos_ids:
        return True, "no token ends an answer"
    if ending is None:
        return False, f"{names}; the template does not show how an answer ends"
    shown = repr(chat.tokenizer.convert_ids_to_tokens([ending])[0])
    if ending not in chat.eos_ids:
        return True, f"the template ends an answer with {shown}, but only {names} end generation"
    return False, names


def answer_ending(chat: ChatModel) -> int | None:
    """The token after an answer in the chat template, None where the template shows none."""
    answer = "Certainly so"
    ids = [
        int(token)
        for token in chat.tokenizer.apply_chat_template(
            [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": answer}],
            tokenize=True,
            return_dict=False,
        )
    ]
    # The answer's own tokens may differ with what stands around it; look for their text.
    for end in range(len(ids), 0, -1):
        if answer in chat.tokenizer.decode(ids[:end], skip_special_tokens=False):
            continue
        return ids[end + 1] if end + 1 < len(ids) else None
    return None


def _layers(chat: ChatModel) -> tuple[bool, str]:
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


def _extraction(chat: ChatModel) -> tuple[bool, str]:
    """A direction at the middle layer: its shape, that it is finite, that it is not zero."""
    direction = _direction(chat)
    shape, length = tuple(direction.vector.shape), float(direction.vector.norm())
    wrong = shape != (chat.d_model,) or not abs(length - 1) < 1e-4 or not direction.raw_norm > 0
    return wrong, (
        f"layer {direction.layer}: shape {list(shape)}, difference {direction.raw_norm:.4g}, "
        f"residual stream {direction.residual_norm:.4g} long"
    )


def _readers(chat: ChatModel) -> tuple[bool, str]:
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


def _padding(chat: ChatModel) -> tuple[bool, str]:
    """A prompt alone and in a batch with longer ones, steered and not, has the same logits."""
    longest = chat.prompt_ids(PROBES[1])
    short = chat.prompt_ids(PROBES[0])
    tolerance = _tolerance(chat)
    worst, where = 0.0, ""
    for remainder in _PADDED_TO:
        width = len(longest) + (remainder - len(longest)) % 32
        wide = [*longest, *longest * (width // len(longest) + 1)][:width]
        for steered in (False, True):
            alone = _steered_logits(chat, [short], steered)
            batch = _steered_logits(chat, [wide, short], steered)[1:]
            difference = float((alone - batch).abs().max() / alone.abs().max().clamp(min=1e-9))
            if not difference <= worst:
                worst = difference
                where = f"padded to {width}, {'steered' if steered else 'unsteered'}"
    return not worst <= tolerance, f"{worst:.1e} {where}; tolerance {tolerance:g}"


def _steering(chat: ChatModel) -> tuple[bool, str]:
    """Adding a vector after a layer changes that layer's output by exactly that, and no other."""
    layer = chat.n_layers // 2
    prompts = [chat.prompt_ids(text) for text in PROBES]
    plain = residuals(chat, prompts)[:, 0]
    push = _push(chat)
    held: dict[int, Tensor] = {}

    def add(at: int, hidden: Tensor) -> Tensor:
        held[at] = hidden.detach().clone()
        return hidden + push.to(hidden.device, hidden.dtype)

    with chat.layer_hooks(add, [layer]):
        steered = residuals(chat, prompts)[:, 0]
    size = float(plain[:, layer].abs().max())
    before = float((steered[:, :layer] - plain[:, :layer]).abs().max()) if layer else 0.0
    added = steered[:, layer] - plain[:, layer] - push.cpu().float()
    after = float((steered[:, -1] - plain[:, -1]).abs().max())
    tolerance = _tolerance(chat) * size
    wrong = before > tolerance or float(added.abs().max()) > tolerance or after <= tolerance
    return wrong, (
        f"layers before {layer} change by {before:.1e}, its output differs from the push by "
        f"{float(added.abs().max()):.1e}, the last layer changes by {after:.3g}"
    )


@torch.inference_mode()
def _greedy(chat: ChatModel) -> tuple[bool, str]:
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
        tie = _tolerance(chat) * float(logits.abs().max())
        taken = [answer[step]] if step < len(answer) else sorted(chat.eos_ids)
        if max(float(logits[token]) for token in taken) < best - tie:
            return True, f"{shown}, apart from token {step} on"
        if step == len(answer):
            break
    return False, shown


def _generation(chat: ChatModel) -> tuple[bool, str]:
    """One steered answer; logits that are not finite end it with an error."""
    direction = _direction(chat)
    push = Intervention(
        direction.vector, _STRENGTH * direction.residual_norm, start=direction.layer
    )
    started = time.monotonic()
    ids = chat.prompt_ids(PROBES[1])
    answer = generate(chat, [Row(ids, push)], max_new_tokens=_NEW_TOKENS)[0]
    took = time.monotonic() - started
    return False, f"{answer.text!r} ({took:.1f} s, strength {_STRENGTH})"


def _cache(chat: ChatModel) -> tuple[bool, str]:
    """A position computed from the key-value cache is the one computed from all tokens."""
    ids = chat.prompt_ids(PROBES[1])
    batch = chat.pad([ids])
    whole = chat.logits(batch.input_ids, batch.attention_mask, batch.position_ids)[:, -1].float()
    cache = make_cache(chat.model.config.get_text_config(), len(ids))
    chat.logits(
        batch.input_ids[:, :-1],
        batch.attention_mask[:, :-1],
        batch.position_ids[:, :-1],
        cache=cache,
    )
    last = chat.logits(
        batch.input_ids[:, -1:], batch.attention_mask, batch.position_ids[:, -1:], cache=cache
    )[:, -1].float()
    difference = float((whole - last).abs().max() / whole.abs().max().clamp(min=1e-9))
    tolerance = _tolerance(chat)
    return not difference <= tolerance, f"{difference:.1e}; tolerance {tolerance:g}"


_LOOKS: dict[str, Look] = {
    "template": _template,
    "ending": _ending,
    "layers": _layers,
    "readers": _readers,
    "padding": _padding,
    "cache": _cache,
    "extraction": _extraction,
    "steering": _steering,
    "greedy": _greedy,
    "generation": _generation,
}


def _tolerance(chat: ChatModel) -> float:
    """Largest relative difference of two ways to compute the same.

    LLM.int8() rounds activations, and keeps columns in 16 bits by what it sees in the whole batch:
    a row's numbers depend a little on its neighbours.
    """
    return _INT8 if chat.precision == "int8" else 20 * TOLERANCES[chat.dtype]


def _direction(chat: ChatModel) -> Any:
    prompts = load_extraction_set("extract-dim-5")
    return dim_directions(chat, prompts, layers=[chat.n_layers // 2])[0]


def _push(chat: ChatModel) -> Tensor:
    """A fixed vector of the residual stream's own size, `[d_model]`."""
    noise = torch.randn(chat.d_model, generator=torch.Generator().manual_seed(0))
    states = residuals(chat, [chat.prompt_ids(PROBES[0])])[0, 0, chat.n_layers // 2]
    push: Tensor = (noise / noise.norm() * states.norm() * _STRENGTH).to(chat.dtype)
    return push


def _steered_logits(chat: ChatModel, prompts: list[list[int]], steered: bool) -> Tensor:
    """Logits after each prompt, `[row, vocabulary]`, as the first step of `generate` sees them."""
    found: list[Tensor] = []
    push = _push(chat).float()
    length = float(push.norm())
    step = Intervention(push / length, length, start=chat.n_layers // 2) if steered else None
    original = chat.logits

    def listen(*arguments: Any, **options: Any) -> Tensor:
        found.append(original(*arguments, **options))
        return found[-1]

    chat.logits = listen  # type: ignore[method-assign]
    try:
        generate(chat, [Row(ids, step) for ids in prompts], max_new_tokens=1)
    finally:
        del chat.logits
    logits: Tensor = found[0][:, 0].float().cpu()
    return logits


def shown(found: Smoke) -> Iterator[str]:
    """The test for people, line by line."""
    facts = found.facts
    if facts:
        yield (
            f"{found.model_id}: {facts['architecture']}, {facts['n_layers']} layers of "
            f"{facts['d_model']}, {facts['precision']} on {facts['device']}"
        )
    for check in found.checks:
        yield f"{'ok  ' if check.passed else 'FAIL'} {check.name:<11} {check.seen}"
    failed = [check.name for check in found.checks if not check.passed]
    yield "passed" if found.passed else f"incompatible: {', '.join(failed)}"
