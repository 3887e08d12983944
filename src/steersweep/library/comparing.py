"""Ways to steer compared by price, from Python."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from steersweep.core.errors import InputError
from steersweep.report.drawing import draw_ways
from steersweep.report.ways import way_lines
from steersweep.sweeps.ways import Compared, compare_ways


@dataclass(frozen=True, eq=False)
class ComparedPrices:
    """What ways to steer cost where they refuse as often as the best of all.

    Attributes:
        models: one for each model and precision, with its ways from the cheapest on.
    """

    models: tuple[Compared, ...] = field(repr=False)

    def draw(self, path: str | Path) -> Path:
        """Draw it as PNG and SVG, side by side; returns the PNG.

        Args:
            path: of either; the other gets the same name with its own ending.

        Raises:
            InputError: the file cannot be written.
        """
        return draw_ways(self.models, Path(path))

    def __str__(self) -> str:
        """As the command prints it."""
        return "\n".join(way_lines(self.models))


def compare_prices(folders: str | Path | Sequence[str | Path]) -> ComparedPrices:
    """Compare ways to steer by what they cost where they refuse as often as the best of all.

    Does what `steersweep prices` does. A way is a method with its operation, span, site and
    positions; each run has one of the latter. Nothing is computed with a model: what a run costs
    must have been measured there, with `sweep(..., effects="divergence")` or `measure_effects`.

    Args:
        folders: run folders of one model on the same prompts; one is enough where it has several
            methods.

    Raises:
        InputError: no run with results in a folder; no price was measured there; prices are not
            over the same answers; or there is nothing to compare.
    """
    given = [folders] if isinstance(folders, str | Path) else [*folders]
    if not given:
        raise InputError("folders: name at least one run folder")
    return ComparedPrices(tuple(compare_ways(map(Path, given))))
