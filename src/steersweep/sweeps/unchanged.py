"""Results that stand: those of a run where nothing that they rest on has changed.

A run that is finished is often begun once more, to see its table. To make a million samples into a
result file takes a minute; to see that the file there is of these very records, a second.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from hashlib import sha256
from pathlib import Path
from typing import Any

import steersweep
from steersweep.core import provenance
from steersweep.core.digests import Damaged
from steersweep.core.errors import InputError
from steersweep.run.condition import content_key
from steersweep.run.folder import RunFolder
from steersweep.run.result import Result
from steersweep.run.result_files import digest_of, read_result_file
from steersweep.run.verdict import Thresholds
from steersweep.work.job import Job


def rests_on(store: RunFolder, jobs: Sequence[Job], thresholds: Thresholds, kind: str) -> str:
    """Hash of all that the results of a sweep rest on.

    Args:
        store: the run folder, with all its records.
        jobs: of the sweep.
        thresholds: that verdicts are decided by.
        kind: what the name of the result file begins with.
    """
    reviews = store.paths.reviews
    return content_key(
        {
            "version": [steersweep.__version__, provenance.git_commit()],
            "files": store.digests(),
            "reviews": sha256(reviews.read_bytes()).hexdigest() if reviews.exists() else None,
            "jobs": [_facts(job) for job in jobs],
            "thresholds": asdict(thresholds),
            "kind": kind,
        }
    )


def _facts(job: Job) -> list[object]:
    """What results say of a job that its records do not."""
    called = {(c.test_prompts, c.extraction_prompts or "") for c in job.conditions}
    named = [job.source.name, job.source.model_id, job.family, job.precision]
    return [*named, job.test.repeats, sorted(called)]


def standing(store: RunFolder, key: str) -> tuple[list[Result], Path] | None:
    """The results that rest on what has this hash, and their file; None: they must be made."""
    held = store.read_checked(store.paths.of_results, _whole)
    if held is None or held["rests_on"] != key:
        return None
    path = store.paths.named(held["file"])
    if digest_of(path) != held["written"]:
        return None
    try:
        return read_result_file(path), path
    except InputError:  # damaged since
        return None


def note(store: RunFolder, key: str, path: Path) -> None:
    """Keep what the results in a file rest on."""
    facts = {"rests_on": key, "file": store.paths.name_of(path), "written": digest_of(path)}
    store.write_json(store.paths.of_results, facts)


def _whole(facts: Mapping[str, Any]) -> Mapping[str, Any]:
    if {*facts} != {"rests_on", "file", "written"}:
        raise Damaged("does not say what results rest on")
    return facts
