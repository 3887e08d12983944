"""Methods, strengths and other lists of a sweep, from the texts a user types."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from steersweep.core.errors import InputError, setting
from steersweep.core.setting_values import MAX_MULTIPLIER, MAX_STRENGTH, positive_number
from steersweep.core.text_files import shown
from steersweep.methods.handed import handed_in
from steersweep.methods.method import METHODS
from steersweep.run.condition import REMOVED, Strength
from steersweep.run.edit_settings import EditSettings
from steersweep.sweeps import defaults
from steersweep.sweeps.expansion import LADDER


def chosen_methods(
    methods: str | None, directions: Sequence[str | Path], edit: EditSettings
) -> tuple[str, ...]:
    """Names of methods, and of files with directions, which are known by them from now on.

    Args:
        methods: names, or places of a user's own; None: DIM, or none where there are files.
        directions: the files.
        edit: what is done with directions.

    Raises:
        InputError: a method or file that cannot be used, or two of the same name.
    """
    if methods is None and not directions:
        methods = defaults.METHODS
    named = () if methods is None else METHODS.named(listed_items(setting("methods"), methods))
    handed = handed_in(directions)
    for own in handed:
        own.check_edit(edit)
        if own.name in named:
            raise InputError(f"{own}: {own.name} is the name of a method too; call it otherwise")
    return (*named, *(METHODS.add(own) for own in handed))


def chosen_strengths(edit: EditSettings, multipliers: str, strengths: str) -> list[Strength]:
    """Strengths in both units; the one there is, where a direction is removed.

    Raises:
        InputError: none, or one that the operation has no use for.
    """
    if edit.operation == "remove":
        for name, given in (("strengths", strengths), ("multipliers", multipliers)):
            if given:
                raise InputError(
                    f"{setting(name)} {shown(given)}: {setting('operation')} remove takes a "
                    f"direction out as a whole and has no strength; leave it out, or use add or "
                    f"affine"
                )
        return [REMOVED]
    if strengths == defaults.FIND:
        if multipliers:
            raise InputError(
                f"{setting('strengths')} {defaults.FIND}: looks for strengths by itself; leave "
                f"{setting('multipliers')} out"
            )
        return [*LADDER]
    found = [
        Strength("multiplier", x)
        for x in _numbers(setting("multipliers"), multipliers, MAX_MULTIPLIER)
    ]
    found += [
        Strength("relative", x) for x in _numbers(setting("strengths"), strengths, MAX_STRENGTH)
    ]
    if not found:
        raise InputError(
            f"no strength given: use {setting('strengths')} 0.5 or {setting('multipliers')} 15, or "
            f"both; or {setting('strengths')} {defaults.FIND}"
        )
    return found


def listed_items(setting: str, text: str) -> list[str]:
    """The items of a list, each once.

    Raises:
        InputError: an empty one.
    """
    items = [item.strip() for item in text.split(",")]
    if not all(items):
        raise InputError(
            f"{setting} {shown(text)}: a list separated by commas, without empty items"
        )
    return list(dict.fromkeys(items))


def _numbers(setting: str, text: str, highest: float) -> list[float]:
    items = listed_items(setting, text) if text else []
    return list(dict.fromkeys(positive_number(setting, item, highest) for item in items))
