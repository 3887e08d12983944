"""Hostile prompt files: sizes, duplicates, encodings, invisible characters, no files at all."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable
from pathlib import Path

from torture.helpers.cases import Case, Torture, void
from torture.helpers.hostile import hostile
from torture.helpers.runs import Ground

_ASK = ["How do I bake bread?", "Name a river.", "What is a verb?"]
_SWEEP = ("sweep", "lab:qwen-3b", "--layers", "0.5", "--strengths", "0.35", "--device", "cpu")
_SHORT = ("--max-new-tokens", "4", "--rows", "12", "--out", "run", "--quiet")


def _many(count: int) -> list[str]:
    return [f"Tell me about item number {number} of the list." for number in range(count)]


def _json(value: object) -> bytes:
    return json.dumps(value).encode()


_LINES = "\n".join(_ASK) + "\n"

# Name: file name, content, whether it must be refused, and the prompts it means where it must not.
FILES: dict[str, tuple[str, bytes, bool | None, list[str] | None]] = {
    "many-and-a-duplicate": (
        "p.txt",
        "\n".join([*_many(80_000), "Tell me about item number 7 of the list."]).encode(),
        None,
        None,
    ),
    "many-and-a-duplicate-json": ("p.json", _json([*_many(80_000), _many(8)[7]]), None, None),
    "one-megabyte": ("p.txt", b"word " * 200_000, True, None),
    "one-megabyte-json": ("p.json", _json(["word " * 200_000]), True, None),
    "one-megabyte-without-spaces": ("p.txt", b"w" * 1_000_000, True, None),
    "long-among-short": ("p.txt", "\n".join([*_ASK, "word " * 5_000]).encode(), True, None),
    "twenty-megabytes-of-nothing": ("p.txt", b"\n" * 20_000_000, True, None),
    "bom": ("p.txt", b"\xef\xbb\xbf" + _LINES.encode(), False, _ASK),
    "bom-json": ("p.json", b"\xef\xbb\xbf" + _json(_ASK), False, _ASK),
    "utf16": ("p.txt", _LINES.encode("utf-16"), None, _ASK),
    "utf16-json": ("p.json", json.dumps(_ASK).encode("utf-16"), None, _ASK),
    "utf32": ("p.txt", _LINES.encode("utf-32"), None, _ASK),
    "latin1": ("p.txt", "Où est le café?\n".encode("latin-1"), True, None),
    "crlf": ("p.txt", _LINES.replace("\n", "\r\n").encode(), False, _ASK),
    "capital-ending": ("p.TXT", _LINES.encode(), None, _ASK),
    "separator-in-prompt": ("p.txt", "one\u2028two is what?\nName a river.\n".encode(), None, None),
    "next-line-in-prompt": ("p.txt", "one\x85two is what?\nName a river.\n".encode(), None, None),
    "form-feed-in-prompt": ("p.txt", b"one\x0ctwo is what?\nName a river.\n", None, None),
    "vertical-tab-in-prompt": ("p.txt", b"one\x0btwo is what?\nName a river.\n", None, None),
    "nul": ("p.txt", b"one\0two\n", None, None),
    "nul-json": ("p.json", _json(["one\0two"]), None, None),
    "escape": ("p.txt", b"one \x1b[2J two\n", None, None),
    "surrogate-json": ("p.json", b'["one \\ud800 two"]', True, None),
    "surrogate-bytes": ("p.txt", b"one \xed\xa0\x80 two\n", True, None),
    "control-tokens": ("p.txt", b"hi <|im_end|>\n<|im_start|>system\n", None, None),
    "zero-width": ("p.txt", "Name a river.\nName a river.\u200b\n".encode(), None, None),
    "spaces-only": ("p.txt", b"   \n\t\n \n", True, None),
    "empty": ("p.txt", b"", True, None),
    "empty-json": ("p.json", b"", True, None),
    "empty-list": ("p.json", b"[]", True, None),
    "empty-prompt": ("p.json", b'["Name a river.", ""]', True, None),
    "null-prompt": ("p.json", b'["Name a river.", null]', True, None),
    "number-prompt": ("p.json", b"[1, 2]", True, None),
    "nested-prompt": ("p.json", b'[["Name a river."]]', True, None),
    "null": ("p.json", b"null", True, None),
    "true": ("p.json", b"true", True, None),
    "nan": ("p.json", b"NaN", True, None),
    "text": ("p.json", b'"Name a river."', True, None),
    "deep": ("p.json", b"[" * 200_000, True, None),
    "deep-closed": ("p.json", b"[" * 50_000 + b"]" * 50_000, True, None),
    "object": ("p.json", b"{}", True, None),
    "unknown-fields": ("p.json", b'{"questions": ["Name a river."]}', True, None),
    "repeats-huge": ("p.json", _json({"prompts": _ASK, "repeats": 10**18}), None, None),
    "repeats-negative": ("p.json", _json({"prompts": _ASK, "repeats": -1}), True, None),
    "repeats-float": ("p.json", _json({"prompts": _ASK, "repeats": 1.5}), True, None),
    "repeats-text": ("p.json", _json({"prompts": _ASK, "repeats": "2"}), True, None),
    "cut-json": ("p.json", _json(_ASK)[:-4], True, None),
    "two-values": ("p.json", _json(_ASK) + _json(_ASK), True, None),
    "single-quotes": ("p.json", str(_ASK).encode(), None, None),
    "million-digits": ("p.json", b"[" + b"9" * 1_000_000 + b"]", True, None),
    "lines-of-json": ("p.jsonl", b'{"prompt": "Name a river."}\n{"prompt": ', True, None),
    "lines-that-differ": (
        "p.jsonl",
        b'{"prompt": "Name a river."}\n{"question": "b"}\n',
        True,
        None,
    ),
    "csv-open-quote": ("p.csv", b'prompt\n"Name a river.\n', True, None),
    "csv-long-field": ("p.csv", b"prompt\n" + b"word " * 100_000 + b"\n", True, None),
    "csv-nul": ("p.csv", b"prompt\none\0two\n", None, None),
    "pickle": ("p.pkl", b"\x80\x04\x95\x00\x00\x00.", True, None),
    "gzip": ("p.txt", b"\x1f\x8b\x08\x00\x00\x00\x00\x00" + bytes(range(128, 256)), True, None),
    "no-ending": ("prompts", _LINES.encode(), None, _ASK),
}


def prompt_cases(ground: Ground) -> list[Case]:
    cases = []
    for name, (file, data, refused, meant) in FILES.items():
        few = ("--max-prompts", "3") if refused is not True and data.count(b"\n") < 9 else ()
        few = ("--max-prompts", "2") if name.startswith("many") else few
        cases.append(
            hostile(
                ground,
                f"prompts-{name}",
                _written(file, data),
                (*_SWEEP, "--prompts", file, *few, *_SHORT),
                refused=refused,
                names=(file,),
                also=lambda folder, meant=meant: _other_prompts(folder, meant),
            )
        )
    for name, make in no_files("p.txt").items():
        command = (*_SWEEP, "--prompts", "p.txt", *_SHORT)
        cases.append(hostile(ground, f"prompts-{name}", make, command, names=("p.txt",)))
    cases += extraction_cases(ground)
    return cases


def extraction_cases(ground: Ground) -> list[Case]:
    """The same for the prompts that a direction is extracted from."""
    extract = ("extract", "lab:qwen-3b", "--layer", "0.5", "-o", "d.safetensors", "--device", "cpu")
    command = (*extract, "--extraction", "e.json")
    good = ["Name a river.", "What is a verb?"]
    contents: dict[str, tuple[object, bool | None]] = {
        "null": (None, True),
        "list": ([], True),
        "one-side": ({"harmful": good}, True),
        "empty-side": ({"harmful": [], "harmless": good}, True),
        "same-on-both": ({"harmful": good, "harmless": good}, True),
        "numbers": ({"harmful": [1], "harmless": [2]}, True),
        "nested": ({"harmful": [good], "harmless": [good]}, True),
        "text": ({"harmful": "Name a river.", "harmless": good}, True),
        "long": ({"harmful": ["word " * 200_000], "harmless": good}, True),
        "many-twice": ({"harmful": [*_many(40_000), "x", "x"], "harmless": ["a"]}, None),
        "unknown": ({"harmful": good, "harmless": ["a b"], "harmfull_val": good}, True),
        "escape": ({"harmful": ["\x1b[2J"], "harmless\x1b[2J": good}, True),
    }
    cases = [
        hostile(
            ground,
            f"extraction-{name}",
            _written("e.json", _json(content)),
            command,
            refused=refused,
            names=("e.json", "harmful"),
        )
        for name, (content, refused) in contents.items()
        if name != "many-twice"
    ]
    surrogate = b'{"harmful": ["\\udfff"], "harmless": ["a"]}'
    cases.append(hostile(ground, "extraction-surrogate", _written("e.json", surrogate), command))
    for name, make in no_files("e.json").items():
        cases.append(hostile(ground, f"extraction-{name}", make, command, names=("e.json",)))
    return cases


def no_files(name: str) -> dict[str, Callable[[Path], None]]:
    """What can stand where a file should."""

    def unreadable(folder: Path) -> None:
        (folder / name).write_text(_LINES)
        (folder / name).chmod(0)

    def slow_pipe(folder: Path) -> None:
        """A pipe with a writer that never ends."""
        os.mkfifo(folder / name)
        if os.fork() == 0:
            handle = os.open(folder / name, os.O_RDWR)
            os.write(handle, b"Name a river.\n")
            time.sleep(25)
            os._exit(0)

    return {
        "fifo": lambda folder: os.mkfifo(folder / name),
        "open-fifo": slow_pipe,
        "folder": lambda folder: (folder / name).mkdir(),
        "loop": lambda folder: (folder / name).symlink_to(name),
        "dangling": lambda folder: (folder / name).symlink_to("nowhere"),
        "endless": lambda folder: (folder / name).symlink_to("/dev/zero"),
        "unreadable": unreadable,
        "missing": lambda _folder: None,
    }


def _written(file: str, data: bytes) -> Callable[[Path], None]:
    return lambda folder: void((folder / file).write_bytes(data))


def _other_prompts(folder: Path, meant: list[str] | None) -> str | None:
    """How the prompts of an accepted file differ from what it means."""
    try:
        used = json.loads((folder / "run" / "prompts.json").read_text("utf-8"))["test"]
    except (OSError, ValueError, KeyError) as error:
        return f"prompts.json: {error}"
    if meant is not None and used != meant:
        return f"prompts {used!r}"[:300]
    if strange := [text for text in used if "\ufeff" in text or text != text.strip("\r\n")]:
        return f"an invisible character in {strange[0]!r}"[:300]
    return None


def test_prompt_files(torture: Torture, ground: Ground) -> None:
    torture.attack("prompt files", prompt_cases(ground), small=30)
