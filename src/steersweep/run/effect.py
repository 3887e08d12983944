"""What an effect of steering came to in one condition, item by item, and how two conditions differ.

docs/effects.md says what each effect is. Nothing here needs torch.
"""

from __future__ import annotations

import hashlib
import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from steersweep.core.statistics import mcnemar, mean_interval, rate_change, wilson

Unit = Literal["nats per token", "share"]

NATS: Unit = "nats per token"
SHARE: Unit = "share"


def item_id(*texts: str) -> str:
    """A short name of a prompt, text or question: the beginning of a hash of what it says."""
    whole = "\0".join(texts).encode("utf-8", errors="surrogatepass")
    return hashlib.sha256(whole).hexdigest()[:12]


@dataclass(frozen=True)
class Sizes:
    """How much each effect looks at, so that all of them stay cheap beside the sweep's answers.

    All effects together may cost a quarter of what the answers of a cell cost, with 120 prompts and
    60 new tokens. Answers to harmful and borderline prompts are most of that, since they have to be
    decoded; passes over given text share the layers below an edit. `benchmarks/effects.py` measures
    it. Intervals narrow with the square root of the number of items: for a closer look at a few
    cells ask for more.

    Attributes:
        harmful: harmful prompts that are answered.
        borderline: prompts that are answered and only look unsafe.
        answer_tokens: new tokens of such an answer, at most. A refusal shows in its first words:
            of 256 answers of Qwen2.5-Coder-0.5B, steered and not, 246 were judged after 16 tokens
            as after 60, and 240 after 12.
        own_answers: prompts whose unsteered answers divergence is measured over.
        own_answer_tokens: tokens of such an answer, from its start, at most.
        texts: texts whose likelihood is measured, plain; 0: none.
        chat_texts: the same as answers in the chat template; 0: none.
        text_tokens: tokens of such a text, from its start, at most.
        questions: multiple-choice questions, plain; 0: none.
        chat_questions: the same in the chat template; 0: none.
    """

    harmful: int = 20
    borderline: int = 20
    answer_tokens: int = 16
    own_answers: int = 20
    own_answer_tokens: int = 16
    texts: int = 8
    chat_texts: int = 8
    text_tokens: int = 32
    questions: int = 48
    chat_questions: int = 0


@dataclass(frozen=True)
class Measured:
    """An effect in one condition.

    Attributes:
        effect: `divergence`, `text`, `choices`, `harmful`, `borderline`, or the name of a user's
            own.
        variant: how it was measured, where there are several ways: `plain` or `chat` for instance.
            Empty where there is one.
        unit: of the values: `nats per token`, or `share` where each value is 1 or 0.
        source: name and digest of the data, and how much of each item was looked at.
        items: `item_id` of prompts, texts or questions, in order.
        values: one per item: mean nats per token; or 1 for correct, or for refused, and 0 if not.
        weights: how many tokens an item's value is the mean of; 1 for shares.
        verdicts: what a judge said of each item's answer, `coherent` and so on; `no-answer` where
            the model was still reasoning. Empty where nothing was judged.
        answers: the answers, if they were asked for; else empty.
    """

    effect: str
    unit: Unit
    source: str
    items: tuple[str, ...]
    values: tuple[float, ...]
    weights: tuple[int, ...]
    variant: str = ""
    verdicts: tuple[str, ...] = ()
    answers: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        """Effect and variant, such as `text plain`."""
        return f"{self.effect} {self.variant}".strip()

    @property
    def n_tokens(self) -> int:
        """Tokens of all items together; of shares, the number of items."""
        return sum(self.weights)

    @property
    def mean(self) -> float:
        """Over all tokens, whichever item they are of; of shares, the share of items."""
        return math.fsum(self._totals) / self.n_tokens

    @property
    def spread(self) -> float:
        """Standard deviation of the items' values; 0 of a single item."""
        return statistics.stdev(self.values) if len(self.values) > 1 else 0.0

    @property
    def interval(self) -> tuple[float, float]:
        """95 % interval of the mean: Wilson's of a share, else a bootstrap of whole items."""
        if self.unit == SHARE:
            return wilson(sum(self._yes), len(self.values))
        return mean_interval(self._totals, self.weights)

    @property
    def perplexity(self) -> float:
        """The exponential of the mean, of a likelihood in nats per token; infinite if too large."""
        try:
            return math.exp(self.mean)
        except OverflowError:
            return math.inf

    @property
    def _totals(self) -> list[float]:
        pairs = zip(self.values, self.weights, strict=True)
        return [value * weight for value, weight in pairs]

    @property
    def _yes(self) -> list[bool]:
        return [value > 0 for value in self.values]


@dataclass(frozen=True)
class Change:
    """How much higher an effect is in one condition than in another, on the same items.

    Attributes:
        value: the difference of the means.
        low: of its 95 % interval.
        high: of its 95 % interval.
        p: of McNemar's exact test, of shares; None of likelihoods, whose interval says it.
    """

    value: float
    low: float
    high: float
    p: float | None = None


def change(before: Measured, after: Measured) -> Change:
    """`after` less `before`, item by item.

    Shares: Newcombe's interval of paired rates, and McNemar's exact test. Nats per token: a
    bootstrap of whole items, since tokens of one text hang together.

    Raises:
        ValueError: they are not of the same effect, variant and items.
    """
    if _what(before) != _what(after):
        raise ValueError(f"{before.name} and {after.name} are not of the same items")
    value = after.mean - before.mean
    if after.unit == SHARE:
        low, high = rate_change(before._yes, after._yes)
        return Change(value, low, high, mcnemar(before._yes, after._yes))
    totals = [b - a for a, b in zip(before._totals, after._totals, strict=True)]
    return Change(value, *mean_interval(totals, after.weights))


def _what(measured: Measured) -> tuple[str, str, str, Sequence[str], Sequence[int]]:
    return (
        measured.effect,
        measured.variant,
        measured.source,
        measured.items,
        measured.weights,
    )
