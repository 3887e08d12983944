"""A study that runs elsewhere while this machine may sleep: begun, looked at and fetched from here.

`engine.json` in the run folder says where it is. What people decide here (signatures, labels) goes
there when the study is begun again; everything else comes back with `fetch`.
"""

from __future__ import annotations

import datetime
import secrets
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, Protocol

from steersweep.core import provenance
from steersweep.core.atomic import write_bytes
from steersweep.core.errors import InputError, SteersweepError
from steersweep.core.printing import safe_name
from steersweep.engines.modal import apps
from steersweep.engines.modal.remote import LOG, RUNS_VOLUME
from steersweep.run.folder import ENGINE_FILE, RunStore, is_away
from steersweep.study.plan import Plan

_FETCHED = ".fetched.json"
_DECIDED_HERE = ("gates.jsonl", "reviews.jsonl")
_STAYS_HERE = (ENGINE_FILE, _FETCHED, *_DECIDED_HERE)


@dataclass(frozen=True)
class RemoteFile:
    """A file of a run on the other side: size in bytes, and when it was written."""

    size: int
    mtime: float


class EndedThere(SteersweepError):
    """What ended a study where it ran; exits as it would have here."""

    def __init__(self, message: str, exit_code: int) -> None:
        super().__init__(message)
        self.exit_code = exit_code


class RemoteRun(Protocol):
    """A run's folder and leading call on the other side."""

    def begin(self, plan: Plan, options: Mapping[str, Any]) -> str:
        """Deploy what the plan needs and begin to lead the study; returns the call's id."""

    def outcome(self, call: str) -> dict[str, Any] | None:
        """`exit_code`, `message` and `phase` of a call that has ended; None while it runs."""

    def files(self) -> dict[str, RemoteFile]:
        """All files of the run by name."""

    def read(self, name: str) -> bytes:
        """A file's content."""

    def write(self, files: Mapping[str, bytes]) -> None:
        """Put files there, over what was there."""

    def billed(self, since: str) -> float | None:
        """USD the provider has billed for the plan's apps since a UTC time, if it says so."""


def begin(
    plan: Plan, folder: Path, options: Mapping[str, Any], remote: RemoteRun | None = None
) -> dict[str, Any]:
    """Begin a study on Modal, or continue it; returns the content of `engine.json`.

    Args:
        plan: what to run.
        folder: the run folder here, new or of this very study.
        options: fields of `StudyOptions`.
        remote: the other side; None: Modal.

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
    if options.get("new_run") and is_away(folder):
        folder.rename(folder.with_name(f"{folder.name}-before-{provenance.utc_now()}"))
    held = _held(folder)
    if held is None and folder.exists() and any(folder.iterdir()):
        raise InputError(
            f"--out {folder}: holds other files; a study on Modal needs a new folder, or its own"
        )
    run = held["run"] if held else f"{safe_name(plan.name)}-{secrets.token_hex(4)}"
    remote = remote or ModalRun(run, study_app=apps.study_app_name(plan))
    if held and remote.outcome(held["call"]) is None:
        raise SteersweepError(
            f"{folder}: the study is still running; see steersweep status {folder}"
        )
    decided = {
        name: (folder / name).read_bytes() for name in _DECIDED_HERE if (folder / name).is_file()
    }
    if decided:
        remote.write(decided)
    call = remote.begin(plan, {**options, "new_run": False, "shown_as": str(folder)})
    content = {
        "engine": "modal",
        "run": run,
        "study_app": apps.study_app_name(plan),
        "began": held["began"] if held else provenance.utc_now(),
        "call": call,
    }
    RunStore(folder).put_current(ENGINE_FILE, content)
    return content


def follow(
    folder: Path,
    on_line: Callable[[str], None],
    remote: RemoteRun | None = None,
    *,
    every_s: float = 10.0,
) -> dict[str, Any]:
    """Fetch again and again until the study ends there; returns its outcome.

    Args:
        folder: the run folder here.
        on_line: told what the study says.
        remote: the other side; None: Modal.
        every_s: seconds between two looks.
    """
    remote = remote or remote_of(folder)
    shown, away = len(_said(folder)), False
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
        lines = _said(folder)
        for line in lines[shown:]:
            on_line(line)
        shown = len(lines)
        if end is not None:
            return end
        time.sleep(every_s)


def _said(folder: Path) -> list[str]:
    file = folder / LOG
    return file.read_text("utf-8", "replace").splitlines() if file.is_file() else []


def fetch(folder: Path, remote: RemoteRun | None = None) -> int:
    """Bring home what is new or changed; returns how many files came.

    Raises:
        InputError: the run in `folder` does not run elsewhere.
        SteersweepError: the other side cannot be reached.
    """
    _known(folder)
    remote = remote or remote_of(folder)
    fetched = RunStore(folder).get_once(_FETCHED) or {}
    count = 0
    for name, file in sorted(remote.files().items()):
        safe = PurePosixPath(name)
        if safe.is_absolute() or ".." in safe.parts or safe.name.startswith("."):
            continue
        if name in _STAYS_HERE:
            continue
        state = [file.size, file.mtime]
        if fetched.get(name) == state and (folder / name).exists():
            continue
        write_bytes(folder / name, remote.read(name))
        fetched[name] = state
        count += 1
    if count:
        RunStore(folder).put_current(_FETCHED, fetched)
    return count


def outcome(folder: Path, remote: RemoteRun | None = None) -> dict[str, Any] | None:
    """How the study ended where it runs (see `RemoteRun.outcome`); None while it runs."""
    return (remote or remote_of(folder)).outcome(_known(folder)["call"])


def billed(folder: Path, remote: RemoteRun | None = None) -> float | None:
    """USD the provider billed for the study so far, None where it does not say."""
    return (remote or remote_of(folder)).billed(_known(folder)["began"])


def remote_of(folder: Path) -> RemoteRun:
    """The other side of the run in a folder.

    Raises:
        InputError: it does not run elsewhere.
    """
    content = _known(folder)
    return ModalRun(content["run"], study_app=content["study_app"])


def _held(folder: Path) -> dict[str, Any] | None:
    store = RunStore(folder, repairs=False)
    content = store.get_once(ENGINE_FILE)
    if store.damaged:
        raise InputError(
            f"{folder / ENGINE_FILE}: is damaged ({store.damaged[ENGINE_FILE]}), and nothing else "
            f"here says where the study runs"
        )
    return content


def _known(folder: Path) -> dict[str, Any]:
    held = _held(folder)
    if held is None:
        raise InputError(f"{folder}: holds no study that runs elsewhere (no {ENGINE_FILE})")
    return held


class ModalRun:
    """A run on Modal's volume, through Modal's client.

    Args:
        run: its name, which is its folder on the volume.
        study_app: the app that leads it.
    """

    def __init__(self, run: str, *, study_app: str) -> None:
        self._modal = apps.import_modal()
        self._run = run
        self._study_app = study_app
        self._volume = self._modal.Volume.from_name(RUNS_VOLUME, create_if_missing=True)

    def begin(self, plan: Plan, options: Mapping[str, Any]) -> str:
        """See `RemoteRun`."""
        import yaml

        text = yaml.safe_dump(dict(plan.data), sort_keys=False, allow_unicode=True)
        try:
            for app in apps.define_apps(plan).values():
                app.deploy()
            study = self._modal.Function.from_name(self._study_app, apps.STUDY_FUNCTION)
            return str(study.spawn(text, self._run, dict(options)).object_id)
        except self._modal.exception.AuthError as error:
            raise InputError(
                "--engine modal: no account: run `modal setup` once, or set MODAL_TOKEN_ID and "
                "MODAL_TOKEN_SECRET"
            ) from error
        except self._modal.exception.NotFoundError as error:
            raise InputError(
                f"--engine modal: {error}. Secrets named in the plan (modal.secrets) must exist: "
                f"`modal secret create NAME KEY=VALUE`, or take them out of the plan"
            ) from error
        except self._modal.exception.Error as error:
            raise SteersweepError(f"--engine modal: {error}") from error

    def outcome(self, call: str) -> dict[str, Any] | None:
        """See `RemoteRun`."""
        errors = self._modal.exception
        try:
            return dict(self._modal.FunctionCall.from_id(call).get(timeout=0))
        except errors.OutputExpiredError:
            return {"exit_code": 1, "message": "it ended long ago", "phase": None}
        except (TimeoutError, errors.TimeoutError):
            return None
        except (errors.AuthError, errors.ConnectionError, errors.ServiceError) as error:
            raise SteersweepError(f"Modal cannot be reached: {error}") from error
        except Exception as error:  # what ended the study came through here
            message = f"{type(error).__name__}: {error}"
            return {"exit_code": 1, "message": message, "phase": None}

    def files(self) -> dict[str, RemoteFile]:
        """See `RemoteRun`."""
        with self._reached():
            entries = self._volume.listdir(f"/{self._run}", recursive=True)
        kinds = self._modal.volume.FileEntryType
        return {
            entry.path.removeprefix(f"{self._run}/"): RemoteFile(entry.size, entry.mtime)
            for entry in entries
            if entry.type == kinds.FILE
        }

    def read(self, name: str) -> bytes:
        """See `RemoteRun`."""
        with self._reached():
            return b"".join(self._volume.read_file(f"{self._run}/{name}"))

    def write(self, files: Mapping[str, bytes]) -> None:
        """See `RemoteRun`."""
        import io

        with self._reached(), self._volume.batch_upload(force=True) as batch:
            for name, content in files.items():
                batch.put_file(io.BytesIO(content), f"/{self._run}/{name}")

    def billed(self, since: str) -> float | None:
        """See `RemoteRun`. Full hours only; None where the account gives no report."""
        began = datetime.datetime.fromisoformat(since.replace("Z", "+00:00"))
        try:
            report = self._modal.Workspace.from_context().billing.report(
                start=began.replace(minute=0, second=0), resolution="h", tag_names=["*"]
            )
        except self._modal.exception.Error:
            return None
        plan = self._study_app.removesuffix("-study")
        return float(sum(item.cost for item in report if item.tags.get("steersweep-plan") == plan))

    @contextmanager
    def _reached(self) -> Iterator[None]:
        """Turn the client's errors into one message."""
        try:
            yield
        except (self._modal.exception.Error, OSError) as error:
            where = f"Modal's volume {RUNS_VOLUME}/{self._run}"
            raise SteersweepError(f"{where} cannot be reached: {error}") from error
