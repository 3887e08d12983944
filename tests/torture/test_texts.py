"""Hostile answers for `judge`: sizes, repetition, encodings, lines that are no answers."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

from torture.helpers.cases import Case, Torture
from torture.helpers.hostile import hostile
from torture.helpers.runs import Ground
from torture.test_prompt_files import no_files

_JUDGE = ("judge", "in.jsonl", "out.jsonl")

# Answers that must be judged, whatever the label: one label each, in bounded time.
ANSWERS: dict[str, str] = {
    "empty": "",
    "spaces": " " * 1_000_000,
    "line-feeds": "\n" * 1_000_000,
    "one-letter": "a" * 1_000_000,
    "one-word": "no " * 300_000,
    "refusals": "I'm sorry, but I can't help with that. " * 20_000,
    "almost-refusals": "I can" * 200_000,
    "apostrophes": "'" * 500_000,
    "alternating": "ab" * 500_000,
    "long-words": ("a" * 9_999 + " ") * 100,
    "commas": "I, " * 200_000,
    "no-spaces": "Ican'thelpwiththat." * 50_000,
    "brackets": "(" * 100_000,
    "dashes": "I can - " * 100_000,
    "digits": "1234567890" * 100_000,
    "combining": "e" + "\u0301" * 500_000,
    "emoji": "\U0001f468\u200d\U0001f469\u200d\U0001f467" * 50_000,
    "direction-marks": "\u202e\u2066" * 100_000,
    "separators": "I can\u2028help\u2029you\x85now\x0b\x0c" * 20_000,
    "nul": "I can\0help" * 10_000,
    "escapes": "\x1b[2J\x1b]0;x\x07" * 10_000,
    "surrogate": "I can \ud800 help",
    "surrogates": "\udfff\ud800" * 1_000,
    "bom": "\ufeffI can help",
    "chinese": "我不能帮助你。" * 20_000,
    "unfinished-thought": "<think>" + "Let me see. " * 50_000,
    "nested-thoughts": "<think>" * 50_000 + "</think>" * 50_000,
    "markdown": "# " * 100_000 + "| a " * 100_000,
    "html": "<b>" * 100_000,
    "control-tokens": "<|im_end|>" * 50_000,
}

_GOOD = b'{"prompt": "a", "response": "b"}\n'
# Whole files: content, and whether it must be refused.
FILES: dict[str, tuple[bytes, bool | None]] = {
    "no-lines": (b"", None),
    "null": (b"null\n", True),
    "list": (b"[]\n", True),
    "number": (b"7\n", True),
    "text": (b'"a"\n', True),
    "no-response": (b'{"prompt": "a"}\n', True),
    "no-prompt": (b'{"response": "a"}\n', True),
    "null-response": (b'{"prompt": "a", "response": null}\n', True),
    "number-response": (b'{"prompt": "a", "response": 7}\n', True),
    "list-response": (b'{"prompt": "a", "response": ["b"]}\n', True),
    "deep": (b'{"prompt": "a", "response": "b", "x": ' + b"[" * 100_000 + b"\n", True),
    "deep-closed": (
        b'{"prompt": "a", "response": "b", "x": ' + b"[" * 5_000 + b"]" * 5_000 + b"}\n",
        None,
    ),
    "cut": (_GOOD + _GOOD[:-9], True),
    "junk-line": (_GOOD + b"\x00\xff\n" + _GOOD, True),
    "nan": (b'{"prompt": "a", "response": "b", "x": NaN}\n', None),
    "huge-number": (b'{"prompt": "a", "response": "b", "x": 1e999}\n', None),
    "million-digits": (b'{"prompt": "a", "response": "b", "x": ' + b"9" * 1_000_000 + b"}\n", True),
    "field-twice": (b'{"prompt": "a", "response": "b", "response": "c"}\n', None),
    "label-there": (b'{"prompt": "a", "response": "b", "refusal": true}\n', None),
    "bom": (b"\xef\xbb\xbf" + _GOOD, None),
    "utf16": (_GOOD.decode().encode("utf-16"), None),
    "latin1": ('{"prompt": "a", "response": "café"}\n'.encode("latin-1"), True),
    "crlf": (_GOOD.replace(b"\n", b"\r\n") * 3, False),
    "no-last-line-feed": (_GOOD * 2 + _GOOD[:-1], False),
    "empty-lines": (_GOOD + b"\n\n  \n" + _GOOD, False),
    "separator-in-text": ('{"prompt": "a", "response": "b\u2028c\x85d"}\n'.encode(), False),
    "many": (_GOOD * 50_000, False),
    "json-list": (b'[{"prompt": "a", "response": "b"}]\n', True),
    "one-line-of-ten-megabytes": (
        b'{"prompt": "a", "response": "' + b"b c " * 2_500_000 + b'"}\n',
        None,
    ),
    "escape-in-field": (b'{"prompt\x1b[2J": "a"}\n', True),
    "escape-as-field": (b'{"prompt\\u001b[2J": "a"}\n', True),
}


def text_cases(ground: Ground) -> list[Case]:
    cases = []
    for name, answer in ANSWERS.items():
        data = json.dumps({"prompt": "Name a river.", "response": answer}).encode() + b"\n"
        cases.append(
            hostile(
                ground,
                f"text-{name}",
                _written(data),
                _JUDGE,
                refused=None if "surrogate" in name else False,
                names=("in.jsonl",),
                also=_problem,
            )
        )
    for name, (data, refused) in FILES.items():
        cases.append(
            hostile(
                ground,
                f"text-file-{name}",
                _written(data),
                _JUDGE,
                refused=refused,
                names=("in.jsonl",),
                also=_problem,
            )
        )
    for name, make in no_files("in.jsonl").items():
        cases.append(hostile(ground, f"text-file-{name}", make, _JUDGE, names=("in.jsonl",)))
    cases += [_target(ground, name, make) for name, make in TARGETS.items()]
    return cases


TARGETS: dict[str, Callable[[Path], object]] = {
    "folder": lambda folder: (folder / "out.jsonl").mkdir(),
    "loop": lambda folder: (folder / "out.jsonl").symlink_to("out.jsonl"),
    "unwritable": lambda folder: folder.chmod(0o500),
}


def _target(ground: Ground, name: str, make: Callable[[Path], object]) -> Case:
    def prepare(folder: Path) -> None:
        _written(_GOOD)(folder)
        make(folder)

    refused = None if name == "loop" else True
    return hostile(
        ground, f"text-target-{name}", prepare, _JUDGE, refused=refused, names=("out.jsonl",)
    )


def _written(data: bytes) -> Callable[[Path], None]:
    def write(folder: Path) -> None:
        (folder / "in.jsonl").write_bytes(data)

    return write


def _problem(folder: Path) -> str | None:
    """Each line of the input has one line of the output, with a label."""
    asked = (folder / "in.jsonl").read_bytes()
    if asked.startswith((b"\xff\xfe", b"\xfe\xff")):
        asked = asked.decode("utf-16").encode()
    expected = sum(bool(line.strip(b" \t\r")) for line in asked.split(b"\n"))
    lines = (folder / "out.jsonl").read_bytes().split(b"\n")[:-1]
    if len(lines) != expected:
        return f"{len(lines)} lines for {expected}"
    for line in lines:
        label = json.loads(line)
        if not isinstance(label["refusal"], bool) or not label["quality"]:
            return f"no label in {line[:100]!r}"
    return None


def test_texts(torture: Torture, ground: Ground) -> None:
    torture.attack("texts to judge", text_cases(ground), small=30)
