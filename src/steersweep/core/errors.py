"""Errors that reach the user: each message says what is wrong, where, and what to do."""

from steersweep.core.printing import printable
from steersweep.core.redaction import redact


class SteersweepError(Exception):
    """Base of every error raised on purpose; the command line exits with `exit_code`.

    Messages go to screens, logs and run folders, so secrets are taken out of them here, and
    what would command a terminal is escaped.
    """

    exit_code = 1

    def __init__(self, message: str = "", *others: object) -> None:
        super().__init__(printable(redact(message)), *others)


class InputError(SteersweepError):
    """The input (a model, file, field or option) is wrong; nothing was computed or lost."""

    exit_code = 2


class NumericalError(SteersweepError):
    """A model produced NaN or infinity where a finite number is needed."""
