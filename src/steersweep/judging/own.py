"""A judge of a user's own, named by where it is; what it says is checked."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, get_args

from steersweep.core.errors import InputError
from steersweep.core.own import Own, find_own
from steersweep.judging.judge import Answer
from steersweep.run.judgement import Judgement, Quality, Stance

_STANCES = (*get_args(Stance), "unknown")


class OwnJudge:
    """Calls a user's judge, and sees that it judges every answer.

    Attributes:
        id: where it is, and a hash of its code.
    """

    def __init__(self, own: Own, made: Any) -> None:
        self.id = f"{own.module}:{own.name}@sha256:{own.code}"
        self._own = own
        self._made = made

    def judge(self, answers: Sequence[Answer]) -> list[Judgement]:
        """Judge answers, in order.

        Raises:
            InputError: it failed, or gave something other than a judgement per answer.
        """
        found: Any = self._own.running("judge failed", lambda: self._made.judge(answers))
        if not isinstance(found, list) or len(found) != len(answers):
            given = f"{len(found)}" if isinstance(found, list) else type(found).__name__
            raise InputError(
                f"{self._own}: judge must give a list of {len(answers)} judgements, not {given}"
            )
        for judgement in found:
            if not _is_judgement(judgement):
                raise InputError(f"{self._own}: {judgement!r} is no judgement; see Judgement")
        return list(found)


def _is_judgement(given: Any) -> bool:
    if not isinstance(given, Judgement):
        return False
    texts = (given.error, given.failure_mode or "")
    return (
        isinstance(given.refusal, bool)
        and isinstance(given.ambiguous, bool)
        and given.quality in get_args(Quality)
        and given.stance in _STANCES
        and isinstance(given.score, int | float)
        and 0 <= given.score <= 1
        and all(isinstance(text, str) for text in texts)
    )


def own_judge(place: str) -> OwnJudge:
    """The judge at `package.module:Class` or `FILE.py:Class`.

    Raises:
        InputError: it cannot be imported, or has no method `judge`.
    """
    own = find_own("judge", place)
    made = own.load()
    if not callable(getattr(made, "judge", None)):
        raise InputError(f"{own}: it must have judge(self, answers)")
    return OwnJudge(own, made)
