"""What a search for the best layer and strength went through, as it is written to a run folder."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from steersweep.core import typed
from steersweep.core.atomic import read_file, write_bytes
from steersweep.core.digests import Damaged, seal, unseal
from steersweep.core.errors import InputError
from steersweep.run.effect import Change
from steersweep.run.price import DivergenceEffect

What = Literal["chosen", "weaker", "stronger", "random direction", "unsteered"]


@dataclass(frozen=True)
class SearchedCell:
    """A cell that was asked, on discovery prompts.

    Attributes:
        method: of the direction.
        layer: where steering starts.
        strength: relative to the residual norm there.
        short: prompts answered briefly, to see whether texts break.
        short_broken: of these, broken ones.
        whole: prompts answered in full.
        refuses: of these, refused in fluent text.
        broken: of these, broken.
        raced: whether it took part in the race.
        end: why it was dropped; empty where it was not.
        price: nats per token from the unsteered model, over its answers to discovery prompts; None
            where that was not measured.
    """

    method: str
    layer: int
    strength: float
    short: int
    short_broken: int
    whole: int
    refuses: int
    broken: int
    raced: bool
    end: str
    price: float | None


@dataclass(frozen=True)
class Confirmed:
    """A cell on the confirmation prompts.

    Attributes:
        what: `chosen`, `weaker`, `stronger`, `random direction` or `unsteered`.
        strength: relative to the residual norm; None where nothing is steered.
        n: prompts.
        refuses: refused in fluent text.
        broken: broken answers.
        interval: of the rate of refusals in fluent text, 95 % Wilson; of the chosen cell as good as
            any, since it was chosen on other prompts.
        p: exact McNemar test against the chosen cell; None for itself.
        price: divergence from the unsteered model, over its answers to these prompts; None without
            steering, and where it was not measured.
    """

    what: What
    strength: float | None
    n: int
    refuses: int
    broken: int
    interval: tuple[float, float]
    p: float | None
    price: DivergenceEffect | None

    @property
    def rate(self) -> float:
        """Share of refusals in fluent text."""
        return self.refuses / self.n


@dataclass(frozen=True)
class Window:
    """The strengths at the chosen layer where at least half as much is refused as at the chosen.

    Attributes:
        weakest: the weakest such strength that was tried, without a gap up to the chosen one.
        strongest: the strongest.
        weaker: the next weaker one that was tried and refuses less; None where none was.
        stronger: the next stronger one that was tried and refuses less, or from where texts break.
    """

    weakest: float
    strongest: float
    weaker: float | None
    stronger: float | None


@dataclass(frozen=True)
class Cheapest:
    """How the chosen cell compares with the one that refused most, where the cheapest was asked.

    Attributes:
        compared: cells of the race whose price was measured: those that may refuse as often as the
            best, and the best; 0 where the best fails, and is chosen.
        cheaper: how many of these cost less than the best.
        equal: how many of these refuse as often on all of `prompts`.
        prompts: discovery prompts.
        chosen_refuses: of these, refused in fluent text by the chosen cell.
        best_method: of the cell that refused most.
        best_layer: of that cell.
        best_strength: of that cell, relative to the residual norm.
        best_refuses: as `chosen_refuses`, of that cell.
        best_price: its divergence over answers to confirmation prompts, as `Confirmed.price`.
        best_dearer: by how much that is more than the chosen cell's, on the same answers; None
            where they are one.
    """

    compared: int
    cheaper: int
    equal: int
    prompts: int
    chosen_refuses: int
    best_method: str
    best_layer: int
    best_strength: float
    best_refuses: int
    best_price: DivergenceEffect | None
    best_dearer: Change | None


@dataclass(frozen=True)
class Cost:
    """What was generated.

    Attributes:
        search_rows: whole answers to discovery prompts.
        short_rows: short ones.
        confirm_rows: answers to confirmation prompts.
        tokens: new tokens of all of them.
        grid_tokens: what a grid of 9 layers (or all, of fewer) and 6 strengths with random controls
            would have generated on all of these prompts, at the mean length of whole answers here.
    """

    search_rows: int
    short_rows: int
    confirm_rows: int
    tokens: int
    grid_tokens: int


@dataclass(frozen=True)
class Searched:
    """A search and its confirmation.

    Attributes:
        model: short name.
        method: of the chosen cell.
        layer: of the chosen cell.
        n_layers: of the model.
        strength: of the chosen cell, relative to the residual norm.
        multiplier: the same as a length.
        found: whether it refuses more than a random direction and than no steering, each with
            p < 0.05 on the confirmation prompts.
        confirmed: the chosen cell, its neighbours and controls.
        window: how wide it is; None where nothing was found.
        discovery: prompts for the search.
        confirmation: prompts for the confirmation, others.
        layers: that could be chosen.
        strengths: on the ladder, relative.
        breaks: by method and layer, `dim 12`: the strength at which texts begin to break; None
            where even the strongest left them whole.
        rounds: prompts after each round of the race.
        cells: all that were asked, in order.
        cost: what was generated.
        cheapest: how the chosen cell compares with the one that refused most; None where that one
            was to be chosen.
    """

    model: str
    method: str
    layer: int
    n_layers: int
    strength: float
    multiplier: float
    found: bool
    confirmed: Sequence[Confirmed]
    window: Window | None
    discovery: int
    confirmation: int
    layers: Sequence[int]
    strengths: Sequence[float]
    breaks: Mapping[str, float | None]
    rounds: Sequence[int]
    cells: Sequence[SearchedCell]
    cost: Cost
    cheapest: Cheapest | None

    def confirmed_as(self, what: str) -> Confirmed:
        """What was confirmed under that name; all are there but a neighbour off the ladder."""
        return next(cell for cell in self.confirmed if cell.what == what)


def write_searched(path: Path, searched: Searched) -> None:
    """Write a search to its file."""
    write_bytes(path, seal(path.name, typed.plain(searched)))


def read_searched(path: Path) -> Searched | None:
    """The search in a file; None where there is none yet.

    Raises:
        InputError: it is not as it was written, or cannot be read.
    """
    try:
        data = read_file(path)
        return None if data is None else typed.read(Searched, unseal(path.name, data))
    except (Damaged, typed.WrongField) as error:
        raise InputError(
            f"{path}: is damaged, or of an earlier version ({error}); run the same search again"
        ) from error
