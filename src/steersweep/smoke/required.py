"""The checks that every run of a model makes first, once for a user, a model and a machine.

What passed is kept in the user's cache, under all it rests on, so that other weights, another
template, precision or library is looked at again. A run folder keeps what was found for its runs.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable
from pathlib import Path
from typing import Any

from steersweep.core import typed
from steersweep.core.errors import InputError, NumericalError, SteersweepError, setting
from steersweep.core.precision_labels import runs_as
from steersweep.model.chat_model import ChatModel
from steersweep.run.condition import content_key
from steersweep.run.folder import RunFolder
from steersweep.run.paths import RunPaths
from steersweep.smoke.basics import ending_note
from steersweep.smoke.looks import LOOKS
from steersweep.smoke.smoke import Check, check_model
from steersweep.steer.found import forget, known, note, rests_on
from steersweep.steer.parity import PROBES

BASICS = ("template", "ending", "weights", "padding", "cache")
# What is wrong with the model's files, as opposed to how they run here.
_OF_FILES = frozenset(BASICS[:3])

# What a check says that met numbers which are none.
_OF_OVERFLOW = (f"{NumericalError.__name__}:", "NaN or infinite")


def checks_file(root: Path, chat: ChatModel, only: Collection[str] | None) -> Path:
    """Where in a run folder the checks of a model are kept."""
    checks = sorted(only) if only is not None else "all"
    rest = [rests_on(chat), _of_prompts(chat), checks]
    return RunPaths(root).checks(chat.fingerprint, chat.precision, rest)


def _of_prompts(chat: ChatModel) -> list[Any]:
    """What checks rest on beside the network: how prompts begin, and answers end."""
    ends = [sorted(chat.declared_eos_ids), sorted(chat.eos_ids)]
    return [chat.prompt_ids(PROBES[0]), *ends]


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
    return require(chat, _checked(chat, BASICS), accept_mismatch=accept_mismatch)


def _checked(
    chat: ChatModel,
    only: Collection[str],
    on_check: Callable[[str, float], None] = lambda _name, _share: None,
) -> list[Check]:
    """Some checks, those that passed before as they were seen then; what failed is made again."""
    name = f"checks-{content_key(_of_prompts(chat))}"
    held: list[Check] = known(chat, name, list[Check]) or []
    found = {check.name: check for check in held if check.passed}
    missing = [check for check in only if check not in found]
    if missing:
        found |= {check.name: check for check in make_checks(chat, missing, on_check)}
        note(chat, name, [check for check in found.values() if check.passed])
    return [found[check] for check in LOOKS if check in only]


def check_for_run(
    chat: ChatModel,
    run: RunFolder,
    *,
    every: bool,
    accept_mismatch: bool,
    on_check: Callable[[str, float], None] = lambda _name, _share: None,
) -> tuple[str, ...]:
    """The basic checks and that readers agree, or every check, once in a run folder.

    The former are taken from this user's earlier runs; every check is made here, and the model
    looked at anew for it.

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
        if only is None:
            forget(chat)
            found = make_checks(chat, only, on_check)
        else:
            found = _checked(chat, only, on_check)
        run.write_once(path, {"checks": typed.plain(found)})
    else:
        found = typed.read(list[Check], held["checks"])
    return require(chat, found, accept_mismatch=accept_mismatch)
