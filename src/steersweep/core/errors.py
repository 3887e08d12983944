"""Errors that reach the user: each message says what is wrong, where, and what to do."""

from __future__ import annotations

import re
from collections.abc import Callable

from steersweep.core.printing import printable
from steersweep.core.redaction import redact

# Around the name of a setting; `printable` escapes these characters, so no output holds them.
_BEGIN, _END = "\ue000", "\ue001"
_SETTING = re.compile(f"{_BEGIN}([a-z_]+){_END}")


def setting(name: str) -> str:
    """The name of a setting in an error's message; the command line says its option instead."""
    return f"{_BEGIN}{name}{_END}"


class SteersweepError(Exception):
    """Base of every error raised on purpose; the command line exits with `exit_code`.

    Messages go to screens, logs and run folders, so secrets are taken out of them here, and
    what would command a terminal is escaped.
    """

    exit_code = 1

    def __init__(self, message: str = "", *others: object) -> None:
        self._message = redact(message)
        super().__init__(self.told(lambda name: name), *others)

    def told(self, called: Callable[[str], str]) -> str:
        """The message, with each setting as `called` calls it."""
        return printable(_SETTING.sub(lambda found: called(found[1]), self._message))


class InputError(SteersweepError):
    """The input (a model, file, field or setting) is wrong; nothing was computed or lost."""

    exit_code = 2


class NumericalError(SteersweepError):
    """A model produced NaN or infinity where a finite number is needed."""
