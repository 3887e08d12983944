"""Signing a verification report."""

from __future__ import annotations

from pathlib import Path

from steersweep.core.atomic import write_text
from steersweep.core.errors import InputError, setting
from steersweep.core.journal import Entry
from steersweep.people.gates import sign, signature_of
from steersweep.run.paths import RunPaths
from steersweep.run.result_files import verification_file
from steersweep.verification.outcome import Reproduced, read_verification
from steersweep.verification.report import GATE, render_markdown


def signable(folder: Path, note: str = "") -> Path:
    """The newest verification in `folder`, if a person may sign it.

    One whose reproduction missed what was expected may be accepted with a written reason, as the
    source plan has it for minor differences; one whose numbers are not the official code's may not.

    Raises:
        InputError: there is no verification, it cannot be read, or it may not be signed so.
    """
    newest = verification_file(folder)
    if newest is None:
        raise InputError(f"{folder}: holds no COSMIC verification; verify COSMIC there first")
    result, page = read_verification(newest), RunPaths(folder).verification
    if not result.passed and not result.numbers_agree:
        raise InputError(
            f"{newest}: did not pass: the numbers differ from the official code's, so it cannot be "
            f"signed; see {page.name}"
        )
    if not result.passed and result.reproduction is not None and not note.strip():
        raise InputError(
            f"{newest}: {missed(result.reproduction)}. To accept that, say why: "
            f"{setting('note')} REASON; see {page.name}"
        )
    return newest


def missed(run: Reproduced) -> str:
    """In words, what a reproduction that missed its expectation reached."""
    return (
        f"the reproduction on {run.model_id} reached {run.coherent_refusal_rate:.0%} "
        f"coherent refusals, and at least {run.expected_at_least:.0%} was expected"
    )


def accepted(folder: Path) -> bool:
    """Whether a person has signed the newest verification in `folder`."""
    newest = verification_file(folder)
    signature = None if newest is None else signature_of(folder, GATE, newest)
    return signature is not None and not signature["rejected"]


def show_signature(folder: Path) -> None:
    """Write the signature of the newest verification into its report, where there is one.

    The report of a study that runs elsewhere is written there, and signed here.
    """
    newest = verification_file(folder)
    signature = None if newest is None else signature_of(folder, GATE, newest)
    if newest is None or signature is None or signature["rejected"]:
        return
    text = render_markdown(read_verification(newest), newest.name, signature)
    page = RunPaths(folder).verification
    if not page.is_file() or page.read_text("utf-8") != text:
        write_text(page, text)


def sign_verification(folder: Path, *, by: str, note: str = "") -> Entry:
    """Sign the newest verification in `folder`, and write the signature into its report.

    Raises:
        InputError: see `signable`. Nothing is written then.
    """
    from steersweep.core import provenance

    newest = signable(folder, note)
    result, page = read_verification(newest), RunPaths(folder).verification
    signature = sign(folder, GATE, by=by, note=note, evidence=newest, time=provenance.utc_now())
    write_text(page, render_markdown(result, newest.name, signature))
    return signature
