"""The human gate: what labels change, the page's server, and the page in a real browser."""

from __future__ import annotations

import html
import json
import re
import shutil
import signal
import socket
import subprocess
import sys
import threading
import urllib.error
import urllib.request
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from helpers.results import result as of_cells
from helpers.results import sample, steered
from steersweep import InputError
from steersweep.people.corrected import apply_reviews, apply_to_files, corrected_rate
from steersweep.people.page import ReviewServer, private_page
from steersweep.people.reviews import (
    PER_CONDITION,
    Review,
    add_review,
    agreements,
    queue,
    read_reviews,
    undo_review,
)
from steersweep.run.judgement import Quality
from steersweep.run.lock import run_lock
from steersweep.run.records import Sample
from steersweep.run.result import Result
from steersweep.run.result_files import read_result_file
from test_cli import refused, run

HOSTILE = "<script>document.title = 'owned'</script>\x1b[31m \u202eright to left\u202c <b>bold</b>"


def samples(coherent: int, garbled: int, normal: int, ambiguous: int = 0) -> list[Sample]:
    kinds: tuple[tuple[Quality, int], ...] = (
        ("coherent", coherent), ("garbled", garbled), ("normal", normal),
    )  # fmt: skip
    qualities = [quality for quality, count in kinds for _ in range(count)]
    return [
        sample(f"prompt {i}", quality, f"answer {i} {HOSTILE}", ambiguous=i < ambiguous)
        for i, quality in enumerate(qualities)
    ]


def result(answers: Sequence[Sample]) -> Result:
    return of_cells([steered(answers)])


def labels(found: Result, say: dict[str, str], n: int = 10) -> list[Review]:
    """Reviews of the queued samples by a person who says this where the judge says that."""
    return [Review(item.id, say[item.judged], "Ada") for item in queue([found])[:n]]


AGREES = {"coherent": "coherent", "garbled": "garbled", "normal": "normal"}


# -- the queue and what labels change ----------------------------------------------------------


def test_ten_samples_of_a_working_condition_ambiguous_ones_first() -> None:
    found = result(samples(20, 5, 5, ambiguous=3))
    items = queue([found])
    assert len(items) == PER_CONDITION
    assert {item.index for item in items[:3]} == {0, 1, 2}
    assert set(Counter(item.judged for item in items)) == {"coherent", "garbled", "normal"}
    assert items == queue([found])
    assert queue([result(samples(3, 0, 20))]) == []
    few = queue([result(samples(4, 1, 0, ambiguous=5))])
    assert len({item.id for item in few}) == 5


@given(st.integers(0, 30), st.integers(0, 30), st.integers(0, 30), st.integers(0, 60))
def test_every_queue_is_of_different_samples(c: int, g: int, n: int, ambiguous: int) -> None:
    answers = samples(c, g, n, min(ambiguous, c + g + n)) or samples(1, 0, 0)
    items = queue([result(answers)])
    assert len({item.index for item in items}) == len(items)
    works = sum(a.judgement.quality == "coherent" for a in answers) / len(answers) >= 0.6
    assert len(items) == (min(PER_CONDITION, len(answers)) if works else 0)


def test_a_verdict_is_provisional_until_all_its_samples_are_labelled() -> None:
    found = result(samples(26, 2, 2))
    assert apply_reviews(found, []).verdict.provisional
    almost = apply_reviews(found, labels(found, AGREES, n=9)).verdict
    assert almost.provisional
    assert almost.review is not None
    assert almost.review.n_reviewed == 9
    passed = apply_reviews(found, labels(found, AGREES)).verdict
    assert not passed.provisional
    assert passed.outcome == "works"
    assert passed.review is not None
    assert passed.review.agreed == 10
    assert passed.review.corrected_rate == pytest.approx(26 / 30, abs=0.01)
    skipped = [Review(r.id, "skip", "Ada") for r in labels(found, AGREES)]
    assert apply_reviews(found, skipped).verdict.provisional


def test_a_person_who_disagrees_changes_the_verdict_and_can_take_it_back() -> None:
    found = result(samples(26, 2, 2))
    disagrees = labels(found, AGREES | {"coherent": "garbled"})
    changed = apply_reviews(found, disagrees)
    assert (changed.verdict.outcome, changed.verdict.provisional) == ("fails", False)
    review = changed.verdict.review
    assert review is not None
    assert review.judge_outcome == "works"
    assert review.judge_rate == pytest.approx(26 / 30)
    assert review.corrected_rate < 0.2
    low, high = review.corrected_ci
    assert low <= review.corrected_rate <= high < 0.6
    assert apply_reviews(changed, disagrees) == changed
    assert apply_reviews(changed, []) == apply_reviews(found, [])


def test_labels_count_where_people_looked_and_correct_the_judge_elsewhere() -> None:
    answers = samples(20, 0, 20)
    half = {i: "coherent" if i % 2 else "normal" for i in range(10)}
    corrected = corrected_rate(answers, half | {20: "normal", 21: "normal"})
    # 5 of 10 seen, half of the 10 unseen, none of the normal ones.
    assert corrected.coherent == pytest.approx(10 / 40)
    everything = corrected_rate(answers, dict.fromkeys(range(40), "coherent"))
    assert everything.coherent == 1
    judge_alone = corrected_rate(answers, {})
    assert judge_alone.coherent == pytest.approx(0.5)
    wide, narrow = judge_alone.interval, corrected_rate(answers, labels_all(answers)).interval
    assert wide[1] - wide[0] > narrow[1] - narrow[0]


def labels_all(answers: list[Sample]) -> dict[int, str]:
    return {i: answer.judgement.quality for i, answer in enumerate(answers)}


@settings(max_examples=40)
@given(st.data())
def test_a_corrected_rate_is_a_rate_within_its_interval(data: st.DataObject) -> None:
    answers = data.draw(
        st.tuples(st.integers(0, 12), st.integers(0, 12), st.integers(0, 12))
        .filter(any)
        .map(lambda counts: samples(*counts))
    )
    chosen = data.draw(
        st.dictionaries(
            st.integers(0, len(answers) - 1), st.sampled_from(["coherent", "garbled", "normal"])
        )
    )
    found = corrected_rate(answers, chosen)
    assert 0 <= found.interval[0] <= found.coherent <= found.interval[1] <= 1
    assert 0 <= found.garbled_refusal <= 1


# -- reviews.jsonl -----------------------------------------------------------------------------


def test_labels_are_appended_replaced_and_undone(tmp_path: Path) -> None:
    add_review(tmp_path, "a:1", "coherent", " Ada ")
    add_review(tmp_path, "a:2", "garbled", "Ada", note="odd \u2028 \ud800")
    add_review(tmp_path, "a:1", "normal", "Ben")
    add_review(tmp_path, "a:1", "normal", "Ada")
    held = {(r.reviewer, r.id): r.label for r in read_reviews(tmp_path)}
    assert held == {("Ada", "a:2"): "garbled", ("Ben", "a:1"): "normal", ("Ada", "a:1"): "normal"}
    assert undo_review(tmp_path, "Ada") == "a:1"
    assert undo_review(tmp_path, "Ada") == "a:2"
    assert undo_review(tmp_path, "Ada") is None
    assert [r.reviewer for r in read_reviews(tmp_path)] == ["Ben"]
    assert len((tmp_path / "reviews.jsonl").read_text().splitlines()) == 6  # nothing is removed


def test_foreign_and_cut_lines_are_skipped(tmp_path: Path) -> None:
    add_review(tmp_path, "a:1", "coherent", "Ada")
    with (tmp_path / "reviews.jsonl").open("a") as file:
        file.write('{"id": "a:2", "label": "coh\n[]\n{}\n{"id": 1}\n\x00\xff\n')
        file.write('{"id": "a:3", "label": "great", "reviewer": "Ada", "note": "", "time": ""}\n')
    assert [r.id for r in read_reviews(tmp_path)] == ["a:1"]
    with pytest.raises(InputError, match="label great"):
        add_review(tmp_path, "a:1", "great", "Ada")
    with pytest.raises(InputError, match="needs a name"):
        add_review(tmp_path, "a:1", "skip", " ")


def test_agreement_with_the_judge_and_between_reviewers() -> None:
    found = result(samples(24, 3, 3))
    items = queue([found])
    ada = labels(found, AGREES)
    ben = [Review(r.id, "normal", "Ben") for r in ada[:6]]
    with_judge, bens, both = agreements(items, [*ada, *ben])
    assert (with_judge.first, with_judge.second, with_judge.n) == ("Ada", "judge", 10)
    assert with_judge.agreed == 10
    assert with_judge.kappa == pytest.approx(1)
    assert (bens.first, bens.n) == ("Ben", 6)
    assert (both.first, both.second, both.n) == ("Ada", "Ben", 6)
    assert both.kappa == pytest.approx(0)


# -- a real run --------------------------------------------------------------------------------


SWEEP = (
    *("sweep", "lab:qwen-7b", "--layers", "0.6", "--strengths", "0.5", "--max-prompts", "16"),
    *("--max-new-tokens", "24", "--quiet"),
)


@pytest.fixture(scope="module")
def run_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A sweep that works, with hostile text put into one response."""
    folder = tmp_path_factory.mktemp("review") / "run"
    assert run(*SWEEP, "--out", str(folder), cwd=folder.parent).returncode == 0
    return folder


@pytest.fixture
def run_copy(run_folder: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(run_folder, tmp_path / "run"))


def results_file(folder: Path) -> Path:
    (path,) = (folder / "results").glob("*.json")
    return path


def results_of(folder: Path) -> list[Result]:
    return read_result_file(results_file(folder))


def test_labels_reach_result_files_and_the_next_run(run_copy: Path) -> None:
    before = results_of(run_copy)
    assert before[0].verdict.provisional
    for item in queue(before):
        add_review(run_copy, item.id, "normal", "Ada")
    apply_to_files(run_copy)
    (after,) = results_of(run_copy)
    assert (after.verdict.outcome, after.verdict.provisional) == ("fails", False)
    schema = json.loads(
        (Path(__file__).parents[1] / "src/steersweep/run/result.schema.json").read_text()
    )
    jsonschema.validate(json.loads(results_file(run_copy).read_text()), schema)
    shown = run("review", "run", "--summary", cwd=run_copy.parent).stdout
    assert "fails, works by the judge" in shown
    assert "Ada and judge" in shown
    report = (run_copy / "report.html").read_text()
    assert "labelled by Ada" in report


def test_a_run_that_goes_on_keeps_its_files(run_copy: Path) -> None:
    """Labels are shown in the meantime, and written once nobody else writes."""
    before = results_of(run_copy)
    for item in queue(before):
        add_review(run_copy, item.id, "normal", "Ada")
    said: list[str] = []
    with run_lock(run_copy):
        (shown,) = apply_to_files(run_copy, said.append)
    assert shown.verdict.outcome == "fails"
    assert "another steersweep is running there" in said[0]
    assert results_of(run_copy) == before
    assert apply_to_files(run_copy) == [shown]
    assert results_of(run_copy)[0].verdict.outcome == "fails"


@pytest.mark.slow
def test_a_damaged_label_is_named_by_every_command_that_rests_on_labels(run_copy: Path) -> None:
    add_review(run_copy, queue(results_of(run_copy))[0].id, "normal", "Ada")
    path = run_copy / "reviews.jsonl"
    damaged = path.read_bytes().replace(b"normal", b"normel")
    path.write_bytes(damaged)
    name = f"{path}: line 1 is damaged (its digest is not that of its content)"
    for command in (["review", str(run_copy), "--summary", "--json"], ["report", str(run_copy)]):
        done = run(*command, cwd=run_copy)
        assert done.returncode == 0, done.stderr
        assert f"note: {name}" in done.stderr, command
        if "--json" in command:
            (said,) = json.loads(done.stdout)["problems"]
            assert said.startswith(name)
    assert name in html.unescape((run_copy / "report.html").read_text())
    assert path.read_bytes() == damaged
    done = run(*SWEEP, "--out", str(run_copy), cwd=run_copy)
    assert done.returncode == 0, done.stderr
    assert f"note: {name}" in done.stderr


@pytest.mark.parametrize("content", ["[3]", "[{}]", '[{"conditions": 1}]', "[", "\\x00"])
def test_foreign_result_files_are_named(run_copy: Path, content: str) -> None:
    (run_copy / "results" / "v3_phase1_mine.json").write_text(content)
    error = refused("review", str(run_copy), "--summary", cwd=run_copy)
    assert "v3_phase1_mine.json" in error


def test_a_folder_without_results_is_refused(tmp_path: Path) -> None:
    assert "no results yet" in refused("review", "nowhere", "--summary", cwd=tmp_path)


class Page:
    """A served page, and requests to it."""

    def __init__(self, folder: Path, *, blind: bool = False) -> None:
        self.items = queue(results_of(folder))
        self.server = ReviewServer(folder, self.items, blind=blind)
        threading.Thread(target=self.server.serve_forever, args=[0.01], daemon=True).start()

    def ask(
        self, path: str, sent: Any = None, headers: dict[str, str] | None = None
    ) -> tuple[int, str]:
        data = None if sent is None else json.dumps(sent).encode()
        with_key = {"X-Key": self.server.key} if headers is None else headers
        request = urllib.request.Request(self.server.address + path, data, with_key)
        try:
            with urllib.request.urlopen(request) as answer:
                return answer.status, answer.read().decode()
        except urllib.error.HTTPError as error:
            return error.code, error.read().decode()

    def close(self) -> None:
        self.server.shutdown()
        self.server.server_close()


@pytest.fixture
def page(run_copy: Path) -> Iterator[Page]:
    served = Page(run_copy)
    yield served
    served.close()


def test_only_this_page_can_post_and_only_to_this_address(page: Page) -> None:
    sent = {"reviewer": "Ada", "id": page.items[0].id, "label": "normal"}
    key = {"X-Key": page.server.key}
    assert len(page.server.key) >= 43  # 256 bits
    for headers in ({}, {"X-Key": "guess"}, {"X-Key": "é"}, {"Cookie": f"key={page.server.key}"}):
        assert page.ask("label", sent, headers)[0] == 403
        status, text = page.ask("state?reviewer=Ada", headers=headers)
        assert (status, page.items[0].prompt in text) == (403, False)
    assert page.ask(f"state?reviewer=Ada&key={page.server.key}", headers={})[0] == 403
    assert page.ask("label", sent, key | {"Host": "evil.example"})[0] == 403
    assert page.ask("", headers=key | {"Host": "evil.example"})[0] == 403
    assert read_reviews(page.server.folder) == []
    assert page.ask("label", sent, key)[0] == 200
    assert len(read_reviews(page.server.folder)) == 1


@pytest.mark.parametrize(
    "sent",
    [
        {}, [], 3, {"reviewer": ""}, {"reviewer": 1}, {"reviewer": "A", "id": None},
        {"reviewer": "A"}, {"reviewer": "A", "id": "x", "label": "normal"},
    ],
)  # fmt: skip
def test_bad_posts_are_refused_and_the_page_lives_on(page: Page, sent: Any) -> None:
    status, text = page.ask("label", sent, {"X-Key": page.server.key})
    assert status == 400
    assert json.loads(text)["error"]
    assert page.ask("state")[0] == 200


def test_the_key_is_in_the_printed_address_and_nowhere_else(page: Page) -> None:
    assert page.ask("", headers={})[0] == page.ask("?key=guess", headers={})[0] == 403
    with urllib.request.urlopen(page.server.url) as answer:
        shown = answer.read().decode() + str(answer.headers)
    assert page.server.key not in shown
    assert answer.headers["Referrer-Policy"] == "no-referrer"
    nonces = {
        re.search(r'nonce="([^"]+)"', page.ask(f"?key={page.server.key}")[1])[1] for _ in range(2)
    }
    assert len(nonces) == 2
    with private_page(page.server.url) as address:
        file = Path(urllib.request.url2pathname(address.removeprefix("file://")))
        assert page.server.key in file.read_text()
        assert file.stat().st_mode & 0o077 == 0
        assert page.server.key not in address
    assert not file.exists()


@pytest.mark.parametrize("length", ["-5", "many", "99999999", "9" * 40])
def test_a_false_length_is_refused(page: Page, length: str) -> None:
    port = page.server.server_address[1]
    with socket.create_connection(("127.0.0.1", port), timeout=10) as raw:
        raw.sendall(
            f"POST /label HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\n"
            f"Content-Length: {length}\r\n\r\n".encode()
        )
        assert b" 413 " in raw.recv(4096)
    assert page.ask("state")[0] == 200


def test_a_taken_port_is_refused(page: Page) -> None:
    port = page.server.server_address[1]
    with pytest.raises(InputError, match=f"port {port}"):
        ReviewServer(page.server.folder, [], port=port)


def test_blind_hides_names_and_nobody_sees_the_judges_labels_first(run_copy: Path) -> None:
    served = Page(run_copy, blind=True)
    state = served.server.state("Ada")
    assert set(state["items"][0]) == {"id", "prompt", "response"}
    assert state["agreement"] == []
    for item in served.items:
        add_review(run_copy, item.id, "coherent", "Ada")
    assert served.server.state("Ada")["agreement"]
    assert served.server.state("Ben")["agreement"] == []
    served.close()


def test_the_command_serves_until_it_is_ended_and_then_says_what_changed(run_copy: Path) -> None:
    command = [sys.executable, "-m", "steersweep.cli", "review", str(run_copy), "--no-open"]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as serving:
        assert serving.stderr is not None
        line = serving.stderr.readline()
        assert "samples to label at http://127.0.0.1:" in line
        url = line.split(" at ")[1].strip()
        with urllib.request.urlopen(url) as answer:
            assert "default-src 'none'" in answer.headers["Content-Security-Policy"]
        for item in queue(results_of(run_copy)):
            add_review(run_copy, item.id, item.judged, "Ada")
        serving.send_signal(signal.SIGINT)
        try:
            shown, _ = serving.communicate(timeout=60)
        finally:
            serving.kill()
    assert serving.returncode == 0
    assert "10 of 10 samples labelled by Ada, 10 as the judge has them" in shown
    assert not results_of(run_copy)[0].verdict.provisional


# -- in a browser ------------------------------------------------------------------------------


@pytest.fixture
def browser_page(page: Page, tab: Any) -> Any:
    page.items[0] = page.server.items[0] = type(page.items[0])(
        **{**vars(page.items[0]), "response": HOSTILE}
    )
    tab.goto(page.server.url)
    return tab


def test_a_person_labels_everything_with_the_keyboard(page: Page, browser_page: Any) -> None:
    tab = browser_page
    tab.keyboard.type("Ada")  # the field has the focus
    tab.keyboard.press("Enter")
    tab.wait_for_selector("#review:visible")
    assert tab.text_content("#response") == HOSTILE
    assert "owned" not in tab.title()
    assert tab.query_selector("#response b") is None

    def wait_for(done: int) -> None:
        tab.wait_for_function(
            "done => document.getElementById('count').textContent.startsWith(`${done} of`)",
            arg=done,
        )

    tab.keyboard.press("1")
    wait_for(1)
    tab.keyboard.press("u")
    wait_for(0)
    tab.keyboard.press("n")
    tab.keyboard.type("12 s u")  # typed, not commands
    tab.keyboard.press("Escape")
    tab.keyboard.press("2")
    wait_for(1)
    assert read_reviews(page.server.folder)[0].note == "12 s u"
    keys = ["3", "s", *["1"] * (len(page.items) - 3)]
    for done, key in enumerate(keys, start=2):
        tab.keyboard.press(key)
        wait_for(done)
    tab.wait_for_selector("#done:visible")
    assert "Ada and judge" in tab.text_content("#agreement")
    said = Counter(review.label for review in read_reviews(page.server.folder))
    assert said == Counter(garbled=1, normal=1, skip=1, coherent=len(page.items) - 3)
    # Another day: it goes on where it stopped.
    tab.keyboard.press("u")
    tab.wait_for_selector("#review:visible")
    assert tab.url == page.server.address  # the key stands in the address no more
    tab.reload()
    # Without the key the bare page is refused; the tab has it in its own storage.
    assert [one for one in tab.problems if "403" not in one] == []
    tab.problems.clear()
    assert tab.input_value("#name") == "Ada"
    tab.keyboard.press("Enter")
    wait_for(len(page.items) - 1)
    assert tab.problems == []
    assert all(url.startswith(page.server.address) for url in tab.requested)


def test_every_text_has_contrast_in_light_and_dark(browser_page: Any) -> None:
    """WCAG AA: 4.5 to 1 for text."""
    tab = browser_page
    for scheme in ("light", "dark"):
        tab.emulate_media(color_scheme=scheme)
        if tab.is_visible("#who"):
            tab.fill("#name", "Ada")
            tab.click("#who button")
            tab.wait_for_selector("#review:visible")
        worst = tab.evaluate(
            """() => {
              const light = (c) => { const [r, g, b] = c.match(/[\\d.]+/g).map(Number).map((v) => {
                  v /= 255; return v <= .03928 ? v / 12.92 : ((v + .055) / 1.055) ** 2.4; });
                return .2126 * r + .7152 * g + .0722 * b; };
              const back = (e) => { while (e) { const c = getComputedStyle(e).backgroundColor;
                  if (c !== 'rgba(0, 0, 0, 0)') return c; e = e.parentElement; } };
              let worst = 21;
              for (const e of document.querySelectorAll('main *')) {
                if (!e.offsetParent || e.disabled) continue;
                const a = light(getComputedStyle(e).color), b = light(back(e));
                worst = Math.min(worst, (Math.max(a, b) + .05) / (Math.min(a, b) + .05));
              }
              return worst;
            }"""
        )
        assert worst >= 4.5, scheme
