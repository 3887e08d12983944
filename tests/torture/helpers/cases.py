"""Cases and their verdicts: run side by side, counted by kind, shown as a table."""

from __future__ import annotations

import json
import os
import random
import select
import shutil
import traceback
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from pathlib import Path

import pytest

OK = "ok"
FAULTS = {
    "wrong": "a number, text or verdict differs and nothing says so, or a wrong input is accepted",
    "unnoticed": "a damaged file stays as it is without a word, though no number rests on it",
    "traceback": "a traceback on the screen, or a crash",
    "hang": "longer than 10 s (30 s for a whole run)",
    "memory": "more than 2 GB",
    "leftover": "temporary or foreign files stay, something is doubled, money stays reserved",
    "escape": "a control character from outside reaches the terminal",
    "unnamed": "refused, but without a message that names the file or field",
    "broken": "the case itself could not be run",
}


def void(_value: object) -> None:
    """Nothing, for functions that are called for what they do."""


@dataclass(frozen=True)
class Verdict:
    """What came out of a case: `ok` or one of `FAULTS`, and why."""

    name: str
    why: str = ""


@dataclass(frozen=True)
class Case:
    """One attack.

    Attributes:
        name: unique; `--case NAME` runs it alone.
        run: carries it out in an empty folder.
    """

    name: str
    run: Callable[[Path], Verdict]


@dataclass
class Tally:
    """Verdicts of one kind of attack."""

    counts: Counter[str] = field(default_factory=Counter)
    failed: list[tuple[str, Verdict]] = field(default_factory=list)

    def add(self, case: str, verdict: Verdict) -> None:
        """Count a verdict."""
        self.counts[verdict.name] += 1
        if verdict.name != OK:
            self.failed.append((case, verdict))


@dataclass
class Torture:
    """Runs cases and keeps their verdicts.

    Attributes:
        size: `small` or `full`.
        seed: of everything that is drawn.
        flips: single-bit flips to try.
        only: names of the cases to run, as a shell's pattern, or None.
        jobs: cases at the same time.
        root: where cases get their folders.
        log: told of each case that is done: its kind, name and verdict.
        tallies: by kind, in the order they were run.
        notes: what to know about the verdicts.
    """

    size: str
    seed: int
    flips: int
    only: str | None
    jobs: int
    root: Path
    log: Callable[[str, str, Verdict], None] = lambda _kind, _case, _verdict: None
    tallies: dict[str, Tally] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)

    @property
    def full(self) -> bool:
        """Whether all cases are made: to run them, or to look for one by its name."""
        return self.size == "full" or self.only is not None

    @property
    def found_nothing(self) -> bool:
        """Whether one case was asked for and there is none of its name."""
        return self.only is not None and not any(t.counts for t in self.tallies.values())

    def attack(self, kind: str, cases: Sequence[Case], small: int) -> None:
        """Run the cases of a kind, or `small` of them where the size is small; all must hold."""
        names = Counter(case.name for case in cases)
        assert max(names.values(), default=1) == 1, "case names must be unique"
        tally = self.tallies.setdefault(kind, Tally())
        for case, verdict in run_all(self._chosen(kind, cases, small), self.jobs, self.root):
            tally.add(case.name, verdict)
            self.log(kind, case.name, verdict)
        if tally.failed:
            said = f"{len(tally.failed)} of {tally.counts.total()} cases failed; see the end"
            pytest.fail(said, pytrace=False)

    def _chosen(self, kind: str, cases: Sequence[Case], small: int) -> list[Case]:
        if self.only is not None:
            return [case for case in cases if fnmatchcase(case.name, self.only)]
        if self.size == "full" or len(cases) <= small:
            return list(cases)
        return random.Random(f"{self.seed} {kind}").sample(list(cases), small)


def run_all(cases: Iterable[Case], jobs: int, root: Path) -> Iterator[tuple[Case, Verdict]]:
    """Every case in a process of its own, `jobs` at a time; verdicts as they come."""
    waiting = list(reversed(list(cases)))
    running: dict[int, tuple[int, Case, Path]] = {}
    poll = select.poll()
    number = 0
    while waiting or running:
        while waiting and len(running) < jobs:
            case = waiting.pop()
            number += 1
            folder = root / f"case-{number}"
            folder.mkdir(parents=True)
            child = os.fork()
            if child == 0:
                _run_here(case, folder)
            watcher = os.pidfd_open(child)
            poll.register(watcher, select.POLLIN)
            running[watcher] = child, case, folder
        for watcher, _ in poll.poll():
            child, case, folder = running.pop(watcher)
            poll.unregister(watcher)
            os.close(watcher)
            os.waitpid(child, 0)
            yield case, _verdict_in(folder)
            _remove(folder)


def _run_here(case: Case, folder: Path) -> None:
    """Never returns."""
    try:
        verdict = case.run(folder)
    except BaseException:
        verdict = Verdict("broken", traceback.format_exc()[-2000:])
    finally:
        text = json.dumps([verdict.name, verdict.why])
        folder.with_suffix(".verdict").write_text(text, encoding="utf-8")
        os._exit(0)


def _verdict_in(folder: Path) -> Verdict:
    file = folder.with_suffix(".verdict")
    if not file.exists():
        return Verdict("broken", "the case ended without a verdict")
    verdict = Verdict(*json.loads(file.read_text("utf-8")))
    file.unlink()
    return verdict


def _remove(folder: Path) -> None:
    for place, _, _ in os.walk(folder):
        os.chmod(place, 0o755)
    shutil.rmtree(folder)


def table(tallies: dict[str, Tally]) -> list[str]:
    """Counts by kind, for a terminal and for the documentation."""
    faults = [name for name in FAULTS if any(t.counts[name] for t in tallies.values())]
    shown = ["cases", OK, *(name for name in FAULTS if name in faults or name != "broken")]
    rows = [["kind", *shown]]
    totals: Counter[str] = Counter()
    for kind, tally in tallies.items():
        counts = tally.counts | Counter(cases=tally.counts.total())
        totals += counts
        rows.append([kind, *(str(counts[name]) for name in shown)])
    rows.append(["all", *(str(totals[name]) for name in shown)])
    return [f"| {' | '.join(row)} |" for row in (rows[0], ["---"] * len(rows[0]), *rows[1:])]


def line_of(case: str, verdict: Verdict) -> str:
    """A case and its verdict in a line, as it is asked for again."""
    why = verdict.why.strip().replace("\n", " / ")
    return f"{verdict.name:9} --case '{case}'" + (f": {ascii(why)[1:-1][:300]}" if why else "")


def failures(tallies: dict[str, Tally], most: int = 12) -> list[str]:
    """The first failing cases of each kind, and how to run one again."""
    lines = []
    for kind, tally in tallies.items():
        for name, verdict in sorted(tally.failed, key=lambda failed: failed[0])[:most]:
            lines.append(line_of(name, verdict))
        if len(tally.failed) > most:
            lines.append(f"          and {len(tally.failed) - most} more of {kind}")
    return lines
