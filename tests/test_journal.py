"""Files that are only appended to: locks, damage, and what each kind of file makes of it."""

from __future__ import annotations

import errno
import json
import math
import os
import random
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from steersweep import InputError, SteersweepError
from steersweep.budget.ledger import BudgetStop, Ledger, Limits
from steersweep.core import journal
from steersweep.people import gates
from steersweep.people.problems import problems as all_problems
from steersweep.people.reviews import add_review, problems, read_reviews, undo_review

# -- the file ------------------------------------------------------------------------------------


def in_processes(code: str, count: int, *arguments: str) -> None:
    """Run a script `count` times at the same moment; `sys.argv[1]` is which of them it is."""
    started = [
        subprocess.Popen([sys.executable, "-c", code, str(i), *arguments],
                         stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        for i in range(count)
    ]  # fmt: skip
    for process in started:  # every one has imported what it needs
        assert process.stdout is not None
        assert process.stdout.readline() == b"ready\n"
    for process in started:
        assert process.stdin is not None
        process.stdin.write(b"go\n")
        process.stdin.flush()
    assert [process.wait(60) for process in started] == [0] * count


def test_forty_writers_at_once_lose_nothing(tmp_path: Path) -> None:
    code = (
        "import sys; from pathlib import Path\n"
        "from steersweep.people import gates\n"
        "folder = Path(sys.argv[2])\n"
        "print('ready', flush=True); sys.stdin.readline()\n"
        "for n in range(10):\n"
        "    gates.sign(folder, f'G{sys.argv[1]}.{n}', by='Ada', note='x' * 5000,\n"
        "               evidence=folder / 'evidence', time='now')\n"
    )
    (tmp_path / "evidence").write_text("e")
    in_processes(code, 4, str(tmp_path))
    found = gates.signatures(tmp_path)
    assert {entry["gate"] for entry in found} == {f"G{i}.{n}" for i in range(4) for n in range(10)}
    assert gates.problems(tmp_path) == []


@given(st.dictionaries(st.text().filter(lambda name: name != "sha"), st.text(), min_size=1))
@settings(max_examples=50)
def test_any_text_comes_back_and_no_line_is_split(
    tmp_path_factory: pytest.TempPathFactory, entry: dict[str, str]
) -> None:
    path = tmp_path_factory.mktemp("journal") / "a.jsonl"
    journal.append(path, entry)
    journal.append(path, {"note": "\u2028\u2029\x85\x0c\x0b\x1c\r \ud800"})
    assert journal.good(journal.read(path)) == [
        entry,
        {"note": "\u2028\u2029\x85\x0c\x0b\x1c\r \ud800"},
    ]
    assert len(path.read_text("utf-8").splitlines()) == 2  # nor by other programs


def test_every_flipped_bit_is_noticed(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    journal.append(path, {"usd": 111, "note": "é"})
    written = path.read_bytes()
    known = {"usd", "note"}
    for position in range(len(written) - 1):
        for bit in range(8):
            path.write_bytes(
                written[:position] + bytes([written[position] ^ 1 << bit]) + written[position + 1 :]
            )
            lines = journal.read(path, lambda entry: None if entry.keys() <= known else "other")
            good = journal.good(lines)
            assert good == [], (position, bit)


@pytest.mark.parametrize(
    ("damage", "why"),
    [
        (b"\x00" * 4096, "not JSON"), (b'{"a": "\xff"}', "not UTF-8"),
        (b"[1]", "not a JSON object"),
        (b'{"a": NaN}', "NaN is no JSON number"), (b'{"a": 1, "a": 2}', "'a' is given twice"),
        (b"[" * 100_000, "nested too deeply"), (b"x" * (3 << 20), "longer than"),
        (b'{"a": 1', "cut"), (b"null", "not a JSON object"),
        (b"1" * 5000, "1" * 40 + "... is too large a number"),
    ],
)  # fmt: skip
def test_a_bad_line_is_named_and_the_others_count(tmp_path: Path, damage: bytes, why: str) -> None:
    path = tmp_path / "a.jsonl"
    journal.append(path, {"n": 1})
    with path.open("ab") as file:
        file.write(damage + b"\n")
    journal.append(path, {"n": 2})
    lines = journal.read(path)
    assert journal.good(lines) == [{"n": 1}, {"n": 2}]
    assert [(line.number, line.damage[: len(why)]) for line in lines if line.damage] == [(2, why)]
    (message,) = journal.messages(path, lines, "So what.")
    assert message.startswith(f"{path}: line 2 is damaged ({why}")


def test_files_that_an_editor_saved_are_read(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    journal.append(path, {"n": 1})
    path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes().replace(b"\n", b"\r\n") + b"\r\n")
    journal.append(path, {"n": 2})
    assert journal.read(path)[0].damage == ""
    assert journal.good(journal.read(path)) == [{"n": 1}, {"n": 2}]


def test_a_cut_line_gets_a_line_of_its_own(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    journal.append(path, {"n": 1})
    journal.append(path, {"n": 2})
    os.truncate(path, path.stat().st_size - 20)
    journal.append(path, {"n": 3})
    assert journal.good(journal.read(path)) == [{"n": 1}, {"n": 3}]
    assert [line.damage for line in journal.read(path)] == ["", "cut", ""]


def test_a_full_disk_leaves_the_file_as_it_was(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "a.jsonl"
    journal.append(path, {"n": 1})
    before = path.read_bytes()

    def full(_handle: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(journal.os, "fsync", full)
    with pytest.raises(SteersweepError, match="free some"):
        journal.append(path, {"n": 2})
    assert path.read_bytes() == before


@pytest.mark.parametrize("ended", [KeyboardInterrupt, SystemExit])
def test_a_signal_while_a_line_is_flushed_leaves_the_file_as_it_was(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, ended: type[BaseException]
) -> None:
    """Nobody knows the id of a reservation whose writing did not return, so none may stand."""
    ledger = Ledger(tmp_path)

    def interrupted(_handle: int) -> None:
        raise ended

    with monkeypatch.context() as patched:
        patched.setattr(journal.os, "fsync", interrupted)
        with pytest.raises(ended):
            reserve(ledger, 1)
    assert ledger.entries() == []
    assert ledger.spent() == 0
    identity = reserve(ledger, 1)
    assert [job.id for job in ledger.jobs()] == [identity]


def test_what_is_no_file_and_what_has_no_locks_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "folder").mkdir()
    os.mkfifo(tmp_path / "fifo")
    (tmp_path / "loop").symlink_to("loop")
    for name in ("folder", "fifo", "loop"):
        for act in (journal.read, lambda path: journal.append(path, {"n": 1})):
            with pytest.raises(InputError, match=name):
                act(tmp_path / name)

    def no_locks(*_arguments: Any) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(journal.fcntl, "flock", no_locks)
    with pytest.raises(SteersweepError, match="cannot be locked"):
        journal.append(tmp_path / "a.jsonl", {"n": 1})
    assert journal.read(tmp_path / "a.jsonl") == []


# -- the ledger ----------------------------------------------------------------------------------


def reserve(ledger: Ledger, usd: float, limits: Limits | None = None, phase: str = "a") -> str:
    return ledger.reserve(
        phase, "job", usd=usd, seconds=1, limits=limits or Limits(), time="now", gpu="A10G"
    )


def settle(ledger: Ledger, identity: str, usd: float) -> None:
    ledger.settle(identity, usd=usd, seconds=1, whole=True, time="now", gpu="A10G")


def test_no_bit_of_a_ledger_can_be_flipped_for_money(tmp_path: Path) -> None:
    """Whatever is damaged, either as much is known to be spent, or nothing more can be."""
    ledger = Ledger(tmp_path)
    first = reserve(ledger, 111)
    reserve(ledger, 11)
    settle(ledger, first, 100)
    path = tmp_path / "ledger.jsonl"
    written = path.read_bytes()
    rng = random.Random(0)
    stopped = 0
    for _ in range(400):
        position, bit = rng.randrange(len(written)), rng.randrange(8)
        damaged = bytearray(written)
        damaged[position] ^= 1 << bit
        path.write_bytes(damaged)
        ledger.jobs()
        ledger.timings("A10G")
        with pytest.raises(BudgetStop):  # 111 of 112 are spent
            reserve(ledger, 1.5, Limits(112))
        if ledger.spent() < 111:
            stopped += 1
            assert any("not known" in problem for problem in ledger.problems())
            assert path.read_bytes() == bytes(damaged)
        with pytest.raises(BudgetStop):
            reserve(ledger, 1.5, Limits(phases={"a": 112}))
    assert 0 < stopped < 400


def test_of_a_file_that_is_known_only_what_was_added_is_read_again(tmp_path: Path) -> None:
    path, known, seen = tmp_path / "lines.jsonl", journal.Known(), list[int]()

    def check(entry: dict[str, Any]) -> None:
        seen.append(entry["n"])

    def read() -> list[int]:
        """What was parsed to read the file, which gives what reading it anew does."""
        seen.clear()
        found = journal.read(path, check, known)
        parsed = list(seen)
        assert found == journal.read(path, check)
        return parsed

    journal.append_all(path, [{"n": n} for n in range(3)])
    assert read() == [0, 1, 2]
    assert read() == []
    journal.append(path, {"n": 3})
    assert read() == [3]
    with path.open("a") as file:
        file.write('\n{"n": 4')  # a writer that is killed
    assert read() == []
    journal.append(path, {"n": 5})
    assert read() == [5]
    path.write_text(path.read_text().replace('"n": 1,', '"n": 7,'))  # a person, in an editor
    assert read() == [0, 2, 3, 5]
    path.write_text("")
    assert read() == []


def test_a_damaged_line_never_lends_its_id(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path)
    reserve(ledger, 100)
    with (tmp_path / "ledger.jsonl").open("a") as file:
        file.write("x\n")
    reserve(ledger, 11)
    ids = [entry["id"] for entry in ledger.entries()]
    assert len(set(ids)) == 2
    assert ledger.spent() == 111


@pytest.mark.parametrize("usd", ["NaN", "Infinity", "-5", '"5"', "true", "null", "1e300", "1e999"])
def test_an_amount_that_is_none_stops_paid_jobs_until_a_person_corrects_it(
    tmp_path: Path, usd: str
) -> None:
    ledger = Ledger(tmp_path)
    settle(ledger, reserve(ledger, 2), 1)
    path = tmp_path / "ledger.jsonl"
    line = f'{{"do": "reserve", "id": "x", "usd": {usd}, "phase": "a", "job": "j", "seconds": 1}}\n'
    with path.open("a") as file:
        file.write(line)
    assert ledger.spent() == 1
    with pytest.raises(BudgetStop, match=r"line 3 is damaged.*Correct the line"):
        reserve(ledger, 0.5, Limits(1000))
    reserve(ledger, 0, Limits(1000))  # what costs nothing goes on
    assert len(ledger.jobs()) == 2
    path.write_text(path.read_text().replace(f'"usd": {usd}', '"usd": 5'))
    assert ledger.spent() == 6
    assert ledger.problems() == []
    for bad in (math.nan, math.inf, -1.0, 1e300):
        with pytest.raises(InputError, match="usd must be"):
            reserve(ledger, bad)
        with pytest.raises(InputError, match="budget: total"):
            Limits(bad if bad < 0 or math.isnan(bad) else -1.0)


def test_lines_that_contradict_each_other_count_at_their_worst(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path)
    identity = reserve(ledger, 10)
    settle(ledger, identity, 3)
    with pytest.raises(InputError, match="no open reservation"):
        settle(ledger, identity, 1)
    path = tmp_path / "ledger.jsonl"
    with path.open("a") as file:
        for usd in (1, 4):
            file.write(
                json.dumps({"do": "settle", "id": identity, "usd": usd, "seconds": 1}) + "\n"
            )
    assert ledger.spent() == 4
    with path.open("a") as file:
        file.write('{"do": "settle", "id": "gone", "usd": 20, "seconds": 1}\n')
        file.write('{"do": "refund", "id": "r", "usd": -20, "seconds": 1}\n')
    assert ledger.spent() == ledger.spent("a") == 24
    assert ledger.spent("another phase") == 20  # it may be of any
    assert len(ledger.problems()) == 4
    assert [job.usd for job in ledger.jobs()] == [4]


def test_a_settling_makes_up_for_its_damaged_reservation(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path)
    settle(ledger, reserve(ledger, 111), 100)
    path = tmp_path / "ledger.jsonl"
    path.write_text(path.read_text().replace("111", "11", 1))
    assert ledger.spent("a") == 100
    reserve(ledger, 5, Limits(200))
    text = path.read_text()
    path.write_text(text.replace('"usd": 100', '"usd": 0'))  # now both are damaged
    with pytest.raises(BudgetStop, match="not known"):
        reserve(ledger, 5, Limits(200))


def test_a_cut_reservation_counts_in_full_and_a_cut_settling_not_at_all(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path)
    path = tmp_path / "ledger.jsonl"
    identity = reserve(ledger, 12.5)
    written = path.read_bytes()
    amount_ends = written.index(b"12.5,") + 5
    for length in range(1, len(written) - 1):
        path.write_bytes(written[:length])
        assert ledger.spent() == (12.5 if length >= amount_ends else 0), written[:length]
        with pytest.raises(BudgetStop, match="could cost"):
            reserve(ledger, 100, Limits(100 if length >= amount_ends else 99))
        assert len(ledger.problems()) == 1
    path.write_bytes(written)
    settle(ledger, identity, 1)
    both = path.read_bytes()
    for length in range(len(written) + 1, len(both) - 1):
        path.write_bytes(both[:length])
        assert ledger.spent() == 12.5
    path.write_bytes(both[:-1])  # only the line feed is gone
    assert ledger.spent() == 1


def test_two_writers_never_pass_a_stop_together(tmp_path: Path) -> None:
    code = (
        "import sys; from pathlib import Path\n"
        "from steersweep.budget.ledger import BudgetStop, Ledger, Limits\n"
        "ledger = Ledger(Path(sys.argv[2]))\n"
        "print('ready', flush=True); sys.stdin.readline()\n"
        "for _ in range(30):\n"
        "    try:\n"
        "        ledger.reserve('a', 'j', usd=1, seconds=1, limits=Limits(25), time='now')\n"
        "    except BudgetStop:\n"
        "        break\n"
    )
    in_processes(code, 3, str(tmp_path))
    assert Ledger(tmp_path).spent() == 25


# -- signatures and labels -----------------------------------------------------------------------


@pytest.mark.parametrize("name", ["ledger", "gates", "reviews", "changes"])
def test_a_file_that_lost_everything_is_named(tmp_path: Path, name: str) -> None:
    path = tmp_path / f"{name}.jsonl"
    assert all_problems(tmp_path) == []
    path.touch()
    assert all_problems(tmp_path) == [
        f"{path}: is empty. If something was written there, it is lost"
    ]
    path.unlink()
    path.symlink_to("nowhere")
    try:
        said = "; ".join(all_problems(tmp_path))
    except InputError as error:
        said = str(error)
    assert said == f"{path}: is a link to a file that is not there"


def test_a_foreign_line_among_changes_is_named(tmp_path: Path) -> None:
    add_review(tmp_path, "a:0", "normal", "Ada")
    (tmp_path / "reviews.jsonl").rename(tmp_path / "changes.jsonl")
    (said,) = all_problems(tmp_path)
    assert "changes.jsonl: line 1 is damaged (must have the fields field, from, to)" in said


def test_a_damaged_signature_makes_its_gate_wait_again(tmp_path: Path) -> None:
    evidence = tmp_path / "evidence"
    evidence.write_text("e")

    def sign(*, rejected: bool = False, note: str = "\u2028 two\nlines") -> None:
        gates.sign(
            tmp_path, "R1", by="Ada", note=note, evidence=evidence, time="now", rejected=rejected
        )

    sign()
    sign(rejected=True)
    held = gates.signature_of(tmp_path, "R1", evidence)
    assert held is not None
    assert held["rejected"]
    path = tmp_path / "gates.jsonl"
    whole = path.read_bytes()
    rng = random.Random(0)
    start = whole.index(b"\n") + 1
    for _ in range(300):  # no damage to the rejection brings the earlier yes back
        damaged = bytearray(whole)
        damaged[rng.randrange(start, len(whole) - 1)] ^= 1 << rng.randrange(8)
        path.write_bytes(damaged)
        found = gates.signature_of(tmp_path, "R1", evidence)
        assert found is None or found["rejected"]
    assert len(gates.signatures(tmp_path)) == 1
    (problem,) = gates.problems(tmp_path)
    assert "line 2 is damaged" in problem
    assert "steersweep approve" in problem
    sign()
    assert gates.signature_of(tmp_path, "R1", evidence) is not None
    with pytest.raises(InputError, match="control characters"):
        gates.sign(tmp_path, "R1", by="A\x1b[31m", note="", evidence=evidence, time="now")


def test_two_servers_at_once_keep_every_label(tmp_path: Path) -> None:
    code = (
        "import sys; from pathlib import Path\n"
        "from steersweep.people.reviews import add_review, undo_review\n"
        "name, folder = f'R{sys.argv[1]}', Path(sys.argv[2])\n"
        "print('ready', flush=True); sys.stdin.readline()\n"
        "for n in range(40):\n"
        "    add_review(folder, f'a:{n}', 'coherent', name, note='\\u2028' + 'x' * 9000)\n"
        "    if n % 4 == 3:\n"
        "        assert undo_review(folder, name) == f'a:{n}'\n"
    )
    in_processes(code, 2, str(tmp_path))
    held = {(review.reviewer, review.id) for review in read_reviews(tmp_path)}
    assert held == {(f"R{i}", f"a:{n}") for i in range(2) for n in range(40) if n % 4 != 3}
    assert problems(tmp_path) == []


def test_a_damaged_label_does_not_bring_an_earlier_one_back(tmp_path: Path) -> None:
    add_review(tmp_path, "a:1", "coherent", "Ada")
    add_review(tmp_path, "a:2", "coherent", "Ada", note="\u2028\x85\x0c")
    add_review(tmp_path, "a:1", "garbled", "Ada")
    path = tmp_path / "reviews.jsonl"
    path.write_text(path.read_text().replace("garbled", "garbXed"))
    assert [(r.id, r.label) for r in read_reviews(tmp_path)] == [("a:2", "coherent")]
    (problem,) = problems(tmp_path)
    assert "line 3 is damaged" in problem
    assert undo_review(tmp_path, "Ada") == "a:2"
    assert read_reviews(tmp_path) == []
