"""A run on Modal's volume, through Modal's client."""

from __future__ import annotations

import datetime
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from steersweep.core import typed
from steersweep.core.errors import InputError, SteersweepError, setting
from steersweep.engines.modal.functions import import_modal
from steersweep.engines.modal.remote import RUNS_VOLUME
from steersweep.study.away.deploy import STUDY_FUNCTION, define_apps
from steersweep.study.away.remote_run import End, RemoteFile
from steersweep.study.plan import Plan


class ModalRun:
    """A run on Modal's volume, through Modal's client.

    Args:
        run: its name, which is its folder on the volume.
        study_app: the app that leads it.
    """

    def __init__(self, run: str, *, study_app: str) -> None:
        self._modal = import_modal()
        self._run = run
        self._study_app = study_app
        self._volume = self._modal.Volume.from_name(RUNS_VOLUME, create_if_missing=True)

    def begin(self, plan: Plan, options: Mapping[str, Any]) -> str:
        """See `RemoteRun`."""
        import yaml

        text = yaml.safe_dump(dict(plan.written), sort_keys=False, allow_unicode=True)
        try:
            for app in define_apps(plan).values():
                app.deploy()
            study = self._modal.Function.from_name(self._study_app, STUDY_FUNCTION)
            return str(study.spawn(text, self._run, dict(options)).object_id)
        except self._modal.exception.AuthError as error:
            raise InputError(
                f"{setting('engine')} modal: no account: run `modal setup` once, or set "
                "MODAL_TOKEN_ID and MODAL_TOKEN_SECRET"
            ) from error
        except self._modal.exception.NotFoundError as error:
            raise InputError(
                f"{setting('engine')} modal: {error}. Secrets named in the plan (modal.secrets) "
                f"must exist: `modal secret create NAME KEY=VALUE`, or take them out of the plan"
            ) from error
        except self._modal.exception.Error as error:
            raise SteersweepError(f"{setting('engine')} modal: {error}") from error

    def outcome(self, call: str) -> End | None:
        """See `RemoteRun`."""
        errors = self._modal.exception
        try:
            return typed.read(End, self._modal.FunctionCall.from_id(call).get(timeout=0))
        except errors.OutputExpiredError:
            return End(1, "it ended long ago", None)
        except (TimeoutError, errors.TimeoutError):
            return None
        except (errors.AuthError, errors.ConnectionError, errors.ServiceError) as error:
            raise SteersweepError(f"Modal cannot be reached: {error}") from error
        except Exception as error:  # what ended the study came through here
            return End(1, f"{type(error).__name__}: {error}", None)

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
