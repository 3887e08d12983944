"""The checks that every run of a model makes first, once per model: in a run folder, or for a user.

What was found is kept under a name that holds all it rests on, so that other weights, another
template, precision or library is looked at again.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable
from pathlib import Path
from typing import Any

from steersweep.core import provenance, typed
from steersweep.core.errors import InputError, NumericalError, SteersweepError, setting
from steersweep.core.precision_labels import runs_as
from steersweep.core.user_cache import keep, kept
from steersweep.model.chat_model import ChatModel
from steersweep.run.folder import RunFolder
from steersweep.run.paths import RunPaths
from steersweep.smoke.basics import ending_note
from steersweep.smoke.looks import LOOKS
from steersweep.smoke.smoke import Check, check_model
from steersweep.steer.parity import PROBES

BASICS = ("template", "ending", "weights", "padding", "cache")
# Raised when a check sees something else than before, so that models are looked at again.
VERSION = 2
# What is wrong with the model's files, as opposed to how they run here.
_OF_FILES = frozenset(BASICS[:3])

# What a check says that met numbers which are none.
_OF_OVERFLOW = (f"{NumericalError.__name__}:", "NaN or infinite")


def checks_file(root: Path, chat: ChatModel, only: Collection[str] | None) -> Path:
    """Where in a run folder the checks of a model are kept."""
    facts = provenance.facts(chat.device)
    rests_on = {
        "device": chat.device.type,
        "prompt": chat.prompt_ids(PROBES[0]),
        "ends": [sorted(chat.declared_eos_ids), sorted(chat.eos_ids)],
        "versions": [VERSION, *(facts[name] for name in ("steersweep", "torch", "transformers"))],
        "checks": sorted(only) if only is not None else "all",
    }
    return RunPaths(root).checks(chat.fingerprint, chat.precision, rests_on)


def make_checks(
    chat: ChatModel,
    only: Collection[str] | None,
    on_check: Callable[[str, float], None] = lambda _name, _share: None,
) -> list[Check]:
    """Every check, or those in `only`; `on_check` as in `check_for_run`."""
    checks: list[Check] = []
    count = len(LOOKS if only is None else only)

    def note(check: Check) -> None:
        checks.append(check)
        on_check(check.name, len(checks) / count)

    check_model(chat, note, only=only)
    return checks


def require(
    chat: ChatModel, found: Iterable[Check], *, accept_mismatch: bool = False
) -> tuple[str, ...]:
    """What a user should know of a model that may be run.

    Args:
        chat: the model.
        found: its checks.
        accept_mismatch: go on where some failed; these are in what is returned.

    Raises:
        InputError: a check failed that is about the model's files; the message says which, what it
            saw and what to do.
        NumericalError: one met NaN or infinity in fp16.
        SteersweepError: another one did.
    """
    wrong = [check for check in found if not check.passed]
    if wrong and wrong[0].name == "template":
        del wrong[1:]  # what follows from prompts that are not whole
    said = "; ".join(f"{check.name}: {check.seen}" for check in wrong)
    if wrong and not accept_mismatch:
        kind = InputError if any(c.name in _OF_FILES for c in wrong) else SteersweepError
        overflowed = any(text in c.seen for c in wrong for text in _OF_OVERFLOW)
        if overflowed and runs_as(chat.precision) == "fp16":  # bf16 may do
            kind = NumericalError
        raise kind(
            f"{chat.source.model_id}: incompatible: {said} (steersweep smoke shows every check; "
            f"{setting('accept_mismatch')} goes on all the same)"
        )
    notes = [f"goes on although incompatible: {said}"] if wrong else []
    if note := ending_note(chat):
        notes.append(note)
    if chat.opened_thought:
        notes.append(
            f"the chat template opens the model's reasoning ({chat.opened_thought.strip()}): only "
            f"what follows it is judged, and an answer needs room for both in max_new_tokens"
        )
    return tuple(notes)


def check_for_user(chat: ChatModel, *, accept_mismatch: bool = False) -> tuple[str, ...]:
    """The basic checks, made once for this user and model; see `require`."""
    name = f"checks/{checks_file(Path(), chat, BASICS).name}"
    found = _whole(kept(name))
    if found is None:
        found = make_checks(chat, BASICS)
        keep(name, typed.plain(found))
    return require(chat, found, accept_mismatch=accept_mismatch)


def check_for_run(
    chat: ChatModel,
    run: RunFolder,
    *,
    every: bool,
    accept_mismatch: bool,
    on_check: Callable[[str, float], None] = lambda _name, _share: None,
) -> tuple[str, ...]:
    """The basic checks and that readers agree, or every check, once in a run folder.

    Args:
        chat: the model.
        run: the run folder.
        every: see `Job.smoke`.
        accept_mismatch: see `require`.
        on_check: told of each check as it is made, and of the share that is made, 0 to 1.
    """
    only = None if every else (*BASICS, "readers")
    path = checks_file(run.root, chat, only)
    held = run.read_json(path)
    if held is None:
        found = make_checks(chat, only, on_check)
        run.write_once(path, {"checks": typed.plain(found)})
    else:
        found = typed.read(list[Check], held["checks"])
    return require(chat, found, accept_mismatch=accept_mismatch)


def _whole(held: Any) -> list[Check] | None:
    """The basic checks in the cache; None if these are not they: it is the user's, who may edit."""
    try:
        found = typed.read(list[Check], held)
    except typed.WrongField:
        return None
    return found if [check.name for check in found] == list(BASICS) else None
