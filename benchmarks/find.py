"""How well `find` finds: searches replayed on full grids, many times over resampled prompts.

    python benchmarks/find.py [NAME ...] [--runs 200] [--coverage 1000] [--figure FILE.png]
    python benchmarks/find.py --read RUN_FOLDER MODEL NAME

A grid (`grids/NAME.npz`) holds what every layer and strength answered to all 120 prompts: refused
in fluent text, broken or neither; the same of answers cut to 24 tokens; and lengths. `--read` makes
one from the run folder of a sweep of all layers at the ladder's strengths. `qwen-coder-0.5b` has
every second layer and nine strengths. Cells whose rate over all prompts is within 5 points of the
grid's best count as right. The rules were set on qwen-7b, gemma-9b and llama-8b; the others were
held out.

- regret: 60 of the 120 prompts are drawn for the search, and what it chooses is looked up;
- tokens: those of the search and of a confirmation on the other 60, against a grid of 9 layers and
  6 strengths with random controls on all 120;
- coverage: prompts are drawn with replacement; how often the 95 % interval of the chosen cell holds
  its rate over all, beside that of the best cell of a whole grid on as many prompts.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from steersweep.core.statistics import wilson
from steersweep.search.search import ROUNDS, Cell, Choice, Outcome, Search, Span, spread
from steersweep.work.asking import SHORT

GRIDS = Path(__file__).parent / "grids"
TUNED_ON = ("qwen-7b", "gemma-9b", "llama-8b")
_OUTCOMES = (Outcome.OTHER, Outcome.REFUSES, Outcome.BROKEN)
_CODES = {"normal": 0, "coherent": 1, "garbled": 2}
Ints = NDArray[np.int64]


@dataclass(frozen=True)
class Grid:
    """What all cells answered.

    Attributes:
        name: of the model.
        cells: `[layer, rung, what, prompt]`; what: outcome, tokens, outcome of 24 tokens.
        unsteered: `[what, prompt]`.
    """

    name: str
    cells: Ints
    unsteered: Ints

    @classmethod
    def load(cls, name: str) -> Grid:
        """The committed grid of a model."""
        held = np.load(GRIDS / f"{name}.npz")
        return cls(name, held["cells"].astype(np.int64), held["unsteered"].astype(np.int64))

    @property
    def rates(self) -> NDArray[np.float64]:
        """Refusals in fluent text over all prompts, `[layer, rung]`."""
        found: NDArray[np.float64] = (self.cells[:, :, 0] == 1).mean(-1)
        return found

    def search(self, prompts: Ints) -> tuple[Choice, int]:
        """A search on some prompts, and the tokens it took."""
        tokens = 0

        def ask(spans: Sequence[Span], *, short: bool) -> Mapping[Cell, Sequence[Outcome]]:
            nonlocal tokens
            found = {}
            for span in spans:
                some = prompts[span.start : span.stop]
                whole, lengths, brief = self.cells[span.cell.layer, span.cell.rung][:, some]
                found[span.cell] = [_OUTCOMES[code] for code in (brief if short else whole)]
                tokens += int(np.minimum(lengths, SHORT).sum() if short else lengths.sum())
            return found

        n_layers, n_rungs = self.cells.shape[:2]
        return Search(ask, {"dim": range(n_layers)}, n_rungs=n_rungs).run(), tokens

    def confirming(self, best: Cell, prompts: Ints) -> int:
        """Tokens of a confirmation: a cell, its neighbours, a control like it, unsteered."""
        n_rungs = self.cells.shape[1]
        rungs = [r for r in (best.rung - 1, best.rung, best.rung + 1) if 0 <= r < n_rungs]
        steered = self.cells[best.layer, [*rungs, best.rung], 1][:, prompts]
        return int(steered.sum() + self.unsteered[1, prompts].sum())

    def whole(self) -> float:
        """Tokens of 9 layers, 6 strengths and as many controls on all prompts."""
        layers = spread(range(self.cells.shape[0]), 9)
        rungs = np.linspace(0, self.cells.shape[1] - 1, 6).astype(int)
        steered = float(np.mean([self.cells[layer, r, 1].sum() for layer in layers for r in rungs]))
        return 2 * 54 * steered + float(self.unsteered[1].sum())


def regrets(grid: Grid, runs: int) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Points lost against the grid's best, and the grid's tokens over those of `find`, by run."""
    n = grid.cells.shape[-1]
    lost, ratio = [], []
    for seed in range(runs):
        order = np.random.default_rng(seed).permutation(n)
        found, tokens = grid.search(order[: ROUNDS[-1]])
        lost.append(grid.rates.max() - grid.rates[found.best.layer, found.best.rung])
        tokens += int(grid.unsteered[1, order[:28]].sum())
        ratio.append(grid.whole() / (tokens + grid.confirming(found.best, order[ROUNDS[-1] :])))
    return np.array(lost), np.array(ratio)


def coverage(grid: Grid, runs: int) -> tuple[float, float]:
    """How often 95 % intervals hold: of a confirmed cell, and naively of a grid's best."""
    n, half = grid.cells.shape[-1], ROUNDS[-1]
    held = naive = 0
    for seed in range(runs):
        generator = np.random.default_rng(seed)
        found, _ = grid.search(generator.integers(0, n, half))
        drawn = generator.integers(0, n, half)
        held += _covers(grid, (found.best.layer, found.best.rung), drawn)
        refused = (grid.cells[:, :, 0] == 1)[:, :, drawn].mean(-1)
        layer, rung = np.unravel_index(refused.argmax(), refused.shape)
        naive += _covers(grid, (int(layer), int(rung)), drawn)
    return held / runs, naive / runs


def _covers(grid: Grid, place: tuple[int, int], prompts: Ints) -> bool:
    refused = grid.cells[place[0], place[1], 0, prompts] == 1
    low, high = wilson(int(refused.sum()), len(refused))
    return low <= float(grid.rates[place]) <= high


def read(folder: Path, model: str, name: str) -> None:
    """Make a grid from a sweep's run folder; answers are cut to their first tokens and judged."""
    from steersweep import ChatModel
    from steersweep.judging.judge import Answer
    from steersweep.judging.judges import get_judge
    from steersweep.judging.quality import LIKELIHOOD_TOKENS, Fluency

    tokenizer = ChatModel.load(model, device="cpu").tokenizer
    judge = get_judge("default")
    records = [json.loads(file.read_text()) for file in (folder / "conditions").glob("*.json")]
    plain = next(r for r in records if r["condition"]["layer"] is None)
    threshold = plain["result"]["fluency_threshold"] or float("inf")

    def cell(record: Any) -> list[list[int]]:
        samples = record["samples"]

        def answer(sample: Any, text: str, tokens: int) -> Answer:
            nll = sample["nll"]
            likely = nll is not None and Fluency(sample["nll_worst"], nll, threshold, tokens)
            return Answer(sample["prompt"], text, likely or None)

        asked, cut = [], []
        for sample in samples:
            text, tokens = sample["response"], sample["n_tokens"]
            asked.append(answer(sample, text, min(LIKELIHOOD_TOKENS, tokens)))
            if tokens > SHORT:
                ids = tokenizer(text, add_special_tokens=False)["input_ids"][:SHORT]
                text = tokenizer.decode(ids)
            cut.append(answer(sample, text, min(SHORT, tokens)))
        return [
            [_CODES[found.quality] for found in judge.judge(asked)],
            [sample["n_tokens"] for sample in samples],
            [_CODES[found.quality] for found in judge.judge(cut)],
        ]

    steered = {
        (r["condition"]["layer"], r["condition"]["strength"]["value"]): cell(r)
        for r in records
        if r["condition"]["layer"] is not None and not r["condition"]["method"].startswith("random")
    }
    layers, strengths = (sorted({place[i] for place in steered}) for i in (0, 1))
    cells = np.array([[steered[layer, strength] for strength in strengths] for layer in layers])
    np.savez_compressed(
        GRIDS / f"{name}.npz",
        cells=cells.astype(np.int16),
        unsteered=np.array(cell(plain)).astype(np.int16),
        layers=np.array(layers),
        strengths=np.array(strengths),
    )


def main() -> None:
    """Replay, print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("names", nargs="*", help="grids; all by default")
    parser.add_argument("--runs", type=int, default=200)
    parser.add_argument("--coverage", type=int, default=1000, help="runs of it; 0: none")
    parser.add_argument("--figure", type=Path, help="draw coverage into this file")
    parser.add_argument("--read", nargs=3, metavar=("RUN", "MODEL", "NAME"), help="make a grid")
    asked = parser.parse_args()
    if asked.read:
        return read(Path(asked.read[0]), asked.read[1], asked.read[2])
    names = asked.names or sorted(path.stem for path in GRIDS.glob("*.npz"))
    names = [n for n in names if n not in TUNED_ON] + [n for n in names if n in TUNED_ON]
    print("| model | best | right of runs | mean regret | grid's tokens / find's (least) |", end="")
    print(" interval holds | naive best of grid |\n|---|---|---|---|---|---|---|")
    covered = {}
    for name in names:
        grid = Grid.load(name)
        lost, ratio = regrets(grid, asked.runs)
        line = (
            f"| {name}{' (tuned on)' * (name in TUNED_ON)} | {grid.rates.max():.0%} "
            f"| {(lost <= 0.05 + 1e-9).mean():.1%} | {100 * lost.mean():.1f} points "
            f"| {np.median(ratio):.1f} ({ratio.min():.1f}) |"
        )
        if asked.coverage:
            covered[name] = coverage(grid, asked.coverage)
            line += f" {covered[name][0]:.1%} | {covered[name][1]:.1%} |"
        print(line, flush=True)
    if asked.figure:
        draw(covered, asked.figure)
    return None


def draw(covered: Mapping[str, tuple[float, float]], file: Path) -> None:
    """How often intervals hold, by model: confirmed on other prompts, and naive."""
    from matplotlib import pyplot as plt

    from steersweep.report.figures.style import COLOURS, drawing

    with drawing():
        figure, axis = plt.subplots(figsize=(4.6, 0.9 + 0.2 * len(covered)), layout="constrained")
        axis.axvspan(0.93, 0.97, color="#EEEEEE")
        places = range(len(covered))
        for index, (label, colour) in enumerate(
            (("confirmed on other prompts", "coherent"), ("best cell of a grid", "garbled"))
        ):
            values = [found[index] for found in covered.values()]
            axis.plot(values, places, "o", color=COLOURS[colour], label=label)
        axis.set_yticks(places, [*covered])
        axis.invert_yaxis()
        axis.set_xlabel("share of runs in which the 95 % interval holds the true rate")
        axis.legend(loc="lower left")
        figure.savefig(file)


if __name__ == "__main__":
    main()
