"""Which records of a run folder were found right, by their digests: these are not read again.

Whether a record is right follows from its bytes, and a digest stands for them. So a run that goes
on compares the digest of every file with its bytes, and reads as JSON only those that are new.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import astuple, dataclass
from functools import lru_cache
from typing import Any

import steersweep
from steersweep.core.digests import Damaged
from steersweep.run.condition import RESULT_VERSION, content_key
from steersweep.run.records import Record

# Fewer new ones than this are read again in a moment.
_WORTH_KEEPING = 500
_SHARE = 0.1  # of those that were kept before: the file is written anew each time


_Facts = Mapping[str, Any]


@dataclass(frozen=True)
class Finished:
    """A record that was found right.

    Attributes:
        digest: of its file.
        prompts: hash of the prompts that it was tested on.
        direction: file of its direction, in the run folder; None where nothing was steered.
    """

    digest: str
    prompts: str
    direction: str | None

    @classmethod
    def of(cls, record: Record, digest: str) -> Finished:
        """What is noted of a record that is right."""
        steering = record.steering
        prompts = tuple(sample.prompt for sample in record.samples)
        return cls(digest, hash_of(prompts), None if steering is None else steering.direction_file)


def hash_of(prompts: Sequence[str]) -> str:
    """Hash of prompts, in order."""
    return _hash_of(tuple(prompts))


@lru_cache(maxsize=16)
def _hash_of(prompts: tuple[str, ...]) -> str:
    return content_key(prompts)


_Held = dict[str, Finished]
_Whole = Callable[[_Facts], _Held]


class FinishedRecords:
    """The records that were found right, by key; kept in a file of the run folder.

    Args:
        read: what a function makes of that file; None: it is not there, or damaged.
        write: writes it; None: the folder is only read.
    """

    def __init__(
        self, read: Callable[[_Whole], _Held | None], write: Callable[[_Facts], None] | None
    ) -> None:
        self._read, self._write = read, write
        self._kept: _Held | None = None
        self._new: _Held = {}

    def get(self, key: str, digest: str, prompts: Sequence[str]) -> Finished | None:
        """What is known of a condition's record, if it has this digest and these prompts."""
        if self._kept is None:
            self._kept = self._in_file()
        found = self._new.get(key) or self._kept.get(key)
        same = found is not None and (found.digest, found.prompts) == (digest, hash_of(prompts))
        return found if same else None

    def note(self, key: str, found: Finished) -> None:
        """A record was found right."""
        self._new[key] = found
        if len(self._new) >= max(_WORTH_KEEPING, _SHARE * len(self._kept or ())):
            self._keep()

    def keep(self) -> None:
        """Write what is new to the file, where there is much in it."""
        if self._new and len(self._new) + len(self._kept or ()) >= _WORTH_KEEPING:
            self._keep()

    def _keep(self) -> None:
        if self._write is None:
            return
        self._kept = {**self._in_file(), **self._new}  # other processes note theirs there too
        self._new = {}
        records = {key: [*astuple(found)] for key, found in self._kept.items()}
        self._write({"version": _version(), "records": records})

    def _in_file(self) -> _Held:
        return self._read(_held) or {}


def _held(facts: _Facts) -> _Held:
    try:
        if facts["version"] != _version():  # which may have looked at less
            return {}
        return {key: Finished(*found) for key, found in facts["records"].items()}
    except (KeyError, TypeError, AttributeError) as error:
        raise Damaged(f"no records ({type(error).__name__}: {error})") from error


def _version() -> str:
    return f"{steersweep.__version__}, results {RESULT_VERSION}"
