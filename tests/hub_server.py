"""A small Hugging Face hub on this machine, for the real client: models, data sets, gates, cuts."""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

COMMIT = "c0ffee" + 34 * "0"


@dataclass
class Hub:
    """What it serves, and what it was asked.

    Attributes:
        models: folders by `owner/name`.
        gated: models that need a licence.
        claimed_bytes: what it says that weights weigh, instead of the truth.
        datasets: folders by `owner/name`.
        cut: names of files whose first download breaks off in the middle.
        requests: method, path and range of every request.
    """

    models: dict[str, Path]
    gated: set[str] = field(default_factory=set)
    claimed_bytes: int | None = None
    cut: set[str] = field(default_factory=set)
    datasets: dict[str, Path] = field(default_factory=dict)
    requests: list[tuple[str, str, str | None]] = field(default_factory=list)
    url: str = ""


@contextmanager
def serving(hub: Hub) -> Iterator[Hub]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, *_arguments: Any) -> None:
            pass

        def do_HEAD(self) -> None:
            self._answer(body=False)

        def do_GET(self) -> None:
            self._answer(body=True)

        def _answer(self, *, body: bool) -> None:
            path = self.path.split("?")[0]
            hub.requests.append((self.command, path, self.headers.get("Range")))
            parts = path.strip("/").split("/")
            if "datasets" in parts[:2]:
                return self._data(parts, body)
            if parts[:2] == ["api", "models"]:
                return self._about("/".join(parts[2:4]), parts[4:], body)
            model, rest = "/".join(parts[:2]), parts[2:]
            if model in hub.gated:
                return self._refuse(403, "GatedRepo", body)
            if model not in hub.models:
                return self._refuse(404, "RepoNotFound", body)
            if rest[:1] == ["resolve"] and (hub.models[model] / rest[-1]).is_file():
                return self._file(hub.models[model] / rest[-1], body)
            return self._refuse(404, "EntryNotFound", body)

        def _about(self, model: str, rest: list[str], body: bool) -> None:
            if model in hub.gated:
                return self._refuse(403, "GatedRepo", body)
            if model not in hub.models:
                return self._refuse(404, "RepoNotFound", body)
            if rest[:1] == ["tree"]:
                return self._send(200, b"[]", {"Content-Type": "application/json"}, body)
            files = [
                {
                    "rfilename": file.name,
                    "size": hub.claimed_bytes or file.stat().st_size,
                    "blobId": "b",
                }
                for file in sorted(hub.models[model].iterdir())
            ]
            about = {"id": model, "modelId": model, "sha": COMMIT, "siblings": files}
            content = json.dumps(about).encode()
            return self._send(200, content, {"Content-Type": "application/json"}, body)

        def _data(self, parts: list[str], body: bool) -> None:
            name = "/".join(parts[2:4] if parts[0] == "api" else parts[1:3])
            if name in hub.gated:
                return self._refuse(403, "GatedRepo", body)
            if name not in hub.datasets:
                return self._refuse(404, "RepoNotFound", body)
            folder = hub.datasets[name]
            if parts[0] != "api":
                return self._file(folder.joinpath(*parts[5:]), body)
            files = [p.relative_to(folder).as_posix() for p in sorted(folder.rglob("*.*"))]
            about = {"id": name, "sha": COMMIT, "siblings": [{"rfilename": f} for f in files]}
            content = json.dumps(about).encode()
            return self._send(200, content, {"Content-Type": "application/json"}, body)

        def _file(self, file: Path, body: bool) -> None:
            content = file.read_bytes()
            etag = hashlib.sha256(content).hexdigest()
            headers = {"ETag": f'"{etag}"', "X-Repo-Commit": COMMIT, "Accept-Ranges": "bytes"}
            wanted = self.headers.get("Range")
            if wanted:
                first = int(wanted.removeprefix("bytes=").split("-")[0])
                headers["Content-Range"] = f"bytes {first}-{len(content) - 1}/{len(content)}"
                return self._send(206, content[first:], headers, body)
            if body and file.name in hub.cut:
                hub.cut.discard(file.name)
                return self._send(200, content, headers, body, cut=True)
            return self._send(200, content, headers, body)

        def _refuse(self, status: int, code: str, body: bool) -> None:
            message = "Access to this model is restricted." if status == 403 else "Not found."
            headers = {"X-Error-Code": code, "X-Error-Message": message}
            self._send(status, json.dumps({"error": message}).encode(), headers, body)

        def _send(
            self,
            status: int,
            content: bytes,
            headers: dict[str, str],
            body: bool,
            cut: bool = False,
        ) -> None:
            self.send_response(status)
            for name, value in {**headers, "Content-Length": str(len(content))}.items():
                self.send_header(name, value)
            self.end_headers()
            if body:
                self.wfile.write(content[: len(content) // 2] if cut else content)
            if cut:
                self.close_connection = True

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, args=[0.01], daemon=True).start()
    hub.url = f"http://127.0.0.1:{server.server_port}"
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()
