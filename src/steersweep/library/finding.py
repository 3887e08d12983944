"""A search from Python."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from steersweep.library.results import SweepResults
from steersweep.library.sweeping import Model, asked_source, listed
from steersweep.report.found import lines
from steersweep.report.live import live_view
from steersweep.run.direction import Direction
from steersweep.run.result import Result
from steersweep.run.searched import Searched
from steersweep.sweeps import defaults
from steersweep.sweeps.find import run_find
from steersweep.sweeps.find_settings import make_find_settings


@dataclass(frozen=True, eq=False)
class FindResults:
    """What a search found.

    Attributes:
        folder: the run folder.
        searched: the chosen cell, what was confirmed, the window, and every cell that was asked.
        result: of the chosen cell on the confirmation prompts, with answers and verdict.
    """

    folder: Path
    searched: Searched
    result: Result = field(repr=False)

    def direction(self) -> Direction:
        """The direction of the chosen cell.

        Raises:
            InputError: it is damaged or gone.
        """
        results = SweepResults(self.folder, [self.result])
        return results.direction(self.result.model, self.result.method)

    def __str__(self) -> str:
        """As the command prints it."""
        return "\n".join(lines(self.searched))


def find(
    model: Model,
    *,
    out: str | Path,
    methods: str | Sequence[str] | None = None,
    directions: Sequence[str | Path] = (),
    layers: Sequence[float | int | str] = (),
    operation: str = defaults.OPERATION,
    site: str = defaults.SITE,
    span: str = defaults.SPAN,
    positions: str = defaults.POSITIONS,
    prompts: str | Path = defaults.PROMPTS,
    extraction: str | Path | None = None,
    budget_rows: int | None = None,
    minutes: float | None = None,
    cheapest: bool = False,
    precision: str = defaults.PRECISION,
    device: str = defaults.DEVICE,
    max_new_tokens: int = defaults.FIND_NEW_TOKENS,
    stop_loops: bool = True,
    judge: str = defaults.JUDGE,
    seed: int = defaults.SEED,
    rows: int = defaults.ROWS,
    system: str | Path = "",
    accept_mismatch: bool = False,
    quiet: bool = False,
) -> FindResults:
    """Find the layer and strength where most prompts are refused in fluent text, and confirm them.

    Does what `steersweep find` does, in the same run folder; the same call again continues.

    Args:
        model: a folder, a hub id, `lab:NAME`, or a model that is in memory (`ChatModel.wrap`).
        out: the run folder: new, or of a search with these settings.
        methods: how directions are found, such as `dim`, `cosmic`; the best one is chosen too.
            None: DIM, or no method where there are `directions`.
        directions: files with directions, tried like those of a method; see `read_direction`.
        layers: that may be chosen: shares of the depth or indices; all by default.
        operation: `add` directions, or `affine`.
        site: see `sweep`.
        span: see `sweep`.
        positions: see `sweep`.
        prompts: a shipped set or a file; half of it, 60 at most, confirms what the rest finds.
        extraction: see `sweep`.
        budget_rows: answers of the search at most; its first two steps are made all the same.
        minutes: time for all of it, by the pace of the first answers.
        cheapest: choose the cell that moves the model least from itself, of those that refuse as
            often as the best; may be asked of a search that has ended.
        precision: see `sweep`.
        device: see `sweep`.
        max_new_tokens: longest answer.
        stop_loops: end an answer where it is stuck in a loop; the judge calls it broken.
        judge: see `sweep`.
        seed: of the random control direction.
        rows: rows per generation batch.
        system: a system prompt before every prompt: a text, or a file that holds it.
        accept_mismatch: go on whatever the checks find to be wrong with the model.
        quiet: show notes alone, and no progress.

    Raises:
        InputError: a setting that cannot be read; a model, file or folder that cannot be used.
        SteersweepError: the search could not finish; what did finish is in `out`.
    """
    settings = make_find_settings(
        asked_source(model, system),
        methods=None if methods is None else listed("methods", methods),
        directions=directions,
        layers=listed("layers", layers),
        operation=operation,
        site=site,
        span=span,
        positions=positions,
        prompts=str(prompts),
        extraction=None if extraction is None else str(extraction),
        budget_rows=budget_rows,
        minutes=minutes,
        cheapest=cheapest,
        precision=precision,
        max_new_tokens=max_new_tokens,
        stop_loops=stop_loops,
        judge=judge,
        seed=seed,
        rows=rows,
        system=system,
        accept_mismatch=accept_mismatch,
    )
    with live_view(quiet=quiet) as view:
        for note in settings.sweep.notes:
            view.on_note(note)
        outcome = run_find(
            settings, Path(out), device=device, on_progress=view.on_progress, on_note=view.on_note
        )
    return FindResults(outcome.folder, outcome.searched, outcome.result)
