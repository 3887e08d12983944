"""Signing a verification report."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from steersweep.core.atomic import write_text
from steersweep.core.errors import InputError
from steersweep.people.gates import sign
from steersweep.run.paths import RunPaths
from steersweep.run.result_files import read_result_file, verification_file
from steersweep.verification.report import GATE, render_markdown


def sign_verification(folder: Path, *, by: str, note: str = "") -> dict[str, Any]:
    """Sign the newest verification in `folder`, and write the signature into its report.

    Raises:
        InputError: there is no verification, it cannot be read, or it did not pass.
    """
    from steersweep.core import provenance

    newest = verification_file(folder)
    if newest is None:
        raise InputError(f"{folder}: holds no COSMIC verification; verify COSMIC there first")
    result, page = read_result_file(newest)[0], RunPaths(folder).verification
    if not result["passed"]:
        raise InputError(f"{newest}: did not pass, so it cannot be signed; see {page.name}")
    signature = sign(folder, GATE, by=by, note=note, evidence=newest, time=provenance.utc_now())
    write_text(page, render_markdown(result, newest.name, signature))
    return signature
