"""A model behind an OpenAI-compatible server as a judge: `server:URL#MODEL`, or `#MODEL#FORMAT`.

Answers are sent to this machine or its private network alone, unless the judge is called
`remote:`. No proxy is used and no redirect is followed, so that they go nowhere else.
"""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import re
import socket
import ssl
import threading
from collections.abc import Sequence
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from functools import cached_property
from pathlib import Path
from typing import Any

from steersweep.core.errors import InputError, SteersweepError
from steersweep.core.printing import in_a_line, safe_name
from steersweep.core.redaction import redact
from steersweep.judging.address import KEY_VARIABLE, Address, is_inside, parse_address
from steersweep.judging.formats import DEFAULT_FORMAT, Format, load_format
from steersweep.judging.model_judge import ModelJudge, Pair, Reading
from steersweep.judging.replies import Replies
from steersweep.run.condition import content_key

_AT_ONCE = 8  # requests
_TIMEOUT_S = 120.0
_TRIES = 6
_FIRST_PAUSE_S = 0.5  # doubled after every try
_LONGEST_PAUSE_S = 60.0
_LARGEST_REPLY = 4 << 20  # bytes
_LONGEST_REASON = 200  # characters
# Other times it may answer: too busy, starting, a gateway that gave up.
_PASSES = frozenset({408, 409, 425, 429, 500, 502, 503, 504, 529})
# It will never answer this request, but may answer others.
_THIS_REQUEST = frozenset({400, 413, 422})
_REFUSED = "the server refuses the request"
_KEY = re.compile(r"[\x21-\x7e]+")


def server_judge(kind: str, rest: str, cache: Path | None) -> ModelJudge:
    """The judge for `URL#MODEL` or `URL#MODEL#FORMAT`; the server is asked when it first judges.

    Args:
        kind: `server:` or `remote:`; to the latter answers may leave the machine's network.
        rest: of the judge's name.
        cache: folder where replies are kept, or None.

    Raises:
        InputError: no such address or format.
    """
    url, _, names = rest.partition("#")
    model, _, form = names.partition("#")
    judge = f"judge {kind.rstrip(':')}"
    address = parse_address(url, judge)
    if not model:
        raise InputError(f"{judge}: names no model; write {kind}{address.url}#MODEL")
    if kind == "remote:" and not address.is_https:
        raise InputError(f"{judge}: {address.url}: answers would go there in the clear; use https")
    asking = load_format(form or DEFAULT_FORMAT)
    identity = f"{kind}{address.url}#{model}#{asking.name}@sha256:{asking.key[:12]}"
    path = None if cache is None else cache / f"{safe_name(identity)}.jsonl"
    server = Server(address, model, asking, Replies(path), leaves=kind == "remote:")
    return ModelJudge(identity, server.read)


class _Unanswered(Exception):
    """A request that the server will not answer, whatever it does with others."""


class _Later(Exception):
    """The server may answer the same request another time, after a pause in seconds if it says."""

    def __init__(self, reason: str, pause: float | None = None) -> None:
        super().__init__(reason)
        self.pause = pause


class Server:
    """Asks a server about answers in a format's way, several at once.

    Args:
        address: of the server.
        model: what the server calls the model.
        form: how it is asked.
        replies: those it gave before.
        leaves: whether the server may be anywhere.
        timeout: seconds that a reply may take.
        first_pause: seconds before the second try; twice as long before each that follows.
        tries: of one request.
    """

    def __init__(
        self,
        address: Address,
        model: str,
        form: Format,
        replies: Replies,
        *,
        leaves: bool = False,
        timeout: float = _TIMEOUT_S,
        first_pause: float = _FIRST_PAUSE_S,
        tries: int = _TRIES,
    ) -> None:
        self._address = address
        self._model = model
        self._form = form
        self._replies = replies
        self._leaves = leaves
        self._timeout = timeout
        self._first_pause = first_pause
        self._tries = tries
        self._open: set[http.client.HTTPConnection] = set()

    def read(self, pairs: Sequence[Pair]) -> list[Reading]:
        """What the model says of each prompt and answer; every reply is kept as it comes.

        Raises:
            InputError: the server refuses everything: its address, model or key is wrong.
            SteersweepError: it cannot be reached, or is busy for too long.
        """
        stop = threading.Event()
        pool = ThreadPoolExecutor(_AT_ONCE)
        futures = [pool.submit(self._read, pair, stop) for pair in pairs]
        try:
            wait(futures, return_when=FIRST_EXCEPTION)
            for future in futures:
                if future.done() and (error := future.exception()) is not None:
                    raise error
            readings = [future.result() for future in futures]
        finally:
            stop.set()
            pool.shutdown(wait=False, cancel_futures=True)
            self._cut()
        refused = [reading.error for reading in readings if reading.error.startswith(_REFUSED)]
        if len(refused) == len(readings) > 1:
            raise InputError(f"{self._address.url}: refuses every request: {refused[0]}")
        return readings

    def _cut(self) -> None:
        """End what is under way, so that nobody waits for it."""
        for connection in [*self._open]:
            with contextlib.suppress(OSError, AttributeError):  # it has ended by itself
                connection.sock.shutdown(socket.SHUT_RDWR)

    def _read(self, pair: Pair, stop: threading.Event) -> Reading:
        try:
            reply = self._reply(self._request(*pair), stop)
        except _Unanswered as error:
            return Reading("", error=str(error))
        return self._form.read_text(reply["text"], cut=reply["finish_reason"] == "length")

    def _request(self, prompt: str, response: str) -> dict[str, Any]:
        asked: dict[str, Any] = {
            "model": self._model,
            "temperature": 0,
            "max_tokens": self._form.max_new_tokens,
        }
        if self._form.template_options:
            asked["chat_template_kwargs"] = dict(self._form.template_options)
        if self._form.given == "plain":
            return asked | {"prompt": self._form.filled(prompt, response)}
        if self._form.given == "conversation":
            turns = [("user", prompt), ("assistant", response)]
        else:
            turns = [("user", self._form.filled(prompt, response))]
        return asked | {"messages": [{"role": role, "content": text} for role, text in turns]}

    def _reply(self, request: dict[str, Any], stop: threading.Event) -> dict[str, Any]:
        """Text and reason of ending of the reply to a request, kept or new."""
        key = content_key([self._address.url, request])
        held = self._replies.get(key)
        if held is not None:
            return held
        pause = self._first_pause
        for tried in range(1, self._tries + 1):
            try:
                reply = self._ask(request, stop)
            except _Later as error:
                if tried == self._tries or stop.is_set():
                    raise SteersweepError(
                        f"{self._address.url}: no reply after {tried} tries ({error}). The replies "
                        f"so far are kept; run the same command again when the server is well"
                    ) from error
                stop.wait(min(error.pause or pause, _LONGEST_PAUSE_S))
                pause *= 2
            else:
                self._replies.put(key, reply)
                return reply
        raise AssertionError("the last try returns or raises")

    # -- one request -------------------------------------------------------------------------------

    def _ask(self, request: dict[str, Any], stop: threading.Event) -> dict[str, Any]:
        where = "completions" if self._form.given == "plain" else "chat/completions"
        connection = self._connection()
        self._open.add(connection)
        try:
            self._connect(connection)
            if stop.is_set():  # before there was anything to cut
                raise _Later("another request has ended all")
            body = json.dumps(request).encode()
            connection.request("POST", f"{self._address.path}/{where}", body, self._headers)
            answer = connection.getresponse()
            data = answer.read(_LARGEST_REPLY + 1)
        except TimeoutError as error:
            raise _Later(f"nothing within {self._timeout:g} s") from error
        except ssl.SSLError as error:
            raise InputError(
                f"{self._address.url}: no secure connection: {error.reason}"
            ) from error
        except (OSError, http.client.HTTPException) as error:
            raise _Later(_reason(str(error)) or type(error).__name__) from error
        finally:
            self._open.discard(connection)
            connection.close()
        if answer.status != 200:
            raise self._refused(answer, data)
        return self._text_of(data)

    def _connection(self) -> http.client.HTTPConnection:
        address = self._address
        if address.is_https:
            return http.client.HTTPSConnection(address.host, address.port, timeout=self._timeout)
        return http.client.HTTPConnection(address.host, address.port, timeout=self._timeout)

    def _connect(self, connection: http.client.HTTPConnection) -> None:
        """Connect, and look at where that leads before anything is sent."""
        connection.connect()
        ip = str(connection.sock.getpeername()[0])
        if not self._leaves and not is_inside(ip):
            raise InputError(
                f"{self._address.url}: {ip} is neither this machine nor in its private network, so "
                f"answers would leave it; if they may, call the judge remote: in place of server:"
            )

    @cached_property
    def _headers(self) -> dict[str, str]:
        headers = {"Content-Type": "application/json", "Accept": "application/json"}
        key = os.environ.get(KEY_VARIABLE, "").strip()
        if key and not _KEY.fullmatch(key):
            raise InputError(f"{KEY_VARIABLE}: a key is printable ASCII without spaces")
        return headers | ({"Authorization": f"Bearer {key}"} if key else {})

    def _refused(self, answer: http.client.HTTPResponse, data: bytes) -> Exception:
        """What to do about a status that is not 200."""
        said = f"{answer.status} {_message(data) or answer.reason}"
        if answer.status in _PASSES:
            return _Later(said, _pause(answer.headers.get("Retry-After")))
        if answer.status in _THIS_REQUEST:
            return _Unanswered(f"{_REFUSED}: {said}")
        hint = ""
        if answer.status in (401, 403):
            hint = f"; a key is taken from the environment variable {KEY_VARIABLE}"
        elif 300 <= answer.status < 400:
            hint = "; redirects are not followed, so give the address itself"
        return InputError(f"{self._address.url}: the server says {said}{hint}")

    def _text_of(self, data: bytes) -> dict[str, Any]:
        """The reply in a server's JSON; some that were cut or mixed up come right another time."""
        if len(data) > _LARGEST_REPLY:
            raise _Unanswered(f"the server's reply is larger than {_LARGEST_REPLY >> 20} MiB")
        try:
            choice = json.loads(data)["choices"][0]
            message = choice if self._form.given == "plain" else choice["message"]
            text = message["text" if self._form.given == "plain" else "content"]
            reason = choice.get("finish_reason")
        except (ValueError, LookupError, TypeError, AttributeError, RecursionError) as error:
            raise _Later("its reply is not the JSON of a completion") from error
        if text is not None and not isinstance(text, str):
            raise _Later("its reply is no text")
        return {"text": redact(text or ""), "finish_reason": str(reason)}


def _message(data: bytes) -> str:
    """What a server says of an error, in a few words."""
    text = data[:10_000].decode("utf-8", "replace")
    try:
        found = json.loads(text)
        found = found.get("error", found.get("message", found.get("detail", "")))
        text = str(found.get("message", "") if isinstance(found, dict) else found)
    except (ValueError, AttributeError, RecursionError):
        if "<html" in text.lower():
            return ""
    return _reason(text)


def _reason(text: str) -> str:
    return in_a_line(redact(" ".join(text.split())))[:_LONGEST_REASON]


def _pause(retry_after: str | None) -> float | None:
    if retry_after is None or not re.fullmatch(r"\d{1,6}(?:\.\d{1,6})?", retry_after.strip()):
        return None
    return float(retry_after)
