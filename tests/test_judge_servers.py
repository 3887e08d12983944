"""Judges on servers: what is asked and kept, and what is never sent."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from helpers.judge_server import CAKE, HELPS, REFUSES, FakeServer, completion, serving
from steersweep import InputError, SteersweepError, get_judge
from steersweep.judging.address import is_inside, parse_address
from steersweep.judging.formats import load_format
from steersweep.judging.judge import Answer
from steersweep.judging.replies import Replies
from steersweep.judging.server import Server


@pytest.fixture
def server() -> Iterator[FakeServer]:
    with serving() as found:
        yield found


def asking(server: FakeServer, path: Path | None = None, **options: Any) -> Server:
    address = parse_address(server.url, "judge server")
    settings = {"first_pause": 0.01, "timeout": 2.0} | options
    return Server(address, "m", load_format("refusal"), Replies(path), **settings)


def test_a_server_is_asked_in_the_chats_format_several_at_once(server: FakeServer) -> None:
    def script(request: dict[str, Any], _n: int) -> tuple[int, Any, dict[str, str]]:
        time.sleep(0.05)
        said = "refuses" if REFUSES in request["messages"][0]["content"] else "helps"
        return 200, completion(said), {}

    server.script = script
    judge = get_judge(f"server:{server.url}#my/model:7b")
    asked = [Answer(f"{CAKE} {i}", (REFUSES, HELPS)[i % 2]) for i in range(20)]
    judged = judge.judge([*asked, *asked])
    assert [j.quality for j in judged] == ["coherent", "normal"] * 20
    assert len(server.asked) == 20  # each different answer once
    assert 2 <= server.most <= 8
    request = server.asked[0]
    assert {*server.paths} == {"/v1/chat/completions"}
    assert (request["model"], request["temperature"]) == ("my/model:7b", 0)
    assert request["messages"][0]["role"] == "user"


def test_what_passes_is_tried_again(server: FakeServer) -> None:
    answers = [
        (429, {"error": {"message": "slow down"}}, {"Retry-After": "0.01"}),
        (503, b"<html>busy</html>", {}),
        (200, b'{"choices": [{"mess', {}),
        (200, {"choices": []}, {}),
        (200, completion("refuses"), {}),
    ]
    server.script = lambda _request, n: answers[n - 1]
    (reading,) = asking(server).read([(CAKE, REFUSES)])
    assert reading.meaning == "refuses"
    assert len(server.asked) == 5


def test_a_slow_server_is_given_up_and_what_it_said_is_kept(
    server: FakeServer, tmp_path: Path
) -> None:
    def script(request: dict[str, Any], _n: int) -> tuple[int, Any, dict[str, str]]:
        if "slow" in request["messages"][0]["content"]:
            time.sleep(0.6)
        return 200, completion("helps"), {}

    server.script = script
    path = tmp_path / "replies.jsonl"
    with pytest.raises(SteersweepError, match=r"no reply after 2 tries \(nothing within 0.2 s\)"):
        asking(server, path, timeout=0.2, tries=2).read([("quick", HELPS), ("slow", HELPS)])
    assert sum("quick" in r["messages"][0]["content"] for r in server.asked) == 1
    readings = asking(server, path).read([("quick", HELPS), ("slow", HELPS)])
    assert [reading.meaning for reading in readings] == ["helps", "helps"]
    assert sum("quick" in r["messages"][0]["content"] for r in server.asked) == 1


@pytest.mark.parametrize(
    ("status", "body", "headers", "error"),
    [
        (401, {"error": {"message": "bad key"}}, {}, "401 bad key; a key is taken from the env"),
        (404, {"detail": "no model m"}, {}, "404 no model m"),
        (302, b"", {"Location": "http://example.com/"}, "redirects are not followed"),
    ],
)
def test_a_server_that_refuses_everything_ends_it(
    status: int, body: Any, headers: dict[str, str], error: str, server: FakeServer
) -> None:
    server.script = lambda _request, _n: (status, body, headers)
    with pytest.raises(InputError, match=error):
        asking(server).read([(CAKE, HELPS)])
    assert len(server.asked) == 1


def test_one_request_that_is_refused_is_unjudged_and_others_go_on(server: FakeServer) -> None:
    def script(request: dict[str, Any], _n: int) -> tuple[int, Any, dict[str, str]]:
        if "long" in request["messages"][0]["content"].split("Does the")[0]:
            return 400, {"error": {"message": "context length"}}, {}
        return 200, completion(None, "length"), {}

    server.script = script
    found = asking(server).read([("a long one", HELPS), (CAKE, HELPS)])
    assert found[0].error == "the server refuses the request: 400 context length"
    assert found[1].error.startswith("the reply cannot be read: nothing, cut at 32 tokens")


def test_a_server_that_refuses_every_request_ends_it(server: FakeServer) -> None:
    server.script = lambda _request, _n: (400, {"error": {"message": "no model m"}}, {})
    with pytest.raises(InputError, match=r"refuses every request: .*400 no model m"):
        asking(server).read([(CAKE, HELPS), (CAKE, REFUSES)])


def test_what_is_under_way_is_cut_when_another_request_ends_it(server: FakeServer) -> None:
    over = threading.Event()

    def script(request: dict[str, Any], _n: int) -> tuple[int, Any, dict[str, str]]:
        if "slow" in request["messages"][0]["content"]:
            over.wait(60)
        return 401, {"error": "no"}, {}

    server.script = script
    started = time.monotonic()
    with pytest.raises(InputError, match="401"):
        asking(server, timeout=90).read([("slow", HELPS), ("quick", HELPS)])
    for thread in threading.enumerate():
        if thread.name.startswith("ThreadPoolExecutor"):
            thread.join(30)
    assert time.monotonic() - started < 30  # a reply that is waited for takes twice as long
    over.set()


def test_the_key_is_sent_and_stands_nowhere(
    server: FakeServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    key = "k3y-Of-The-Judge-1234567"
    monkeypatch.setenv("STEERSWEEP_JUDGE_API_KEY", f" {key}\n")
    monkeypatch.setenv("OPENAI_API_KEY", "another-key-of-the-user")
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")  # answers go through no proxy
    server.script = lambda request, n: (
        (200, completion(f"helps {key}"), {})
        if n == 1
        else (403, {"error": {"message": f"key {key} is wrong"}}, {})
    )
    path = tmp_path / "replies.jsonl"
    (reading,) = asking(server, path).read([(CAKE, HELPS)])
    assert reading.meaning == "helps"
    assert server.headers[0]["Authorization"] == f"Bearer {key}"
    with pytest.raises(InputError, match="403 key") as refused:
        asking(server, path).read([("another", HELPS)])
    assert key not in str(refused.value)
    assert key not in path.read_text()
    monkeypatch.setenv("STEERSWEEP_JUDGE_API_KEY", "two\nlines-of-a-key")
    with pytest.raises(InputError, match="printable ASCII") as wrong:
        asking(server).read([(CAKE, HELPS)])
    assert "lines-of-a-key" not in str(wrong.value)


def test_a_damaged_reply_is_asked_for_again(server: FakeServer, tmp_path: Path) -> None:
    path = tmp_path / "replies.jsonl"
    asking(server, path).read([(CAKE, HELPS), (CAKE, REFUSES)])
    lines = path.read_text().splitlines()
    path.write_text(lines[0].replace("refuses", "refusez") + "\n" + lines[1] + "\n")
    asking(server, path).read([(CAKE, HELPS), (CAKE, REFUSES)])
    assert len(server.asked) == 3


@pytest.mark.parametrize(
    ("ip", "inside"),
    [
        ("127.0.0.1", True), ("127.9.9.9", True), ("10.1.2.3", True), ("172.16.0.1", True),
        ("172.32.0.1", False), ("192.168.1.5", True), ("192.169.1.5", False), ("8.8.8.8", False),
        ("169.254.169.254", False), ("100.64.0.1", False), ("::1", True), ("fd12::1", True),
        ("fe80::1%eth0", True), ("2001:4860::1", False), ("::ffff:8.8.8.8", False),
        ("::ffff:127.0.0.1", True), ("0.0.0.0", False),
    ],
)  # fmt: skip
def test_which_addresses_are_inside(ip: str, inside: bool) -> None:
    assert is_inside(ip) is inside


def test_answers_are_not_sent_outside_unless_the_user_says_so(
    server: FakeServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As if this machine's own address were one of the outside."""
    monkeypatch.setattr("steersweep.judging.server.is_inside", lambda _ip: False)
    with pytest.raises(InputError, match="would leave it; if they may, call the judge remote:"):
        asking(server).read([(CAKE, HELPS)])
    assert server.asked == []
    assert asking(server, leaves=True).read([(CAKE, HELPS)])[0].meaning == "refuses"


def test_addresses_are_read_as_people_write_them() -> None:
    for text in ("http://127.0.0.1:8000", "http://127.0.0.1:8000/", "http://127.0.0.1:8000/v1/",
                 "http://127.0.0.1:8000/v1/chat/completions"):  # fmt: skip
        assert parse_address(text, "judge").url == "http://127.0.0.1:8000/v1"
    assert parse_address("https://[::1]/openai/v2", "judge").url == "https://[::1]:443/openai/v2"
