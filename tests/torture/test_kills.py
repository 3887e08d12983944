"""A sweep and a study killed at every write, and continued by the same command."""

from __future__ import annotations

from pathlib import Path

from torture.helpers.cases import OK, Case, Torture, Verdict
from torture.helpers.continued import of_continued
from torture.helpers.process import command
from torture.helpers.runs import Finished, Ground
from torture.helpers.verdicts import common_fault
from torture.helpers.writes import ENDINGS, FAILURES, KILLS, Disturbance, count_writes


def writes_of(run: Finished, folder: Path) -> list[str]:
    """Every write of the undisturbed run, in order."""
    folder.mkdir(parents=True)
    run.begin_in(folder)
    log = folder.with_suffix(".writes")
    done = run.go_on(folder, count_writes(folder / "run", log))
    assert done.code == 0, done.text
    return log.read_text().split("\n")[:-1]


def disturbed(run: Finished, number: int, what: str, how: Disturbance) -> Case:
    """The case in which `how` happens at a write."""

    def attack(folder: Path) -> Verdict:
        out = run.begin_in(folder)
        first = run.go_on(folder, how.at(out, number))
        ended = first.code in how.may_end_with
        if not ended and (fault := common_fault(first)) is not None:
            return _at(what, fault)
        if how not in KILLS and (left := [path.name for path in out.rglob("*.tmp")]):
            return _at(what, Verdict("leftover", ", ".join(left)))
        # What a kill left open stays so, and what could not be written down.
        lost = how in KILLS or (how in FAILURES and "ledger" in what)
        return _at(what, of_continued(run, folder, run.go_on(folder), may_stay_open=int(lost)))

    return Case(f"{run.name}-{number:03}-{how.name}", attack)


def _at(what: str, verdict: Verdict) -> Verdict:
    return Verdict(verdict.name, f"{what}: {verdict.why}")


def every_write(
    run: Finished, writes: list[str], hows: tuple[Disturbance, ...], *, each: bool
) -> list[Case]:
    """A case for every write; with every disturbance of `hows` where `each`, else in turn."""
    cases = []
    for number, what in enumerate(writes):
        # Writing a file is three writes, so that taking strict turns would always be the same.
        chosen = hows if each else (hows[(number + number // len(hows)) % len(hows)],)
        cases += [disturbed(run, number, what, how) for how in chosen]
    return cases


def test_killed_sweep(torture: Torture, ground: Ground) -> None:
    writes = writes_of(ground.sweep, torture.root / "writes-kill-sweep")
    cases = every_write(ground.sweep, writes, KILLS, each=torture.full)
    torture.attack("sweep killed at a write", cases, small=45)


def test_killed_study(torture: Torture, ground: Ground) -> None:
    writes = writes_of(ground.study, torture.root / "writes-kill-study")
    torture.attack(
        "study killed at a write",
        every_write(ground.study, writes, KILLS, each=False),
        small=12,
    )


def test_failed_writes_of_a_sweep(torture: Torture, ground: Ground) -> None:
    writes = writes_of(ground.sweep, torture.root / "writes-fail-sweep")
    cases = every_write(ground.sweep, writes, FAILURES, each=torture.full)
    torture.attack("a write of a sweep fails", cases, small=45)


def test_failed_writes_of_a_study(torture: Torture, ground: Ground) -> None:
    writes = writes_of(ground.study, torture.root / "writes-fail-study")
    cases = every_write(ground.study, writes, FAILURES, each=False)
    torture.attack("a write of a study fails", cases, small=12)


def test_ended_by_a_signal(torture: Torture, ground: Ground) -> None:
    """TERM, HUP and INT: what is reserved is settled, nothing temporary stays."""
    writes = writes_of(ground.study, torture.root / "writes-end-study")
    cases = every_write(ground.study, writes, ENDINGS, each=False)
    torture.attack("study ended by TERM, HUP or INT", cases, small=9)


def test_killed_while_the_cache_is_written(torture: Torture, ground: Ground) -> None:
    """The user's cache is cold, and the kill comes at a write of it."""
    cases = [cold(ground.sweep, number, how) for number, how in _cache_writes(torture, ground)]
    torture.attack("the cache's writes", cases, small=9)


def _cache_writes(torture: Torture, ground: Ground) -> list[tuple[int, Disturbance]]:
    folder = torture.root / "writes-cache"
    folder.mkdir()
    log, cache = folder / "writes", folder / "cache"
    before = count_writes(cache, log)
    done = command(ground.sweep.arguments, folder, cache=cache, limit_s=60, before=before)
    assert done.code == 0, done.text
    number = len(log.read_text().split("\n")) - 1 if log.exists() else 0
    hows = (*KILLS, *FAILURES)
    return [(index, hows[index % len(hows)]) for index in range(number)]


def cold(run: Finished, number: int, how: Disturbance) -> Case:
    """The case in which `how` happens at a write of the cache."""

    def attack(folder: Path) -> Verdict:
        run.begin_in(folder)
        cache = folder / "cache"
        before = how.at(cache, number)
        first = command(run.arguments, folder, cache=cache, limit_s=60, before=before)
        if how not in KILLS and (fault := common_fault(first)) is not None:
            return fault
        again = command(run.arguments, folder, cache=cache, limit_s=60)
        verdict = of_continued(run, folder, again)
        if verdict.name == OK and (left := [p.name for p in cache.rglob("*.tmp")]):
            return Verdict("leftover", ", ".join(left))
        return verdict

    return Case(f"cache-{number:03}-{how.name}", attack)
