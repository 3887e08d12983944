"""Things of one kind by name, each imported when it is asked for, and things of a user's own.

Methods, judges and engines are kinds. What comes with the package has a name and a line in its
registry. What is a user's own is named by where it is: `package.module:Object` or
`FILE.py:Object`. Its code runs when somebody asks for it by that name, and at no other time.
"""

from __future__ import annotations

from collections.abc import Mapping
from importlib import import_module
from typing import Generic, TypeVar

from steersweep.core.errors import InputError
from steersweep.core.text_files import shown

Kind = TypeVar("Kind")


class Registry(Generic[Kind]):
    """Things of one kind that come with the package.

    Args:
        kind: what one of them is called in messages, such as `method`.
        places: by name, where it is: `package.module:Object`.
    """

    def __init__(self, kind: str, places: Mapping[str, str]) -> None:
        self.kind = kind
        self._places = dict(places)

    @property
    def names(self) -> tuple[str, ...]:
        """What there is, in the order of the registry."""
        return tuple(self._places)

    def __str__(self) -> str:
        return ", ".join(self.names)

    def get(self, name: str) -> Kind:
        """The thing of that name; a class is called without arguments first.

        Raises:
            InputError: there is none; the message names those there are.
        """
        if name not in self._places:
            raise InputError(f"{self.kind} {shown(name)}: choose from {self}")
        module, _, attribute = self._places[name].partition(":")
        found = getattr(import_module(module), attribute)
        made: Kind = found() if isinstance(found, type) else found
        return made
