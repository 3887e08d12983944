"""What a run folder holds, without moments and durations, so that two runs can be compared."""

from __future__ import annotations

import hashlib
import json
import re
from pathlib import Path
from typing import Any

Snapshot = dict[str, Any]
"""Content by file name; names and texts without moments."""

_ALWAYS = {"timestamp", "created", "time", "seconds", "runtime_seconds", "extraction_seconds"}
_ALWAYS |= {"git_commit"}  # whoever works on the code may commit while tests run
_ALWAYS |= {"shows", "report.html"}  # in `.report.json`: digests of what has moments in it
_MOMENT = re.compile(r"\d{8}T\d{6}Z|\d{4}-\d\d-\d\d[T ]\d\d:\d\d(:\d\d)?Z?")
_PICTURES = (".png", ".svg", ".html", ".js")


def snapshot(run: Path, moments: frozenset[str]) -> Snapshot:
    """Every file of a run folder; pictures and pages count as there or not.

    What was set aside (`.damaged`), locks and logs are left out.
    """
    found: Snapshot = {}
    for path in sorted(run.rglob("*")):
        name = str(path.relative_to(run))
        if path.is_dir() and not path.is_symlink():
            continue
        if ".damaged" in name or path.name.endswith(".lock") or name.startswith("logs/"):
            continue
        found[masked(name)] = _content(path, moments)
    return found


def moments_between(first: Path, second: Path) -> frozenset[str]:
    """Names of the JSON fields in which two undisturbed runs differ anywhere."""
    names = frozenset(_ALWAYS)
    a, b = snapshot(first, names), snapshot(second, names)
    assert a.keys() == b.keys(), f"two runs hold different files: {a.keys() ^ b.keys()}"
    found = set(names)
    for name in a:
        found |= _differing(a[name], b[name])
    return frozenset(found)


def text_that_varies(a: Snapshot, b: Snapshot) -> frozenset[str]:
    """Files that still differ between two undisturbed runs: they cannot be compared."""
    return frozenset(name for name in a if a[name] != b[name])


def _differing(a: Any, b: Any, name: str = "") -> set[str]:
    if type(a) is type(b) and isinstance(a, dict) and a.keys() == b.keys():
        return {found for key in a for found in _differing(a[key], b[key], key)}
    if type(a) is type(b) and isinstance(a, list) and len(a) == len(b):
        return {found for x, y in zip(a, b, strict=True) for found in _differing(x, y, name)}
    return {name} - {""} if a != b else set()


def _content(path: Path, moments: frozenset[str]) -> Any:
    if path.is_symlink() or not path.is_file():
        return "no plain file"
    if path.suffix in _PICTURES:
        return "there"
    try:
        return _parsed(path.suffix, path.read_bytes(), moments)
    except (OSError, ValueError, RecursionError) as error:
        return f"cannot be read: {error}"


def _parsed(suffix: str, data: bytes, moments: frozenset[str]) -> Any:
    if suffix == ".json":
        return _strip(json.loads(data), moments)
    if suffix == ".jsonl":
        return [_line(line, moments) for line in data.split(b"\n") if line]
    if suffix == ".safetensors":
        return _tensors(data, moments)
    return masked(data.decode("utf-8"))


def _line(line: bytes, moments: frozenset[str]) -> Any:
    try:
        return _strip(json.loads(line), moments)
    except ValueError:
        return f"not JSON: {line!r}"


def _tensors(data: bytes, moments: frozenset[str]) -> Any:
    length = int.from_bytes(data[:8], "little")
    header = json.loads(data[8 : 8 + length])
    told = {}
    for name, text in header.pop("__metadata__", {}).items():
        told[name] = json.loads(text) if text[:1] in '"[{-0123456789' else text
    tensors = hashlib.sha256(data[8 + length :]).hexdigest()
    return {"facts": _strip(told, moments), "shapes": header, "bytes": tensors}


def _strip(value: Any, moments: frozenset[str]) -> Any:
    if isinstance(value, dict):
        return {
            key: "a moment" if key in moments else _strip(item, moments)
            for key, item in value.items()
        }
    if isinstance(value, list):
        return [_strip(item, moments) for item in value]
    return masked(value) if isinstance(value, str) else value


def masked(text: str) -> str:
    """A text without moments."""
    return _MOMENT.sub("MOMENT", text)
