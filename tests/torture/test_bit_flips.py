"""Single bits of a finished sweep and study turned around, then read and continued."""

from __future__ import annotations

import random

from torture.helpers.cases import Case, Torture
from torture.helpers.damaged import damaged_case
from torture.helpers.damages import flip
from torture.helpers.runs import Finished, Ground

_DRAWN_AGAIN = (".png", ".svg", ".html")


def flip_cases(torture: Torture, runs: dict[str, Finished]) -> list[Case]:
    """As many as asked for; every file of both runs is as likely as any other."""
    files = [
        (name, run, str(path.relative_to(run.folder / "run")))
        for name, run in runs.items()
        for path in sorted((run.folder / "run").rglob("*"))
        if path.is_file() and path.stat().st_size and path.suffix not in _DRAWN_AGAIN
    ]
    rng = random.Random(torture.seed)
    cases = []
    for number in range(torture.flips):
        name, run, file = rng.choice(files)
        seed = f"{torture.seed} {number}"
        cases.append(damaged_case(f"flip-{number}-{name}", run, file, flip, seed, review=False))
    return cases


def test_flipped_bits(torture: Torture, ground: Ground) -> None:
    cases = flip_cases(torture, {"sweep": ground.sweep, "study": ground.signed})
    torture.attack("one bit flipped", cases, small=len(cases))
