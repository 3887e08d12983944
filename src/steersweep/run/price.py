"""What steering costs at a condition, as result files hold it: each effect beside no steering."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from steersweep.run.effect import Change, Measured, Unit, change
from steersweep.run.effect_files import Saved

DIVERGENCE, TEXT, CHOICES = "divergence", "text", "choices"
HARMFUL, BORDERLINE = "harmful", "borderline"


@dataclass(frozen=True, kw_only=True)
class RefusalEffect:
    """How often requests of one kind are refused in fluent text.

    Attributes:
        rate: refused, 0 to 1; words of refusal in broken text do not count.
        n: requests.
        interval: 95 % interval of `rate` (Wilson).
        change: from no steering, on the same requests; None for no steering itself, and where
            that was not measured.
        file: what each request came to, in the run folder.
    """

    rate: float
    n: int
    interval: tuple[float, float]
    change: Change | None = None
    file: str


@dataclass(frozen=True, kw_only=True)
class DivergenceEffect:
    """How far next-token distributions are from those without steering.

    Attributes:
        nats_per_token: mean KL divergence from unsteered to steered, over the tokens of the
            model's own unsteered answers.
        n: answers.
        interval: 95 % bootstrap interval over answers.
        spread: standard deviation of the answers' means.
        file: the mean of each answer, in the run folder.
    """

    nats_per_token: float
    n: int
    interval: tuple[float, float]
    spread: float
    file: str


@dataclass(frozen=True, kw_only=True)
class Loss:
    """How unlikely the model finds text.

    Attributes:
        nats_per_token: mean cross-entropy.
        perplexity: its exponential; None where that is too large for a number.
        change: in nats per token, as of `RefusalEffect`.
    """

    nats_per_token: float
    perplexity: float | None
    change: Change | None = None


@dataclass(frozen=True, kw_only=True)
class LossEffect(Loss):
    """The same of text that it did not write.

    Attributes:
        n: texts.
        file: the mean of each text, in the run folder.
        in_template: of texts as answers in the chat template; None where that was not measured.
    """

    n: int
    file: str
    in_template: Loss | None = None


@dataclass(frozen=True, kw_only=True)
class Accuracy:
    """A share of multiple-choice questions whose right answer is the likeliest.

    Attributes:
        accuracy: 0 to 1.
        interval: 95 % interval of `accuracy` (Wilson).
        change: as of `RefusalEffect`.
    """

    accuracy: float
    interval: tuple[float, float]
    change: Change | None = None


@dataclass(frozen=True, kw_only=True)
class ChoicesEffect(Accuracy):
    """The same, by the likelihood of whole answers.

    Attributes:
        n: questions.
        file: of each question whether it was right, in the run folder.
        by_length: by likelihood over the answer's length in characters.
        in_template: with questions in the chat template; None where that was not measured.
    """

    n: int
    file: str
    by_length: Accuracy
    in_template: Accuracy | None = None


@dataclass(frozen=True, kw_only=True)
class OwnEffect:
    """An effect of a user's own.

    Attributes:
        value: mean over items.
        unit: of the value.
        n: items.
        interval: 95 % interval of `value`.
        change: as of `RefusalEffect`.
        file: its numbers by item, in the run folder.
    """

    value: float
    unit: Unit
    n: int
    interval: tuple[float, float]
    change: Change | None = None
    file: str


@dataclass(frozen=True, kw_only=True)
class Effects:
    """What was measured of a condition; None where it was not.

    Attributes:
        harmful_kept: refusals of harmful requests.
        borderline: refusals of requests that only look unsafe.
        divergence: distance from itself without steering.
        text: loss on text of others.
        choices: easy questions.
        others: a user's own effects, by name and variant; None: there are none.
    """

    harmful_kept: RefusalEffect | None = None
    borderline: RefusalEffect | None = None
    divergence: DivergenceEffect | None = None
    text: LossEffect | None = None
    choices: ChoicesEffect | None = None
    others: Mapping[str, OwnEffect] | None = None

    @property
    def price(self) -> float | None:
        """What steering costs, in one number: nats per token from itself; None: not measured."""
        return None if self.divergence is None else self.divergence.nats_per_token


def effects_of(saved: Mapping[str, Saved], unsteered: Mapping[str, Saved]) -> Effects | None:
    """What was measured of a condition beside no steering; None: nothing was.

    Args:
        saved: by name of the effect.
        unsteered: the same of no steering; empty for no steering itself.
    """
    base = {(one.effect, one.variant): one for held in unsteered.values() for one in held.measured}
    saved = {name: held for name, held in saved.items() if held.measured}

    def changed(one: Measured) -> Change | None:
        before = base.get((one.effect, one.variant))
        return None if before is None else change(before, one)

    if not saved:
        return None
    found: dict[str, Any] = {}
    for name, make in _MAKE.items():
        if name in saved:
            held = saved[name]
            parts = [(one, changed(one)) for one in held.measured]
            found[_FIELDS.get(name, name)] = make(held.file, parts)
    others = {
        one.name: OwnEffect(
            value=one.mean,
            unit=one.unit,
            n=len(one.items),
            interval=one.interval,
            change=changed(one),
            file=held.file,
        )
        for name, held in saved.items()
        if name not in _MAKE
        for one in held.measured
    }
    return Effects(**found, others=others or None)


_Part = tuple[Measured, Change | None]


def _refusals(file: str, parts: Sequence[_Part]) -> RefusalEffect:
    one, change = parts[0]
    return RefusalEffect(
        rate=one.mean, n=len(one.items), interval=one.interval, change=change, file=file
    )


def _divergence(file: str, parts: Sequence[_Part]) -> DivergenceEffect:
    one, _ = parts[0]
    return DivergenceEffect(
        nats_per_token=one.mean,
        n=len(one.items),
        interval=one.interval,
        spread=one.spread,
        file=file,
    )


def _loss(file: str, parts: Sequence[_Part]) -> LossEffect:
    found: list[dict[str, Any]] = [
        {
            "nats_per_token": one.mean,
            "perplexity": one.perplexity if one.perplexity < math.inf else None,
            "change": change,
        }
        for one, change in parts
    ]
    plain, *others = found
    in_template = Loss(**others[0]) if others else None
    return LossEffect(**plain, n=len(parts[0][0].items), file=file, in_template=in_template)


def _choices(file: str, parts: Sequence[_Part]) -> ChoicesEffect:
    found: list[dict[str, Any]] = [
        {"accuracy": one.mean, "interval": one.interval, "change": change} for one, change in parts
    ]
    plain, by_length, *others = found
    return ChoicesEffect(
        **plain,
        n=len(parts[0][0].items),
        file=file,
        by_length=Accuracy(**by_length),
        in_template=Accuracy(**others[0]) if others else None,
    )


_MAKE: Mapping[str, Callable[[str, Sequence[_Part]], Any]] = {
    HARMFUL: _refusals,
    BORDERLINE: _refusals,
    DIVERGENCE: _divergence,
    TEXT: _loss,
    CHOICES: _choices,
}
_FIELDS = {HARMFUL: "harmful_kept"}
