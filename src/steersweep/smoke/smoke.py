"""The smoke test: before an expensive run, is everything about this model as it should be?"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Iterator
from dataclasses import asdict, dataclass, field
from functools import cache
from typing import Any

from steersweep.core.errors import SteersweepError
from steersweep.core.precision_labels import shown_precision
from steersweep.core.printing import first_line
from steersweep.model.chat_model import ChatModel
from steersweep.model.template_options import TemplateOptions
from steersweep.smoke.looks import LOOKS
from steersweep.smoke.passes import PlainPasses
from steersweep.steer.found import forget


@dataclass(frozen=True)
class Check:
    """One thing looked at.

    Attributes:
        name: of it.
        passed: whether it is as it should be.
        seen: what was seen; the same every time for the same model.
        seconds: it took.
    """

    name: str
    passed: bool
    seen: str
    seconds: float


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
    template_options: TemplateOptions | None = None,
    on_check: Callable[[Check], None] = lambda _check: None,
) -> Smoke:
    """Load a model and look at everything that has misled people before.

    A check that cannot be made because an earlier one shows why is left out; an error within a
    check fails that check and no other.

    Args:
        model: a hub id, a local folder, a GGUF file or `lab:NAME`.
        precision: see `ChatModel.load`.
        device: see `ChatModel.load`.
        revision: see `ChatModel.load`.
        trust_remote_code: see `ChatModel.load`.
        template_options: see `ChatModel.load`.
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
            template_options=template_options,
        )
    except SteersweepError as error:
        note(Check("load", False, str(error), _since(started)))
        return found
    found.facts = _facts(chat)
    note(Check("load", True, f"{found.facts['weights_gb']} GB", _since(started)))
    forget(chat)  # nothing is taken from an earlier look
    check_model(chat, note)
    note(check_methods())
    found.facts["seconds"] = _since(started)
    return found


def check_model(
    chat: ChatModel, note: Callable[[Check], None], only: Collection[str] | None = None
) -> None:
    """Every check of a loaded model, or those in `only`; see `smoke`."""
    plain = PlainPasses(chat)
    for name, look in LOOKS.items():
        if only is not None and name not in only:
            continue
        started = time.monotonic()
        try:
            trouble, seen = look(chat, plain)
        except Exception as error:  # whatever it is, it is what the check found
            trouble, seen = True, f"{type(error).__name__}: {first_line(error)}"
        note(Check(name, not trouble, seen, _since(started)))


@cache
def check_methods() -> Check:
    """DIM and COSMIC, as installed here, on a reference model that comes with the package.

    Says nothing of the model at hand: rounding a share of the layers, a median or a threshold the
    other way changes which direction is chosen, on any model. Scores and masks are compared and not
    choices alone, which often survive wrong scores.
    """
    from steersweep.methods.official import built_in_fixtures, check_fixture

    started = time.monotonic()
    checks = check_fixture(built_in_fixtures() / "llama_s4")
    wrong = [check.quantity for check in checks if not check.passed]
    largest = max(check.difference for check in checks if check.tolerance)
    if wrong:
        said = f"not the official code's: {', '.join(wrong)}"
        return Check("methods", False, said, _since(started))
    seen = f"{len(checks)} quantities of the official code, scores and logits within {largest:.1e}"
    return Check("methods", True, seen, _since(started))


def shown(found: Smoke) -> Iterator[str]:
    """The test for people, line by line."""
    facts = found.facts
    if facts:
        yield (
            f"{found.model_id}: {facts['architecture']}, {facts['n_layers']} layers of "
            f"{facts['d_model']}, {shown_precision(facts['precision'])} on {facts['device']}"
        )
    for check in found.checks:
        passed = "ok  " if check.passed else "FAIL"
        yield f"{passed} {check.seconds:4.1f} s  {check.name:<11} {check.seen}"
    failed = [check.name for check in found.checks if not check.passed]
    yield "passed" if found.passed else f"incompatible: {', '.join(failed)}"


def _since(started: float) -> float:
    return round(time.monotonic() - started, 2)


def _facts(chat: ChatModel) -> dict[str, Any]:
    return {
        "family": chat.family,
        "architecture": type(chat.model).__name__,
        "precision": chat.precision,
        "device": str(chat.device),
        "n_layers": chat.n_layers,
        "d_model": chat.d_model,
        "weights_gb": round(chat.model.get_memory_footprint() / 1e9, 3),
    }
