"""Methods of a user's own in a plan: imported where the plan is read, and called by their names."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from copy import deepcopy
from typing import Any

from steersweep.core.errors import InputError
from steersweep.core.own import Own, find_own, is_own
from steersweep.methods.method import METHODS

# A phase, or part of one, and where in the plan it is.
_Part = tuple[list[str], Mapping[str, Any]]


class AtPlace(InputError):
    """What is wrong at one place of a plan.

    Attributes:
        path: keys and indices that lead there.
    """

    def __init__(self, path: list[Any], message: str) -> None:
        super().__init__(message)
        self.path = path


def with_names(data: Mapping[str, Any]) -> dict[str, Any]:
    """A plan's data with methods by name, where it said where a user's own are.

    A plan that a run keeps names them already, beside a hash of their code (`own_methods`), and
    nothing is imported for it.

    Raises:
        AtPlace: a method cannot be imported, is none, or is given twice.
    """
    named: dict[str, Any] = deepcopy(dict(data))
    if "own_methods" in data:
        return named
    seen: dict[str, Own] = {}
    for path, part in method_lists(named):
        names: list[str] = []
        for index, text in enumerate(part["methods"]):
            name = _name_of(text, [*path, "methods", index], seen)
            if name in names:
                raise AtPlace([*path, "methods", index], f"{name} is given twice")
            names.append(name)
        part["methods"][:] = names
    extraction: dict[str, Any] = {}
    for text, prompts in named["prompts"]["extraction"].items():
        name = _name_of(text, ["prompts", "extraction", text], seen)
        if name in extraction:
            raise AtPlace(["prompts", "extraction", text], f"{name} is given twice")
        extraction[name] = prompts
    named["prompts"]["extraction"] = extraction
    return named


def method_lists(data: Mapping[str, Any]) -> Iterator[_Part]:
    """Every part of a plan that has a list of methods, and where it is."""
    for name, phase in data.items():
        if isinstance(phase, dict):
            if "methods" in phase:
                yield [name], phase
            validation = phase.get("validation")
            if isinstance(validation, dict) and "methods" in validation:
                yield [name, "validation"], validation


def _name_of(text: str, path: list[Any], seen: dict[str, Own]) -> str:
    if not is_own(text):
        return text
    try:
        own = find_own(METHODS.kind, text)
        name = METHODS.add(own)
    except InputError as error:
        raise AtPlace(path, str(error)) from error
    if seen.setdefault(name, own) != own:
        raise AtPlace(path, f"{own}: its name, {name}, is that of {seen[name]} too")
    return name
