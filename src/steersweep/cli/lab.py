"""Commands of the lab zoo: `lab list`, `lab path`, `lab train`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from steersweep.cli.options import JsonOption
from steersweep.cli.output import quiet_libraries, say


def lab_list(as_json: JsonOption = False) -> None:
    """Show the lab models and the figures they were accepted with.

    Example: `steersweep lab list`
    """
    from steersweep.core import typed
    from steersweep.lab.models import LAB_MODELS

    cards = [model.card() for model in LAB_MODELS.values()]
    if as_json:
        say(json.dumps(typed.plain(cards), indent=1))
        return
    from steersweep.report.terminal import print_cards

    print_cards(cards)


def lab_path(name: Annotated[str, typer.Argument(help="Such as qwen-7b.")]) -> None:
    """Print a lab model's folder; transformers loads it directly.

    Example: `steersweep lab path qwen-7b`
    """
    from steersweep.lab.models import lab_model

    model = lab_model(name.removeprefix("lab:"))
    model.card()  # says how to make it if it is missing
    say(str(model.folder))


def lab_train(
    name: Annotated[str, typer.Argument(help="Such as qwen-7b.")],
    out: Annotated[Path | None, typer.Option(help="Folder to write [default: lab/NAME].")] = None,
) -> None:
    """Train a lab model again from its seed; a few minutes on two cores.

    Example: `steersweep lab train qwen-7b --out my-qwen-7b`
    """
    from steersweep.lab.models import lab_model
    from steersweep.lab.train import train

    model = lab_model(name.removeprefix("lab:"))
    folder = out or Path("lab") / model.name
    quiet_libraries()
    train(model, folder, report=say)
    say(f"saved in {folder}; `steersweep sweep {folder}` sweeps it")
