"""A page on this machine alone, on which people label samples by keyboard.

Served by the standard library on 127.0.0.1. Responses are data: the page shows them as text, and
nothing but its own script runs. Other users of the machine and other sites in the same browser can
neither read nor label: every request needs this address as its host, and the key that only the
printed address has. The page moves the key from its address into the tab's own storage and sends it
as a header; a cookie would reach every server on this machine, whatever its port.
"""

from __future__ import annotations

import contextlib
import html
import json
import os
import secrets
import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from importlib import resources
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

from steersweep.core.errors import InputError, SteersweepError, setting
from steersweep.people.reviews import (
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

    Attributes:
        key: 256 random bits; every request must have it.
        address: of the server, without the key.
        url: what a person opens: the address with the key.

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
        self.key = secrets.token_urlsafe(32)
        try:
            super().__init__((_ADDRESS, port), _Handler)
        except (OSError, OverflowError) as error:
            raise InputError(f"{setting('port')} {port}: cannot be used: {error}") from error
        self.address = f"http://{_ADDRESS}:{self.server_address[1]}/"
        self.url = f"{self.address}?key={self.key}"

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
        asked = parse_qs(where.query)
        if not self._for_us():
            return
        if where.path == "/":
            # A tab that is loaded again has its key in its storage: the page itself holds nothing.
            known = self._is_key(asked.get("key", [""])[0])
            self._page(HTTPStatus.OK if known else HTTPStatus.FORBIDDEN)
        elif not self._has_key():
            return
        elif where.path == "/state":
            reviewer = asked.get("reviewer", [""])[0]
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
        if not (self._for_us() and self._has_key()):
            return
        try:
            self._json(HTTPStatus.OK, self._act(urlsplit(self.path).path, json.loads(body)))
        except (InputError, KeyError, TypeError, ValueError, AttributeError) as error:
            self._json(HTTPStatus.BAD_REQUEST, {"error": str(error)})
        except (SteersweepError, OSError) as error:
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

    def _has_key(self) -> bool:
        if self._is_key(self.headers.get("X-Key", "")):
            return True
        error = "this page has no key: open the address that steersweep review printed"
        self._json(HTTPStatus.FORBIDDEN, {"error": error})
        return False

    def _is_key(self, sent: str) -> bool:
        return secrets.compare_digest(sent.encode("utf-8", "replace"), self.server.key.encode())

    def _page(self, status: HTTPStatus) -> None:
        page = (resources.files("steersweep.people") / "page.html").read_text("utf-8")
        labels = json.dumps([label for label in LABELS if label != "skip"])
        nonce = secrets.token_urlsafe(16)
        text = page.replace("{{nonce}}", nonce).replace("{{labels}}", labels)
        self._send(status, text, "text/html", f"'nonce-{nonce}'")

    def _json(self, status: HTTPStatus, value: Any) -> None:
        self._send(status, json.dumps(value), "application/json")

    def _send(self, status: HTTPStatus, text: str, kind: str, own: str = "'none'") -> None:
        body = text.encode("utf-8", errors="backslashreplace")
        self.send_response(status)
        self.send_header("Content-Type", f"{kind}; charset=utf-8")
        self.send_header("Content-Length", str(len(body)))
        self.send_header("Cache-Control", "no-store")
        self.send_header("X-Content-Type-Options", "nosniff")
        self.send_header("X-Frame-Options", "DENY")
        self.send_header("Referrer-Policy", "no-referrer")
        self.send_header("Cross-Origin-Resource-Policy", "same-origin")
        self.send_header(
            "Content-Security-Policy",
            f"default-src 'none'; connect-src 'self'; base-uri 'none'; form-action 'none'; "
            f"style-src {own}; script-src {own}; frame-ancestors 'none'",
        )
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_arguments: Any) -> None:
        """Nothing: the terminal is for people."""


@contextlib.contextmanager
def private_page(url: str) -> Iterator[str]:
    """The address of a file that leads to `url` and that only this user can read.

    A browser's command line can be seen by everybody on the machine, so the key must not be in it.
    """
    handle, name = tempfile.mkstemp(prefix="steersweep-review-", suffix=".html")  # private
    try:
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            file.write(f'<meta http-equiv="refresh" content="0; url={html.escape(url)}">\n')
        yield Path(name).as_uri()
    finally:
        Path(name).unlink(missing_ok=True)
