"""Errors that reach the user: each message says what is wrong, where, and what to do."""


class SteersweepError(Exception):
    """Base of every error raised on purpose; the command line exits with `exit_code`."""

    exit_code = 1


class InputError(SteersweepError):
    """The input (a model, file, field or option) is wrong; nothing was computed or lost."""

    exit_code = 2


class NumericalError(SteersweepError):
    """A model produced NaN or infinity where a finite number is needed."""
