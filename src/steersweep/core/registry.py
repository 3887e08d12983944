"""Things of one kind by name, each imported when it is asked for, and things of a user's own.

Methods, judges and engines are kinds. What comes with the package has a line in its registry. What
is a user's own is named by where it is; see `own`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from importlib import import_module
from typing import Any, Generic, Protocol, TypeVar

from steersweep.core.errors import InputError
from steersweep.core.own import find_own, is_own
from steersweep.core.text_files import shown

Kind = TypeVar("Kind")


class Source(Protocol):
    """Where a thing of a user's own comes from, so that another process has the same one.

    Its text is where it is. It can be pickled.
    """

    @property
    def code(self) -> str:
        """Hash of all that it rests on."""
        ...

    def load(self) -> Any:
        """The thing.

        Raises:
            InputError: it cannot be had, or is no longer what it was.
        """
        ...


class Registry(Generic[Kind]):
    """Things of one kind: those that come with the package, and a user's own that were named.

    Args:
        kind: what one of them is called in messages, such as `method`.
        places: by name, where it is: `package.module:Object`.
        name_of: the name of a user's own thing; raises InputError, without saying of what, where
            it is no such thing.
    """

    def __init__(self, kind: str, places: Mapping[str, str], name_of: Callable[[Any], str]) -> None:
        self.kind = kind
        self._places = dict(places)
        self._name_of = name_of
        self._own: dict[str, tuple[Source, Kind]] = {}

    @property
    def names(self) -> tuple[str, ...]:
        """What comes with the package, in the order of the registry."""
        return tuple(self._places)

    def __str__(self) -> str:
        return ", ".join(self.names)

    def get(self, name: str) -> Kind:
        """The thing of that name; a class is called without arguments first.

        Args:
            name: of one that comes with the package, or of a user's own that `add` was told of.

        Raises:
            InputError: there is none; the message names those there are.
        """
        if name in self._own:
            return self._own[name][1]
        if name not in self._places:
            raise InputError(
                f"{self.kind} {shown(name)}: choose from {self}, or name your own by "
                f"package.module:Class or FILE.py:Class"
            )
        module, _, attribute = self._places[name].partition(":")
        found = getattr(import_module(module), attribute)
        made: Kind = found() if isinstance(found, type) else found
        return made

    def own_of(self, names: Iterable[str]) -> dict[str, Source]:
        """Where those are that are a user's own, by name."""
        return {name: self._own[name][0] for name in names if name in self._own}

    def add(self, own: Source) -> str:
        """Import a thing of a user's own; from now on it goes by its name, which is returned.

        Raises:
            InputError: it cannot be imported, is no such thing, or has the name of one that comes
                with the package.
        """
        made = own.load()
        try:
            name = self._name_of(made)
        except InputError as error:
            raise InputError(f"{own}: {error}") from error
        if name.lower() in self._places:
            raise InputError(
                f"{own}: {name} is the name of a {self.kind} that comes with steersweep; choose "
                f"another"
            )
        self._own[name] = (own, made)
        return name

    def named(self, texts: Iterable[str]) -> tuple[str, ...]:
        """The names of what a user asks for, each once; their own is imported and added.

        Args:
            texts: names, or places of a user's own.

        Raises:
            InputError: see `get` and `add`; or two of their own have the same name.
        """
        found: dict[str, Source | None] = {}
        for text in texts:
            if is_own(text):
                own = find_own(self.kind, text)
                name = self.add(own)
                if found.get(name, own) != own:
                    raise InputError(f"{own}: its name, {name}, is that of {found[name]} too")
                found[name] = own
            else:
                self.get(text)
                found[text] = self.own_of([text]).get(text)
        return tuple(found)
