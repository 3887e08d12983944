"""A report that stands: nothing that it shows has changed since, nor has the page or a figure.

To draw figures and to write a page takes seconds and loads matplotlib; to see that they are those
that were made of this very run takes the time of reading them.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from hashlib import sha256
from pathlib import Path
from typing import Any

import steersweep
from steersweep.core import provenance
from steersweep.core.digests import Damaged
from steersweep.run.condition import content_key
from steersweep.run.folder import RunFolder
from steersweep.run.paths import RunPaths
from steersweep.run.result_files import digest_of

_FIGURES = ("*.png", "*.svg")


def standing_report(folder: Path) -> tuple[Path, list[Path]] | None:
    """The page of a sweep's results that stand, and its figures as PNG; None: it must be made.

    Args:
        folder: the run folder.
    """
    store = RunFolder(folder, repairs=False)
    held = store.read_checked(store.paths.of_report, _whole)
    if held is None or held["shows"] != _shown(store.paths):
        return None
    if held["files"] != _digests(store.paths):
        return None
    return store.paths.report, sorted(store.paths.figures.glob("*.png"))


def note_report(folder: Path) -> None:
    """Keep what a report that was just written shows, and the digests of its files."""
    store = RunFolder(folder, repairs=False)
    store.write(
        store.paths.of_report, {"shows": _shown(store.paths), "files": _digests(store.paths)}
    )


def _shown(paths: RunPaths) -> str:
    """Hash of all that a report of a sweep is made of."""
    files = [paths.plan, paths.reviews, paths.gates, paths.ledger, paths.changes]
    results = {path.name: digest_of(path) for path in sorted(paths.results.glob("*.json"))}
    made_by = [steersweep.__version__, provenance.git_commit()]
    return content_key([made_by, str(paths.root.resolve()), _hashes(paths, files), results])


def _digests(paths: RunPaths) -> Mapping[str, str]:
    """SHA-256 of a report's page, figures and samples, by name."""
    made = [paths.report, *(found for kind in _FIGURES for found in paths.figures.glob(kind))]
    return _hashes(paths, [*made, *paths.samples.glob("*.js")])


def _hashes(paths: RunPaths, files: Iterable[Path]) -> dict[str, str]:
    return {
        paths.name_of(path): sha256(path.read_bytes()).hexdigest()
        for path in files
        if path.is_file()
    }


def _whole(facts: Mapping[str, Any]) -> Mapping[str, Any]:
    if {*facts} != {"shows", "files"}:
        raise Damaged("does not say what a report shows")
    return facts
