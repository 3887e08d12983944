"""A server that judges, and answers to judge."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

REFUSES, HELPS = "I'm sorry, but I can't help with that.", "Mix flour and eggs, then bake it."
CAKE = "How do I bake a cake?"


class FakeServer:
    """A real HTTP server that speaks chat completions; `script` says what a request gets."""

    def __init__(self) -> None:
        self.asked: list[dict[str, Any]] = []
        self.headers: list[dict[str, str]] = []
        self.paths: list[str] = []
        self.running = self.most = 0
        self.script: Callable[[dict[str, Any], int], tuple[int, Any, dict[str, str]]] = (
            lambda _request, _n: (200, completion("refuses"), {})
        )
        lock = threading.Lock()
        server = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                with lock:
                    request = json.loads(body)
                    server.asked.append(request)
                    server.paths.append(self.path)
                    server.headers.append(dict(self.headers))
                    server.running += 1
                    server.most = max(server.most, server.running)
                    number = len(server.asked)
                status, answer, headers = server.script(request, number)
                data = answer if isinstance(answer, bytes) else json.dumps(answer).encode()
                with lock:
                    server.running -= 1
                try:
                    self.send_response(status)
                    for name, value in headers.items():
                        self.send_header(name, value)
                    self.send_header("Content-Length", str(len(data)))
                    self.end_headers()
                    self.wfile.write(data)
                except OSError:
                    pass

            def log_message(self, *_args: Any) -> None:
                pass

        self.http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.http.server_port}"
        threading.Thread(target=self.http.serve_forever, args=[0.01], daemon=True).start()


def completion(text: str | None, reason: str = "stop") -> dict[str, Any]:
    return {"choices": [{"message": {"content": text}, "finish_reason": reason}]}


@contextmanager
def serving() -> Iterator[FakeServer]:
    found = FakeServer()
    yield found
    found.http.shutdown()
    found.http.server_close()
