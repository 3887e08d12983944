"""A plan as several commands take it: a name or a file, with models found where the user says."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from steersweep.core.errors import InputError

if TYPE_CHECKING:
    from steersweep.study.plan import Plan


def named_plan(name: str, models: Sequence[str] | None) -> Plan:
    """The plan of a name or a file.

    Args:
        name: see `load_plan`.
        models: `NAME=PLACE` of models that are elsewhere than the plan says. A path is kept in
            full, so that a run may go on from another folder.

    Raises:
        InputError: there is no such plan, or no such model in it.
    """
    from steersweep.study.plan_file import load_plan, with_models

    places = {}
    for text in models or ():
        model, equals, place = text.partition("=")
        if not (model and equals and place):
            raise InputError(f"--models {text}: give NAME=PLACE, as in qwen-7b=models/qwen")
        places[model] = str(Path(place).resolve()) if Path(place).exists() else place
    plan = load_plan(name)
    return with_models(plan, places) if places else plan
