"""Signing a verification report."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from steersweep.core.atomic import write_text
from steersweep.core.errors import InputError
from steersweep.people.gates import sign
from steersweep.run.result_files import newest_result_files, read_result_file
from steersweep.verification.report import GATE, REPORT_NAME, render_markdown


def sign_verification(folder: Path, *, by: str, note: str = "") -> dict[str, Any]:
    """Sign the newest verification in `folder`, and write the signature into its report.

    Raises:
        InputError: there is no verification, it cannot be read, or it did not pass.
    """
    from steersweep.core import provenance

    files = newest_result_files(folder, "v3_cosmic_verification_*.json")
    if not files:
        raise InputError(f"{folder}: holds no COSMIC verification; verify COSMIC there first")
    newest = files[-1]
    result = read_result_file(newest)[0]
    if not result["passed"]:
        raise InputError(f"{newest}: did not pass, so it cannot be signed; see {REPORT_NAME}")
    signature = sign(folder, GATE, by=by, note=note, evidence=newest, time=provenance.utc_now())
    write_text(folder / REPORT_NAME, render_markdown(result, newest.name, signature))
    return signature
