"""Options of the torture tests, the finished runs they share, and the table at the end."""

from __future__ import annotations

import os
from functools import partial
from pathlib import Path

import pytest

from torture.helpers.cases import Torture, Verdict, failures, line_of, table
from torture.helpers.runs import Ground, make_ground

_TORTURE = pytest.StashKey[Torture]()


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("torture")
    group.addoption("--torture-size", choices=("small", "full"), default="small")
    group.addoption("--torture-seed", type=int, default=1, help="of what is drawn")
    group.addoption("--torture-flips", type=int, default=None, help="bits to flip, one a case")
    group.addoption("--torture-jobs", type=int, default=min(4, os.cpu_count() or 1))
    group.addoption("--torture-log", type=Path, help="add every case to this file as it ends")
    group.addoption("--case", default=None, help="run the cases of this name, or of this pattern")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if Path(__file__).parent in item.path.parents:
            item.add_marker("slow")


@pytest.fixture(scope="session")
def torture(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Torture:
    option = request.config.getoption
    size = option("--torture-size")
    flips, only = option("--torture-flips"), option("--case")
    made = Torture(
        size=size,
        seed=option("--torture-seed"),
        flips=flips if flips is not None else 1000 if size == "full" or only is not None else 60,
        only=only,
        jobs=option("--torture-jobs"),
        root=tmp_path_factory.mktemp("torture"),
        log=partial(_log, option("--torture-log")),
    )
    request.config.stash[_TORTURE] = made
    return made


@pytest.fixture(scope="session")
def ground(torture: Torture) -> Ground:
    made = make_ground(torture.root / "ground")
    torture.notes.append(f"moments, not compared: {', '.join(sorted(made.study.moments))}")
    torture.notes += [f"not compared: {name}" for name in made.study.varying]
    return made


def pytest_sessionfinish(session: pytest.Session) -> None:
    done = session.config.stash.get(_TORTURE, None)
    if done is not None and done.found_nothing:
        session.exitstatus = pytest.ExitCode.NO_TESTS_COLLECTED


def pytest_terminal_summary(
    terminalreporter: pytest.TerminalReporter, config: pytest.Config
) -> None:
    done = config.stash.get(_TORTURE, None)
    if done is None:
        return
    terminalreporter.section(f"torture, {done.size}, seed {done.seed}")
    if done.found_nothing:
        terminalreporter.write_line(f"no case is called {done.only}", red=True)
    for line in (*table(done.tallies), "", *done.notes, *failures(done.tallies)):
        terminalreporter.write_line(line)
    _append(config.getoption("--torture-log"), "", *table(done.tallies))


def _log(file: Path | None, kind: str, case: str, verdict: Verdict) -> None:
    _append(file, f"{kind}: {line_of(case, verdict)}")


def _append(file: Path | None, *lines: str) -> None:
    """Several calls of pytest, each with a part of the cases, may share a file."""
    if file is not None:
        with file.open("a", encoding="utf-8") as opened:
            opened.write("\n".join((*lines, "")))
