"""A page on this machine alone, on which people label samples by keyboard.

Served by the standard library on 127.0.0.1. Responses are data: the page shows them as text, and
nothing but its own script runs. Other sites in the same browser can neither read nor post: requests
need this address as their host, and posts the page's token.
"""

from __future__ import annotations

import json
import secrets
import sys
from collections.abc import Sequence
from dataclasses import asdict
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from importlib import resources
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

from steersweep.errors import InputError
from steersweep.experiment.reviews import (
    LABELS,
    Item,
    add_review,
    agreements,
    read_reviews,
    undo_review,
)

_ADDRESS = "127.0.0.1"
_LARGEST_POST = 100_000  # bytes


class ReviewServer(ThreadingHTTPServer):
    """Serves the page for a run folder.

    Args:
        folder: the run folder; labels go to its `reviews.jsonl`.
        items: samples to label, in the order to show them.
        port: 0 for any free one.
        blind: hide the names of model, method and condition.

    Raises:
        InputError: the port is taken.
    """

    daemon_threads = True

    def __init__(
        self, folder: Path, items: Sequence[Item], *, port: int = 0, blind: bool = False
    ) -> None:
        self.folder = folder
        self.items = list(items)
        self.blind = blind
        self.token = secrets.token_urlsafe(24)
        try:
            super().__init__((_ADDRESS, port), _Handler)
        except (OSError, OverflowError) as error:
            raise InputError(f"--port {port}: cannot be used: {error}") from error
        self.url = f"http://{_ADDRESS}:{self.server_address[1]}/"

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A closed tab is no error; anything else is shown as usual."""
        if not isinstance(sys.exception(), ConnectionError):
            super().handle_error(request, client_address)

    def state(self, reviewer: str) -> dict[str, Any]:
        """What the page shows a person: samples, their own labels, agreement once all are done."""
        reviews = read_reviews(self.folder)
        own = {r.id: {"label": r.label, "note": r.note} for r in reviews if r.reviewer == reviewer}
        done = all(item.id in own for item in self.items)
        return {
            "items": [self._shown(item) for item in self.items],
            "labels": {item.id: own[item.id] for item in self.items if item.id in own},
            # The judge's labels would lead a person; they are shown when all is said.
            "agreement": [asdict(a) for a in agreements(self.items, reviews)] if done else [],
        }

    def _shown(self, item: Item) -> dict[str, Any]:
        shown = {"id": item.id, "prompt": item.prompt, "response": item.response}
        if not self.blind:
            shown |= {"model": item.model, "method": item.method, "place": item.place}
        return shown


class _Handler(BaseHTTPRequestHandler):
    server: ReviewServer
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        where = urlsplit(self.path)
        if not self._for_us():
            return
        if where.path == "/":
            self._send(HTTPStatus.OK, _page(self.server.token), "text/html")
        elif where.path == "/state":
            reviewer = parse_qs(where.query).get("reviewer", [""])[0]
            self._json(HTTPStatus.OK, self.server.state(reviewer.strip()))
        else:
            self._json(HTTPStatus.NOT_FOUND, {"error": "no such page"})

    def do_POST(self) -> None:
        said = self.headers.get("Content-Length") or "0"
        length = int(said) if said.isdecimal() and len(said) < 12 else -1
        if not 0 <= length <= _LARGEST_POST:
            self._json(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, {"error": "too long"})
            self.close_connection = True
            return
        body = self.rfile.read(length)
        if not self._for_us():
            return
        if not secrets.compare_digest(self.headers.get("X-Token", ""), self.server.token):
            self._json(HTTPStatus.FORBIDDEN, {"error": "reload the page"})
            return
        try:
            self._json(HTTPStatus.OK, self._act(urlsplit(self.path).path, json.loads(body)))
        except (InputError, KeyError, TypeError, ValueError, AttributeError) as error:
            self._json(HTTPStatus.BAD_REQUEST, {"error": str(error)})
        except OSError as error:
            self._json(HTTPStatus.INTERNAL_SERVER_ERROR, {"error": f"not saved: {error}"})

    def _act(self, path: str, sent: dict[str, Any]) -> dict[str, Any]:
        reviewer = sent["reviewer"].strip()
        if path == "/label":
            if sent["id"] not in {item.id for item in self.server.items}:
                raise InputError(f"no sample {sent['id']}")
            note = str(sent.get("note", ""))[:10_000]
            add_review(self.server.folder, sent["id"], sent["label"], reviewer, note)
        elif path == "/undo":
            undo_review(self.server.folder, reviewer)
        else:
            raise InputError("no such page")
        return self.server.state(reviewer)

    def _for_us(self) -> bool:
        """Whether the request names this address: another name may be another site's trick."""
        port = self.server.server_address[1]
        if self.headers.get("Host") in (f"{_ADDRESS}:{port}", f"localhost:{port}"):
            return True
        self._json(HTTPStatus.FORBIDDEN, {"error": "wrong host"})
        return False

    def _json(self, status: HTTPStatus, value: Any) -> None:
        self._send(status, json.dumps(value), "application/json")

    def _send(self, status: HTTPStatus, text: str, kind: str) -> None:
        body = text.encode("utf-8", errors="backslashreplace")
        self.send_response(status)
        self.send_header("Content-Type", f"{kind}; charset=utf-8")
        self.send_header("Content-Length", str(len(body)))
        self.send_header("Cache-Control", "no-store")
        self.send_header("X-Content-Type-Options", "nosniff")
        self.send_header("X-Frame-Options", "DENY")
        self.send_header(
            "Content-Security-Policy",
            f"default-src 'none'; connect-src 'self'; base-uri 'none'; form-action 'none'; "
            f"style-src 'nonce-{self.server.token}'; script-src 'nonce-{self.server.token}'",
        )
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_arguments: Any) -> None:
        """Nothing: the terminal is for people."""


def _page(token: str) -> str:
    page = (resources.files("steersweep.review") / "page.html").read_text("utf-8")
    labels = json.dumps([label for label in LABELS if label != "skip"])
    return page.replace("{{token}}", token).replace("{{labels}}", labels)
