"""A command that takes no empty value: `--out "$OUT"` with nothing in `OUT` is a mistake."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from typer.core import TyperCommand

from steersweep.core.errors import InputError


class Command(TyperCommand):
    """Refuses options and arguments that are given and empty.

    Raises:
        InputError: the message names the first of them.
    """

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """See `TyperCommand.parse_args`."""
        given, _, _ = self.make_parser(ctx).parse_args(args=[*args])
        for parameter in self.params:
            if any(not text.strip() for text in _texts(given.get(str(parameter.name)))):
                if parameter.param_type_name == "option":
                    name, advice = parameter.opts[-1], "; give a value, or leave it out"
                else:
                    name, advice = str(parameter.metavar or parameter.name), ""
                raise InputError(f"{name}: is empty{advice}")
        return super().parse_args(ctx, args)


def _texts(value: Any) -> Iterator[str]:
    """The texts that were given for a parameter."""
    for one in value if isinstance(value, (list, tuple)) else (value,):
        if isinstance(one, str):
            yield one
