"""Every file of a finished sweep and study damaged in many ways, then read and continued."""

from __future__ import annotations

from torture.helpers.cases import Case, Torture
from torture.helpers.damaged import damaged_case
from torture.helpers.damages import damages_of
from torture.helpers.runs import Finished, Ground
from torture.helpers.snapshot import masked

LEAST = 14  # ways for every file; the first of each kind is damaged in every way there is
_ALWAYS = ("edited", "zeroed", "sample-gone", "unreadable")


def files_of(run: Finished) -> list[str]:
    """Every file of a run folder, by kind: folder and ending."""
    out = run.folder / "run"
    files = [path for path in out.rglob("*") if path.is_file() and path.name != ".lock"]
    return sorted(str(path.relative_to(out)) for path in files)


def damage_cases(name: str, run: Finished, *, full: bool, seed: int) -> list[Case]:
    cases, seen = [], set()
    for number, file in enumerate(files_of(run)):
        path = run.folder / "run" / file
        ways = list(damages_of(path).items())
        kind = (path.parent.name, path.suffix)
        if kind in seen or path.parent.name == "figures":
            # Some are always among them; the others take turns.
            kept = [way for way in ways if way[0] in _ALWAYS]
            rest = [way for way in ways if way not in kept]
            turned = rest[number % len(rest) :] + rest[: number % len(rest)]
            ways = kept + turned[: LEAST - len(kept)]
        seen.add(kind)
        for way, damage in ways:
            case = f"{name}-{way}-{masked(file)}"
            cases.append(damaged_case(case, run, file, damage, f"{seed} {case}", review=full))
    return cases


def test_damaged_sweep(torture: Torture, ground: Ground) -> None:
    full = torture.full
    cases = damage_cases("sweep", ground.sweep, full=full, seed=torture.seed)
    torture.attack("a file of a sweep damaged", cases, small=50)


def test_damaged_study(torture: Torture, ground: Ground) -> None:
    full = torture.full
    cases = damage_cases("study", ground.signed, full=full, seed=torture.seed)
    torture.attack("a file of a study damaged", cases, small=60)
