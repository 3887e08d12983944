"""What a search runs on: a sweep's settings, a ladder of strengths, and prompts in two parts."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, replace
from typing import Any

from steersweep.core.errors import InputError, setting
from steersweep.core.setting_values import positive_number, whole_number
from steersweep.model.find import find_model
from steersweep.model.source import ModelSource
from steersweep.prompts.prompts import TestSet
from steersweep.run.price import DIVERGENCE
from steersweep.search.search import ROUNDS, STRENGTHS
from steersweep.sweeps import defaults
from steersweep.sweeps.effect_settings import make_effects
from steersweep.sweeps.settings import SweepSettings, make_settings
from steersweep.work.asked_effects import NO_EFFECTS
from steersweep.work.asking import SHORT

CONFIRM = 60  # prompts of the confirmation, at most; half of the prompts where there are fewer
_FEWEST = 16  # test prompts
_UNSTEERED = 28  # prompts, also for the length of the residual stream
_MAX_ROWS = 1_000_000
_MAX_MINUTES = 60 * 24 * 30
RESULTS = "find"


@dataclass(frozen=True)
class FindSettings:
    """Everything that defines a search, frozen into the run folder, and what it is to choose.

    Attributes:
        sweep: model, methods, prompts and the rest; its strengths are the ladder.
        budget: rows of the search at most, short ones counted by their length; None: no bound but
            the search's own.
        minutes: what searching and confirming may take together, by the pace of the first answers;
            None: no bound.
        cheapest: whether to choose the cheapest cell of those that refuse as often as the best. It
            may be asked of a search that has ended.
    """

    sweep: SweepSettings
    budget: float | None = None
    minutes: float | None = None
    cheapest: bool = False

    def plan(self) -> dict[str, Any]:
        """The settings as plain data, but what is chosen."""
        return self.sweep.plan() | {
            "kind": "find",
            "rounds": list(self.rounds),
            "short": SHORT,
            "budget": self.budget,
            "minutes": self.minutes,
        }

    @property
    def confirmation(self) -> TestSet:
        """Prompts that the search never sees: those whose texts have the lowest hashes."""
        return self._part(slice(0, self._n_confirm), "confirm")

    @property
    def discovery(self) -> TestSet:
        """Prompts of the search, in the order of their hashes."""
        return self._part(slice(self._n_confirm, self._n_confirm + ROUNDS[-1]), "discover")

    @property
    def rounds(self) -> tuple[int, ...]:
        """How many discovery prompts have been answered after each round of the race."""
        count = len(self.discovery.prompts)
        return (*(end for end in ROUNDS if end < count), count)

    def asked(self, start: int, stop: int) -> TestSet:
        """Some of the discovery prompts."""
        return self.discovery.part(start, stop)

    @property
    def unsteered(self) -> TestSet:
        """Discovery prompts that are answered without steering too: what fluent text looks like."""
        return self.asked(0, min(_UNSTEERED, len(self.discovery.prompts)))

    @property
    def _n_confirm(self) -> int:
        return min(CONFIRM, len(self.sweep.test.prompts) // 2)

    def _part(self, part: slice, name: str) -> TestSet:
        test = self.sweep.test
        ordered = sorted(test.prompts, key=lambda text: hashlib.sha256(text.encode()).digest())
        return replace(test, name=f"{test.name}:{name}", prompts=tuple(ordered[part]), repeats=1)


def make_find_settings(
    model: str | ModelSource,
    *,
    layers: str = "",
    budget_rows: int | None = None,
    minutes: float | None = None,
    max_new_tokens: int = defaults.FIND_NEW_TOKENS,
    stop_loops: bool = True,
    cheapest: bool = False,
    **options: Any,
) -> FindSettings:
    """Settings from the texts a user types.

    Args:
        model: one model.
        layers: that may be chosen, separated by commas; empty: all.
        budget_rows: see `FindSettings`.
        minutes: the same.
        max_new_tokens: of a whole answer.
        stop_loops: answers that are stuck are ended there: the judge calls them broken all the
            same.
        cheapest: see `FindSettings`.
        options: as of `make_settings`.

    Raises:
        InputError: an option that cannot be read, prompts too few to be parted, or an operation
            without a strength.
    """
    if options.get("operation") == "remove":
        raise InputError(
            f"{setting('operation')} remove has no strength to look for; use add or affine"
        )
    if budget_rows is not None:
        whole_number(setting("budget_rows"), budget_rows, 1, _MAX_ROWS)
    if minutes is not None:
        positive_number(setting("minutes"), str(minutes), _MAX_MINUTES)
    if not layers:
        source = model if isinstance(model, ModelSource) else find_model(model)
        n_layers = int(source.config().get_text_config().num_hidden_layers)
        layers = ",".join(map(str, range(n_layers)))
    sweep = make_settings(
        [model],
        layers=layers,
        strengths=",".join(map(str, STRENGTHS)),
        max_new_tokens=max_new_tokens,
        stop_loops=stop_loops,
        effects=make_effects(DIVERGENCE) if cheapest else NO_EFFECTS,
        **options,
    )
    if (count := len(sweep.test.prompts)) < _FEWEST:
        raise InputError(
            f"{setting('prompts')} {sweep.test.name}: {count} prompts; a search needs {_FEWEST} at "
            f"least, half of which confirm what the other half finds"
        )
    budget = None if budget_rows is None else float(budget_rows)
    return FindSettings(sweep, budget, minutes, cheapest)
