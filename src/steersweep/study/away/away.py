"""A study that runs elsewhere while this machine may sleep: begun, looked at and fetched from here.

`engine.json` in the run folder says where it is. What people decide here (signatures, labels) goes
there when the study is begun again; everything else comes back with `fetch`.
"""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, Literal

from steersweep.core import provenance, typed
from steersweep.core.atomic import write_bytes
from steersweep.core.errors import InputError, SteersweepError, setting
from steersweep.core.printing import safe_name
from steersweep.methods.method import METHODS
from steersweep.run.folder import RunFolder
from steersweep.run.paths import RunPaths
from steersweep.study.away.apps import study_app_name
from steersweep.study.away.modal_run import ModalRun
from steersweep.study.away.remote_run import End, RemoteRun, ToldTracker
from steersweep.study.plan import Plan

_LOOK_EVERY_S = 10.0


@dataclass(frozen=True)
class Away:
    """Where a study runs, as `engine.json` holds it.

    Attributes:
        run: its name there.
        study_app: the app that leads it.
        began: when, in UTC.
        call: id of the call that leads it.
        tracker: whom `fetch` tells; None: nobody.
        engine: what it runs on.
    """

    engine: Literal["modal"]
    run: str
    study_app: str
    began: str
    call: str
    tracker: ToldTracker | None


class EndedThere(SteersweepError):
    """What ended a study where it ran; exits as it would have here."""

    def __init__(self, message: str, exit_code: int) -> None:
        super().__init__(message)
        self.exit_code = exit_code


def begin(
    plan: Plan,
    folder: Path,
    options: Mapping[str, Any],
    remote: RemoteRun | None = None,
    *,
    tracker: ToldTracker | None = None,
) -> Away:
    """Begin a study on Modal, or continue it; returns where it runs.

    Args:
        plan: what to run.
        folder: the run folder here, new or of this very study.
        options: fields of `StudyOptions`.
        remote: the other side; None: Modal.
        tracker: whom `fetch` is to tell; None: nobody.

    Raises:
        InputError: Modal cannot be used, the folder holds another run, or a model lies only here.
        SteersweepError: the study is still running there.
    """
    for model in plan.models.values():
        if Path(model.model).expanduser().is_dir():
            raise InputError(
                f"{model.name}: {model.model} is a folder of this machine, which Modal does not "
                f"see; give a hub id"
            )
    for own in METHODS.own_of(plan.prompts.extraction).values():
        raise InputError(f"{own}: lies on this machine only, which Modal does not see")
    if options.get("new_run") and RunPaths(folder).is_away:
        folder.rename(folder.with_name(f"{folder.name}-before-{provenance.utc_now()}"))
    held = _held(folder)
    if held is None and folder.exists() and any(folder.iterdir()):
        raise InputError(
            f"{setting('out')} {folder}: holds other files; a study on Modal needs a new folder, "
            f"or its own"
        )
    run = held.run if held else f"{safe_name(plan.name)}-{secrets.token_hex(4)}"
    remote = remote or ModalRun(run, study_app=study_app_name(plan))
    if held and remote.outcome(held.call) is None:
        raise SteersweepError(
            f"{folder}: the study is still running; see steersweep status {folder}"
        )
    decided = {
        path.name: path.read_bytes() for path in _decided_here(RunPaths(folder)) if path.is_file()
    }
    if decided:
        remote.write(decided)
    call = remote.begin(plan, {**options, "new_run": False, "shown_as": str(folder)})
    began = held.began if held else provenance.utc_now()
    found = Away("modal", run, study_app_name(plan), began, call, tracker)
    RunFolder(folder).write_json(RunPaths(folder).engine, typed.plain(found))
    return found


def follow(
    folder: Path,
    on_line: Callable[[str], None],
    remote: RemoteRun | None = None,
    *,
    every_s: float | None = None,
) -> End:
    """Fetch again and again until the study ends there; returns its outcome.

    Args:
        folder: the run folder here.
        on_line: told what the study says.
        remote: the other side; None: Modal.
        every_s: seconds between two looks; None: ten.
    """
    remote = remote or remote_of(folder)
    shown, away = len(said(folder)), False
    while True:
        try:
            end = outcome(folder, remote)  # before the last fetch, so that nothing is missed
            fetch(folder, remote)
        except SteersweepError as error:  # this machine slept, or has no network now
            if not away:
                on_line(f"{error}; trying again")
            end, away = None, True
        else:
            away = False
        lines = said(folder)
        for line in lines[shown:]:
            on_line(line)
        shown = len(lines)
        if end is not None:
            return end
        time.sleep(_LOOK_EVERY_S if every_s is None else every_s)


def said(folder: Path) -> list[str]:
    """Lines of the study's log, but for a last one whose end has not arrived."""
    file = RunPaths(folder).messages
    return file.read_text("utf-8", "replace").split("\n")[:-1] if file.is_file() else []


def fetch(folder: Path, remote: RemoteRun | None = None) -> int:
    """Bring home what is new or changed; returns how many files came.

    Raises:
        InputError: the run in `folder` does not run elsewhere.
        SteersweepError: the other side cannot be reached.
    """
    _known(folder)
    remote = remote or remote_of(folder)
    run = RunFolder(folder)
    stays = {path.name for path in (run.paths.engine, *_decided_here(run.paths))}
    fetched = run.read_json(run.paths.fetched) or {}
    count = 0
    for name, file in sorted(remote.files().items()):
        safe = PurePosixPath(name)
        if safe.is_absolute() or ".." in safe.parts or safe.name.startswith("."):
            continue
        if name in stays:
            continue
        state = [file.size, file.mtime]
        if fetched.get(name) == state and (folder / name).exists():
            continue
        write_bytes(folder / name, remote.read(name))
        fetched[name] = state
        count += 1
    if count:
        run.write_json(run.paths.fetched, fetched)
    return count


def outcome(folder: Path, remote: RemoteRun | None = None) -> End | None:
    """How the study ended where it runs; None while it runs."""
    return (remote or remote_of(folder)).outcome(_known(folder).call)


def tracker_of(folder: Path) -> ToldTracker | None:
    """Whoever is told of the study; None: nobody is."""
    return _known(folder).tracker


def billed(folder: Path, remote: RemoteRun | None = None) -> float | None:
    """USD the provider billed for the study so far, None where it does not say."""
    return (remote or remote_of(folder)).billed(_known(folder).began)


def remote_of(folder: Path) -> RemoteRun:
    """The other side of the run in a folder.

    Raises:
        InputError: it does not run elsewhere.
    """
    known = _known(folder)
    return ModalRun(known.run, study_app=known.study_app)


def _decided_here(paths: RunPaths) -> tuple[Path, ...]:
    """What people decide on this machine: it goes there, and never comes back."""
    return paths.gates, paths.reviews


def _held(folder: Path) -> Away | None:
    store = RunFolder(folder, repairs=False)
    path = store.paths.engine
    content = store.read_json(path)
    if store.damaged:
        raise InputError(
            f"{path}: is damaged ({store.why_damaged(path)}), and nothing else "
            f"here says where the study runs"
        )
    try:
        return None if content is None else typed.read(Away, content)
    except typed.WrongField as error:
        raise InputError(f"{path}: {error}; another version wrote it") from error


def _known(folder: Path) -> Away:
    held = _held(folder)
    if held is None:
        raise InputError(
            f"{folder}: holds no study that runs elsewhere (no {RunPaths(folder).engine.name})"
        )
    return held
