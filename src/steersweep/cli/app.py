"""The commands in the order of `--help`, and the entry point."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable

import typer

from steersweep.cli import (
    convert,
    effects,
    export,
    find,
    judging,
    lab,
    models,
    results,
    smoke,
    studies,
    sweeps,
    verify,
)
from steersweep.cli.command import Command
from steersweep.cli.failures import STOPPED, is_end_of_output, report
from steersweep.core.processor import use_sparingly
from steersweep.core.redaction import hide_secrets_of_crashes
from steersweep.core.signals import end_on_signals

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="markdown",
    context_settings={"help_option_names": ["-h", "--help"]},
    help="At which layer, with which method and how strongly does refusal steering work on a "
    "model, and is the result a coherent refusal or a broken model?",
)
lab_app = typer.Typer(no_args_is_help=True, help="The lab zoo: small chat models made here.")
verify_app = typer.Typer(no_args_is_help=True, help="Proof that a method is the official one.")

_PANELS: dict[str, tuple[Callable[..., None], ...]] = {
    "Sweeps": (sweeps.demo, sweeps.sweep, find.find),
    "One model": (
        smoke.smoke, models.extract, models.generate, convert.convert, judging.judge,
    ),
    "Studies": (
        studies.plan, studies.run, studies.status, studies.decide, studies.approve, studies.fetch,
    ),
    "Results": (
        effects.effects, effects.prices, results.report, results.review, results.track,
        export.export,
    ),
}  # fmt: skip
for panel, commands in _PANELS.items():
    for command in commands:
        app.command(cls=Command, rich_help_panel=panel)(command)
lab_app.command("list", cls=Command)(lab.lab_list)
lab_app.command("path", cls=Command)(lab.lab_path)
lab_app.command("train", cls=Command)(lab.lab_train)
verify_app.command("cosmic", cls=Command)(verify.verify_cosmic)
verify_app.command("architectures", cls=Command)(verify.verify_architectures)
app.add_typer(verify_app, name="verify", rich_help_panel="Reference code and lab models")
app.add_typer(lab_app, name="lab", rich_help_panel="Reference code and lab models")


def main() -> None:
    """Entry point: errors become one line and an exit code (2 input, 3 gate or budget, 1)."""
    end_on_signals("stopped; the same command again continues")
    hide_secrets_of_crashes()
    use_sparingly()
    try:
        try:
            app()
        finally:
            sys.stdout.flush()
    except SystemExit as ended:
        # Typer ends Ctrl+C, and any broken pipe, without a word.
        cause = ended.__context__
        if isinstance(cause, BrokenPipeError) and not is_end_of_output(cause):
            sys.exit(report(cause, sys.argv[1:]))
        if ended.code == STOPPED:
            sys.exit(report(KeyboardInterrupt(), sys.argv[1:]))
        raise
    except BaseException as error:
        if is_end_of_output(error):
            os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # else Python complains when it ends
            sys.exit(1)
        sys.exit(report(error, sys.argv[1:]))
