"""Names and texts from outside: printed as text, written as text, and never a path."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.live import Live
from rich.table import Table

from steersweep import InputError
from steersweep.core.printing import in_a_line, markdown, printable, safe_name
from steersweep.report.console import PlainConsole
from steersweep.report.page import environment
from steersweep.run.folder import RunFolder
from steersweep.study.findings import append_findings

EVIL = "\x1b]0;owned\x07\x1b[2J\r\x9b31m\u202eevil\u2066\u200b\ufeff\x00\x7f"
COMMANDS = set("\x1b\x07\r\x9b\u202e\u2066\u200b\ufeff\x00\x7f\x08\x85\u2028")


def test_what_commands_a_terminal_is_escaped_and_the_rest_stays() -> None:
    assert printable("a\x1b[31m\r") == "a\\x1b[31m\\x0d"
    assert printable("\u202e\U000e0041\ud800") == "\\u202e\\U000e0041\\ud800"
    for text in (
        "naïve\u00a0 été",
        "千問\u3000",
        "می\u200cخواهم",
        "👩\u200d🔬",
        "a\n\tb",
        "[bold]",
    ):
        assert printable(text) == text
    assert in_a_line("a\nerror: b\tc") == "a\\nerror: b c"
    assert not COMMANDS & set(str(InputError(f"--gate {EVIL}: no such gate")))


@given(st.text())
def test_escaping_twice_is_escaping_once(text: str) -> None:
    shown = printable(text)
    assert not COMMANDS & set(shown)
    assert printable(shown) == shown


def test_tables_lines_and_live_pictures_show_text_as_text() -> None:
    file = io.StringIO()
    console = PlainConsole(file=file, width=200, force_terminal=True, color_system=None)
    table = Table(f"head {EVIL}")
    table.add_row(f"[bold]{EVIL}[/nope] :smile:")
    console.print(table)
    console.print(f"[link=http://x.example]{EVIL}", soft_wrap=True)
    with Live(table, console=console, transient=True):
        pass
    shown = file.getvalue()
    assert shown.count("[bold]\\x1b]0;owned") >= 2
    assert "[/nope] :smile:" in shown
    assert "[link=http://x.example]" in shown
    assert not COMMANDS - {"\x1b", "\r"} & set(shown)
    # What is left are rich's own: colours, and moving the cursor for the live picture.
    own = [part[:2] for part in shown.split("\x1b")[1:]]
    assert {part[0] for part in own} <= {"["}
    assert "]0;owned" not in [part[:8] for part in shown.split("\x1b")[1:]]


def test_findings_and_pages_take_no_markup_from_names(tmp_path: Path) -> None:
    name = f"<script>alert(1)</script>|x|[a](http://x.example)\n# title {EVIL}"
    decision: dict[str, Any] = {
        "families": [{"family": name, "action": "exclude", "reason": name, "diverged": False}],
        "outcomes": [],
        "depths": [],
        "notes": [name],
        "failures": {name: name},
    }
    append_findings(RunFolder(tmp_path), "family_sweep", decision)
    text = (tmp_path / "FINDINGS_LOG.md").read_text()
    assert text.count("alert(1)") == 5
    for markup in ("<script", "](http", "\n# title", " |x|"):
        assert markup not in text
    assert not COMMANDS & set(text)
    assert markdown("gemma-2_9b (27 %)") == "gemma-2_9b (27 %)"
    page = environment().from_string("{{ name }}").render(name=name)
    assert "<script" not in page
    assert not COMMANDS & set(page)


@pytest.mark.parametrize(
    "name",
    [
        "../../../../escaped", "/etc/passwd", "..", ".", "", ".hidden", "a/b", "a\\b", "a\x00b",
        "x" * 5000, "CON", "nul.txt", "a.", "a ", "C:evil", "é" * 90, "\u202ea", "~", "\ud800",
    ],
)  # fmt: skip
def test_no_name_leaves_its_folder(tmp_path: Path, name: str) -> None:
    safe = safe_name(name)
    file = tmp_path / safe
    file.write_text("x")
    assert [*tmp_path.iterdir()] == [file]
    assert len(safe.encode()) <= 80
    assert safe != name
    assert not safe.startswith(".")
    assert safe.split(".")[0].lower() not in ("con", "nul")


def test_ordinary_names_stay_and_different_ones_stay_different() -> None:
    for name in ("gemma", "qwen2.5-7b", "dim@fp16", "千問", "a_b"):
        assert safe_name(name) == name
    names = ["a/b", "a b", "a-b", "a\\b", "../a-b", "x" * 200, "x" * 201]
    assert len({safe_name(name) for name in names}) == len(names)


def found(action: str) -> dict[str, Any]:
    return {
        "families": [{"family": "q", "action": action, "reason": "a reason", "diverged": False}],
        "outcomes": [],
        "depths": [],
        "notes": [f"a note on {action}"],
        "failures": {},
    }


def test_a_bit_that_flips_anywhere_in_the_findings_is_noticed(tmp_path: Path) -> None:
    store = RunFolder(tmp_path)
    log = tmp_path / "FINDINGS_LOG.md"
    for action in ("exclude", "use", "sweep"):  # the first two are of before
        append_findings(store, "family_sweep", found(action))
    whole = log.read_bytes()
    append_findings(store, "family_sweep", found("sweep"))
    assert log.read_bytes() == whole, "a section that is there is not added again"
    missed = []
    for place in range(len(whole)):
        changed = bytes([*whole[:place], whole[place] ^ 1 << place % 7, *whole[place + 1 :]])
        log.write_bytes(changed)
        append_findings(store, "family_sweep", found("sweep"))
        aside = log.with_name("FINDINGS_LOG.md.damaged")
        if not aside.exists():
            missed.append((place, changed[place - 20 : place + 20]))
            continue
        assert aside.read_bytes() == changed
        aside.unlink()
        kept = log.read_text()
        assert kept.count("## Phase 1") in (2, 3), "only the damaged section is left out"
        assert "a note on sweep" in kept
    assert not missed


def test_people_may_write_between_findings(tmp_path: Path) -> None:
    store = RunFolder(tmp_path)
    log = tmp_path / "FINDINGS_LOG.md"
    append_findings(store, "family_sweep", found("use"))
    log.write_text(log.read_text() + "\n## What I think\n\nNot much.\n")
    append_findings(store, "family_sweep", found("exclude"))
    assert "Not much." in log.read_text()
    assert [*tmp_path.glob("*.damaged")] == []


def test_findings_that_are_cut_doubled_or_hold_control_characters_are_mended(
    tmp_path: Path,
) -> None:
    store = RunFolder(tmp_path)
    log = tmp_path / "FINDINGS_LOG.md"
    for action in ("exclude", "use"):
        append_findings(store, "family_sweep", found(action))
    whole = log.read_bytes()
    lines = set(whole.decode().split("\n"))
    for harmed in (*(whole[:n] for n in range(len(whole))), whole * 2, whole + b"\0"):
        log.write_bytes(harmed)
        append_findings(store, "family_sweep", found("use"))
        kept = log.read_text().split("\n")
        assert set(kept) <= lines, harmed[-40:]
        assert kept.count("# Findings") == 1
        assert kept.count("- a note on use") == 1
        if harmed[-1:] in (b"\0", b"s") or len(harmed) > len(whole):
            assert [path.read_bytes() for path in tmp_path.glob("*.damaged*")] == [harmed]
        for path in tmp_path.glob("*.damaged*"):
            path.unlink()
