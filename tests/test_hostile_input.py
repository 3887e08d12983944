"""Whatever a command is given: one line that names the file or field, an exit code, no traceback.

Everything runs through the entry point of the command line, in this process.
"""

from __future__ import annotations

import ast
import errno
import json
import os
import pickle
import re
import stat
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from steersweep import InputError, cli
from steersweep.cli import failures, judging
from steersweep.core.errors import setting
from steersweep.study.plan_file import load_plan
from steersweep.sweeps.settings import make_settings

PLAN = yaml.safe_dump(dict(load_plan("v3").written), sort_keys=False)
ROW = '{"prompt": "a", "response": "b"}\n'
SWEEP = "sweep lab:qwen-7b --out run"
# Options of git, of ray, of llama.cpp's programs, and of a whole command that messages spell out.
OPTIONS_NAMED = ("--error-unmatch", "--porcelain", "--resources", "--by", "--note", "--merge")
NEVER = "0123456789" * 2  # a seed of 20 digits

Ended = tuple[int, str, str]
End = Callable[..., Ended]


@pytest.fixture
def end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> End:
    """Run a command in a folder of its own: exit code, standard output, standard error."""
    monkeypatch.chdir(tmp_path)

    def ended(*arguments: str) -> Ended:
        monkeypatch.setattr(sys, "argv", ["steersweep", *arguments])
        try:
            cli.main()
            code: Any = 0
        except SystemExit as exit_:
            code = exit_.code or 0
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return ended


def make_files() -> None:
    """Files as nobody should hand them in, in the current folder."""
    Path("folder").mkdir()
    Path("folder.txt").mkdir()
    Path("folder.yaml").mkdir()
    Path("loop.jsonl").symlink_to("loop.jsonl")
    Path("loop.yaml").symlink_to("loop.yaml")
    Path("loop").symlink_to("loop")
    os.mkfifo("pipe.yaml")
    os.mkfifo("pipe.jsonl")
    os.mkfifo("pipe.csv")
    Path("latin.yaml").write_bytes(b"name: caf\xe9\n")
    Path("file").write_text("")
    Path("in.jsonl").write_text(ROW)
    Path("link.jsonl").symlink_to("in.jsonl")
    Path("seps.jsonl").write_text(ROW + '{"prompt": "a\u2028b", "response": 3}\n')
    Path("twice.jsonl").write_text(ROW + '{"prompt": "a", "response": "b", "prompt": "c"}\n')
    Path("nan.jsonl").write_text(ROW + '{"prompt": "a", "response": "b", "score": NaN}\n')
    Path("long.jsonl").write_text(ROW + json.dumps({"prompt": "a", "response": "x" * 10**7}))
    Path("longer.jsonl").write_text(json.dumps({"prompt": "a", "response": "x" * 2**24}))
    Path("deep.jsonl").write_text(ROW + '{"prompt":' * 50_000)
    Path("latin.jsonl").write_bytes(ROW.encode() + b'{"prompt": "\xe9", "response": "b"}\n')
    Path("bomb.yaml").write_text(bomb("[{}]"))
    Path("merges.yaml").write_text(bomb("{{<<: [{}]}}"))
    Path("rows.yaml").write_text(PLAN.replace("rows: 256", "rows: 10.0"))
    Path("escaped.yaml").write_text(PLAN.replace("  qwen:\n", "  ../../../../escaped:\n"))
    Path("many.json").write_text(json.dumps({"prompts": ["a"], "repeats": 10**9}))
    extraction = {"harmful": ["a", "b"], "harmless": ["c", "d"]}
    Path("typo.json").write_text(json.dumps({**extraction, "harmfull_val": ["e"]}))
    Path("nowhere.yaml").write_text(PLAN.replace("test: plan-10x5", "test: ../../etc/passwd"))
    Path("control.txt").write_text("text\x1b[31m\n" * 2)


def bomb(level: str) -> str:
    """Seven levels of aliases, nine at each: nine to the seventh values."""
    lines = ["a: &a {x: 1, y: 2}"]
    for upper, lower in zip("bcdefgh", "abcdefg", strict=True):
        lines.append(f"{upper}: &{upper} " + level.format(",".join([f"*{lower}"] * 9)))
    return "\n".join(lines)


HOSTILE = [
    (f"{SWEEP} --layers 2.5", "layer 2.5"),
    (f"{SWEEP} --layers 1e9", "layer '1e9'"),
    (f"{SWEEP} --layers 1e400000000", "layer '1e400000000'"),
    (f"{SWEEP} --layers ٣", "layer '٣'"),
    (f"{SWEEP} --layers 0x3", "layer '0x3'"),
    (f"{SWEEP} --layers 1_0", "layer '1_0'"),
    (f"{SWEEP} --layers -1", "layer '-1'"),
    (f"{SWEEP} --layers 1/0", "layer '1/0'"),
    (f"{SWEEP} --layers nan", "layer 'nan'"),
    (f"{SWEEP} --layers {'9' * 5000}", "layer '999"),
    (f"{SWEEP} --strengths 1e400", "--strengths 1e400"),
    (f"{SWEEP} --strengths 1e5", "--strengths 1e5: must be at most 1,000"),
    (f"{SWEEP} --strengths ٣", "--strengths '٣'"),
    (f"{SWEEP} --strengths 0x1", "--strengths '0x1'"),
    (f"{SWEEP} --multipliers 1_5", "--multipliers '1_5'"),
    (f"{SWEEP} --multipliers 1e7", "--multipliers 1e7: must be at most 1,000,000"),
    (f"{SWEEP} --multipliers -inf", "--multipliers -inf"),
    (f"{SWEEP} --seed {NEVER}", f"--seed {int(NEVER)}"),
    (f"{SWEEP} --seed -1", "--seed -1"),
    (f"{SWEEP} --rows 1000000000000", "--rows 1000000000000"),
    (f"{SWEEP} --rows 1e3", "--rows"),
    (f"{SWEEP} --max-new-tokens 1000000000", "--max-new-tokens 1000000000"),
    (f"{SWEEP} --max-prompts {10**12}", "--max-prompts 1000000000000"),
    (
        f"{SWEEP} --layers {','.join(map(str, range(2000)))} "
        f"--multipliers {','.join(map(str, range(1, 60)))}",
        "236,000 conditions; 100,000 is the most",
    ),
    (f"{SWEEP} --prompts folder.txt", "folder.txt: is a folder"),
    (f"{SWEEP} --prompts pipe.csv", "pipe.csv: is a pipe"),
    (f"{SWEEP} --prompts many.json", 'many.json: field "repeats"'),
    (f"{SWEEP} --prompts control.txt:a", "control.txt: lines of text have no column 'a'"),
    (f"{SWEEP} --extraction control.txt", "control.txt: an extraction set"),
    (f"{SWEEP} --extraction typo.json", "typo.json: field 'harmfull_val': no list of prompts"),
    (f"{SWEEP} --extraction ", "--extraction: is empty; give a value, or leave it out"),
    (f"{SWEEP} --judge=", "--judge: is empty"),
    ("generate m --prompt ", "--prompt: is empty"),
    ("verify cosmic --out ", "--out: is empty"),
    ("lab path ", "name: is empty"),
    ("status ", "DIR: is empty"),
    ("plan v3 --prices ", "--prices: is empty"),
    ("plan nowhere.yaml", "nowhere.yaml: line 5: prompts.test: prompt set ../../etc/passwd"),
    ("extract lab:qwen-7b --layer 1e9 -o d.safetensors", "layer '1e9'"),
    ("extract lab:qwen-7b --layer 3 -o folder", "folder: is a folder"),
    ("generate m --direction d --prompt a --strength nan", "--strength nan"),
    ("generate m --direction d --prompt a --multiplier 1e400", "--multiplier inf"),
    ("generate m --direction d --prompt a --strength 1 --max-new-tokens 0", "--max-new-tokens 0"),
    ("generate m --direction d --prompt a --strength 1 --layer 2e0", "layer '2e0'"),
    ("verify cosmic --model m --strength inf", "--strength inf"),
    (f"verify cosmic --model m --max-prompts -{NEVER}", f"--max-prompts -{int(NEVER)}"),
    ("verify cosmic --fixtures loop", "--fixtures loop"),
    ("judge pipe.jsonl out.jsonl", "pipe.jsonl: is a pipe"),
    ("judge folder out.jsonl", "folder: is a folder"),
    ("judge loop.jsonl out.jsonl", "loop.jsonl: cannot be read"),
    ("judge in.jsonl in.jsonl", "in.jsonl: is the file that is read"),
    ("judge in.jsonl link.jsonl", "link.jsonl: is the file that is read"),
    ("judge in.jsonl folder", "folder: is a folder"),
    ("judge in.jsonl pipe.jsonl", "pipe.jsonl: is no regular file"),
    ("judge in.jsonl file/out.jsonl", "file"),
    (f"judge in.jsonl {'x' * 300}", "x: cannot be read or written: File name too long"),
    ("judge seps.jsonl out.jsonl", 'seps.jsonl, line 2: field "response" must be a text'),
    ("judge twice.jsonl out.jsonl", "twice.jsonl, line 2: not valid JSON: 'prompt' is given twice"),
    ("judge nan.jsonl out.jsonl", "nan.jsonl, line 2: not valid JSON: NaN"),
    (
        "judge long.jsonl out.jsonl",
        'long.jsonl, line 2: field "response" has 10,000,000 characters; 1,048,576',
    ),
    ("judge longer.jsonl out.jsonl", "longer.jsonl, line 1: 16,777,247 characters"),
    ("judge deep.jsonl out.jsonl", "deep.jsonl, line 2: not valid JSON: nested too deeply"),
    ("judge latin.jsonl out.jsonl", "latin.jsonl, line 2: byte 0xE9 is not UTF-8"),
    ("plan pipe.yaml", "pipe.yaml: is a pipe"),
    ("plan folder.yaml", "folder.yaml: is a folder"),
    ("plan loop.yaml", "loop.yaml: cannot be read"),
    ("plan latin.yaml", "latin.yaml, line 1: byte 0xE9 is not UTF-8"),
    ("plan bomb.yaml", "bomb.yaml: line 5: e: more than 10,000 values"),
    ("plan merges.yaml", "merges.yaml: line 5: e.<<: more than 10,000 values"),
    ("plan rows.yaml", "rows.yaml: line 11: decoding.rows: 10.0 is not a whole number; write 10"),
    ("plan escaped.yaml", "escaped.yaml: line 39: families.../../../../escaped"),
    ("plan v3 --prices pipe.yaml", "pipe.yaml: is a pipe"),
    ("run rows.yaml --out run", "rows.yaml: line 11: decoding.rows"),
    ("run v3-lab --out run --budget inf", "--budget inf"),
    ("run v3-lab --out run --budget nan", "--budget nan"),
    ("smoke folder.yaml --all", "folder.yaml: is a folder"),
    ("lab train qwen-7b --out file", "file: cannot be read or written: File exists"),
    ("lab path ../../x", "lab:../../x"),
]


@pytest.mark.parametrize(("arguments", "named"), HOSTILE)
def test_hostile_input_is_one_line_that_names_it(arguments: str, named: str, end: End) -> None:
    make_files()
    before = set(Path().iterdir())
    code, _, said = end(*arguments.split(" "))
    assert code == 2, said
    assert named in said
    assert "Traceback" not in said
    assert "fault of steersweep" not in said
    last = said.rstrip("\n").splitlines()[-1]
    assert last.startswith("error: ") or "Invalid value" in said  # typer's own, in a box
    assert last.isprintable()
    assert set(Path().iterdir()) <= before, "nothing may be left behind"


def test_responses_are_read_as_other_tools_write_them(end: End) -> None:
    rows = [
        {"prompt": "a\u2028b", "response": "Boil it.", "id": 2**70},
        {"prompt": "", "response": ""},
    ]
    text = "\r\n".join(json.dumps(row, ensure_ascii=False) for row in rows)
    for encoding in ("utf-8-sig", "utf-16"):
        Path("in.jsonl").write_bytes(text.encode(encoding))
        assert end("judge", "in.jsonl", "out.jsonl")[0] == 0
        judged = Path("out.jsonl").read_text("utf-8").split("\n")
        assert [json.loads(line)["prompt"] for line in judged[:-1]] == ["a\u2028b", ""]
        assert json.loads(judged[0])["id"] == 2**70


def test_a_text_is_measured_by_its_characters_and_not_by_how_json_spells_them(end: End) -> None:
    """A million line feeds take two million characters of a line, as many emoji twelve million."""
    rows = [{"prompt": "a", "response": text * 2**19} for text in ("\n\n", "\U0001f468\u200d")]
    Path("in.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    code, out, said = end("judge", "in.jsonl", "out.jsonl", "--judge", "keywords-v3")
    assert code == 0, said
    assert "2 responses" in out


def test_what_was_noticed_about_a_prompt_file_is_said(end: End) -> None:
    Path("mine.csv").write_text("prompt\nBoil\u00a0an egg\n Paint it\n")
    Path("p.yaml").write_text(PLAN.replace("test: plan-10x5", "test: mine.csv"))
    code, out, said = end("plan", "p.yaml", "--json")
    assert code == 0, said
    assert json.loads(out)["plan"] == "v3", "notes are not among results"
    assert "note: mine.csv: white space or invisible" in said
    assert "U+00A0 NO-BREAK SPACE; first: line 2" in said


def raising(monkeypatch: pytest.MonkeyPatch, act: Callable[[], object]) -> None:
    """Let a command of the real application do something else."""
    (command,) = [c for c in cli.app.registered_commands if c.callback is judging.judge]

    def judge(source: Path, target: Path) -> None:
        assert source != target
        act()

    monkeypatch.setattr(command, "callback", judge)


def read(name: str) -> Any:
    path = Path(name)
    return json.loads(path.read_text("utf-8"))


def fail_to_write(number: int) -> None:
    path = Path("figure.svg")
    path.write_text("half")
    raise OSError(number, os.strerror(number))


@pytest.mark.parametrize(
    ("act", "code", "named"),
    [
        (
            lambda: Path("gone.json").read_text("utf-8"),
            2,
            "gone.json: cannot be read or written: No such",
        ),
        (
            lambda: Path("folder").read_bytes(),
            2,
            "folder: cannot be read or written: Is a directory",
        ),
        (lambda: Path("a").rename("b"), 2, "a or b: cannot be read or written"),
        (lambda: read("latin.json"), 2, "latin.json: cannot be read: 'utf-8' codec"),
        (lambda: read("broken.json"), 2, "broken.json: cannot be read: Expecting value"),
        (lambda: read("deep.json"), 2, "deep.json: cannot be read: nested too deeply"),
        (lambda: read("digits.json"), 2, "digits.json: cannot be read: Exceeds the limit"),
        (lambda: fail_to_write(errno.ENOSPC), 1, "figure.svg: cannot be written: No space left"),
        (
            lambda: fail_to_write(errno.EIO),
            1,
            "figure.svg: cannot be read or written: Input/output",
        ),
        ("\ud800".encode, 2, "steersweep judge: a text holds U+D800"),
        (lambda: "\u00e9".encode("ascii"), 2, "steersweep judge: cannot print U+00E9 as ascii"),
        (lambda: [0] * 2**60, 1, "steersweep judge: out of memory"),
    ],
)
def test_an_error_nobody_caught_names_the_file(
    act: Callable[[], object], code: int, named: str, end: End, monkeypatch: pytest.MonkeyPatch
) -> None:
    Path("folder").mkdir()
    Path("latin.json").write_bytes(b'"\xe9"')
    Path("broken.json").write_text("[1,")
    Path("deep.json").write_text("[" * 100_000)
    Path("digits.json").write_text("9" * 5000)
    raising(monkeypatch, act)
    ended, _, said = end("judge", "x", "y")
    assert (ended, said.count("\n")) == (code, 1), said
    assert said.startswith(f"error: {named}")


def test_a_fault_of_its_own_is_one_line_and_a_private_file(
    end: End, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr("tempfile.tempdir", None)
    monkeypatch.setenv("HF_TOKEN", "a-secret-of-mine")

    def fail() -> None:
        raise KeyError("a-secret-of-mine\n\x1b[31m")

    raising(monkeypatch, fail)
    code, _, said = end("judge", "x", "y")
    assert code == 1
    assert said.count("\n") == 1
    assert said.startswith("error: steersweep judge: a fault of steersweep itself: KeyError: ")
    (file,) = tmp_path.glob("steersweep-*/traceback.txt")
    assert str(file) in said
    assert stat.S_IMODE(file.parent.stat().st_mode) == 0o700
    text = file.read_text("utf-8")
    assert "in fail" in text
    for shown in (said, text):
        assert "[secret]" in shown
        assert "a-secret-of-mine" not in shown
        assert "\x1b" not in shown
    monkeypatch.setenv(failures.VARIABLE, "1")
    code, _, said = end("judge", "x", "y")
    assert code == 1
    assert said.startswith("Traceback (most recent call last)")
    assert "a-secret-of-mine" not in said
    assert said.splitlines()[-1].startswith("error: steersweep judge: a fault")


def test_the_library_names_settings_and_the_command_line_its_options(
    end: End, capsys: pytest.CaptureFixture[str]
) -> None:
    error = InputError(f"use {setting('accept')} NAME or {setting('max_new_tokens')}\ue000")
    for same in (error, pickle.loads(pickle.dumps(error))):  # as from another process
        assert str(same) == "use accept NAME or max_new_tokens\\ue000"
        assert failures.report(same, []) == 2
        said = capsys.readouterr().err
        assert said == "error: use --accept-change NAME or --max-new-tokens\\ue000\n"
    with pytest.raises(InputError, match=r"^max_new_tokens 0: must be at least 1$"):
        make_settings(["lab:qwen-7b"], strengths="1", max_new_tokens=0)
    _, _, said = end(*SWEEP.split(), "--max-new-tokens", "0")
    assert said == "error: --max-new-tokens 0: must be at least 1\n"


def test_no_text_of_the_library_names_an_option() -> None:
    source = Path(failures.__file__).parents[1]
    found = []
    # Formats of directions print the commands that go on with a file.
    commands = ("cli", "methods/formats")
    for path in {*source.rglob("*.py")}.difference(*((source / c).rglob("*.py") for c in commands)):
        tree = ast.parse(path.read_text("utf-8"))
        told = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}
        for node in ast.walk(tree):
            if isinstance(node, ast.Constant) and isinstance(node.value, str):
                for option in re.findall(r"(?<![\w-])--[a-z]+[a-z-]*", node.value):
                    ours = option not in OPTIONS_NAMED and id(node) not in told
                    found += [f"{path.name}:{node.lineno}: {option}"] * ours
    assert found == []


def test_ctrl_c_says_how_to_go_on(end: End, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt() -> None:
        raise KeyboardInterrupt

    raising(monkeypatch, interrupt)
    assert end("judge", "x", "y") == (130, "", "stopped; the same command again continues\n")


def test_a_broken_pipe_to_a_process_is_no_end_of_output(
    end: End, monkeypatch: pytest.MonkeyPatch
) -> None:
    def write() -> None:
        from multiprocessing import Pipe

        ours, theirs = Pipe()
        theirs.close()
        ours.send("work")

    raising(monkeypatch, write)
    code, _, said = end("judge", "x", "y")
    assert code == 1
    assert "BrokenPipeError" in said


@pytest.mark.parametrize("arguments", ["--help", "lab path qwen-7b"])
def test_a_reader_that_ends_early_ends_it_silently(arguments: str) -> None:
    """Real processes: a closed pipe, and a full disk behind standard output."""
    command = [sys.executable, "-m", "steersweep.cli", *arguments.split()]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.close()
        assert process.stderr.read() == b""
    assert process.returncode == 1
    with open("/dev/full", "wb") as full:
        done = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, check=False)
    assert done.returncode == 1
    assert done.stderr.startswith(b"error: standard output: cannot be written: No space left")
    assert done.stderr.count(b"\n") == 1
